"""Words against tokens: how well a token fits a prompt, and what a token is called (Malenia 3.7, steps II and IV).

The clinical knowledge table is `vocabulary.LESIONS`: for every disease, how often each attribute value occurs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..prompts import Prompt
from ..vocabulary import ATTRIBUTES, LESIONS, ORGANS
from .attributes import NAMES, OFFSETS, SLICES

if TYPE_CHECKING:
    from .model import Malenia

STATED, TYPICAL, RESEMBLED = 0.5, 0.05, 0.15
"""Exponents of an attribute's match: one that the user wrote, one that is merely usual for the named lesion, and one that
unknown words resemble. What is usual hardly counts: it held down lesions whose attributes the weights do not recognize."""
PLACE = 0.5
"""Exponent of the location's match."""
CONFIDENCE = 0.5
"""Exponent of objectness: the lesion prior says of every voxel once more whether there is a lesion."""
UNKNOWN_TEXT = 0.05
"""Temperature that turns cosine similarities of unknown text to attribute texts into a distribution."""

Distribution = Mapping[str, Mapping[str, float]]


def as_tensor(distribution: Distribution) -> Tensor:
    """attribute -> value -> probability, as a row over the bank (V,); an attribute that is missing is all zero."""
    row = torch.zeros(SLICES[NAMES[-1]].stop)
    for name, values in distribution.items():
        for value, probability in values.items():
            row[OFFSETS[name] + ATTRIBUTES[name].index(value)] = probability
    return row


def wanted(prompt: Prompt, model: Malenia) -> tuple[Tensor, dict[str, float]]:
    """What a prompt asks for: a row over the bank (V,), each attribute scaled to a maximum of 1, and its exponents."""
    exponents = {}
    usual = LESIONS[prompt.lesion].attributes if prompt.lesion else {}
    # Enhancement is a property of the scan. That most annotated scans were enhanced says nothing about this one.
    asked = {k: v for k, v in prompt.attributes.items() if k != "enhancement" or v != usual.get(k)}
    row = as_tensor({k: v for k, v in asked.items() if k != "location"})
    for name in asked:
        exponents[name] = TYPICAL if dict(usual.get(name, {})) == dict(asked[name]) else STATED
    if prompt.organs:
        row[SLICES["location"]] = as_tensor({"location": dict.fromkeys(prompt.organs, 1.0)})[SLICES["location"]]
        exponents["location"] = PLACE
    if prompt.nearest is not None and prompt.lesion is None and not prompt.organs and model.encoder is not None:
        # Unknown words: the frozen text space says which attribute values they resemble, places included.
        similarity = model.encoder.encode([prompt.text])[0] @ model.bank.texts.cpu().T
        for name in NAMES:
            if name not in exponents:
                row[SLICES[name]] = (similarity[SLICES[name]] / UNKNOWN_TEXT).softmax(0)
                exponents[name] = RESEMBLED
    for name in exponents:
        row[SLICES[name]] = row[SLICES[name]] / row[SLICES[name]].amax().clamp_min(1e-6)
    return row, exponents


def prompt_scores(model: Malenia, features: Mapping[str, Tensor], prompts: Sequence[Prompt]) -> Tensor:
    """Score of every token for every prompt, (B, N, P) in 0..1.

    The root of objectness times, for each attribute the prompt speaks of, how probable the wanted values are next to the
    token's most probable value, to the power of how much the user meant it. A token that agrees loses nothing, so scores of
    prompts that say much and of prompts that say nothing ("tumor": objectness alone) are on one scale.
    """
    values, objectness = features["values"], features["objectness"]
    scores = []
    for prompt in prompts:
        row, exponents = wanted(prompt, model)
        row = row.to(values)
        score = objectness**CONFIDENCE
        for name, exponent in exponents.items():
            part = SLICES[name]
            wanted_values = row[part]
            if name == "location":
                own = place_match(features, wanted_values)
            else:
                own = values[..., part] @ wanted_values / values[..., part].amax(-1).clamp_min(1e-6)
            score = score * own.clamp(1e-4, 1) ** exponent
        scores.append(score)
    return torch.stack(scores, -1)


def place_match(features: Mapping[str, Tensor], organs: Tensor) -> Tensor:
    """How probable it is that a token lies in, or borders on, one of the wanted organs (L,) -> (B, N) in 0..1.

    Next to the most probable organ. The imaginary organ of training stands for anatomy that is not recognized: as far as
    a region looks like it, its place speaks neither for nor against the prompt.
    """
    imaginary = list(ORGANS).index("abstract")
    matches = []
    for region in (features["inside"], features["around"]):
        known, unknown = region[..., 1:].clone(), region[..., 1 + imaginary]
        known[..., imaginary] = 0
        matches.append(((known * organs).amax(-1) + unknown) / (known.amax(-1) + unknown).clamp_min(1e-6))
    return torch.maximum(*matches)


def diagnose(values: Tensor, top: int = 3) -> list[tuple[str, float]]:
    """Names of the lesion whose attribute probabilities are `values` (V,): the table's most likely, with shares.

    The likelihood of a disease is the product over attributes of sum_v p(v | disease) p(v | token).
    """
    names, table = knowledge_table()
    log_likelihood = sum(((table * values.cpu())[:, SLICES[n]].sum(1) + 1e-3).log() for n in NAMES)
    share, order = log_likelihood.softmax(0).sort(descending=True)
    return [(names[i], float(p)) for i, p in zip(order[:top].tolist(), share[:top], strict=True)]


@cache
@torch.inference_mode(False)  # else what is made while a scan is segmented could not be used in training
def knowledge_table() -> tuple[list[str], Tensor]:
    """Names of the lesions, and a row over the bank (V,) for each, its hosts as places."""
    names = [n for n in LESIONS if n != "abstract lesion"]
    return names, torch.stack([as_tensor({**LESIONS[n].attributes, "location": _places(n)}) for n in names])


def _places(name: str) -> dict[str, float]:
    hosts = LESIONS[name].hosts
    return dict.fromkeys(hosts, 1.0 / len(hosts))


def describe(values: Tensor, scores: Tensor) -> list[dict]:
    """For each prompt, the attributes and likely names of its best token over the batch.

    Args:
        values: (B, N, V) retrieved attribute probabilities. scores: (B, N, P).
    """
    flat_values, flat_scores = values.flatten(0, 1), scores.flatten(0, 1)
    found = []
    for p in range(scores.shape[-1]):
        best = flat_values[flat_scores[:, p].argmax()]
        attributes = {}
        for name in NAMES:
            k = int(best[SLICES[name]].argmax())
            attributes[name] = {"value": ATTRIBUTES[name][k], "probability": round(float(best[SLICES[name]][k]), 3)}
        found.append({"attributes": attributes, "diagnosis": [(n, round(s, 3)) for n, s in diagnose(best)]})
    return found
