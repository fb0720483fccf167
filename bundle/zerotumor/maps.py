"""A method's own maps beside the masks (ZePT: "anomaly"): by name, in numbers, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .metrics import milliliters
from .segmenter import METHODS, Segmenter
from .volumes import write_nifti

THRESHOLD = 0.5
"""What of a map in 0..1 counts as high."""
UNCERTAINTY = "uncertainty"
"""The map that every method has, see `uncertainty.assess`; it takes several looks at the scan."""


def wanted_maps(text: str | None, model: Segmenter, method: str) -> tuple[str, ...]:
    """Names of maps in "anomaly,pseudo-healthy"; the empty tuple for nothing. A hyphen stands for an underscore.

    Raises:
        ValueError: the method has no map of a name.
    """
    names = tuple(dict.fromkeys(part.strip().replace("-", "_") for part in (text or "").split(",") if part.strip()))
    for name in names:
        if name not in (*model.maps, UNCERTAINTY):
            own = ", ".join(m.replace("_", "-") for m in (*model.maps, UNCERTAINTY))
            has = f"it has {own}"
            others = ", ".join(m for m in METHODS if m != method)
            raise ValueError(f"{method} has no map {name!r} ({has}): leave it out, or use another method ({others})")
    return names


def summary(volume: Tensor, affine: Tensor) -> dict[str, object]:
    """What there is to say of a map (1, X, Y, Z): peak and where it is in mm (RAS), ml above the threshold."""
    values, affine = torch.as_tensor(volume)[0], np.asarray(affine, dtype=float)
    where = np.unravel_index(int(values.argmax()), values.shape)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    return {
        "peak": round(float(values.max()), 4),
        "peak_mm": [round(float(x), 1) for x in affine[:3, :3] @ np.array(where) + affine[:3, 3]],
        "threshold": THRESHOLD,
        "above_ml": round(milliliters(values >= THRESHOLD, voxel_ml), 3),
    }


def summaries(maps: Mapping[str, object], affine: Tensor, names: Sequence[str] | None = None) -> dict[str, dict]:
    """Name -> `summary`, of all maps or of some."""
    return {name: summary(maps[name], affine) for name in (maps if names is None else names)}


def write_map(volume: Tensor, affine: Tensor, path: Path) -> None:
    """Write a map (1, X, Y, Z) as float32 NIfTI, atomically; affine to RAS mm."""
    write_nifti(np.asarray(torch.as_tensor(volume)[0].cpu(), dtype=np.float32), affine, path)
