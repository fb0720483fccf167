"""Where a metastasis comes from is not what is looked for: "breast cancer metastasis in the liver" is one of the liver."""

from __future__ import annotations

import re
from functools import lru_cache

from .phrases import TUMOR_WORDS, alternatives, lesion_names, lesion_pattern, listed, organ_names, organ_pattern
from .vocabulary import LESIONS

_EVERYWHERE = {"bone", "lymph node"}
"""Parts of other places: a bone metastasis in the shoulder is still one of bone."""


def without_origin(words: str) -> str:
    """Normalized words without the tumor or the organ that a metastasis in them comes from."""
    for pattern in _patterns():
        for match in reversed(list(pattern.finditer(words))):
            place = match.groupdict().get("place")
            if place is None or not _hosts(match["origin"]) & _hosts(place):
                words = f"{words[: match.start('origin')]} | {words[match.end('origin') :]}"
    return words


def _hosts(words: str) -> set[str]:
    """Organs named in words, and the hosts of the lesion that they are the name of."""
    names, organs = lesion_names(), organ_names()
    found = [organs[listed(match["organ"], organs)] for match in organ_pattern().finditer(words)]
    name = lesion_pattern().fullmatch(words)
    return {organ for hosts in found for organ in hosts} | set(
        LESIONS[names[listed(name[0], names)]].hosts if name else ()
    )


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern, ...]:
    """Wordings of an origin, as group `origin`; with a group `place` it is one only if the place is another."""
    organ = alternatives(organ_names())
    names = alternatives(name for name in lesion_names() if "metastas" not in name)
    tumor = rf"(?:{names}|(?:{organ}) (?:{alternatives(TUMOR_WORDS)}))"
    seed = alternatives(name for name, hosts in organ_names().items() if not _EVERYWHERE & set(hosts))
    either = rf"(?:{tumor}|{organ})"
    before = r"(?:(?:an?|the|both|left|right|upper|middle|lower|(?:lobes?|poles?|head|body|tail|segment \w+) of) )*"
    place = rf"{before}(?:{organ})(?: (?:and|or) {before}(?:{organ}))*\b"
    inside = "in|to|into|within|inside|at|on|involving"
    few = rf"(?:(?!(?:{inside}|and|or|with)\b)\w+ ){{0,3}}?"  # "a known clear cell"
    spread = rf"\bmetastas[ie]s(?: (?:{inside}) {place})?"
    wordings = (
        rf"{spread} (?P<origin>(?:from|due to|secondary to) {few}{either}(?: (?:and|or) {few}{either})*)\b",
        rf"{spread} (?P<origin>of {few}{tumor}(?: (?:and|or) {few}{tumor})*)\b",
        rf"\bmetastas[ie]s of {before}(?P<origin>{organ}) (?:{inside}) (?P<place>{place})",
        rf"\b(?P<origin>{tumor}) metastas[ie]s (?:{inside}|of) (?P<place>{place})",
        rf"\b(?P<origin>{seed}) metastas[ie]s (?:{inside}) (?P<place>{place})",
        rf"\bmetastasis (?P<origin>{tumor}) (?:{inside}|of) (?P<place>{place})",  # "metastatic lung cancer in the brain"
    )
    return tuple(map(re.compile, wordings))
