"""A picture of what was learned: of scans that nobody corrected the one that gained most, the middle one and the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zerotumor.metrics import dice
from zerotumor.report import in_ras, window
from zerotumor.volumes import write_atomically


@dataclass
class Learned:
    """A scan before and after; all volumes (X, Y, Z) on its own grid."""

    name: str
    scan: Tensor
    affine: Tensor
    truth: Tensor
    before: Tensor
    after: Tensor

    @property
    def gain(self) -> float:
        """In Dice."""
        return dice(self.after, self.truth) - dice(self.before, self.truth)


def draw_examples(found: Sequence[Learned], modality: str, title: str, path: Path) -> None:
    """A row a scan: the truth, what was found by text alone, and what was found after learning, each with its Dice."""
    ranked = sorted(found, key=lambda one: one.gain)
    places = dict.fromkeys((len(ranked) - 1, len(ranked) // 2, 0))
    figure = Figure(figsize=(7.5, 2.6 * len(places)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for line, k in zip(figure.subplots(len(places), 3, squeeze=False), places, strict=True):
        one = ranked[k]
        gray, truth = window(in_ras(one.scan, one.affine), modality), in_ras(one.truth, one.affine) > 0
        z = int(truth.sum((0, 1)).argmax())
        masks = {"truth": one.truth, "text alone": one.before, "after learning": one.after}
        for axis, (what, mask) in zip(line, masks.items(), strict=True):
            said = what if mask is one.truth else f"{what}, Dice {dice(mask, one.truth):.2f}"
            panel(axis, gray[..., z], in_ras(mask, one.affine)[..., z] > 0, f"{one.name}: {said}")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def panel(axis: Axes, gray: np.ndarray, mask: np.ndarray, title: str) -> None:
    """One slice (X, Y), its mask outlined."""
    axis.imshow(gray.T, cmap="gray", vmin=0, vmax=1, origin="lower")
    if mask.any():
        axis.contour(mask.T, [0.5], colors="orange", linewidths=1.0)
    axis.set_title(title, fontsize=7)
    axis.axis("off")
