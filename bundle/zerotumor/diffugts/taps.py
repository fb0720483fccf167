"""Frozen features of training patches, made once: half of what a step of the attention stage costs is otherwise theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.data import Dataset
from monai.transforms import Compose, Randomizable, Transform
from torch import Tensor

from ..precision import mixed
from ..training import RandMirror


class KeepTaps(Transform):
    """A patch as it looks when it is mirrored, shaded and so on, and what the frozen networks say of it; can be cached.

    Args:
        network: a `DiffuGTS` with its prior. patches: samples of `training` with `ct`, without randomness. looks: random
        transforms, which a record's number seeds.
    """

    def __init__(self, network: torch.nn.Module, patches: Dataset, looks: Sequence[Transform]) -> None:
        self.network, self.patches, self.looks = network, patches, Compose(looks)

    @torch.no_grad()
    def __call__(self, data: Mapping[str, int]) -> dict[str, object]:
        """{"number": k} of `numbered` -> the sample, its image in half precision, and `taps`, (C_l, x, y, z) each."""
        self.looks.set_random_state(data["number"])
        sample = self.looks(self.patches[data["number"] % len(self.patches)])
        device = next(self.network.parameters()).device
        image, ct = torch.as_tensor(sample["image"]).as_subclass(Tensor).float()[None].to(device), sample["ct"][None]
        with mixed(device):
            levels = self.network.taps(self.network.seen(image, ct.to(device)), ct.to(device))
        small = {k: torch.as_tensor(sample[k]).as_subclass(Tensor).to(torch.uint8) for k in ("lesions", "organs")}
        taps = [level[0].half().cpu() for level in levels]
        return {**sample, **small, "image": image[0].half().cpu(), "taps": taps}


def numbered(patches: int, looks: int) -> list[dict[str, int]]:
    """A record for every look at every patch."""
    return [{"number": k} for k in range(patches * looks)]


class RandMirrorTaps(Randomizable, Transform):
    """Mirror a patch left to right at random, with its features; frozen networks know both sides alike.

    Args:
        prob: of it.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob, self.mirror = prob, RandMirror((1.0, 0.0, 0.0))

    def __call__(self, data: Mapping[str, object]) -> dict[str, object]:
        if self.R.random() >= self.prob:
            return dict(data)
        return {**self.mirror(data), "taps": [level.flip(1) for level in data["taps"]]}
