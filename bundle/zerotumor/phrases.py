"""Finding the vocabulary's phrases in text: longest first, whole words, singular or plural, either spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from .vocabulary import ATTRIBUTE_WORDS, ORGANS, PAIRS, SUBSTANCE_WORDS, lesions

# "A tumor of the liver" is the liver's own tumor, "a lesion in the liver" may be anything.
TUMOR_WORDS = (
    "tumor",
    "cancer",
    "carcinoma",
    "adenocarcinoma",
    "neoplasm",
    "neoplasia",
    "malignancy",
    "mass",
    "growth",
)
GENERIC_WORDS = (*TUMOR_WORDS, "lesion", "nodule", "metastasis", "anomaly", "abnormality", "finding", "disease")
_SMALL_WORDS = """
    a an the any all some every no not of in on at with without within inside and or to from by is are it its there this
    that which has find show segment detect mark outline locate please where my patient left right bilateral side sided
    both upper middle lower lobe pole part region area anterior posterior central peripheral large larger small tiny big
    huge giant single solitary multiple several few many focal suspicious suspected possible primary malignant benign
    solid slightly mildly markedly very mostly predominantly appearing looking shaped margin margins border borders
    density attenuation signal intensity contrast enhancement ct mr mri scan image t1 t2 flair weighted cm mm ml
"""
SMALL_WORDS = frozenset(_SMALL_WORDS.split())
"""Words that say nothing about what or where: a text of these and a generic word asks for any lesion."""
_SIDE = "(?:left|right)(?: (?:sided?|upper|middle|lower|lobes?|poles?|of|the))*"
SIDES = rf"{_SIDE}(?:(?: (?:and|or|in|of|the))* {_SIDE})*"
NEAR = "near|next to|close to|adjacent to|beside|touching|abutting|invading|compressing|adherent to"


def normalize(text: str) -> str:
    """Lower case, American spelling, words of letters and digits with single spaces between them."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"\bw/o\b", "without", text)
    text = re.sub(r"\b(is|are|was|were|does|do|has|have|should)n['’]?t\b", r"\1 not", text)
    text = re.sub(r"[\W_]+", " ", text).strip()
    for british, american in (("tumour", "tumor"), ("haem", "hem"), ("oesoph", "esoph"), ("caec", "cec")):
        text = text.replace(british, american)
    text = re.sub(
        r"\b(hypo|iso|hyper)( to | and | or | )(?=(?:hypo|iso|hyper)(dense|intense|attenuating)\b)", r"\1\3\2", text
    )
    return re.sub(r"\b(mets|metastatic( (lesion|tumor|disease|deposit)s?)?)\b(?! lymph)", "metastasis", text)


def cut(words: str, match: re.Match) -> str:
    """Words without a match; a bar keeps apart what did not stand together, so that it cannot form a phrase."""
    return f"{words[: match.start()]} | {words[match.end() :]}"


def plural(phrase: str) -> str:
    """Pattern of a phrase in singular and plural."""
    if phrase.endswith("sis"):
        return phrase[:-2] + "(?:is|es)"
    if phrase.endswith(("s", "x")):
        return phrase + "(?:es)?"
    return phrase[:-1] + "(?:y|ies)" if phrase.endswith(("ry", "cy", "ty")) else phrase + "s?"


def alternatives(phrases: Iterable[str]) -> str:
    """Pattern of any of some phrases, the longest first."""
    return "|".join(plural(p) for p in sorted(phrases, key=lambda p: (-len(p), p)))


def mentions(phrase: str, words: str) -> bool:
    """Is a phrase among the words, in either number?"""
    return re.search(rf"\b{plural(phrase)}\b", words) is not None


def listed(matched: str, phrases: Iterable[str]) -> str:
    """The phrase, of those listed, that was matched, whatever its number."""
    return matched if matched in phrases else next(p for p in phrases if re.fullmatch(plural(p), matched))


@lru_cache(maxsize=1)
def lesion_names() -> dict[str, str]:
    """Every name and synonym -> the lesion's key."""
    names: dict[str, str] = {}
    for lesion in lesions():
        for name in (lesion.name, *lesion.synonyms):
            names.setdefault(normalize(name), lesion.name)
    return names


@lru_cache(maxsize=1)
def organ_names() -> dict[str, tuple[str, ...]]:
    """Every word for a place -> the organs meant, both sides of a paired one."""
    names = dict(PAIRS)
    for organ in ORGANS.values():
        if organ.name != "abstract":
            names |= {name: (organ.name,) for name in (organ.name, *organ.synonyms)}
    return names


@lru_cache(maxsize=1)
def kinds() -> dict[tuple[str, str], str]:
    """(kind, host organ) -> lesion, such as (cyst, left kidney) -> kidney cyst: kinds are the last words of names.

    Of several, the lesion that has the organ as its main host counts, then the first of the table.
    """
    places = {word for name in organ_names() for word in name.split()}
    rows = []
    for lesion in lesions():
        paired = len({host.split(" ", 1)[-1] for host in lesion.hosts}) == 1
        for name in (lesion.name, *lesion.synonyms):
            kind = normalize(name).split()[-1]
            if kind not in places and kind != "lesion":
                rows += [(0 if paired else i, kind, host, lesion.name) for i, host in enumerate(lesion.hosts)]
    found: dict[tuple[str, str], str] = {}
    for _, kind, host, name in sorted(rows, key=lambda row: row[0]):
        found.setdefault((kind, host), name)
    return found


@lru_cache(maxsize=1)
def lesion_pattern() -> re.Pattern:
    """A lesion's name."""
    return re.compile(rf"\b(?:{alternatives(lesion_names())})\b")


def find_lesion(words: str) -> re.Match | None:
    """The first lesion's name that does not begin inside a longer name of an organ, as "bladder cancer" does in "gall
    bladder cancer" and "bowel cancer" in "small bowel cancer"."""
    places = [match.span("organ") for match in organ_pattern().finditer(words)]
    found = lesion_pattern().finditer(words)
    return next((m for m in found if not any(start < m.start() < end for start, end in places)), None)


@lru_cache(maxsize=1)
def organ_pattern() -> re.Pattern:
    """An organ with the sides written before it ("left", "right upper lobe of the", "left and right"): groups `sides`,
    `organ`."""
    return re.compile(rf"\b(?:(?P<sides>{SIDES}) )?(?P<organ>{alternatives(organ_names())})\b")


def side(words: str) -> str | None:
    """The side that words name, if it is exactly one."""
    sides = {s for s in ("left", "right") if mentions(s, words)}
    return sides.pop() if len(sides) == 1 and not re.search(r"\b(?:both|bilateral(?:ly)?)\b", words) else None


@lru_cache(maxsize=1)
def neighbor_pattern() -> re.Pattern:
    """ "near the right kidney", "not close to other organs": group 1 is the negation."""
    before = "the|left|right|other|adjacent|neighboring|surrounding"
    place = rf"(?:(?:{before}) )*(?:{alternatives(organ_names())}|organs?|structures?)"
    return re.compile(rf"\b((?:not|no|non|never|without) )?(?:{NEAR}) {place}\b")


@lru_cache(maxsize=1)
def attribute_pattern() -> re.Pattern:
    """A word for an attribute or a substance."""
    return re.compile(rf"\b(?:{alternatives({**ATTRIBUTE_WORDS, **SUBSTANCE_WORDS})})\b")
