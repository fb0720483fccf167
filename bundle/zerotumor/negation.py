"""What a text rules out: "liver lesion, not the kidney", "mass without necrosis or calcification", "neither cystic nor...".

A negation rules out the looks, places or lesions that follow it, in a list up to the end of its clause. Or and nor carry
it on to anything; and, and a comma in a list that ends with or, only to the same sort, so that "no rim, hypodense" and
"not calcified and round" rule out one look each.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from .phrases import (
    GENERIC_WORDS,
    SIDES,
    SMALL_WORDS,
    alternatives,
    kinds,
    lesion_names,
    lesion_pattern,
    listed,
    normalize,
    organ_names,
    organ_pattern,
)
from .vocabulary import ATTRIBUTE_WORDS, SUBSTANCE_WORDS

_FEATURE = {"specific": ""}
LOOKS = {**ATTRIBUTE_WORDS, **dict.fromkeys((*SUBSTANCE_WORDS, "fat"), _FEATURE)}
"""Words for a look -> attribute -> value, as in `ATTRIBUTE_WORDS`; a substance is a feature of no value."""
_OF_A_WORD = "not|non|never|neither|rather than|instead of"
"""Negations of the very next word: "not calcified lesion" is a lesion, "no calcified lesion" is none."""
_OF_A_NOUN = (
    "no|without|absent|absence of|lacking|lacks?(?: of)?|free (?:of|from)|devoid of|negative for|excluding|except|"
    "excepting|apart from|other than|outside"
)
_NAMES = ("non mass",)
"""Starts of further names that only sound negated: "non-mass enhancement" is a finding on breast MR."""
_ARTICLES = "an?|the|any"
_INSIDE = "in|of|within|inside|on"
_LINKS = (
    f"{_INSIDE}|at|from|to|for|clearly|be|seen|found|located|present|arising|involv(?:e|ing)|affect(?:ing)?|"
    "contain(?:ing)?|show(?:ing)?|ha(?:ve|ving)"
)
_JOIN = re.compile(r"(?: ,)?(?: and)? (or|nor|and|,)(?= )")
_STOPS = frozenset({"and", "or", "no", "not", "with", "without", "that", "which"})
_BETWEEN = "|".join(sorted(SMALL_WORDS - _STOPS))
_FILLERS = (
    f"{_BETWEEN}|evidence|signs?|definite|obvious|visible|clearly|significant|known|prior|history|other|further|"
    "additional|new|residual|recurrent|for"
)


class Denied(NamedTuple):
    """One thing that a text rules out."""

    sort: str  # "look", "place", "lesion"
    words: str


def apart(text: str) -> tuple[str, list[Denied]]:
    """The normalized words of a text that remain when all that it rules out is taken away, and what was."""
    words = _clauses(text)
    denied: list[Denied] = []
    for match in reversed(list(_absent().finditer(words))):
        denied += [Denied("look", look) for look in re.findall(rf"\b(?:{alternatives(LOOKS)})\b", match["looks"])]
        words = f"{words[: match.start()]} | {words[match.end() :]}"
    at = 0
    while match := _negation().search(words, at):
        found, end = _list(words, match.end(), of_a_word=match["word"] is not None)
        at = match.start() if found else match.end()
        if found:
            denied += found
            words = f"{words[:at]} | {words[end:].strip()}"
    if not denied:
        return normalize(text), []
    return " | ".join(normalize(part) for part in words.split("|")), denied


def _clauses(text: str) -> str:
    """Normalized words in which a comma marks where a clause ends, and "noncalcified" is "non calcified"."""
    parts = re.split(r"[,:.()\[\]–—]|\s-+\s", unicodedata.normalize("NFKC", text))
    words = " , ".join(filter(None, map(normalize, parts)))
    return re.sub(rf"\bnon(?=(?:{alternatives(LOOKS)})\b)", "non ", words)


def _list(words: str, at: int, of_a_word: bool) -> tuple[list[Denied], int]:
    """What is ruled out from a position on, and where that ends."""
    of_a_word = of_a_word and not re.match(rf"(?: (?:{_LINKS}))* (?:{_ARTICLES})\b", words[at:])
    found: list[Denied] = []
    kept, end, join = 0, at, ""
    while match := _item(of_a_word).match(words, at):
        item = next(Denied(sort, match[sort]) for sort in ("lesion", "look", "place") if match[sort])
        if found and join not in ("or", "nor") and not _sorts(item) & _sorts(found[-1]):
            break
        found.append(item)
        if join != ",":  # what commas alone join may be the next clause
            kept, end = len(found), match.end()
        link = _JOIN.match(words, match.end())
        if link is None:
            break
        at, join = link.end(), link[1]
    found = found[:kept]
    return found, _end_of_place(words, end) if found and found[-1].sort == "lesion" else end


def _end_of_place(words: str, end: int) -> int:
    """Where the place of a lesion that is ruled out ends: "kidney tumor without metastasis in the liver". But the place
    in "tumor without metastasis in the liver", where no other is named, is that of the tumor."""
    place = _place().match(words, end)
    if place is None:
        return end
    others = f"{words[:end]} | {words[place.end() :]}"
    own = place[1] in ("to", "from") or organ_pattern().search(others) or lesion_pattern().search(others)
    return place.end() if own else end


def _sorts(item: Denied) -> set[str]:
    return set(LOOKS[listed(item.words, LOOKS)]) if item.sort == "look" else {item.sort}


@lru_cache(maxsize=1)
def _negation() -> re.Pattern:
    names = [name for name in (*LOOKS, *lesion_names(), *_NAMES) if re.match(rf"(?:{_OF_A_WORD}|{_OF_A_NOUN})\b", name)]
    return re.compile(rf"\b(?!(?:{alternatives(names)})\b)(?:(?P<word>{_OF_A_WORD})|{_OF_A_NOUN})(?= )")


@lru_cache(maxsize=1)
def _absent() -> re.Pattern:
    """Looks that are said to be missing afterwards: "calcification is absent"."""
    looks = alternatives(LOOKS)
    missing = "absent|not (?:seen|present|visible|identified|detected|evident|found)"
    return re.compile(rf"\b(?P<looks>(?:{looks})(?: (?:and|or) (?:{looks}))*) (?:(?:is|are|was|were) )?(?:{missing})\b")


@lru_cache(maxsize=2)
def _item(of_a_word: bool) -> re.Pattern:
    """What can be ruled out, as the group of its sort; of a lesion with its own looks and place before it."""
    looks, organs = alternatives(LOOKS), alternatives(organ_names())
    lesion = alternatives({*lesion_names(), *GENERIC_WORDS, *(kind for kind, _ in kinds())})
    look, somewhere = rf"(?P<look>{looks})", rf"(?P<place>(?:{SIDES} )?(?:{organs})|(?:left|right)(?: sided?| one)?)"
    if of_a_word:
        return re.compile(rf" (?:(?:{_LINKS}) )*?(?:{look}|(?P<lesion>{lesion})|{somewhere})\b")
    before = rf"(?:(?:{looks}|left|right|{organs}) )*"
    return re.compile(
        rf" (?:(?:{_FILLERS}) )*?(?:(?P<lesion>{before}(?:{lesion}))|(?:(?:{looks}) )*{look}|{somewhere})\b"
    )


@lru_cache(maxsize=1)
def _place() -> re.Pattern:
    """Where a lesion that is ruled out would be."""
    organ = rf"(?:(?:{_BETWEEN}) )*?(?:{alternatives(organ_names())})"
    return re.compile(rf" ({_INSIDE}|to|from) {organ}(?: (?:and|or|nor) {organ})*\b")
