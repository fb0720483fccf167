"""Which phantoms training draws: one record each, for `training.GeneratePhantom`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FAINT = (0.6, 1.4)
"""Difficulty of phantoms whose lesions hardly differ from what is around them, as many sarcomas do on T1."""

FLAT = (0.3, 0.6)
"""Thickness of flat masses, as those along a bone."""


@dataclass(frozen=True)
class Masses:
    """Lesions of no kind in the organs of a region that most of training passes by."""

    organs: tuple[str, ...]  # in turn; whoever lacks one has the lesion in another
    difficulty: tuple[float, float]
    ct_every: float  # one of so many is a CT, the others are MR


MASSES = {
    "limb": Masses(("muscle",), FAINT, 3),
    "head": Masses(("brain",), (0.2, 1.0), 6),
    "chest": Masses(
        ("left lung", "right lung", "mediastinum", "breast", "left lung", "right lung", "breast"), (0.2, 1.0), 4 / 3
    ),
    "abdomen": Masses(
        ("pancreas", "spleen", "stomach", "colon", "small bowel", "left adrenal gland", "right adrenal gland", "bone"),
        (0.2, 1.0),
        3 / 2,
    ),
    "pelvis": Masses(("bladder", "bone", "rectum", "uterus", "prostate", "colon", "ovary"), (0.2, 1.0), 2),
}
"""Left to chance, a lesion is rarely where the organ is small: livers, kidneys, muscles and fat fill the body.

So many organs a region that none is always healthy, always flat or always of one modality: every fifth, of nine three,
and every so many are.
"""


def phantom_datalist(
    count: int,
    start: int = 0,
    difficulty: tuple[float, float] = (0.0, 0.75),
    faint: int = 0,
    masses: Mapping[str, int] | None = None,
) -> list[dict]:
    """One record a phantom: its seed and a difficulty, spread evenly over the range by the golden ratio.

    After `count` of them come `faint` more of the range FAINT, and so many for each region of `masses`, every third lesion
    flat and every fifth body healthy.

    Raises:
        ValueError: `masses` names a region that MASSES does not have.
    """
    unknown = [region for region in masses or {} if region not in MASSES]
    if unknown:
        raise ValueError(f"no masses can be drawn in {', '.join(unknown)}: choose among {', '.join(MASSES)}")
    records = _spread(start, count, difficulty)
    records += _spread(start + count, faint, FAINT)
    for region, number in (masses or {}).items():
        records += _masses(region, _spread(start + len(records), number, MASSES[region].difficulty))
    return records


def _spread(start: int, count: int, difficulty: tuple[float, float]) -> list[dict]:
    low, high = difficulty
    return [{"seed": s, "difficulty": low + (high - low) * (s * 0.618034 % 1)} for s in range(start, start + count)]


def _masses(region: str, records: list[dict]) -> list[dict]:
    about = MASSES[region]
    for k, record in enumerate(records):
        ct = k // about.ct_every != (k - 1) // about.ct_every
        record |= {"region": region, "modality": "CT" if ct else "MR", "category": "healthy"}
        if k % 5:
            flat = k % 9 in (1, 5, 6)
            flatness = FLAT[0] + (FLAT[1] - FLAT[0]) * (k * 0.754878 % 1) if flat else 1.0
            organ = about.organs[k % len(about.organs)]
            record |= {"category": "abstract lesion", "organ": organ, "flatness": flatness}
    return records
