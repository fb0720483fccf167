"""The words that the project knows: organs, the eight lesion attributes, lesions. No torch here.

Everything that lists names (the command line, viewers' menus, phantoms, the clinical knowledge table) reads them from
this file and from `lesion_table.py`, so that they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .lesion_table import DISTRIBUTIONS, ROWS


@dataclass(frozen=True)
class Organ:
    """A place in the body. `index` is its label in organ maps (0 is everything else)."""

    name: str
    index: int
    region: str  # head, chest, abdomen, pelvis, limb
    synonyms: tuple[str, ...] = ()  # further nouns and adjectives, lower case


_ORGANS = [
    ("liver", "abdomen", "hepatic intrahepatic"),
    ("left kidney", "abdomen", ""),
    ("right kidney", "abdomen", ""),
    ("spleen", "abdomen", "splenic"),
    ("pancreas", "abdomen", "pancreatic"),
    ("stomach", "abdomen", "gastric"),
    ("esophagus", "chest", "oesophagus esophageal oesophageal"),
    ("gallbladder", "abdomen", "gall-bladder"),
    ("left adrenal gland", "abdomen", ""),
    ("right adrenal gland", "abdomen", ""),
    ("colon", "abdomen", "colonic colorectal cecum sigmoid"),
    ("small bowel", "abdomen", "intestine ileum jejunum duodenum duodenal intestinal"),
    ("left lung", "chest", ""),
    ("right lung", "chest", ""),
    ("heart", "chest", "cardiac myocardial"),
    ("aorta", "chest", "aortic"),
    ("inferior vena cava", "abdomen", "ivc"),
    ("hepatic vessels", "abdomen", ""),
    ("bladder", "pelvis", "vesical"),
    ("prostate", "pelvis", "prostatic"),
    ("uterus", "pelvis", "uterine endometrial cervix cervical"),
    ("ovary", "pelvis", "ovarian ovaries adnexal"),
    ("bone", "limb", "bony osseous skeletal vertebra vertebral rib femur femoral skull tibia humerus bones"),
    ("muscle", "limb", "muscular intramuscular thigh calf limb arm leg forearm shoulder gluteal"),
    ("fat", "limb", "fatty-tissue subcutaneous retroperitoneum retroperitoneal"),
    ("brain", "head", "cerebral intracranial cerebellar cerebellum frontal temporal parietal occipital"),
    ("breast", "chest", "mammary breasts"),
    ("lymph node", "chest", "nodal lymphatic lymph-nodes"),
    ("rectum", "pelvis", "rectal"),
    ("thyroid", "chest", "thyroidal"),
    ("mediastinum", "chest", "mediastinal"),
    # Imaginary: a random shape of random contrast that only training draws. Prompts never resolve to it.
    ("abstract", "abstract", ""),
]
ORGANS: dict[str, Organ] = {
    name: Organ(name, index, region, tuple(s.replace("-", " ") for s in words.split()))
    for index, (name, region, words) in enumerate(_ORGANS, 1)
}
PAIRS: dict[str, tuple[str, ...]] = {  # words for both sides of a paired organ
    "kidney": ("left kidney", "right kidney"),
    "kidneys": ("left kidney", "right kidney"),
    "renal": ("left kidney", "right kidney"),
    "lung": ("left lung", "right lung"),
    "lungs": ("left lung", "right lung"),
    "pulmonary": ("left lung", "right lung"),
    "adrenal": ("left adrenal gland", "right adrenal gland"),
    "adrenal gland": ("left adrenal gland", "right adrenal gland"),
    "adrenals": ("left adrenal gland", "right adrenal gland"),
    "suprarenal": ("left adrenal gland", "right adrenal gland"),
    "soft tissue": ("muscle", "fat"),
    "soft tissues": ("muscle", "fat"),
    "hepatic vessel": ("hepatic vessels",),
    "portal vein": ("hepatic vessels",),
    "lymph nodes": ("lymph node",),
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {  # Malenia's eight, in the paper's order, with the values of its spreadsheets
    "location": tuple(ORGANS),
    "shape": ("round-like", "irregular"),
    "density": ("hypodense", "isodense", "hyperdense", "mixed"),
    "density_variation": ("homogeneous", "heterogeneous"),
    "enhancement": ("non-contrast", "contrast-enhanced"),
    "surface": ("well-defined", "ill-defined"),
    "relation": ("not-close", "close"),
    "specific": ("none", "necrosis", "calcification", "rim"),
}

_PHRASES = {
    "hypodense": ("hypodense, darker than the surrounding tissue", "hypointense, darker than the surrounding tissue"),
    "isodense": ("isodense, as bright as the surrounding tissue", "isointense, as bright as the surrounding tissue"),
    "hyperdense": ("hyperdense, brighter than the surrounding tissue", "hyperintense, brighter than the surrounding tissue"),
    "mixed": ("mixed density", "mixed signal intensity"),
    "non-contrast": ("unenhanced CT", "MR without contrast agent"),
    "contrast-enhanced": ("contrast-enhanced CT", "MR with contrast agent"),
    "not-close": ("not close to neighboring organs",) * 2,
    "close": ("close to a neighboring organ, indistinct boundary",) * 2,
    "none": ("no special feature",) * 2,
    "necrosis": ("necrotic center",) * 2,
    "calcification": ("calcifications",) * 2,
    "rim": ("rim enhancement",) * 2,
}
_TITLES = {
    "density_variation": "Density variation",
    "enhancement": "Enhancement status",
    "surface": "Surface characteristics, margin",
    "relation": "Relationship with organs",
    "specific": "Specific features",
}


def attribute_text(attribute: str, value: str, modality: str = "CT") -> str:
    """The sentence that is encoded for an attribute's value, such as "Shape: round-like."; MR has words of its own."""
    phrase = _PHRASES.get(value, (value, value))[modality == "MR"]
    return f"{_TITLES.get(attribute, attribute.capitalize())}: {phrase}."


@dataclass(frozen=True)
class Lesion:
    """A category of lesion: one row of the clinical knowledge table."""

    name: str
    synonyms: tuple[str, ...]
    hosts: tuple[str, ...]  # names of ORGANS
    regions: tuple[str, ...]
    modalities: tuple[str, ...]
    benign: bool
    seen: bool  # were lesions of this category in the training of the starter weights
    attributes: Mapping[str, Mapping[str, float]]  # attribute -> value -> probability; location is `hosts`
    source: str  # "annotations" (published, counted) or "radiology knowledge"


def _lesion(row: tuple) -> Lesion:
    name, synonyms, hosts, modalities, flags, kind = row
    hosts = tuple(h.strip() for h in hosts.split(","))
    regions = tuple(dict.fromkeys(ORGANS[h].region for h in hosts))
    if hosts == ("muscle", "fat"):
        regions = ("limb", "pelvis")
    attributes, source = DISTRIBUTIONS[kind]
    return Lesion(
        name=name,
        synonyms=tuple(s.strip() for s in synonyms.split(",") if s.strip()),
        hosts=hosts,
        regions=regions,
        modalities=tuple(modalities.split()),
        benign="benign" in flags,
        seen="seen" in flags,
        attributes=attributes,
        source=source,
    )


LESIONS: dict[str, Lesion] = {row[0]: _lesion(row) for row in ROWS}


def lesions(seen: bool | None = None) -> list[Lesion]:
    """All lesion categories that a patient can have, or only the seen (True) or unseen (False) ones."""
    real = [lesion for lesion in LESIONS.values() if lesion.hosts != ("abstract",)]
    return real if seen is None else [lesion for lesion in real if lesion.seen is seen]
