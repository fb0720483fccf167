"""Free text to `Prompt` objects: which lesion, in which organs, with which attributes.

Words of the vocabulary are recognised by the longest match. Words outside it are no error: the text encoder says which
known concept is nearest, and the methods work from the text's embedding. What a text rules out ("not the kidney") or
names as the origin of a metastasis is taken away before anything is recognised. There is no torch here, so that menus and
command lines can check a prompt before anything heavy is loaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from . import phrases
from .negation import LOOKS, Denied, apart
from .origins import without_origin
from .phrases import GENERIC_WORDS, SMALL_WORDS, TUMOR_WORDS, normalize
from .vocabulary import ATTRIBUTE_WORDS, ATTRIBUTES, LESIONS, ORGANS, SUBSTANCE_WORDS, lesions

if TYPE_CHECKING:
    from .text import TextEncoder

DEFAULT_PROMPT = "tumor"
MAX_LENGTH = 300
ANOMALY_WORDS = frozenset(
    {"anomaly", "anomalies", "anomaly map", "unusual", "anything unusual", "where is anything unusual"}
)
EXAMPLE = '"liver tumor" or "round hypodense lesion in the left kidney"'

_GENERIC = phrases.alternatives(GENERIC_WORDS)
_OPPOSITES = {
    value: other
    for name in ("density_variation", "enhancement", "surface", "relation")
    for value, other in (ATTRIBUTES[name], ATTRIBUTES[name][::-1])
}


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


def parse(text: str | Sequence[str], *, modality: str = "CT", encoder: TextEncoder | None = None) -> list[Prompt]:
    """Free text, several prompts separated by ';' or line breaks, to prompts in that order, each once.

    Args:
        text: one string or several.
        modality: "CT" or "MR". How dense a kind of lesion usually is was recorded on CT; on MR its brightness depends
            on the sequence, so there only what the text itself says ("hyperintense") is kept.
        encoder: names the nearest concept of unknown text; without it `nearest` stays None.

    Raises:
        PromptError: nothing is written, a prompt is longer than 300 characters, holds control characters, names two
            lesions at once, or says only what or where not to look.
        ValueError: another modality.
    """
    if modality not in ("CT", "MR"):
        raise ValueError(f'the modality must be "CT" or "MR", not {modality!r}')
    pieces = [text] if isinstance(text, str) else list(text or ())
    for piece in pieces:
        if not isinstance(piece, str):
            raise PromptError(f"a prompt must be text, not {type(piece).__name__}: write {EXAMPLE}")
    parts = [_clean(part) for piece in pieces for part in _split(piece)]
    if not parts:
        raise PromptError(f"the prompt is empty: write what to look for, such as {EXAMPLE}")
    return [_parse_one(part, modality, encoder) for part in dict.fromkeys(parts)]


def _split(piece: str) -> list[str]:
    parts = [part for part in re.split(r"[;；\n\r]+", piece) if part.strip()]
    return parts or [""]  # an empty string among several is still a mistake worth telling


def _clean(part: str) -> str:
    """The prompt as it is kept, or the reason why it cannot be one."""
    part = part.replace("\t", " ").strip(" ")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in part):
        raise PromptError(f"the prompt holds control characters: write plain words, such as {EXAMPLE}")
    if len(part) > MAX_LENGTH:
        raise PromptError(
            f"the prompt has {len(part)} characters and may have {MAX_LENGTH}: name only what, where and its look"
        )
    if not normalize(part):
        raise PromptError(f"the prompt is empty: write what to look for, such as {EXAMPLE}")
    return part.strip()


def _parse_one(text: str, modality: str, encoder: TextEncoder | None, mended: str = "") -> Prompt:
    said, denied = apart(mended or text)
    words, close = _neighbors(said)
    words = without_origin(words)
    barred = _barred(denied)
    lesion, phrase, rest = _lesion(words, text)
    stated, left = _attributes(rest, denied, modality)
    organs, left = _organs(left)
    # "cyst in the left kidney", "cancer of the colon": kind and place make the name, wherever they stand. A name that
    # is one word without a place ("sarcoma") gives way to the organ's own kind ("sarcoma of the femur").
    if organs and (lesion is None or (" " not in phrase and not set(organs) & set(LESIONS[lesion].hosts))):
        made, kind = _kind_in(words, [o for o in organs if o not in barred], text)
        if made:
            lesion, phrase = made, kind
            stated, _ = _attributes(re.sub(rf"\b{phrases.plural(kind)}\b", "|", rest), denied, modality)
    stated = {**close, **stated}
    if lesion is not None:
        known = LESIONS[lesion]
        usual = {k: dict(v) for k, v in known.attributes.items() if not (modality == "MR" and k == "density")}
        places = _places(words, phrase, organs, known.hosts)
        return Prompt(text, lesion, lesion, _without(places, barred, text), {**usual, **stated})
    unknown = [w for w in left.split() if w not in SMALL_WORDS and not re.fullmatch(rf"[|\d]+|{_GENERIC}", w)]
    if unknown and not organs and not mended and (mended := _mend(text, unknown)) != text:
        return _parse_one(text, modality, encoder, mended)
    if not (unknown or stated or re.search(rf"\b(?:{_GENERIC})\b", words)) and any(d.sort == "lesion" for d in denied):
        raise PromptError(f'"{text}" says only what not to look for: write what to look for, such as {EXAMPLE}')
    prompt = Prompt(text, text, None, _without(organs, barred, text), stated)
    return _nearest(prompt, encoder) if unknown else prompt


def _mend(text: str, unknown: Sequence[str]) -> str:
    """A text with slips in the names of organs mended ("kidny"); names of lesions are too alike for that."""
    places = sorted({w for name in phrases.organ_names() for w in name.split()} - {"left", "right"})
    close = {w: get_close_matches(w, places, n=1, cutoff=0.85) for w in unknown}
    return re.sub(r"[^\W_]+", lambda word: (close.get(normalize(word[0])) or [word[0]])[0], text)


def _barred(denied: Sequence[Denied]) -> set[str]:
    """Organs in which the text forbids to look: those it names, or all of a side that it names alone."""
    places = [item.words for item in denied if item.sort == "place"]
    named = {place: _organs(place)[0] or [o for o in ORGANS if o.startswith(place.split()[0])] for place in places}
    return {organ for organs in named.values() for organ in organs}


def _without(organs: tuple[str, ...], barred: set[str], text: str) -> tuple[str, ...]:
    """Organs without those barred. No method can look everywhere but in an organ, so there must be some."""
    kept = tuple(o for o in organs if o not in barred)
    if barred and not kept:
        raise PromptError(
            f'"{text}" leaves no organ to look in: name the organs to look in, such as "lesion in the left kidney"'
        )
    return kept


def _places(words: str, phrase: str, organs: tuple[str, ...], hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Where a named lesion is to be looked for: as stated, else its hosts; sides narrow both."""
    inside = tuple(o for o in organs if o in hosts)
    if inside or not organs:
        return inside or _sided(words, hosts)
    # "liver and pancreas tumor": the name states a place of its own.
    return (*hosts, *organs) if phrases.organ_pattern().search(phrase) else organs


