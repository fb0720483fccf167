"""A picture of what was learned: scans that nobody corrected, before and after. Drawn by simulate_annotation.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zerotumor.metrics import dice
from zerotumor.volumes import write_atomically

ROWS = 3
"""The scan that gained most, the one in the middle, and the one that gained least."""


def draw_examples(
    found: Sequence[tuple[str, Tensor, Tensor, Tensor, Tensor]], modality: str, title: str, path: Path
) -> None:
    """A row a scan: the truth, what was found by text alone, and what was found after learning, each with its Dice.

    Args:
        found: name, scan, truth, mask before, mask after; all volumes (X, Y, Z), in RAS.
    """
    gains = sorted(
        ((dice(after, truth) - dice(before, truth), k) for k, (_, _, truth, before, after) in enumerate(found))
    )
    places = dict.fromkeys((gains[-1][1], gains[len(gains) // 2][1], gains[0][1]))
    figure = Figure(figsize=(7.5, 2.6 * len(places)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for line, k in zip(figure.subplots(len(places), 3, squeeze=False), places, strict=True):
        name, scan, truth, before, after = found[k]
        z = int(truth.sum((0, 1)).argmax())
        gray = window(scan[..., z], modality)
        for axis, mask, what in zip(
            line, (truth, before, after), ("truth", "text alone", "after learning"), strict=True
        ):
            said = what if mask is truth else f"{what}, Dice {dice(mask, truth):.2f}"
            panel(axis, gray, mask[..., z], f"{name}: {said}")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def window(values: Tensor, modality: str) -> Tensor:
    """0..1 for a picture: a soft tissue window of CT, all but the brightest hundredth of MR."""
    low, high = (-160.0, 240.0) if modality == "CT" else (float(values.min()), float(values.float().quantile(0.99)))
    return ((values - low) / max(high - low, 1e-6)).clamp(0, 1)


def panel(axis: Axes, gray: Tensor, mask: Tensor, title: str) -> None:
    """One slice (X, Y), its mask outlined."""
    axis.imshow(gray.T, cmap="gray", vmin=0, vmax=1, origin="lower")
    if torch.as_tensor(mask).any():
        axis.contour(mask.T.float(), [0.5], colors="orange", linewidths=1.0)
    axis.set_title(title, fontsize=7)
    axis.axis("off")
