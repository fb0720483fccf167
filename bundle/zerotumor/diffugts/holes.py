"""What is to be inpainted (DiffuGTS 1.5): the hole, its mask on the latent grid, boxes that hold holes with context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import find_objects
from scipy.ndimage import label as connected_components
from torch import Tensor

FULL = np.ones((3, 3, 3))  # 26 neighbors
MINIMUM_VOXELS = 3
Box = tuple[slice, slice, slice]


def hole_of(probability: Tensor, threshold: float = 0.5, steps: int = 3, minimum: int = MINIMUM_VOXELS) -> Tensor:
    """Where attention (B, P, X, Y, Z) reaches the threshold, without specks, grown by `steps` voxels; boolean.

    Growing keeps the rim of a tumor out of the context, from which a tumor would be drawn again.
    """
    seeds = (probability >= threshold).cpu().numpy()
    for index in np.ndindex(*seeds.shape[:2]):
        labels, _ = connected_components(seeds[index], FULL)
        sizes = np.bincount(labels.ravel())
        seeds[index] = (sizes >= minimum)[labels] & (labels > 0)
    return dilate(torch.from_numpy(seeds).to(probability.device), steps)


def dilate(mask: Tensor, steps: int) -> Tensor:
    """A boolean mask (B, P, X, Y, Z) grown by `steps` voxels in every direction, diagonals included."""
    grown = mask.float()
    for _ in range(steps):
        grown = F.max_pool3d(grown, 3, stride=1, padding=1)
    return grown > 0


def latent_mask(hole: Tensor, stride: int) -> Tensor:
    """The hole (B, 1, X, Y, Z) on the latent grid (B, 1, x, y, z): any voxel counts, so that small lesions survive."""
    return F.max_pool3d(hole.float(), stride) > 0


def width_mm(hole: Tensor, spacing: float) -> float:
    """Diameter in mm of the ball that has the volume of the hole's largest component; (..., X, Y, Z), one sample."""
    labels, count = connected_components(np.asarray(hole.cpu()).reshape(hole.shape[-3:]) > 0, FULL)
    largest = np.bincount(labels.ravel())[1:].max() if count else 0
    return float((6 * largest / np.pi) ** (1 / 3) * spacing)


def boxes(hole: Tensor, context: int, multiple: int = 1, least: int = 1) -> list[Box]:
    """Boxes that do not touch each other and together hold every component of a hole with its context.

    A box that would hold part of another's hole would take that for healthy context, so such boxes become one.

    Args:
        hole: (X, Y, Z), each edge a multiple of `multiple`. context: voxels around a component. least: smallest edge.

    Returns:
        slices whose ends are multiples of `multiple`, so that latent and image grids agree; [] without a hole.
    """
    labels, _ = connected_components(np.asarray(hole.cpu()) > 0, FULL)
    found = [
        [_fit(s.start - context, s.stop + context, n, multiple, least) for s, n in zip(part, hole.shape, strict=True)]
        for part in find_objects(labels)
    ]
    while pair := _touching(found):
        i, j = pair
        joined = [
            _fit(min(a[0], b[0]), max(a[1], b[1]), n, multiple, least)
            for a, b, n in zip(found[i], found[j], hole.shape, strict=True)
        ]
        found = [box for k, box in enumerate(found) if k not in pair] + [joined]
    return [tuple(slice(*ends) for ends in box) for box in found]


def _fit(start: int, stop: int, size: int, multiple: int, least: int) -> tuple[int, int]:
    """An interval grown to at least `least` and to multiples, inside 0..size."""
    missing = max(0, least - (stop - start))
    start, stop = start - missing // 2, stop + missing - missing // 2
    if start < 0:
        start, stop = 0, stop - start
    if stop > size:
        start, stop = start - (stop - size), size
    return max(0, start) // multiple * multiple, min(size, -(-stop // multiple) * multiple)


def _touching(found: Sequence[Sequence[tuple[int, int]]]) -> tuple[int, int] | None:
    for i, a in enumerate(found):
        for j in range(i + 1, len(found)):
            if all(p[0] < q[1] and q[0] < p[1] for p, q in zip(a, found[j], strict=True)):
                return i, j
    return None
