"""The row of pictures of a method that draws a pseudo-healthy volume: scan, attention, pseudo-healthy, residual, mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

NEEDED = ("attention", "pseudo_healthy", "residual")


def has_stages(maps: Mapping[str, Tensor] | None) -> bool:
    """Whether all maps of the row are there."""
    return maps is not None and all(name in maps for name in NEEDED)


def plane_of(maps: Mapping[str, np.ndarray], masks: Sequence[np.ndarray]) -> int:
    """The axial slice that shows most: of the masks, else of the residual, else of the attention."""
    found = sum((m > 0).sum((0, 1)) for m in masks) if len(masks) else np.zeros(1)
    for amount in (found, maps["residual"].sum((0, 1)), maps["attention"].max((0, 1))):
        if np.any(amount > 0):
            return int(np.argmax(amount))
    return maps["residual"].shape[2] // 2


def draw(
    figure: SubFigure,
    scan: np.ndarray,
    healthy: np.ndarray,
    maps: Mapping[str, np.ndarray],
    masks: Sequence[np.ndarray],
    spacing: np.ndarray,
    colors: Sequence[str],
) -> None:
    """Draw the row into a part of a figure.

    Args:
        scan, healthy: gray values 0..1, (X, Y, Z) RAS. maps: "attention" in 0..1 and "residual" >= 0. masks: one a prompt.
        spacing: mm.
    """
    k = plane_of(maps, masks)
    residual = maps["residual"]
    panels = (
        ("scan", scan, "gray", 1.0),
        ("attention", maps["attention"], "inferno", 1.0),
        ("pseudo-healthy", healthy, "gray", 1.0),
        ("residual", residual, "inferno", max(float(residual.max()), 1e-6)),
        ("mask", scan, "gray", 1.0),
    )
    for axis, (name, volume, color, top) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axis.imshow(
            volume[:, :, k].T, cmap=color, vmin=0, vmax=top, origin="lower", aspect=float(spacing[1] / spacing[0])
        )
        for p, mask in enumerate(masks if name == "mask" else ()):
            if (mask[:, :, k] > 0.5).any():
                axis.contour(mask[:, :, k].T, [0.5], colors=colors[p % len(colors)], linewidths=1.4)
        axis.invert_xaxis()  # the patient's right on the left of the page
        axis.set_title(name, color="white", fontsize=10)
        axis.axis("off")
