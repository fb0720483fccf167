"""Maps of windows, blended into those of a whole scan, on one grid or on several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map
from monai.utils import BlendMode
from torch import Tensor

if TYPE_CHECKING:
    from .kept import Window
    from .segmenter import Segmenter


def padded_shape(shape: Sequence[int], patch: int) -> tuple[int, ...]:
    """At least one window an edge."""
    return tuple(max(patch, n) for n in shape)


def resized(maps: Tensor, shape: Sequence[int]) -> Tensor:
    """Maps (C, X, Y, Z) of the same place on a grid of another shape, linear."""
    if tuple(maps.shape[1:]) == tuple(shape):
        return maps
    return F.interpolate(maps[None], tuple(shape), mode="trilinear", align_corners=False)[0]


def zoomed_shape(shape: Sequence[int], zoom: float) -> tuple[int, ...]:
    """Voxels of a scan on a grid that is `zoom` times as fine."""
    return tuple(max(1, round(n * zoom)) for n in shape)


class Canvas:
    """Gaussian-weighted mean over windows of maps, by name; `channels` says how many of each.

    Args:
        shape: of the maps' grid, without padding.
    """

    def __init__(self, channels: dict[str, int], shape: Sequence[int], patch: int) -> None:
        padded = padded_shape(shape, patch)
        self.crop = tuple(slice(0, n) for n in shape)
        self.maps = {name: torch.zeros(count, *padded) for name, count in channels.items()}
        self.weight = torch.zeros(padded)
        self.importance = compute_importance_map((patch,) * 3, mode=BlendMode.GAUSSIAN, sigma_scale=0.125)

    def add(self, part: tuple[slice, ...], maps: dict[str, Tensor]) -> None:
        for name, values in maps.items():
            self.maps[name][(slice(None), *part)] += values.float().cpu() * self.importance
        self.weight[part] += self.importance

    def mean(self, name: str) -> Tensor:
        return (self.maps[name] / self.weight.clamp_min(1e-6))[(slice(None), *self.crop)]

    @property
    def seen(self) -> Tensor:
        """1 where a window has looked, else 0; (1, X, Y, Z)."""
        return (self.weight[self.crop] > 0).float()[None]


class Canvases:
    """A canvas for each of a scan's grids (`Segmenter.grids`), and their mean on a scan's own grid.

    Answers are counted from theta (`Segmentation.logits`), which is not linear: a lesion that one grid shows clearly and
    the next not at all would be outvoted. They are averaged as the probabilities that they were before.
    """

    def __init__(self, model: Segmenter, channels: dict[str, int], shape: Sequence[int]) -> None:
        self.shape, self.theta = tuple(shape), torch.logit(torch.tensor(float(model.theta)))
        self.each = {z: Canvas(channels, zoomed_shape(shape, z), model.patch) for z in model.grids(shape)}

    def add(self, window: Window, maps: dict[str, Tensor]) -> None:
        self.each[window.zoom].add(window.slices, maps)

    def mean(self, name: str) -> Tensor:
        """Of a map in 0..1, (C, X, Y, Z)."""
        return sum(resized(one.mean(name), self.shape) for one in self.each.values()) / len(self.each)

    @property
    def unseen(self) -> Tensor:
        """Where no window of any grid has looked, (X, Y, Z)."""
        return sum(resized(one.seen, self.shape) for one in self.each.values())[0] == 0

    def answer(self, name: str) -> Tensor:
        """Of a map that is counted from theta, (C, X, Y, Z)."""
        if len(self.each) == 1:
            return self.mean(name)
        before = [
            resized((torch.logit(one.mean(name), eps=1e-6) + self.theta).sigmoid(), self.shape)
            for one in self.each.values()
        ]
        return (torch.logit(sum(before) / len(before), eps=1e-6) - self.theta).sigmoid()
