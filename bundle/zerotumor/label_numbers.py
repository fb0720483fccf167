"""Numbers of labels. A viewer paints a mask by the numbers that the server declared when it connected, so every concept
of the vocabulary has its own, and texts outside the vocabulary share a few in front."""

from __future__ import annotations

from .prompts import Prompt, asks_for_anomaly
from .vocabulary import LESIONS

FREE = ("lesion", "lesion 2", "lesion 3", "lesion 4")
"""Labels for text that names no lesion of the vocabulary."""
ANOMALY = "anomaly"
"""Label of what a method calls unusual, whatever it is."""
NAMES = (*FREE, *(name for name in LESIONS if name != "abstract lesion"), ANOMALY)
LABELS = {name: index for index, name in enumerate(NAMES, 1)}


def own_number(prompt: Prompt) -> int | None:
    """The number that no other concept has; None for text outside the vocabulary."""
    return LABELS[ANOMALY] if asks_for_anomaly(prompt) else LABELS.get(prompt.lesion or "")