def _lesion(words: str, text: str) -> tuple[str | None, str, str]:
    """Key of the lesion named, the phrase that names it, and the words without any lesion's name.

    Of several, the first that is not merely what comes with it ("lung mass with lymphadenopathy") or where it comes
    from ("colorectal cancer liver metastasis").
    """
    found, rest = [], words
    names = phrases.lesion_names()
    while match := phrases.find_lesion(rest):
        found.append((names[phrases.listed(match[0], names)], match[0]))
        rest = phrases.cut(rest, match)
    head = words.split(" with ")[0]
    found = [f for f in found if f[1] in head] or found
    spread = [f for f in found if "metastas" in f[1]]
    several = sorted({key for key, _ in found})
    if len(several) > 1 and not spread and re.search(r"[,/&+、，]|\band\b|\bor\b", text.lower()):
        raise _several(text, several)
    lesion, phrase = (spread or found or [(None, "")])[0]
    return lesion, phrase, rest


def _several(text: str, names: Sequence[str]) -> PromptError:
    return PromptError(f'"{text}" names several lesions ({", ".join(names)}): write them apart, with ";" between')


def _kind_in(words: str, organs: Sequence[str], text: str) -> tuple[str | None, str]:
    """The lesion that a kind of lesion in the words makes with the organs (cyst + left kidney -> kidney cyst), and the
    kind."""
    kinds = phrases.kinds()
    spoken = sorted({k for k, _ in kinds} | set(TUMOR_WORDS), key=lambda k: (k in TUMOR_WORDS, -len(k), k))
    for kind in (k for k in spoken if phrases.mentions(k, words)):
        made = {kinds.get((kind, o)) or (kinds.get(("tumor", o)) if kind in TUMOR_WORDS else None) for o in organs}
        made.discard(None)
        if len(made) > 1:
            raise _several(text, sorted(made))
        if made:
            return made.pop(), kind
    return None, ""


