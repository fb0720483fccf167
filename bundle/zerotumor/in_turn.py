"""Methods asked in turn: the second answers those prompts for which the first finds nothing. An addition of ours.

theta is chosen so that most healthy scans stay quiet, and where it is high a lesion is passed over that another method,
trained by other losses, is sure of. Their mean loses what one of them is right about; here each keeps its own answer, but
for a small say of the second in the first's. The second draws its masks as ever, but each part has to reach a higher peak
than when it is asked alone (scripts/calibrate.py --after): of the scans in which nothing was found, most have nothing. And
they have to agree on where a lesion lies: what the first finds counts at places that the second sees (`zerotumor.placed`),
and what the second finds, where the first does not see the same in another organ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from skimage.measure import label
from torch import Tensor

from .blending import resized
from .inferer import UNPAINTED, VolumeResult, found_in, settled, undecided
from .kept import VolumeFeatures
from .placed import Placed, Seen
from .prompts import Prompt
from .segmenter import (
    METHODS,
    MODELS,
    Segmentation,
    Segmenter,
    WeightsError,
    asked_in_turn,
    available,
    entry,
    load,
    read_record,
)

IN_TURN = "malenia+zept"
"""What scans are segmented with unless a user asks for something else: the best by bundle/docs/results.md."""
SECOND = "second"
"""Key in the record of weights of what was measured for a method that is asked second."""
JOINT = "joint"
"""Key of what was measured for its say in the first method's finds."""


def peak_after(second: Mapping[str, dict], first: Mapping[str, object]) -> float | None:
    """From which peak on a method speaks second, by the records of both methods' weights; None if that was not measured."""
    return _measured(second, SECOND, first)


def joint_peak(second: Mapping[str, dict], first: Mapping[str, object]) -> float | None:
    """What parts of a mask have to reach where a second method has a say, as `peak_after`."""
    return _measured(second, JOINT, first)


def _measured(second: Mapping[str, dict], key: str, first: Mapping[str, object]) -> float | None:
    own = second.get(key, {})
    return own.get("theta_peak") if own.get("after") == first["sha256"] else None


def joint_sha256(models: Mapping[str, str]) -> str:
    """What stands for the weights of several methods: name and hash of each, in the order in which they are asked."""
    return ",".join(f"{name}:{sha}" for name, sha in models.items())


def usual(weights: str | Path | None = None) -> str:
    """The method for who names none: IN_TURN, or the first that has weights where the second was not measured for it.

    Args:
        weights: as of `segmenter.load`.

    Raises:
        segmenter.WeightsError: weights are damaged.
    """
    folder = MODELS if weights is None else Path(weights)
    names = asked_in_turn(IN_TURN)
    known = available(folder)
    if set(names) <= set(known):
        first, second = (read_record(folder / entry(name).weights, name) for name in names)
        if peak_after(second, first) is not None:
            return IN_TURN
    return (known or list(METHODS))[0]


