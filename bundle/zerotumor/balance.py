"""Weights of classes in a cross-entropy over voxels; one place for all methods."""

from __future__ import annotations

import torch
from torch import Tensor


def rare_weights(labels: Tensor, count: int) -> Tensor:
    """The inverse root of each class's share of some labels (whole numbers below `count`) -> (count,); 0 for what is absent.

    Rare organs would vanish beside background and muscle; by the inverse share itself, common ones would.
    """
    share = torch.bincount(labels.flatten(), minlength=count).float() / max(1, labels.numel())
    return torch.where(share > 0, share.clamp_min(1e-4).rsqrt(), 0.0)
