"""Is a label fit to learn from? What is refused here would teach a method something wrong."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_fill_holes, generate_binary_structure
from torch import Tensor

from .grids import shift_mm
from .transforms import modality_of_data

MOST_OF_BODY = 0.4
"""Share of the body from which a label is taken for the whole body and not for lesions."""
MOST_OUTSIDE = 0.5
"""Share of a label outside the body from which it is taken to lie on another scan."""
AIR_HU = -900.0
"""Below it is air around the body; the lungs are brighter."""
MOST_LABELS = 255
"""The largest number of a label: masks have eight bits."""
EDGE = 128
"""Voxels of the coarse grid that the body is found on, along each axis at most."""


class LabelError(ValueError):
    """A label cannot be learned from; the message says why and what to do."""


def check_label(mask: Tensor, scan: MetaTensor) -> None:
    """Refuse a label that would teach something wrong; returns None if it may be learned from.

    Args:
        mask: (1, X, Y, Z) or (X, Y, Z), non-zero inside; of a MetaTensor, the affine is compared as well.
        scan: (1, X, Y, Z) as read.

    Raises:
        LabelError: the label lies on another grid, has values that are no label numbers, is empty, covers most of the body,
            or lies outside of it.
    """
    values = _plain(mask)
    values = values[0] if values.ndim == 4 else values
    inside = values > 0
    if tuple(inside.shape) != tuple(scan.shape[1:]):
        raise LabelError(
            f"the label has {tuple(inside.shape)} voxels and the scan {tuple(scan.shape[1:])}: draw it on this scan, or "
            "resample it to the scan's grid"
        )
    shift = _beside(mask, scan)
    if shift is not None:
        raise LabelError(
            f"the label's grid lies up to {shift:.1f} mm beside the scan's: export it with the geometry of this scan"
        )
    low, high = (float(v) for v in values.aminmax()) if values.numel() else (0.0, 0.0)
    if low < 0 or high > MOST_LABELS:
        raise LabelError(
            f"the label has values from {low:g} to {high:g}: number its lesions from 1 to {MOST_LABELS}, the rest 0"
        )
    if not inside.any():
        raise LabelError("the label is empty: draw the lesion, or leave the scan out if there is none in it")
    body, steps = body_of(scan)
    where = inside.nonzero()
    within = body[tuple((where[:, a] // steps[a]).clamp_max(body.shape[a] - 1) for a in range(3))].float().mean()
    share = float(inside.sum()) * float(within) / max(1.0, float(body.sum()) * float(np.prod(steps)))
    if share > MOST_OF_BODY:
        raise LabelError(
            f"the label covers {100 * min(share, 1.0):.0f} % of the body: label the lesions alone, not the organ or the body"
        )
    if float(within) < 1 - MOST_OUTSIDE:
        raise LabelError(
            f"{100 * (1 - float(within)):.0f} % of the label lies outside the body: it is misaligned or belongs to another "
            "scan; draw it on this one"
        )


def body_of(scan: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Where the body is in a scan (1, X, Y, Z): a mask on every n-th voxel, and n for each axis.

    What is brighter than air (CT), or than a twentieth of the 99th percentile (MR), and all holes that this encloses in a
    slice along any axis: lungs that the edge of the scan cuts open are closed in at least one of the three.
    """
    values = _plain(scan)[0]
    steps = tuple(max(1, -(-n // EDGE)) for n in values.shape)
    coarse = values[tuple(slice(None, None, s) for s in steps)].float()
    air = AIR_HU if modality_of_data(scan) == "CT" else 0.05 * float(np.percentile(coarse.numpy(), 99))
    solid = (coarse > air).numpy()
    filled = solid.copy()
    for axis in range(3):
        flat = generate_binary_structure(3, 1)
        np.moveaxis(flat, axis, 0)[[0, 2]] = False  # neighbors within slices alone
        filled |= binary_fill_holes(np.pad(solid, 1), flat)[1:-1, 1:-1, 1:-1]
    return torch.from_numpy(filled), steps


def _beside(mask: Tensor, scan: MetaTensor) -> float | None:
    """By how many mm the corners of two grids differ, if by more than half a voxel; None without a second affine."""
    if not isinstance(mask, MetaTensor):
        return None
    far = shift_mm(mask.affine, scan.affine, scan.shape[1:])
    return far if far > float(scan.affine.double()[:3, :3].norm(dim=0).amin()) / 2 else None


def _plain(values: Tensor) -> Tensor:
    return torch.as_tensor(values).as_subclass(Tensor)
