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
    ("esophagus", "chest", "esophageal"),
    ("gallbladder", "abdomen", "gall-bladder"),
    ("left adrenal gland", "abdomen", ""),
    ("right adrenal gland", "abdomen", ""),
    ("colon", "abdomen", "colonic colorectal cecum cecal sigmoid rectosigmoid"),
    ("small bowel", "abdomen", "small-intestine ileum ileal jejunum jejunal duodenum duodenal"),
    ("left lung", "chest", ""),
    ("right lung", "chest", ""),
    ("heart", "chest", "cardiac myocardial"),
    ("aorta", "chest", "aortic"),
    ("inferior vena cava", "abdomen", "ivc"),
    ("hepatic vessels", "abdomen", ""),
    ("bladder", "pelvis", "vesical"),
    ("prostate", "pelvis", "prostatic"),
    ("uterus", "pelvis", "uterine endometrial cervix"),
    ("ovary", "pelvis", "ovarian adnexal"),
    ("bone", "limb", "bony osseous skeletal vertebra vertebrae vertebral spine sacrum rib femur femoral skull tibia"),
    ("muscle", "limb", "muscular intramuscular thigh calf limb arm leg forearm shoulder gluteal"),
    ("fat", "limb", "fatty-tissue adipose subcutaneous retroperitoneum retroperitoneal"),
    ("brain", "head", "cerebral intracranial cerebellar cerebellum frontal temporal parietal occipital"),
    ("breast", "chest", "mammary"),
    ("lymph node", "chest", "nodal lymphatic"),
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
_KIDNEYS, _LUNGS = ("left kidney", "right kidney"), ("left lung", "right lung")
_ADRENALS = ("left adrenal gland", "right adrenal gland")
PAIRS: dict[str, tuple[str, ...]] = {  # words for several organs at once, and phrases for one
    **dict.fromkeys(("kidney", "renal"), _KIDNEYS),
    **dict.fromkeys(("lung", "pulmonary"), _LUNGS),
    **dict.fromkeys(("adrenal", "adrenal gland", "suprarenal", "suprarenal gland"), _ADRENALS),
    "soft tissue": ("muscle", "fat"),
    **dict.fromkeys(("bowel", "intestine", "intestinal"), ("colon", "small bowel")),
    **dict.fromkeys(("large bowel", "large intestine", "hepatic flexure", "splenic flexure"), ("colon",)),
    **dict.fromkeys(("frontal bone", "temporal bone", "parietal bone", "occipital bone"), ("bone",)),
    **dict.fromkeys(("hepatic vessel", "hepatic vein", "portal vein"), ("hepatic vessels",)),
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

_WORDS = {  # attribute=value, several if the word means several -> words for it, without hyphens
    "shape=round-like": "round, round like, roundish, rounded, oval, ovoid, spherical, globular",
    "shape=irregular": "irregular, irregularly shaped, lobulated, lobular, lobulation",
    "shape=irregular surface=ill-defined": "spiculated, spiculation, infiltrating, infiltrative, infiltrated",
    "density=hypodense": "hypodense, hypo dense, hypodensity, hypointense, hypoattenuating, low density, "
    "low attenuation, low signal, dark, darker, lucent, lytic, ground glass, t1 dark, t2 dark",
    "density=isodense": "isodense, iso dense, isointense, isoattenuating",
    "density=hyperdense": "hyperdense, hyper dense, hyperdensity, hyperintense, hyperattenuating, high density, "
    "high attenuation, high signal, bright, brighter, sclerotic, t1 bright, t2 bright",
    "density=hypodense enhancement=contrast-enhanced": "hypovascular, hypoenhancing",
    "density=hyperdense enhancement=contrast-enhanced": "hypervascular, hyperenhancing, avidly enhancing",
    "density=mixed": "mixed, mixed density, mixed attenuation, mixed signal, part solid, partly cystic, solid cystic",
    "density_variation=homogeneous": "homogeneous, homogenous, homogeneously, uniform, simple",
    "density_variation=heterogeneous": "heterogeneous, heterogenous, heterogeneously, inhomogeneous, complex",
    "enhancement=non-contrast": "non contrast, non contrast enhanced, noncontrast, unenhanced, no contrast, "
    "without contrast, native ct, plain ct",
    "enhancement=contrast-enhanced": "contrast enhanced, with contrast, post contrast, postcontrast, enhanced, "
    "enhancing",
    "surface=well-defined": "well defined, well circumscribed, circumscribed, well demarcated, well delineated, sharp, "
    "sharply marginated, smooth, encapsulated, clear margin, distinct",
    "surface=ill-defined": "ill defined, indistinct, blurred, blurry, poorly defined, poorly circumscribed, "
    "poorly demarcated, poorly marginated, unclear margin, diffuse",
    "relation=close": "invasive, muscle invasive, exophytic",
    "relation=not-close": "non muscle invasive",
    "specific=necrosis": "necrotic, necrosis, cavitating, cavitary, cavitation",
    "specific=calcification": "calcified, calcification, calcific",
    "specific=rim": "rim enhancing, rim enhancement, ring enhancing, ring enhancement, rim, ring, "
    "peripherally enhancing",
    "": "non enhancing",  # says nothing of the scan; listed so that it is not read as "enhancing"
}


def _stated(meaning: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in meaning.split())


ATTRIBUTE_WORDS: dict[str, dict[str, str]] = {  # a word in a prompt -> attribute -> value
    word: _stated(meaning) for meaning, words in _WORDS.items() for word in words.split(", ")
}
_FLUID = {"shape": "round-like", "density": "hypodense", "density_variation": "homogeneous", "surface": "well-defined"}
SUBSTANCE_WORDS: dict[str, dict[str, str]] = {  # what a lesion consists of, and how that looks on CT
    **dict.fromkeys(("cystic", "cyst", "fluid", "fluid filled", "water density"), _FLUID),
    **dict.fromkeys(("fatty", "fat containing", "fat density", "macroscopic fat"), {"density": "hypodense"}),
}

_PHRASES = {
    "hypodense": ("hypodense, darker than the surrounding tissue", "hypointense, darker than the surrounding tissue"),
    "isodense": ("isodense, as bright as the surrounding tissue", "isointense, as bright as the surrounding tissue"),
    "hyperdense": (
        "hyperdense, brighter than the surrounding tissue",
        "hyperintense, brighter than the surrounding tissue",
    ),
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

    @property
    def description(self) -> str:
        """One sentence for menus and help: where it grows and how it usually looks."""
        shown = ("shape", "density", "density_variation", "surface")
        usual = ", ".join(max(self.attributes[name], key=self.attributes[name].get) for name in shown)
        return f"{'Benign; ' if self.benign else ''}{' or '.join(self.hosts)}; usually {usual} on CT."


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