class InTurn(Placed):
    """Answers as the first method does, where the second sees the prompt's organs; where that finds nothing, as the
    second, if it is sure, and if it is not the place alone that the first objects to.

    Args:
        first, second: by name, loaded; neither is changed. theta_peak: what each part of the second's masks must reach.
        joint_peak: what each part must that is the first's, with the second's say; by default what it is for the first.
    """

    def __init__(
        self,
        first: tuple[str, Segmenter],
        second: tuple[str, Segmenter],
        theta_peak: float,
        joint_peak: float | None = None,
    ) -> None:
        super().__init__(first[1], second[1])
        self.name = second[0]
        if joint_peak is not None:
            self.theta_peak = joint_peak
        self.second.paint(self.second.theta, theta_peak, self.second.edge_weight)
        if hasattr(first[1], "version"):  # of what the first has learned
            self.version = first[1].version
        self.weights_sha256 = joint_sha256({name: model.weights_sha256 for name, model in (first, second)})
        self.eval()

    @classmethod
    def of(cls, names: Sequence[str], weights: str | Path | None = None, device: str | torch.device = "cpu") -> Self:
        """Two methods, in this order.

        Args:
            weights: a folder with the weights of both; by default that of the starter weights.

        Raises:
            ValueError: they are not two, or not known. segmenter.WeightsError: weights are missing or damaged, or nobody has
            measured from when on the second is to speak.
        """
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"{'+'.join(names)} are not two methods: write two names, such as malenia+zept")
        if weights is not None and not Path(weights).is_dir():
            raise ValueError(f"{weights} is one file, and {'+'.join(names)} are two methods: give the folder of both")
        first, second = ((name, load(name, weights, device=device)) for name in names)
        return cls.after(first, second)

    @classmethod
    def after(cls, first: tuple[str, Segmenter], second: tuple[str, Segmenter]) -> Self:
        """The second after the first, each by name; it speaks from the peak that was measured for it.

        Raises:
            segmenter.WeightsError: none was, for these weights of the first.
        """
        records = second[1].records[0], first[1].records[0]
        peak = peak_after(*records)
        if peak is None:
            raise WeightsError(
                f"nobody has measured from which probability on {second[0]} is to speak where {first[0]} finds nothing: run "
                f"scripts/calibrate.py --weights FILE_OF_{second[0].upper()} --after FILE_OF_{first[0].upper()}"
            )
        return cls(first, second, peak, joint_peak(*records))

    def followed(
        self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt], seen: Sequence[Seen],
        kept: VolumeFeatures | None,
    ) -> Segmentation:  # fmt: skip
        """The first method's answer for scans (B, 2, X, Y, Z), and the second's for what the first has not found."""
        logits, scores, ungated = answer.logits.clone(), answer.scores.clone(), answer.extras["ungated"].clone()
        attributes = list(answer.attributes)
        for b, scan in enumerate(seen):
            masks = settled(self, logits[b].sigmoid().cpu())
            found = found_in(self, masks, scores[b].tolist())
            missed = [p for p, one in enumerate(found) if not one]
            if not missed:
                continue
            said = self.ask_second(image[b], [prompts[p] for p in missed], scan, kept)
            masks, ranks = (resized(maps, image.shape[2:]) for maps in (said.probabilities, said.extras["ungated"]))
            for k, p in enumerate(missed):
                if not said.found[k]:
                    continue
                logits[b, p] = torch.logit(masks[k], eps=1e-6).to(logits)
                ungated[b, p], scores[b, p] = ranks[k].to(ungated), said.scores[k]
                if attributes:
                    attributes[p] = {"found_by": self.name, **said.attributes[k]}
        return Segmentation(logits, scores, attributes, {**answer.extras, "ungated": ungated})

    @torch.inference_mode()
    def ask_second(
        self, image: Tensor, prompts: Sequence[Prompt], seen: Seen, kept: VolumeFeatures | None
    ) -> VolumeResult:
        """What the second method says of a prepared scan (2, X, Y, Z), on its own grid, where the first does not object."""
        answer = seen.says(prompts)
        masks = settled(self.second, answer.probabilities)
        for p, prompt in enumerate(prompts):
            if prompt.organs and (masks[p] >= 0.5).any():
                painted = resized(self.anywhere(image, prompt, kept)[None].float(), masks.shape[1:])[0] >= 0.5
                masks[p] = undisputed(masks[p], painted)
        return replace(answer, probabilities=masks, found=found_in(self.second, masks, answer.scores))

    def anywhere(self, image: Tensor, prompt: Prompt, kept: VolumeFeatures | None) -> Tensor:
        """What the first method would paint (X, Y, Z) if the prompt named no place."""
        said = undecided(self.base, image.float().cpu(), [replace(prompt, organs=())], features=kept)
        return settled(self.base, said.probabilities)[0].cpu() >= 0.5


def undisputed(probabilities: Tensor, other: Tensor) -> Tensor:
    """Probabilities (X, Y, Z) of a mask; parts of it that the other mask touches fall below one half.

    What a method would paint but for its place is a find in an organ that was not asked for. Where two methods see a lesion
    and do not agree on the organ, neither knows.
    """
    parts = torch.from_numpy(label(probabilities.numpy() >= 0.5))
    touched = parts[other & (parts > 0)].unique()
    return torch.where(torch.isin(parts, touched), probabilities.clamp(max=UNPAINTED), probabilities)
