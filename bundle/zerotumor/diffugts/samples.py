"""What DiffuGTS's training needs besides `training`: what every patch is asked, and inpainted patches for the second stage.

Samples are those of `training`, with `kinds` (K,), the place in vocabulary.LESIONS of every lesion instance (-1 unknown).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Randomizable, Transform
from torch import Tensor

from ..prompts import Prompt, parse
from ..scans import KINDS
from ..segmenter import sha256
from ..training import GeneratePhantom, kinds_of
from ..transforms import shows_ct
from ..vocabulary import LESIONS, ORGANS
from .holes import dilate

GENERIC = ("tumor", "lesion", "any lesion")
THETAS = (0.5, 0.7, 0.9)
"""Of holes to learn from: what opens one is an option, and lesions are found at any."""
NAMED_ORGANS = {o.index: name for name, o in ORGANS.items() if name != "abstract"}


@dataclass
class Truth:
    """Ground truth of a batch with P prompts a sample."""

    prompts: list[list[Prompt]]  # B times P
    masks: Tensor  # (B, P, X, Y, Z) bool
    ct: Tensor  # (B,) bool
    taps: list[Tensor] | None = None  # of `taps.KeepTaps`, if the frozen networks have seen the patch already


@dataclass
class Cached:
    """A batch of `Residual`s: what has been inpainted, and for P prompts the attention and the truth."""

    image: Tensor  # (B, 1, X, Y, Z), as the prior sees it
    healthy: Tensor  # (B, 1, X, Y, Z): H as decoded
    reconstruction: Tensor  # (B, 1, X, Y, Z)
    latent: Tensor  # (B, c, x, y, z)
    latent_healthy: Tensor
    hole: Tensor  # (B, P, X, Y, Z) bool
    logits: Tensor  # (B, P, X, Y, Z): of the attention
    texts: Tensor  # (B, P, 2, D)
    masks: Tensor  # (B, P, X, Y, Z) bool


def known(record: Mapping[str, object], sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A phantom's sample with the kind of its lesions, and whether it is a CT: appearance changes hide that later."""
    return {**sample, "kinds": kinds_of(record, sample), "ct": torch.tensor(shows_ct(sample["image"]))}


class Phantoms(PersistentDataset):
    """Cached phantoms, as other methods cache them too; what only their record tells is added."""

    def _cachecheck(self, item_transformed: Mapping[str, float]) -> dict[str, Tensor]:
        return known(item_transformed, super()._cachecheck(item_transformed))


class KnownPhantom(GeneratePhantom):
    """`training.GeneratePhantom` with `known`."""

    def __call__(self, data: Mapping[str, float]) -> dict[str, Tensor]:
        return known(data, super().__call__(data))


class MarkModality(Transform):
    """A sample of a scan, with `ct`."""

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**data, "ct": torch.tensor(shows_ct(torch.as_tensor(data["image"]).as_subclass(Tensor)))}


@lru_cache(4096)
def prompt_of(text: str) -> Prompt:
    """One text, parsed; texts of training are the vocabulary's."""
    return parse(text)[0]


def organ_under(organs: Tensor, mask: Tensor) -> str | None:
    """Name of the organ that most of a mask lies in; None if that has no name."""
    under = organs[mask]
    return NAMED_ORGANS.get(int(under.mode().values)) if len(under) else None


def names_of(kind: str, organ: str | None) -> list[str]:
    """Texts that a lesion of a kind in an organ answers to. Names of unseen kinds never occur."""
    names = [f"lesion in the {organ}"] if organ else []
    if LESIONS[kind].hosts != ("abstract",):
        names += [kind, *LESIONS[kind].synonyms]
    return names or list(GENERIC)


