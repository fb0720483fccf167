"""Free text to `Prompt` objects: which lesion, in which organs, with which attributes.

Words of the vocabulary are recognised by the longest match. Words outside it are no error: the text encoder says which
known concept is nearest, and the methods work from the text's embedding.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from .vocabulary import LESIONS, ORGANS, PAIRS, lesions

if TYPE_CHECKING:
    from .text import TextEncoder

DEFAULT_PROMPT = "tumor"
MAX_LENGTH = 300

ATTRIBUTE_WORDS: dict[tuple[str, str], str] = {
    ("shape", "round-like"): "round, round-like, roundish, oval, ovoid, spherical",
    ("shape", "irregular"): "irregular, irregularly shaped, lobulated, lobular, spiculated, infiltrating, infiltrative",
    ("density", "hypodense"): "hypodense, hypointense, hypoattenuating, hypoechoic, low density, low attenuation, "
    "low-density, low-attenuation, dark, hypo-dense, t1 hypointense, t2 hypointense, hypovascular",
    ("density", "isodense"): "isodense, isointense, isoattenuating, iso-dense",
    ("density", "hyperdense"): "hyperdense, hyperintense, hyperattenuating, high density, high attenuation, bright, "
    "hyper-dense, t2 hyperintense, t1 hyperintense, enhancing, hyperenhancing, hypervascular",
    ("density", "mixed"): "mixed density, mixed attenuation, mixed signal, mixed, ground-glass, ground glass",
    ("density_variation", "homogeneous"): "homogeneous, homogenous, uniform, simple",
    ("density_variation", "heterogeneous"): "heterogeneous, inhomogeneous, heterogenous, complex",
    ("enhancement", "non-contrast"): "non-contrast, unenhanced, non-enhanced, plain ct",
    ("enhancement", "contrast-enhanced"): "contrast-enhanced, post-contrast, postcontrast",
    ("surface", "well-defined"): "well-defined, well defined, well-circumscribed, circumscribed, sharp, smooth, "
    "well-demarcated, encapsulated",
    ("surface", "ill-defined"): "ill-defined, ill defined, indistinct, blurred, poorly defined, spiculated, "
    "infiltrating, infiltrative, diffuse",
    ("relation", "close"): "invading, abutting, adherent, exophytic",
    ("specific", "necrosis"): "necrotic, necrosis, cavitating, cavitary, centrally necrotic",
    ("specific", "calcification"): "calcified, calcification, calcifications, calcific",
    ("specific", "rim"): "rim-enhancing, rim enhancement, ring-enhancing, ring enhancement, rim, capsule",
}
CYSTIC = ("cystic", "cyst", "cysts", "fluid-filled", "fluid")
CYST = {"density": "hypodense", "density_variation": "homogeneous", "surface": "well-defined", "shape": "round-like"}
GENERIC = ("tumor", "tumors", "lesion", "lesions", "mass", "masses", "cancer", "neoplasm", "malignancy", "nodule", "anomaly")


class PromptError(ValueError):
    """The text cannot be a prompt; the message says why and what to write instead."""


@dataclass(frozen=True)
class Prompt:
    """What one piece of text asks for."""

    text: str  # as the user wrote it
    name: str  # the concept's name if it was recognised, else the text
    lesion: str | None = None  # key of LESIONS
    organs: tuple[str, ...] = ()  # where: as stated, else the lesion's hosts; () = anywhere
    attributes: dict[str, dict[str, float]] = field(default_factory=dict)  # attribute -> value -> probability
    nearest: str | None = None  # for text outside the vocabulary: the nearest concept
    similarity: float | None = None  # and the cosine similarity to it

    def __hash__(self) -> int:
        return hash(self.text)


def parse(
    text: str | Sequence[str], *, modality: str = "CT", encoder: TextEncoder | None = None
) -> list[Prompt]:
    """Free text, several prompts separated by ';' or line breaks, to prompts in that order, each once.

    Args:
        text: one string or several. modality: kept for prompts whose words differ between CT and MR.
        encoder: names the nearest concept of unknown text; without it `nearest` stays None.

    Raises:
        PromptError: nothing is written, or a prompt is longer than 300 characters or holds control characters.
    """
    pieces = [text] if isinstance(text, str) else list(text)
    parts = [part.strip() for piece in pieces for part in re.split(r"[;\n\r]+", piece)]
    parts = list(dict.fromkeys(part for part in parts if part))
    if not parts:
        raise PromptError('the prompt is empty: write what to look for, such as "liver tumor"')
    return [_parse_one(part, encoder) for part in parts]


def _parse_one(text: str, encoder: TextEncoder | None) -> Prompt:
    if len(text) > MAX_LENGTH:
        raise PromptError(
            f"the prompt has {len(text)} characters and may have {MAX_LENGTH}: name the lesion, its place and its look"
        )
    if any(unicodedata.category(c) == "Cc" for c in text):
        raise PromptError("the prompt holds control characters: write plain words")
    words = normalize(text)
    lesion, rest = _longest(words, _lesion_names())
    stated = _attributes(rest)
    # Organ words count in the whole text: "cyst in the left kidney" narrows the kidney cyst to one side.
    organs = _organs(words if lesion is None else rest)
    if lesion is not None:
        known = LESIONS[lesion]
        inside = tuple(o for o in organs if o in known.hosts)
        side = _side(rest, known.hosts)
        return Prompt(text, lesion, lesion, side or inside or organs or known.hosts, {**known.attributes, **stated})
    if organs or stated or any(w in GENERIC for w in words.split()):
        return Prompt(text, text, None, organs, stated)
    return _unknown(Prompt(text, text), encoder)


def normalize(text: str) -> str:
    """Lower case, American spelling, single spaces, words of letters, digits and hyphens."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"tumour", "tumor", text)
    text = re.sub(r"haem", "hem", text)
    text = re.sub(r"[^\w\- ]+", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def _plural(name: str) -> str:
    """Pattern that takes a phrase in singular and plural."""
    escaped = re.escape(name)
    if name.endswith("sis"):
        return escaped[:-2] + "(?:is|es)"
    if name.endswith(("s", "x")):
        return escaped
    return escaped[:-1] + "(?:y|ies)" if name.endswith("y") else escaped + "s?"


@lru_cache(maxsize=1)
def _lesion_names() -> dict[str, str]:
    """Every name and synonym -> the lesion's key."""
    names = {}
    for lesion in lesions():
        for name in (lesion.name, *lesion.synonyms):
            names.setdefault(normalize(name), lesion.name)
    return names


def _longest(words: str, names: dict[str, str]) -> tuple[str | None, str]:
    """The key of the longest phrase found in the words, and the words without it."""
    for phrase in sorted(names, key=len, reverse=True):
        found = re.search(rf"(?<![\w-]){_plural(phrase)}(?![\w-])", words)
        if found:
            return names[phrase], (words[: found.start()] + " " + words[found.end() :]).strip()
    return None, words


def _attributes(words: str) -> dict[str, dict[str, float]]:
    """Attributes that the words state; a value that is stated is certain."""
    stated: dict[str, dict[str, float]] = {}
    if any(re.search(rf"(?<![\w-]){w}(?![\w-])", words) for w in CYSTIC):
        stated.update({name: {value: 1.0} for name, value in CYST.items()})
    for (attribute, value), listed in ATTRIBUTE_WORDS.items():
        for phrase in sorted((p.strip() for p in listed.split(",")), key=len, reverse=True):
            if re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", words):
                stated[attribute] = {value: 1.0}
                break
    return stated


@lru_cache(maxsize=1)
def _organ_names() -> dict[str, tuple[str, ...]]:
    names = dict(PAIRS)
    for organ in ORGANS.values():
        if organ.name != "abstract":
            for name in (organ.name, *organ.synonyms):
                names[name] = (organ.name,)
    return names


def _organs(words: str) -> tuple[str, ...]:
    """Organs named in the words, longest names first, sides respected."""
    found: list[str] = []
    rest = words
    for name in sorted(_organ_names(), key=len, reverse=True):
        match = re.search(rf"(?<![\w-]){_plural(name)}(?![\w-])", rest)
        if match:
            hosts = _organ_names()[name]
            found.extend(_side(words, hosts) or hosts)
            rest = rest[: match.start()] + " " + rest[match.end() :]
    return tuple(dict.fromkeys(found))


def _side(words: str, hosts: Sequence[str]) -> tuple[str, ...]:
    """The hosts on the side that the words name, if they name exactly one and the organ is paired."""
    sides = [s for s in ("left", "right") if re.search(rf"\b{s}\b", words)]
    if len(sides) != 1:
        return ()
    return tuple(h for h in hosts if h.startswith(sides[0]))


def _unknown(prompt: Prompt, encoder: TextEncoder | None) -> Prompt:
    """Name the nearest concept of a text that holds no known word."""
    if encoder is None:
        return prompt
    concepts = [lesion.name for lesion in lesions()]
    rows = encoder.encode([prompt.text, *concepts])
    similarity = rows[1:] @ rows[0]
    best = int(similarity.argmax())
    return replace(prompt, nearest=concepts[best], similarity=round(float(similarity[best]), 4))
