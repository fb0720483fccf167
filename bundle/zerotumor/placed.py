"""Finds of one method, at the places of another. An addition of ours.

A method that draws lesions well need not know organs well. So what it says of a voxel is multiplied with how well the
voxel's place fits the prompt as another method sees it (`zerotumor.places`): a mass in a kidney is no liver tumor,
whichever of the two knows that it lies in a kidney.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from .blending import resized, zoomed_shape
from .inferer import VolumeResult, encode_volume, undecided
from .kept import Kept, VolumeFeatures
from .places import Places
from .prompts import Prompt
from .segmenter import Segmentation, Segmenter
from .wrapped import Wrapped


class Seen:
    """A prepared scan as a method on another grid sees it. It looks when it is asked first, and once.

    Args:
        model: the method. image: (2, X, Y, Z), with voxels of `spacing` mm. kept: of the scan; what the method finds out is
            in its `further`, or goes there. None: it goes with this.
    """

    def __init__(self, model: Segmenter, image: Tensor, spacing: float, kept: VolumeFeatures | None) -> None:
        self.model, self.shape = model, image.shape[1:]
        self.image = resized(image.float().cpu(), zoomed_shape(self.shape, spacing / model.spacing))
        self.further = Kept() if kept is None else kept.further

    @property
    def features(self) -> VolumeFeatures | None:
        """None: they do not fit in memory."""
        return self.further.once(self.model.weights_sha256, lambda: encode_volume(self.model, self.image))

    def fits(self, prompts: Sequence[Prompt]) -> list[Tensor | None]:
        """`Places.fits` for each prompt, (X, Y, Z) on the scan's own grid."""
        if not any(Places.known(self.model, prompt) for prompt in prompts):
            return [None for _ in prompts]
        places = Places(self.model, self.image, self.features)
        maps = [places.fits(prompt) for prompt in prompts]
        return [None if fits is None else resized(fits[None], self.shape)[0] for fits in maps]

    def says(self, prompts: Sequence[Prompt]) -> VolumeResult:
        """`undecided`, on the method's grid."""
        return undecided(self.model, self.image, prompts, features=self.features)


class Placed(Wrapped):
    """Answers as the first method does, where the second sees an organ that the prompt names; anywhere, if it names none.

    Args:
        first, second: loaded; neither is changed.
    """

    def __init__(self, first: Segmenter, second: Segmenter) -> None:
        super().__init__(first)
        self.second = copy(second)  # may get thresholds of its own, and has the same weights
        self.mirrored = first.mirrored and second.mirrored
        self.records = (*first.records, *second.records)

    def at(self, quality: str) -> Self:
        twin = super().at(quality)
        if quality in self.second.qualities:
            twin.second = self.second.at(quality)
        return twin

    def complete(
        self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt], kept: VolumeFeatures | None = None
    ) -> Segmentation:
        """The first method's answer for scans (B, 2, X, Y, Z) at the second's places, then its own second look."""
        seen = [Seen(self.second, one, self.spacing, kept) for one in image]
        answer = super().complete(image, self.placed(answer, prompts, seen), prompts, kept)
        return self.followed(image, answer, prompts, seen, kept)

    def placed(self, answer: Segmentation, prompts: Sequence[Prompt], seen: Sequence[Seen]) -> Segmentation:
        """An answer times how well each voxel's place fits, for B scans as the second method sees them."""
        logits, scores, ungated = answer.logits.clone(), answer.scores.clone(), answer.extras["ungated"].clone()
        theta = torch.logit(torch.tensor(self.theta))
        for b, scan in enumerate(seen):
            for p, fits in enumerate(scan.fits(prompts)):
                if fits is None:
                    continue
                said = (logits[b, p] + theta).sigmoid()  # logits count from theta
                there = said * fits.to(said)
                logits[b, p], ungated[b, p] = torch.logit(there, eps=1e-6) - theta, ungated[b, p] * fits.to(ungated)
                scores[b, p] *= there.amax() / said.amax().clamp_min(1e-6)
        return Segmentation(logits, scores, answer.attributes, {**answer.extras, "ungated": ungated})

    def followed(
        self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt], seen: Sequence[Seen],
        kept: VolumeFeatures | None,
    ) -> Segmentation:  # fmt: skip
        """What is made of the first method's answer in the end."""
        return answer
