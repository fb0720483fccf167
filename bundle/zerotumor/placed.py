"""Finds of one method, at the places of another, which has some say in them, too. An addition of ours.

A method that draws lesions well need not know organs well. So what it says of a voxel is multiplied with how well the
voxel's place fits the prompt as another method sees it (`zerotumor.places`): a mass in a kidney is no liver tumor,
whichever of the two knows that it lies in a kidney. And whether the other one sees a lesion there as well counts a little:
it decides where the first is in doubt, and cannot outvote it where it is sure.
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
from .prompts import Prompt, asks_for_anomaly
from .segmenter import Segmentation, Segmenter
from .wrapped import Wrapped

SHARE = 0.25
"""Of the second method in a voxel's logit; with WITHIN the best on phantoms that leaves real scans as they are, see
bundle/docs/lab_notebook.md."""
WITHIN = 1.0
"""Bound of the second method's logit: what it paints in scans that it was not trained for, it is often sure of."""


class Seen:
    """A prepared scan as a method on another grid sees it. It looks when it is asked first, and once; so for each prompt.

    Args:
        model: the method. image: (2, X, Y, Z), with voxels of `spacing` mm. kept: of the scan; what the method finds out is
            in its `further`, or goes there. None: it goes with this.
    """

    def __init__(self, model: Segmenter, image: Tensor, spacing: float, kept: VolumeFeatures | None) -> None:
        self.model, self.shape = model, image.shape[1:]
        self.image = resized(image.float().cpu(), zoomed_shape(self.shape, spacing / model.spacing))
        self.further = Kept() if kept is None else kept.further
        self.said: dict[Prompt, VolumeResult] = {}

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
        """`undecided`, on the method's grid; of extras what ranks voxels alone."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.said]
        if new:
            one = undecided(self.model, self.image, new, features=self.features)
            for p, prompt in enumerate(new):
                ranks = {"ungated": one.extras["ungated"][p : p + 1]}
                about = one.attributes[p : p + 1]
                self.said[prompt] = VolumeResult(one.probabilities[p : p + 1], one.scores[p : p + 1], [], about, ranks)
        several = [self.said[prompt] for prompt in prompts]
        return VolumeResult(
            torch.cat([one.probabilities for one in several]),
            [score for one in several for score in one.scores],
            [],
            [about for one in several for about in one.attributes],
            {"ungated": torch.cat([one.extras["ungated"] for one in several])},
        )

    def believes(self, prompts: Sequence[Prompt]) -> list[Tensor | None]:
        """Its logit that a voxel is what each prompt asks for, (X, Y, Z) on the scan's own grid, within WITHIN; None for
        organs that it does not know, and for "anomaly", which it counts in another way."""
        heard = [p for p in prompts if not asks_for_anomaly(p) and (not p.organs or Places.known(self.model, p))]
        if not heard:
            return [None for _ in prompts]
        theta = torch.logit(torch.tensor(self.model.theta))  # its answers count from it
        logits = torch.logit(resized(self.says(heard).probabilities, self.shape), eps=1e-6) + theta
        each = dict(zip(heard, logits.clamp(-WITHIN, WITHIN), strict=True))
        return [each.get(prompt) for prompt in prompts]


def together(probability: Tensor, belief: Tensor | None, fits: Tensor | None) -> Tensor:
    """What is said of voxels by the first method, with the second's logit and place (`Seen`), all of one shape."""
    if belief is not None:
        logit = torch.logit(probability, eps=1e-6)
        probability = ((1 - SHARE) * logit + SHARE * belief.to(logit)).sigmoid()
    return probability if fits is None else probability * fits.to(probability)


class Placed(Wrapped):
    """Answers as the first method does, with some say of the second, where that sees an organ that the prompt names; where
    a prompt names none, anywhere.

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
        """An answer, `together` with what the second method sees in each of B scans."""
        logits, scores, ungated = answer.logits.clone(), answer.scores.clone(), answer.extras["ungated"].clone()
        theta = torch.logit(torch.tensor(self.theta))
        for b, scan in enumerate(seen):
            for p, (fits, belief) in enumerate(zip(scan.fits(prompts), scan.believes(prompts), strict=True)):
                said = (logits[b, p] + theta).sigmoid()  # logits count from theta
                both = together(said, belief, fits)
                logits[b, p], ungated[b, p] = torch.logit(both, eps=1e-6) - theta, together(ungated[b, p], belief, fits)
                scores[b, p] = (scores[b, p] * both.amax() / said.amax().clamp_min(1e-6)).clamp_max(1)
        return Segmentation(logits, scores, answer.attributes, {**answer.extras, "ungated": ungated})

    def followed(
        self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt], seen: Sequence[Seen],
        kept: VolumeFeatures | None,
    ) -> Segmentation:  # fmt: skip
        """What is made of the first method's answer in the end."""
        return answer
