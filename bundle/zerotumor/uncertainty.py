"""How unsure an answer is."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def binary_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of a yes-or-no answer in bits, 0 (sure) to 1 (a coin's toss), elementwise."""
    p = probabilities.float().clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log()) / math.log(2)


def case_uncertainty(probabilities: Tensor, score: float, floor: float = 0.05) -> float:
    """One number for a scan and a prompt, 0 to 1.

    The mean entropy over the voxels (X, Y, Z) that may be lesion (more probable than `floor`), or, where there is none,
    the entropy of the score: "nothing found" with a score near one half is unsure, too.
    """
    doubtful = probabilities[probabilities > floor]
    values = doubtful if doubtful.numel() else torch.tensor([score])
    return round(float(binary_entropy(values).mean()), 4)
