"""Numbers of labels. A viewer paints a mask by the numbers that the server declared when it connected, so every concept
of the vocabulary has its own, and texts outside the vocabulary share a few in front."""

from __future__ import annotations

from collections.abc import Sequence

from zerotumor.prompts import Prompt, asks_for_anomaly
from zerotumor.segmenter import class_of
from zerotumor.vocabulary import LESIONS

from .options import refuse

FREE = ("lesion", "lesion 2", "lesion 3", "lesion 4")
"""Labels for text that names no lesion of the vocabulary."""
ANOMALY = "anomaly"
"""Label of what a method calls unusual, whatever it is."""
NAMES = (*FREE, *(name for name in LESIONS if name != "abstract lesion"), ANOMALY)
LABELS = {name: index for index, name in enumerate(NAMES, 1)}


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
        own = LABELS[ANOMALY] if asks_for_anomaly(prompt) else LABELS.get(prompt.lesion or "")
        if own is None or own in numbers:
            if not free:
                raise refuse(f"at most {len(FREE)} texts outside the vocabulary at once: ask for the rest separately")
            own = free.pop(0)
        numbers.append(own)
    return numbers
