"""Masks drawn along the edges of the image: a graph cut (Boykov and Jolly, ICCV 2001) around each part of a mask.

A network's probabilities fall off over several voxels, and where they cross one half is chance. The cheapest cut between
what is surely inside and what is surely outside goes where neighboring voxels differ.
"""

from __future__ import annotations

import numpy as np
import torch
from numpymaxflow import maxflow
from scipy.ndimage import binary_dilation, find_objects
from scipy.ndimage import label as connected_components
from torch import Tensor

SIGMA = 0.05
"""Difference of two neighbors' normalized intensities that makes an edge: 20 HU, or a twentieth of MR's range."""
SURE, FAR = 0.92, 0.12
"""Probabilities, counted from theta, from which a voxel stays inside, and up to which it stays outside."""
INSIDE, OUTSIDE = 0.75, 0.25
"""Least and most that the two sides of a cut get: alike, so that the outline lies between them on any other grid."""
MARGIN = 4
"""Voxels around a part that the cut may add."""
LEFT = 0.5
"""Share of a part that a cut must leave; else the part stays as it was: it has no edges, so the shortest cut is cheapest."""


def along_edges(image: Tensor, probabilities: Tensor, weight: float) -> Tensor:
    """Probabilities whose masks (one half and more) follow the image.

    Args:
        image: (C, X, Y, Z), normalized. probabilities: (P, X, Y, Z), counted from theta. weight: of the edges, lambda; with
        0 nothing is changed.

    Returns:
        (P, X, Y, Z): changed in and around the parts of each mask, nowhere else.
    """
    if weight <= 0:
        return probabilities
    seen = image.float().cpu().numpy()
    return torch.stack([torch.from_numpy(_one(seen, p.float().cpu().numpy(), weight)) for p in probabilities])


def _one(image: np.ndarray, probabilities: np.ndarray, weight: float) -> np.ndarray:
    parts, _ = connected_components(probabilities >= 0.5)
    out = probabilities.copy()
    for number, where in enumerate(find_objects(parts), 1):
        box = tuple(
            slice(max(0, s.start - MARGIN), min(n, s.stop + MARGIN)) for s, n in zip(where, parts.shape, strict=True)
        )
        own = parts[box] == number
        free = own | (parts[box] == 0)  # other parts of the mask have a cut of their own
        inside = _cut(image[(slice(None), *box)], np.where(free, probabilities[box], 0), weight) & free
        if (inside & own).sum() < LEFT * own.sum():
            continue
        told = np.where(inside, np.maximum(out[box], INSIDE), np.minimum(out[box], OUTSIDE))
        # Voxels beside a mask are told, too: they have to know that the outline lies before them.
        concerned = free & (own | binary_dilation(inside, np.ones((3, 3, 3))))
        out[box] = np.where(concerned, told, out[box])
    return out


def _cut(image: np.ndarray, probabilities: np.ndarray, weight: float) -> np.ndarray:
    likely = probabilities.clip(0.02, 0.98)
    likely[probabilities >= SURE] = 0.999
    likely[probabilities < FAR] = 0.001
    terms = np.stack([1 - likely, likely]).astype(np.float32)
    return maxflow(np.ascontiguousarray(image), terms, weight, SIGMA, 6)[0] > 0.5
