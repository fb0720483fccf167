"""Is an adapter worth using? Leave-one-out over the corrected scans (Stone, J R Stat Soc B 1974).

Five scans can teach something that is true of these five alone, and then every later answer is worse for it. So each scan
is answered once by an adapter that has learned from the others only. Answers are compared by the soft Dice of their
probabilities: from so few scans, masks cut at one half are mostly equal or altogether different.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .adaptation import BOUND
from .learning import STEPS, Example, fit
from .prompts import Prompt
from .segmenter import Segmenter

LEAST = 0.005
"""Soft Dice that an adapter must add; less is noise."""


@dataclass(frozen=True)
class HeldOut:
    """A corrected scan, and how well it is answered without having been learned from: soft Dice, 0..1."""

    name: str
    before: float  # by the method
    after: float  # by the method and an adapter that has learned from the other scans


def soft_dice(logits: Tensor, truth: Tensor) -> float:
    """2 sum(p t) / (sum(p) + sum(t)) of logits (N,) and shares of lesion (N,)."""
    p = logits.clamp(-BOUND, BOUND).sigmoid()
    return float(2 * (p * truth).sum() / (p.sum() + truth.sum()).clamp_min(1e-6))


def leave_one_out(
    model: Segmenter,
    prompt: Prompt,
    modality: str,
    examples: Sequence[Example],
    replayed: Sequence[Example] = (),
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[HeldOut]:
    """Each of at least two examples, answered by what is learned from all others; arguments as of `learning.learn`.

    Raises:
        ValueError: there is nothing left to learn from without one.
    """
    if len(examples) < 2:
        raise ValueError(f"{len(examples)} scans are too few to leave one out: correct and save at least 2")
    held = []
    for k, one in enumerate(examples):
        others = [*examples[:k], *examples[k + 1 :]]
        adapter = fit(model, prompt, modality, others, replayed, steps=steps, seed=seed)
        with torch.inference_mode():
            after = adapter(one.features, one.said)
        held.append(HeldOut(one.name, soft_dice(one.said, one.truth), soft_dice(after, one.truth)))
        if progress is not None:
            progress(k + 1, len(examples))
    return held


def means(held: Sequence[HeldOut]) -> tuple[float, float]:
    """Mean soft Dice before and after."""
    return sum(h.before for h in held) / len(held), sum(h.after for h in held) / len(held)


def helps(held: Sequence[HeldOut]) -> bool:
    """Whether scans that were not learned from are answered better on average."""
    before, after = means(held)
    return after >= before + LEAST
