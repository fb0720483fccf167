"""Frozen features of training patches, made once: half of what a step of the attention stage costs is otherwise theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.data import Dataset
from monai.transforms import Compose, Randomizable, Transform
from torch import Tensor

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
        """{"number": k} of `numbered` -> the sample, its image in half precision, and `taps`, (C_l, x, y, z) each.

        A sample with its `healthy` twin gets `healthy_taps`, too; the twin is mirrored and shaded alike.
        """
        patch = self.patches[data["number"] % len(self.patches)]
        sample = self._look(patch, data["number"])
        out = {
            **sample,
            **self._features(sample),
            "lesions": _small(sample["lesions"]),
            "organs": _small(sample["organs"]),
        }
        if "healthy" in patch:
            twin = self._features(self._look({**patch, "image": patch["healthy"]}, data["number"]))
            out |= {"healthy": twin["image"], "healthy_taps": twin["taps"]}
        return out

    def _look(self, patch: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        self.looks.set_random_state(number)
        return self.looks(patch)

    def _features(self, sample: Mapping[str, Tensor]) -> dict[str, object]:
        device = next(self.network.parameters()).device
        image = torch.as_tensor(sample["image"]).as_subclass(Tensor).float()[None].to(device)
        ct = sample["ct"][None].to(device)
        levels = self.network.taps(self.network.seen(image, ct), ct)
        return {"image": image[0].half().cpu(), "taps": [level[0].half().cpu() for level in levels]}


def _small(labels: Tensor) -> Tensor:
    return torch.as_tensor(labels).as_subclass(Tensor).to(torch.uint8)


class WithTwin(Transform):
    """A sample with questions -> two: itself, and its healthy twin with the same questions, whose masks are empty.

    The two differ in the lesion alone, so that a map that paints the lesion's organ gains nothing.
    """

    def __call__(self, data: Mapping[str, object]) -> list[dict[str, object]]:
        own = {k: v for k, v in data.items() if not k.startswith("healthy")}
        twin = {"image": data["healthy"], "taps": data["healthy_taps"], "masks": torch.zeros_like(data["masks"])}
        return [own, {**own, **twin}]


def numbered(patches: int, looks: int) -> list[dict[str, int]]:
    """A record for every look at every patch."""
    return [{"number": k} for k in range(patches * looks)]


class RandMirrorTaps(Randomizable, Transform):
    """Mirror a patch left to right at random; its features, mirrored, are taken for those of the mirrored patch.

    Args:
        prob: of it.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob, self.mirror = prob, RandMirror((1.0, 0.0, 0.0))

    def __call__(self, data: Mapping[str, object]) -> dict[str, object]:
        if self.R.random() >= self.prob:
            return dict(data)
        flipped = {k: [level.flip(1) for level in v] for k, v in data.items() if k.endswith("taps")}
        healthy = {"healthy": data["healthy"].flip(1)} if "healthy" in data else {}
        return {**self.mirror(data), **flipped, **healthy}
