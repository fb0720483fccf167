"""Does a lesion lie where a prompt asks for one? By the organs that a method sees around each voxel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .blending import resized
from .datasets import covering
from .inferer import organ_volume
from .kept import Kept, VolumeFeatures
from .prompts import Prompt

if TYPE_CHECKING:
    from .segmenter import Segmenter

NEAR = 5
"""Width of the neighborhood, in steps of two voxels, whose organs say where a voxel lies: a lesion hides its own."""
FITS = 0.4
"""A place so probable, next to the most probable one, fits: nine in ten right words reach it, and one in ten wrong ones."""


def place_match(organs: Tensor, hosts: Tensor) -> Tensor:
    """How well the place of each voxel fits: how probable the wanted organs are around it, next to the most probable one.

    Args:
        organs: probabilities (B, N, x, y, z) on every other voxel along each axis. hosts: (P, N) booleans.

    Returns:
        (B, P, x, y, z) in 0..1; 1 everywhere for a prompt that names no place.
    """
    return _match(_around(organs), hosts)


def _around(organs: Tensor) -> Tensor:
    # Padded by hand: torch refuses an image thinner than the kernel. The zeros at the edges cancel in the ratio.
    return F.avg_pool3d(F.pad(organs, (NEAR // 2,) * 6), NEAR, stride=1)


def _match(around: Tensor, hosts: Tensor) -> Tensor:
    best = around.amax(1).clamp_min(1e-6)
    rows = [around[:, row].amax(1) / best if row.any() else torch.ones_like(best) for row in hosts]
    return (torch.stack(rows, 1) / FITS).clamp_max(1)


class Places:
    """A scan's organs, which are looked at once, whatever is asked for.

    Args:
        model: that sees organs. image: prepared, (2, X, Y, Z). kept: the model's features of it.
    """

    def __init__(self, model: Segmenter, image: Tensor, kept: VolumeFeatures | None = None) -> None:
        self.model, self.image, self.features = model, image, kept
        self.further = Kept() if kept is None else kept.further

    @staticmethod
    def known(model: Segmenter, prompt: Prompt) -> tuple[int, ...]:
        """Which of a method's organs the prompt names."""
        return covering(model.organ_names, prompt.organs)

    @property
    def around(self) -> Tensor:
        """How probable each is around a voxel, (1, N, x, y, z), on every other voxel along each axis."""
        return self.further.once((self.model.weights_sha256, "organs around"), self._look)

    def _look(self) -> Tensor:
        organs = organ_volume(self.model, self.image, features=self.features)[None, 1:]
        return _around(F.avg_pool3d(organs, 2, ceil_mode=True, count_include_pad=False))

    def fits(self, prompt: Prompt) -> Tensor | None:
        """How well each voxel's place fits a prompt, (X, Y, Z) in 0..1; None if it names no organ that the method knows."""
        named = Places.known(self.model, prompt)
        if not named:
            return None
        hosts = torch.zeros(1, len(self.model.organ_names), dtype=torch.bool)
        hosts[0, list(named)] = True
        return resized(_match(self.around, hosts)[0], self.image.shape[1:])[0]