def questions(sample: Mapping[str, Tensor], random: np.random.RandomState, count: int) -> tuple[list[str], Tensor]:
    """`count` texts for a sample, in turns the right one, any lesion at all, and one of an organ that has none.

    Returns:
        texts, masks (count, X, Y, Z) bool. A mismatched text has an empty mask: that is what makes the map listen to words.
    """
    lesions, organs = (torch.as_tensor(sample[k]).as_subclass(Tensor)[0].long() for k in ("lesions", "organs"))
    ids = [k + 1 for k, kind in enumerate(sample["kinds"].tolist()) if kind >= 0 and (lesions == k + 1).any()]
    struck = {organ_under(organs, lesions == i) for i in ids}
    texts, masks = [], []
    for turn in range(count):
        mask = torch.zeros_like(lesions, dtype=torch.bool)
        if turn % 3 == 0 and ids:
            chosen = ids[random.randint(len(ids))]
            kind, organ = int(sample["kinds"][chosen - 1]), organ_under(organs, lesions == chosen)
            names = names_of(KINDS[kind], organ)
            text = names[random.randint(len(names))]
            for i in ids:  # all that the text fits
                if text in names_of(KINDS[int(sample["kinds"][i - 1])], organ_under(organs, lesions == i)):
                    mask |= lesions == i
        elif turn % 3 == 1:
            text, mask = GENERIC[random.randint(len(GENERIC))], lesions > 0
        else:
            text = _elsewhere(organs, struck, random)
        texts.append(text)
        masks.append(mask)
    return texts, torch.stack(masks)


def _elsewhere(organs: Tensor, struck: set[str | None], random: np.random.RandomState) -> str:
    """A text about an organ without a lesion, mostly one that is there."""
    there = [NAMED_ORGANS[i] for i in organs.unique().tolist() if i in NAMED_ORGANS]
    pool = there if there and random.rand() < 0.8 else list(NAMED_ORGANS.values())
    pool = [o for o in pool if o not in struck] or [o for o in NAMED_ORGANS.values() if o not in struck]
    organ = pool[random.randint(len(pool))]
    own = [k for k, v in LESIONS.items() if v.seen and organ in v.hosts and not set(v.hosts) & struck]
    return own[random.randint(len(own))] if own and random.rand() < 0.5 else f"lesion in the {organ}"


class RandQuestions(Randomizable, Transform):
    """Adds `texts`, a list of P prompts, and `masks` (P, X, Y, Z), what each asks for. See `questions`.

    Args:
        count: P.
    """

    def __init__(self, count: int = 3) -> None:
        self.count = count

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, object]:
        texts, masks = questions(data, self.R, self.count)
        return {**data, "texts": texts, "masks": masks}


