"""Numbers of labels as a server offers, reads and gives them."""

from __future__ import annotations

from collections.abc import Sequence

from zerotumor.label_numbers import ANOMALY, FREE, LABELS, NAMES, own_number
from zerotumor.prompts import Prompt
from zerotumor.segmenter import class_of

from .options import refuse


def offered(methods: Sequence[str]) -> dict[str, int]:
    """Labels that viewers are told of: "anomaly" only where a method draws it."""
    draws = any(ANOMALY in class_of(name).maps for name in methods)
    return {name: number for name, number in LABELS.items() if draws or name != ANOMALY}


def prompts_of(indices: Sequence[int]) -> list[str]:
    """Texts of the class prompts that a client chose by number.

    Raises:
        HTTPException: there is no such number.
    """
    unknown = [i for i in indices if not 1 <= i <= len(NAMES)]
    if unknown:
        raise refuse(f"label_prompt {unknown[0]} is no label: choose 1 to {len(NAMES)}")
    return ["tumor" if NAMES[i - 1] in FREE else NAMES[i - 1] for i in dict.fromkeys(indices)]


def numbers_of(prompts: Sequence[Prompt]) -> list[int]:
    """One label number a prompt: its concept's, or a free one.

    Raises:
        HTTPException: more texts without a number of their own than there are free ones.
    """
    free, numbers = list(range(1, len(FREE) + 1)), []
    for prompt in prompts:
        own = own_number(prompt)
        if own is None or own in numbers:
            if not free:
                raise refuse(f"at most {len(FREE)} texts outside the vocabulary at once: ask for the rest separately")
            own = free.pop(0)
        numbers.append(own)
    return numbers
