"""What ZePT's training needs besides `training`: which kind every lesion is, which classes a data set annotates, batches.

Samples are those of `training`, with `kinds` (K,), the place in vocabulary.LESIONS of every lesion instance (-1 unknown),
and `annotated` (E,), booleans over `classes.ENTRIES`: whose voxels the label map shows, all of them (2.4, partial labels).
The entry of `classes.ANY` says that everything is annotated: then what has no label is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from monai.data import PersistentDataset
from monai.transforms import Transform
from torch import Tensor

from ..datasets import annotated, datalist
from ..scans import KINDS, LoadScan
from ..training import collate as collate_truths
from ..training import kinds_of
from ..vocabulary import LESIONS, ORGANS
from .classes import ANY, ENTRIES, ClassSet, class_set

NO_KIND = KINDS.index("abstract lesion")


@dataclass
class Truth:
    """Ground truth of one batch in a class set's terms: N organs, K tumors."""

    organs: Tensor  # (B, X, Y, Z) long: 0..N - 1, or -1 for none of them
    tumors: Tensor  # (B, K, X, Y, Z) bool
    annotated: Tensor  # (B, N + 1 + K) bool: organs, background, tumors; a class that is not gets no loss


def annotation(names: Sequence[str]) -> Tensor:
    """Booleans (E,) over `classes.ENTRIES` of what a data set annotates."""
    return torch.tensor([entry in set(names) for entry in ENTRIES])


COMPLETE = annotation((*ORGANS, *LESIONS, ANY))
"""Phantoms know everything."""
SCANNED = annotation((*(set(ORGANS) - {"muscle"}), *LESIONS, ANY))
"""A body from a real scan or an atlas: its map has some of the muscles only."""


class Phantoms(PersistentDataset):
    """Cached phantoms and lesions in real anatomy, each with its lesions' kind: the cache has samples, records tell it."""

    def _cachecheck(self, item_transformed: Mapping[str, float]) -> dict[str, Tensor]:
        sample = dict(super()._cachecheck(item_transformed))
        known = SCANNED if "image" in item_transformed else COMPLETE
        return {**sample, "kinds": kinds_of(item_transformed, sample), "annotated": known}


def collate(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, object]:
    """`training.collate`, keeping `kinds` and `annotated`."""
    flat = [one for s in samples for one in (s if isinstance(s, list) else [s])]
    batch = collate_truths(flat)
    for label, sample in zip(batch["label"], flat, strict=True):
        label |= {k: torch.as_tensor(sample[k]).as_subclass(Tensor) for k in ("kinds", "annotated")}
    return batch


@lru_cache
def _tables(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Organ label -> place of the organ (256,); kind -> slots it belongs to (len(KINDS), K); class -> entry (N + 1 + K,)."""
    classes = class_set(name)
    slots = torch.tensor([[t in (kind, ANY) for t in classes.tumors] for kind in KINDS])
    entries = torch.tensor([ENTRIES.index(n) for n in (*classes.organs, ANY, *classes.tumors)])
    return torch.tensor(classes.channel_of_label()), slots, entries


def truth_of(labels: Sequence[Mapping[str, Tensor]], classes: ClassSet, device: torch.device | str = "cpu") -> Truth:
    """Truths of `collate` -> Truth. Tumor slots of unseen kinds count as not annotated, whatever a data set has of them.

    So do those of all kinds where a patch has a lesion of no kind: it may look like a lesion of any.
    """
    channels, slots, entries = _tables(classes.name)
    organs = channels[torch.stack([label["organs"][0] for label in labels]).long()]
    tumors = torch.zeros(len(labels), len(classes.tumors), *organs.shape[1:], dtype=torch.bool)
    annotated = torch.stack([label["annotated"] for label in labels])[:, entries]
    for b, label in enumerate(labels):
        for k, kind in enumerate(label["kinds"].tolist()):
            own = slots[kind if kind >= 0 else NO_KIND]
            tumors[b, own] |= label["lesions"][0] == k + 1
            if kind in (-1, NO_KIND):
                annotated[b, len(classes.organs) + 1 :] &= own
    unseen = [len(classes.organs) + 1 + k for k in range(len(classes.tumors)) if k not in classes.trained]
    annotated[:, unseen] = False
    return Truth(organs.to(device), tumors.to(device), annotated.to(device))


def prepare_batch(
    batch: Mapping[str, object],
    device: torch.device | str,
    non_blocking: bool = False,
    classes: str = "starter",
    stage: int = 2,
    **_,
) -> tuple:
    """For MONAI's SupervisedTrainer: inputs, targets, and what `ZePT.forward` needs to answer with what the loss needs."""
    truth = truth_of(batch["label"], class_set(classes), device)
    return batch["image"].to(device, non_blocking=non_blocking), truth, (), {"targets": truth, "stage": stage}


class LoadPartial(LoadScan):
    """`scans.LoadScan`, with what the record's data set annotates: its "annotated", else the names in its "labels".

    A kidney of which nothing tells whether it is the left one has no label in the sample, and is not annotated in it.
    """

    def __call__(self, record: Mapping[str, object]) -> dict[str, Tensor]:
        names = record.get("annotated") or annotated(list(record["labels"].values()))
        sample, untold = self.read(record)
        return {**sample, "annotated": annotation([n for n in names if n not in untold])}


def mixed_datalist(sets: Mapping[str, str], validation: bool = False, every: int = 10) -> list[dict]:
    """Records of several public sets together, kind -> folder, see `datasets.datalist`; every tenth is for validation."""
    records = [record for kind, folder in sets.items() for record in datalist(kind, folder)]
    return [r for k, r in enumerate(records) if (k % every == every - 1) == validation]


class ValidationMask(Transform):
    """A sample -> `image` and `label`: in stage 1 (N, X, Y, Z) the organs, in stage 2 (1, X, Y, Z) any lesion or none.

    Args:
        classes: name of the class set. stage: of training.
    """

    def __init__(self, classes: str = "starter", stage: int = 2) -> None:
        self.classes, self.stage = class_set(classes), stage

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.stage == 2:
            label = torch.as_tensor(data["lesions"]).as_subclass(Tensor) > 0
        else:
            organs = _tables(self.classes.name)[0][torch.as_tensor(data["organs"]).as_subclass(Tensor)[0].long()]
            label = torch.stack([organs == n for n in range(len(self.classes.organs))])
        return {"image": torch.as_tensor(data["image"]).as_subclass(Tensor).float(), "label": label.float()}


def prepare_validation(
    batch: Mapping[str, Tensor], device: torch.device | str, non_blocking: bool = False, stage: int = 2, **_
) -> tuple:
    """For MONAI's SupervisedEvaluator and `ValidationMask`: in stage 1 the network answers with its organs."""
    image, label = (batch[k].to(device, non_blocking=non_blocking) for k in ("image", "label"))
    return image, label, (), {"organs": stage == 1}
