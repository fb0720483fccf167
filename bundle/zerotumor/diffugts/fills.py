"""How well a hole is filled: against a phantom's healthy twin, and against fills that need no diffusion model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import SSIMMetric
from scipy.ndimage import binary_dilation
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

SSIM_WINDOW = 7
MOST = 6000
"""Voxels of a hole that are filled at full resolution: about a second."""


def organ_mean(image: Tensor, organs: Tensor, hole: Tensor) -> Tensor:
    """Every voxel of the hole gets the mean of its organ outside the hole; all (X, Y, Z).

    An organ that lies in the hole altogether gets the mean of what borders on the hole.
    """
    hole = hole > 0
    filled = image.clone()
    around = torch.from_numpy(binary_dilation(np.asarray(hole), iterations=2)) & ~hole
    for organ in organs[hole].unique():
        own = organs == organ
        source = own & ~hole
        source = source if source.any() else around
        filled[own & hole] = image[source].mean() if source.any() else image.mean()
    return filled


def neighbors(image: Tensor, hole: Tensor, margin: int = 4, most: int = MOST) -> Tensor:
    """The smoothest continuation of what surrounds the hole (biharmonic equation); (X, Y, Z) both.

    Args:
        margin: voxels around the hole that are looked at. most: voxels of a hole; a larger one is solved on half the grid
        or less, as time goes with more than the square of their number.
    """
    hole = hole > 0
    if not hole.any():
        return image.clone()
    where = hole.nonzero()
    low, high = (where.amin(0) - margin).clamp_min(0), where.amax(0) + margin + 1
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    filled = image.clone()
    filled[box] = torch.where(hole[box], _continue(image[box], hole[box], most).to(image), image[box])
    return filled


def _continue(image: Tensor, hole: Tensor, most: int) -> Tensor:
    """The continuation everywhere in a box that the hole does not fill; where there is nothing to continue, the image."""
    if hole.all():
        return image
    if int(hole.sum()) <= most:
        return torch.from_numpy(inpaint_biharmonic(image.double().numpy(), hole.numpy()))
    known = (~hole)[None, None].double()
    share = F.avg_pool3d(known, 2, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool3d(image[None, None].double() * known, 2, ceil_mode=True, count_include_pad=False) / share
    smaller = _continue(coarse[0, 0].nan_to_num(), share[0, 0] == 0, most)
    # The last cell may hang over the end, so the fine grid is cut out of one of twice the coarse grid's edges.
    fine = F.interpolate(smaller[None, None], scale_factor=2, mode="trilinear", align_corners=False)[0, 0]
    return fine[tuple(slice(n) for n in image.shape)]


def score_fill(filled: Tensor, twin: Tensor, hole: Tensor) -> dict[str, float]:
    """Mean absolute and root mean square error inside the hole, in the images' unit (0..1), and SSIM of the box around it.

    Args:
        filled, twin, hole: (X, Y, Z).
    """
    inside = hole > 0
    error = (filled - twin)[inside]
    where = inside.nonzero()
    box = tuple(
        slice(max(0, min(int(a), n - SSIM_WINDOW)), max(int(b) + 1, int(a) + SSIM_WINDOW))
        for a, b, n in zip(where.amin(0), where.amax(0), inside.shape, strict=True)
    )
    ssim = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=SSIM_WINDOW)
    return {
        "mae": float(error.abs().mean()),
        "rmse": float(error.square().mean().sqrt()),
        "ssim": float(ssim(filled[box][None, None], twin[box][None, None])),
    }
