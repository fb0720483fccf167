"""What the queries stand for: organs and tumors, which organ hosts which tumor, labels in organ maps. No torch here.

Two sets: the paper's 25 organs and 7 tumors in its order, and the starter's, whose organs are those that phantoms draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..datasets import EXTRA_ORGANS, ORGAN_LABELS, covering
from ..vocabulary import LESIONS, ORGANS

ANY = "any lesion"
"""Our additional slot: a lesion of whatever kind, in whatever organ."""

ENTRIES = (*ORGAN_LABELS, *LESIONS, ANY)
"""Everything that has a knowledge paragraph: all organs and lesions, whether or not a query stands for them."""


@dataclass(frozen=True)
class ClassSet:
    """Organs and tumors in the order of their queries.

    `hosts`: tumor -> organs of the set that it grows in (none: anywhere). `pairs`: (organ, tumor) that are positives of
    one another in the query-query alignment.
    """

    name: str
    organs: tuple[str, ...]
    tumors: tuple[str, ...]
    hosts: Mapping[str, tuple[str, ...]]
    pairs: tuple[tuple[str, str], ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """All classes, organs first."""
        return self.organs + self.tumors

    @property
    def trained(self) -> tuple[int, ...]:
        """Places of the tumor slots that ever see a segmentation loss: of seen kinds, and any lesion at all."""
        return tuple(k for k, t in enumerate(self.tumors) if t == ANY or LESIONS[t].seen)

    def covering(self, organs: tuple[str, ...]) -> tuple[int, ...]:
        """Places of the set's organs in which something in the vocabulary's `organs` may lie."""
        return covering(self.organs, organs)

    def channel_of_label(self) -> list[int]:
        """Organ label 0..255 -> place of the set's organ, or -1. A part falls to the whole where only that is there."""
        table = [-1] * 256
        for name, label in ORGAN_LABELS.items():
            known = name if name in self.organs else EXTRA_ORGANS.get(name)
            if known in self.organs:
                table[label] = self.organs.index(known)
        return table


def _paper() -> ClassSet:
    organs = (
        "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
        "inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
        "duodenum", "hepatic vessels", "right lung", "left lung", "colon", "small bowel", "rectum", "bladder",
        "prostate", "left femur", "right femur", "celiac trunk",
    )  # fmt: skip
    kidneys, lungs = ("right kidney", "left kidney"), ("right lung", "left lung")
    hosts = {
        "kidney tumor": kidneys,
        "liver tumor": ("liver",),
        "pancreatic tumor": ("pancreas",),
        "hepatic vessel tumor": ("hepatic vessels",),
        "lung tumor": lungs,
        "colon tumor": ("colon",),
        "kidney cyst": kidneys,
    }
    pairs = [(organ, tumor) for tumor, places in hosts.items() for organ in places]
    # Two pairs that are no host and tumor: vessels of the liver with its tumor, and (among tumors) cyst with kidney tumor.
    return ClassSet("paper", organs, tuple(hosts), hosts, (*pairs, ("hepatic vessels", "liver tumor")))


def _starter(paper: ClassSet) -> ClassSet:
    organs = tuple(ORGANS)
    hosts = {t: tuple(h for h in LESIONS[t].hosts if h in organs) for t in paper.tumors} | {ANY: ()}
    pairs = tuple((organ, tumor) for tumor, places in hosts.items() for organ in places)
    return ClassSet("starter", organs, tuple(hosts), hosts, pairs)


CLASS_SETS: dict[str, ClassSet] = {"paper": _paper(), "starter": _starter(_paper())}


def class_set(name: str) -> ClassSet:
    """A class set by name.

    Raises:
        ValueError: there is no such set.
    """
    if name not in CLASS_SETS:
        raise ValueError(f"there is no class set {name!r}: choose one of {', '.join(CLASS_SETS)}")
    return CLASS_SETS[name]
