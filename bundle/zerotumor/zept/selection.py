"""Words against queries: which tumor slots answer a prompt, and in which organs. An addition of ours.

The paper's tumor channels are fixed at training time. Here a prompt's knowledge (the paragraph of the lesion that it names,
or of all lesions of the organs that it names, or its own text) is compared with the paragraphs of the slots that were
trained; the prompt is drawn by their mixture, and only in the organs that it asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..prompts import Prompt, PromptError
from ..vocabulary import LESIONS, lesions
from .classes import ANY, ClassSet

if TYPE_CHECKING:
    from ..text import TextEncoder
    from .alignment import KnowledgeBank

SHARPNESS = 0.1
"""Temperature that turns cosine similarities of paragraphs into the shares of slots."""
LEAST = 0.05
"""Share of lesions that has an attribute value of which the table says that none has."""


def knowledge_of(prompt: Prompt, bank: KnowledgeBank, encoder: TextEncoder | None = None) -> Tensor | None:
    """Unit vector (text_dim,) of what a prompt is about; None when it is about any lesion at all."""
    if prompt.lesion is not None:
        return bank.of(prompt.lesion)
    if prompt.organs:
        names = [k.name for k in lesions() if set(k.hosts) & set(prompt.organs)] or list(prompt.organs)
        return F.normalize(torch.stack([bank.of(n) for n in names]).mean(0), dim=0)
    if prompt.nearest is not None:
        return bank.of(prompt.nearest) if encoder is None else encoder.encode([prompt.text])[0].to(bank.texts)
    return None


def agreement(prompt: Prompt, slot: str) -> float:
    """Log of how usual the attributes that a prompt states are for a slot's lesions, by the table of the vocabulary.

    Enhancement is a property of the scan and does not count; what is merely usual for the named lesion neither.
    """
    usual = LESIONS[prompt.lesion].attributes if prompt.lesion else {}
    own = LESIONS["abstract lesion" if slot == ANY else slot].attributes
    total = torch.zeros(())
    for name, wanted in prompt.attributes.items():
        if name in own and name != "enhancement" and dict(wanted) != dict(usual.get(name, {})):
            share = sum(p * own[name].get(value, 0.0) for value, p in wanted.items())
            total = total + torch.tensor(max(share, LEAST)).log()
    return float(total)


def slot_weights(prompt: Prompt, classes: ClassSet, bank: KnowledgeBank, encoder: TextEncoder | None = None) -> Tensor:
    """Share of each tumor slot in a prompt's answer, (K,), summing to 1; untrained slots have none."""
    trained = list(classes.trained)
    weights = bank.texts.new_zeros(len(classes.tumors))
    about = knowledge_of(prompt, bank, encoder)
    if about is None and ANY in classes.tumors and not prompt.attributes:
        weights[classes.tumors.index(ANY)] = 1
        return weights
    slots = torch.stack([bank.of(classes.tumors[k]) for k in trained])
    fit = slots @ about / SHARPNESS if about is not None else slots.new_zeros(len(slots))
    fit = fit + fit.new_tensor([agreement(prompt, classes.tumors[k]) for k in trained])
    weights[trained] = fit.softmax(0)
    return weights


def fixed_slot(prompt: Prompt, classes: ClassSet, bank: KnowledgeBank) -> Tensor:
    """The paper's way: the slot of the lesion that the prompt names, (K,); any tumor is the mean of the trained slots.

    Raises:
        PromptError: the prompt asks for something that has no slot.
    """
    weights = bank.texts.new_zeros(len(classes.tumors))
    if prompt.lesion in classes.tumors:
        weights[classes.tumors.index(prompt.lesion)] = 1
    elif prompt.lesion is None and not prompt.organs and not prompt.attributes and prompt.nearest is None:
        weights[list(classes.trained)] = 1 / len(classes.trained)
    else:
        raise PromptError(
            f'"{prompt.text}" has no slot in this ZePT, which knows {", ".join(classes.tumors)}: ask for one of those, or '
            "build it with selection: knowledge"
        )
    return weights


def wanted_hosts(prompts: Sequence[Prompt], classes: ClassSet) -> Tensor:
    """Organs that prompts ask for, (P, N) booleans; an empty row where none is stated or none has a query."""
    rows = torch.zeros(len(prompts), len(classes.organs), dtype=torch.bool)
    for p, prompt in enumerate(prompts):
        rows[p, list(classes.covering(prompt.organs))] = True
    return rows
