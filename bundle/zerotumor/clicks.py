"""Clicks as data: where they are, what a network sees of them, and what a patient annotator would click next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import label as connected_components
from torch import Tensor

RADIUS = 2.0
"""Voxels of the network's grid that a click's ball spans."""


@dataclass(frozen=True)
class Click:
    """One click: a voxel (i, j, k) of the scan as it was read, and whether it says "lesion" or "not lesion"."""

    index: tuple[int, int, int]
    inside: bool


def next_click(mask: Tensor, truth: Tensor, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Click | None:
    """The click of an annotator who mends the largest mistake first: the middle of the largest wrong region.

    The usual protocol for measuring interactive segmentation (Sofiiuk et al., RITM, 2022, section 3).

    Args:
        mask, truth: (X, Y, Z), non-zero inside. spacing: mm of the voxels.

    Returns:
        None when the two agree everywhere.
    """
    mask, truth = (np.asarray(m.cpu()) > 0.5 for m in (mask, truth))
    best, size = None, 0
    for wrong in (truth & ~mask, mask & ~truth):
        labels, count = connected_components(wrong)
        if count:
            sizes = np.bincount(labels.ravel())[1:]
            if sizes.max() > size:
                size, best = int(sizes.max()), labels == sizes.argmax() + 1
    if best is None:
        return None
    corner = np.argwhere(best).min(0)
    box = tuple(slice(a, b + 1) for a, b in zip(corner, np.argwhere(best).max(0), strict=True))
    depth = distance_transform_edt(np.pad(best[box], 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    index = np.array(np.unravel_index(int(depth.argmax()), depth.shape)) + corner
    return Click(tuple(int(i) for i in index), bool(truth[tuple(index)]))


def balls(shape: Sequence[int], centers: Sequence[Sequence[float]], radius: float = RADIUS) -> Tensor:
    """Map (X, Y, Z) that is 1 at points (in voxels) and falls linearly to 0 at `radius` + 1 voxels from them."""
    out = torch.zeros(tuple(shape))
    for center in centers:
        low = [max(0, int(c - radius - 1)) for c in center]
        high = [min(n, int(c + radius + 3)) for c, n in zip(center, shape, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            continue
        axes = [torch.arange(a, b) - c for a, b, c in zip(low, high, center, strict=True)]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        ball = (1 - ((x * x + y * y + z * z).sqrt() - 1).clamp_min(0) / radius).clamp(0, 1)
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        out[part] = torch.maximum(out[part], ball)
    return out
