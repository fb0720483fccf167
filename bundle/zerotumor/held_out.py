"""Is what was learned worth using, and where? Cross-validation over the corrected scans (Stone, J R Stat Soc B 1974).

Five scans can teach something that is true of these five alone, and then every later answer is worse for it. So each scan
is answered once by a network that has learned from others only, in half of the steps: what scans share is learned early.
Answers are compared by the soft Dice of their probabilities: from so few scans, masks cut at one half are mostly equal or
altogether different.

Scans are picked for correction because the method fails on them, so they say little of those that it gets right. Where it
finds something by itself, its answer therefore counts by half, or stays as it is if scans do not say that this is better.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from .adaptation import BOUND, EMPTY, TOGETHER, Specialist, chosen
from .examples import Example
from .learning import STEPS, fit, learn
from .prompts import Prompt
from .segmenter import Segmenter

logger = logging.getLogger(__name__)
LEAST = 0.005
"""Soft Dice that must be added; less is noise."""
MOST = 0.05
"""Soft Dice that may be lost in scans where the method finds nothing: there its mask is empty, and cannot get worse."""
WHERE = (EMPTY, TOGETHER)
PARTS = 3
"""Parts that scans are dealt into, each left out once, or as many as there are scans."""


@dataclass(frozen=True)
class HeldOut:
    """A corrected scan, and how well it is answered without having been learned from: soft Dice, 0..1."""

    name: str
    before: float  # by the method
    empty: float  # by a network that has learned from other scans, if the method finds nothing; else by the method
    together: float  # the same, but if the method finds something, by both


def soft_dice(logits: Tensor, truth: Tensor) -> float:
    """2 sum(p t) / (sum(p) + sum(t)) of logits and shares of lesion, both of any one shape."""
    p, truth = logits.float().clamp(-BOUND, BOUND).sigmoid(), truth.float()
    return float(2 * (p * truth).sum() / (p.sum() + truth.sum()).clamp_min(1e-6))


def leave_out(
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
    """Each of at least two examples, answered by what is learned from others; arguments as of `learning.learn`.

    Raises:
        ValueError: there is nothing left to learn from without one.
    """
    if len(examples) < 2:
        raise ValueError(f"{len(examples)} scans are too few to leave one out: correct and save at least 2")
    parts = min(PARTS, len(examples))
    held = {}
    for k in range(parts):
        others = [one for n, one in enumerate(examples) if n % parts != k]
        specialist = fit(model, prompt, modality, others, replayed, steps=max(1, steps // 2), seed=seed)
        for n in range(k, len(examples), parts):
            one = examples[n]
            new = specialist.answer(one.image.float(), one.place)
            answers = (one.said, *(chosen(model, one.said, new, where) for where in WHERE))
            held[n] = HeldOut(one.name, *(soft_dice(logits, one.truth) for logits in answers))
        if progress is not None:
            progress(k + 1, parts)
    return [held[n] for n in range(len(examples))]


def means(held: Sequence[HeldOut]) -> dict[str, float]:
    """Mean soft Dice: before, empty, together."""
    return {k: sum(getattr(h, k) for h in held) / len(held) for k in ("before", *WHERE)}


def scope(held: Sequence[HeldOut]) -> str | None:
    """In which scans a specialist is to speak: `Learned.where`, or None where it does harm.

    TOGETHER has to be better on the mean. EMPTY has only to do no harm: none of the corrected scans may be one where the
    method finds nothing.
    """
    mean = means(held)
    if mean[TOGETHER] >= max(mean["before"], mean[EMPTY]) + LEAST:
        return TOGETHER
    return EMPTY if mean[EMPTY] > mean["before"] - MOST else None


def learn_where_it_helps(
    model: Segmenter,
    prompt: Prompt,
    modality: str,
    examples: Sequence[Example],
    replayed: Sequence[Example] = (),
    *,
    steps: int = STEPS,
    seed: int = 0,
    check: bool = True,
    checkpoints: Path | None = None,
) -> tuple[Specialist | None, list[HeldOut]]:
    """A specialist that speaks where left-out scans say that it helps, and what they say; arguments as of `learning.learn`.

    Args:
        check: False asks nobody: it speaks in all scans.

    Returns:
        None in its place if it does harm.
    """
    given = (model, prompt, modality, examples, replayed)
    held, where = [], TOGETHER
    if check:
        held = leave_out(*given, steps=steps, seed=seed, progress=_logged("left out part"))
        where = scope(held)
        if where is None:
            return None, held
    specialist = learn(*given, steps=steps, seed=seed, checkpoints=checkpoints, progress=_logged("epoch"))
    specialist.learned = replace(specialist.learned, where=where)
    return specialist, held


def _logged(what: str) -> Callable[[int, int], None]:
    return lambda k, total: logger.info(f"{what} {k} of {total}")
