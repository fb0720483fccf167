"""Do two volumes lie on one grid? Voxels are compared only once that is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from .errors import ScanError
from .volumes import read_scan


def shift_mm(affine: Tensor, other: Tensor, shape: Sequence[int]) -> float:
    """Largest distance between the corners of two grids of one shape."""
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in shape))
    one, two = (torch.as_tensor(a, dtype=torch.float64) for a in (affine, other))
    apart = corners @ (one - two)[:3, :3].T + (one - two)[:3, 3]
    return float(apart.norm(dim=1).amax())


def on_grid(mask: MetaTensor, affine: Tensor, shape: Sequence[int], what: str = "the mask") -> MetaTensor:
    """A label map (1, X, Y, Z) with its axes in the order and direction of a scan's, if it lies on the scan's grid.

    Programs may store a volume with its axes turned around, and say so in the affine alone: the voxels are a mirror image.

    Args:
        affine, shape: of the scan. what: the label map's name in a refusal.

    Raises:
        ScanError: it lies on another grid.
    """
    target, own = (np.asarray(torch.as_tensor(a), dtype=np.float64) for a in (affine, mask.affine))
    turn = nib.io_orientation(np.linalg.inv(target) @ own)
    if np.isnan(turn).any():
        raise ScanError(f"the affine of {what} has an axis of no length: save it with the geometry of this scan")
    values = nib.apply_orientation(np.asarray(mask.as_tensor()[0]), turn)
    turned = torch.from_numpy(own @ nib.orientations.inv_ornt_aff(turn, mask.shape[1:]))
    if values.shape != tuple(shape):
        raise ScanError(
            f"the grid of {what} has {values.shape} voxels and the scan's {tuple(shape)}: save it on the scan's grid"
        )
    far = shift_mm(turned, affine, shape)
    if far > float(np.linalg.norm(target[:3, :3], axis=0).min()) / 2:
        raise ScanError(
            f"the grid of {what} lies up to {far:.1f} mm beside the scan's: save it with the geometry of this scan"
        )
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(values[None])), affine=turned)


def read_labels(path: str | Path, scan: MetaTensor) -> Tensor:
    """Label map (X, Y, Z) of a file, on the grid of its scan (1, X, Y, Z).

    Raises:
        ScanError: the file cannot be read, or lies on another grid.
    """
    labels = on_grid(read_scan(path, labels=True), scan.affine, scan.shape[1:], str(path))
    return torch.as_tensor(labels[0]).as_subclass(Tensor).round().long()