def _neighbors(words: str) -> tuple[str, dict[str, dict[str, float]]]:
    """Words without "near the right kidney", and the relation stated: a neighbor is not the host."""
    match = phrases.neighbor_pattern().search(words)
    if match is None:
        return words, {}
    return phrases.cut(words, match), {"relation": {"not-close" if match[1] else "close": 1.0}}


def _attributes(words: str, denied: Sequence[Denied], modality: str) -> tuple[dict[str, dict[str, float]], str]:
    """Attributes that the words state, and the other words. Two values of one attribute share its probability."""
    values: dict[str, list[str]] = {}
    implied: dict[str, str] = {}
    rest = words
    while match := phrases.attribute_pattern().search(rest):
        word = phrases.listed(match[0], {**ATTRIBUTE_WORDS, **SUBSTANCE_WORDS})
        for name, value in ATTRIBUTE_WORDS.get(word, {}).items():
            values.setdefault(name, []).append(value)
        looks = SUBSTANCE_WORDS.get(word, {})
        implied |= {k: v for k, v in looks.items() if not (modality == "MR" and k == "density")}
        rest = phrases.cut(rest, match)
    for look in (item.words for item in denied if item.sort == "look"):
        # "no calcification" says nothing certain about what there is instead, "not well-defined" does.
        for name, value in LOOKS[phrases.listed(look, LOOKS)].items():
            if value in _OPPOSITES:
                values.setdefault(name, []).append(_OPPOSITES[value])
    stated = {name: {value: 1.0} for name, value in implied.items()}
    stated |= {name: {v: round(1 / len(set(vs)), 4) for v in dict.fromkeys(vs)} for name, vs in values.items()}
    return stated, rest


def _organs(words: str) -> tuple[tuple[str, ...], str]:
    """Organs named in the words, longest names first, sides respected; and the other words."""
    found: list[str] = []
    rest = words
    names = phrases.organ_names()
    while match := phrases.organ_pattern().search(rest):
        hosts = names[phrases.listed(match["organ"], names)]
        found.extend(_sided(match["sides"] or words, hosts))
        rest = phrases.cut(rest, match)
    return tuple(dict.fromkeys(found)), rest


def _sided(words: str, hosts: Sequence[str]) -> tuple[str, ...]:
    """The hosts on the side that the words name, if they name exactly one and the organ is paired; else all."""
    side = phrases.side(words)
    return tuple(h for h in hosts if side and h.startswith(side)) or tuple(hosts)


def _nearest(prompt: Prompt, encoder: TextEncoder | None) -> Prompt:
    """Name the nearest concept of a text with unknown words: the best of every lesion's name and synonyms."""
    if encoder is None:
        return prompt
    names = [(lesion.name, text) for lesion in lesions() for text in (lesion.name, *lesion.synonyms)]
    rows = encoder.encode([prompt.text, *(text for _, text in names)])
    similarity = rows[1:] @ rows[0]
    best = int(similarity.argmax())
    return replace(prompt, nearest=names[best][0], similarity=round(float(similarity[best]), 4))


def asks_for_anomaly(prompt: Prompt) -> bool:
    """Whether a prompt wants to know what is unusual at all: "anomaly", "where is anything unusual?"."""
    return normalize(prompt.text) in ANOMALY_WORDS
