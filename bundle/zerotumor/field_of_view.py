"""Scans that end where the window goes on: slabs, limbs, and boxes that somebody cut round a tumor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.transforms import Randomizable, Transform
from torch import Tensor

from .transforms import normalize

KEYS = ("image", "lesions", "organs")


class RandFieldOfView(Randomizable, Transform):
    """Keep a random box of a sample and leave nothing around it, as in a scan that was cut before it was prepared.

    The brightness of MR is counted from what is left, as `transforms.normalize` would: where little fat is in the picture,
    muscle is brighter.

    Args:
        prob: of any box at all. around: how often it is one round a lesion, where the sample has one. margin: voxels that
        are left beside the lesion, from and to, on each side by itself. smallest: edge of any other box, voxels.
    """

    def __init__(
        self, prob: float = 0.5, around: float = 0.5, margin: tuple[int, int] = (3, 18), smallest: int = 16
    ) -> None:
        self.prob, self.around, self.margin, self.smallest = prob, around, margin, smallest

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`image` (2, X, Y, Z), `lesions` and `organs` (1, X, Y, Z), `ct` (): whether the sample is a CT."""
        data = dict(data)
        if self.R.random() >= self.prob:
            return data
        plain = {key: torch.as_tensor(data[key]).as_subclass(Tensor) for key in KEYS}
        shape = plain["image"].shape[1:]
        lesion = plain["lesions"][0].nonzero()
        if len(lesion) and self.R.random() < self.around:
            box = self._around(lesion.amin(0).tolist(), lesion.amax(0).tolist(), shape)
        else:
            box = self._anywhere(shape)
        part = (slice(None), *box)
        for key, values in plain.items():
            kept = torch.zeros_like(values)
            kept[part] = values[part]
            data[key] = kept
        if not bool(data["ct"]) and (data["image"][0] > 0).any():
            data["image"] = normalize(data["image"][:1], "MR").to(data["image"].dtype)
        return data

    def _around(self, low: list[int], high: list[int], shape: tuple[int, ...]) -> list[slice]:
        starts = [max(0, a - self.R.randint(*self.margin)) for a in low]
        stops = [min(n, b + 1 + self.R.randint(*self.margin)) for b, n in zip(high, shape, strict=True)]
        return [slice(a, b) for a, b in zip(starts, stops, strict=True)]

    def _anywhere(self, shape: tuple[int, ...]) -> list[slice]:
        sizes = [self.R.randint(min(self.smallest, n), n + 1) for n in shape]
        starts = [self.R.randint(0, n - size + 1) for n, size in zip(shape, sizes, strict=True)]
        return [slice(a, a + size) for a, size in zip(starts, sizes, strict=True)]