def collate(samples: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Samples of `RandQuestions` -> `image` (B, 2, X, Y, Z), `masks`, `ct`, `texts`."""
    samples = [one for s in samples for one in (s if isinstance(s, list) else [s])]
    return {
        "image": torch.stack([torch.as_tensor(s["image"]).as_subclass(Tensor).float() for s in samples]),
        "label": {
            "masks": torch.stack([s["masks"] for s in samples]),
            "ct": torch.stack([torch.as_tensor(s.get("ct", shows_ct(s["image"]))) for s in samples]),
            "texts": [s["texts"] for s in samples],
            "taps": [torch.stack(level).float() for level in zip(*(s.get("taps", ()) for s in samples), strict=True)],
        },
    }


def prepare_batch(
    batch: Mapping[str, object], device: torch.device | str, non_blocking: bool = False, **_
) -> tuple:  # fmt: skip
    """For MONAI's SupervisedTrainer: inputs, targets, and the targets again, whose prompts the network is asked."""
    label = batch["label"]
    prompts = [[prompt_of(t) for t in texts] for texts in label["texts"]]
    masks, *taps = (one.to(device, non_blocking=non_blocking) for one in (label["masks"], *label["taps"]))
    truth = Truth(prompts, masks, label["ct"].to(device), taps or None)
    return batch["image"].to(device, non_blocking=non_blocking), truth, (), {"targets": truth}


def prepare_validation(
    batch: Mapping[str, Tensor], device: torch.device | str, non_blocking: bool = False, **_
) -> tuple:
    """For MONAI's SupervisedEvaluator and `training.LesionMask`: the attention alone is asked for any lesion."""
    image, label = (batch[k].to(device, non_blocking=non_blocking) for k in ("image", "label"))
    return image, label, (), {"answer": "attention"}


class MakeResidual(Transform):
    """A sample -> all of `Cached` but the batch axis: inpainted once, to be learned from many times. Can be cached.

    The hole is in turns that of the attention, at one of several thetas, as it is chosen later; the truth's; and a random
    blob where nothing is: what is drawn anew is not for that reason a tumor.

    Args:
        network: a DiffuGTS with a trained attention. count: P. quality: of the inpainting.
    """

    def __init__(self, network: torch.nn.Module, count: int = 2, quality: str = "fast") -> None:
        self.network, self.count, self.quality = network, count, quality

    @torch.no_grad()
    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        network, image = self.network, torch.as_tensor(data["image"]).as_subclass(Tensor).float()
        random = np.random.RandomState(int(image[0].double().sum() * 1e3) % 2**31)
        texts, masks = questions(data, random, self.count)
        device = next(network.parameters()).device
        masks = masks[None].to(device)
        features = network.encode_image(image[None].to(device))
        first = network.attend(features, [prompt_of(t) for t in texts])
        hole = self.holes(first["logits"], masks, random)
        healed = network.heal(image[None].to(device), hole.any(1, keepdim=True), quality=self.quality)
        out = {
            "image": healed.image, "healthy": healed.healthy, "reconstruction": healed.reconstruction,
            "latent": healed.latent, "latent_healthy": healed.latent_healthy, "logits": first["logits"],
            "texts": first["texts"],
        }  # fmt: skip
        halves = {name: value[0].half().cpu() for name, value in out.items()}
        return {**halves, "hole": hole[0].cpu(), "masks": masks[0].cpu()}

    def holes(self, logits: Tensor, masks: Tensor, random: np.random.RandomState) -> Tensor:
        """(1, P, X, Y, Z) bool."""
        network = self.network
        kind = random.randint(3)
        if kind == 0:
            bar = torch.logit(torch.tensor(THETAS[random.randint(len(THETAS))]))
            hole = network.holes((logits - bar).sigmoid())
        elif kind == 1:
            hole = dilate(masks, network.steps)
        else:
            hole = torch.zeros_like(masks)
        if not hole.any():
            hole = blob(logits.shape[2:], random).to(logits.device).expand_as(masks)
        return hole


def blob(shape: Sequence[int], random: np.random.RandomState) -> Tensor:
    """A random ellipsoid (1, 1, X, Y, Z) bool; its half axes are a twelfth to a fifth of the volume's edges."""
    center = [random.uniform(0.25, 0.75) * n for n in shape]
    radius = [random.uniform(1 / 12, 1 / 5) * n for n in shape]
    axes = torch.meshgrid(*(torch.arange(n).float() for n in shape), indexing="ij")
    inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, center, radius, strict=True)) <= 1
    return inside[None, None]


def cache_folder(folder: str, words: Sequence[object], files: Sequence[str | None]) -> str:
    """Folder for what weights have made of patches, named after them: that of others would not fit."""
    marks = [sha256(Path(f))[:8] if f else "fresh" for f in files]
    return str(Path(folder) / "_".join([*map(str, words), *marks]))


class RandFlipAll(Randomizable, Transform):
    """Flip every map of a `MakeResidual` sample along x at random; `texts` has no axes of space."""

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.R.rand() < 0.5:
            return dict(data)
        return {k: v if k == "texts" else v.flip(-3) for k, v in data.items()}


def prepare_residual(
    batch: Mapping[str, Tensor], device: torch.device | str, non_blocking: bool = False, training: bool = True, **_
) -> tuple:
    """Batches of `MakeResidual` samples for the trainer, or for the evaluator: then the label is the masks."""
    moved = {k: v.to(device, non_blocking=non_blocking) for k, v in batch.items()}
    cached = Cached(**{k: v if v.dtype == torch.bool else v.float() for k, v in moved.items()})
    if training:
        return cached.image, cached, (), {"targets": cached}
    return cached.image, cached.masks.float(), (), {"cached": cached}
