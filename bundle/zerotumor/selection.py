"""Which scan to annotate next: rankings of the scans that wait for one prompt, each with its reason.

Pure functions over `Candidate`s: the app, the simulation of an annotator and tests use the same ones. The largest score
comes first, of equals the first name; the order in which candidates are given never counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .inferer import pad, segment_volume
from .prompts import Prompt

if TYPE_CHECKING:
    from .pipeline import EncodedScan
    from .segmenter import Segmenter


@dataclass(frozen=True)
class Candidate:
    """What is known of one scan that waits, for one prompt."""

    id: str
    uncertainty: float = 0.0  # 0..1, such as `Uncertainty.entropy`
    disagreement_ml: float | None = None  # between methods; None: fewer than two of them answered
    descriptor: Sequence[float] | Tensor = ()  # of `descriptor`, (C,); empty: unknown


@dataclass(frozen=True)
class Choice:
    """A place in a ranking."""

    id: str
    score: float  # larger is sooner; comparable within one ranking alone
    reason: str  # for the annotator


def rank(
    strategy: str,
    candidates: Sequence[Candidate],
    labelled: Sequence[Sequence[float] | Tensor] = (),
    seed: int = 0,
) -> list[Choice]:
    """All candidates, the one to annotate next first.

    Args:
        strategy: one of STRATEGIES. labelled: descriptors (C,) of the scans that are annotated already. seed: of `random`.

    Raises:
        ValueError: there is no such strategy, two candidates have one id, or descriptors differ in length.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"there is no strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    ordered = sorted(candidates, key=lambda c: c.id)
    if len({c.id for c in ordered}) < len(ordered):
        raise ValueError("two candidates have the same id: give every scan once")
    return STRATEGIES[strategy](ordered, [_row(d) for d in labelled if len(d)], seed) if ordered else []


def by_uncertainty(candidates: Sequence[Candidate], labelled: Sequence[Tensor], seed: int) -> list[Choice]:
    """Least sure first (uncertainty sampling, Lewis and Gale, SIGIR 1994)."""
    order = sorted(candidates, key=lambda c: -c.uncertainty)
    return [
        Choice(c.id, c.uncertainty, f"uncertainty {c.uncertainty:.2f}, {_place(k, order)}") for k, c in enumerate(order)
    ]


def by_committee(candidates: Sequence[Candidate], labelled: Sequence[Tensor], seed: int) -> list[Choice]:
    """Most milliliters that the methods disagree on first (query by committee, Seung et al., COLT 1992).

    Scans that only one method has answered come last, least sure first.
    """
    asked = sorted((c for c in candidates if c.disagreement_ml is not None), key=lambda c: -c.disagreement_ml)
    alone = sorted((c for c in candidates if c.disagreement_ml is None), key=lambda c: -c.uncertainty)
    out = [Choice(c.id, c.disagreement_ml, _disagreement(c)) for c in asked]
    # Below every disagreement, which is at least 0 ml.
    out += [
        Choice(c.id, c.uncertainty - 2, f"{_disagreement(c)}; its uncertainty is {c.uncertainty:.2f}") for c in alone
    ]
    return out


def by_diversity(candidates: Sequence[Candidate], labelled: Sequence[Tensor], seed: int) -> list[Choice]:
    """Least like all that is annotated, or chosen before it, first (Sener and Savarese, ICLR 2018, algorithm 1).

    Each choice is the candidate farthest from its nearest neighbor among these (greedy k-center), so that a batch covers the
    feature space. Where nothing is annotated yet, it begins with the most typical candidate, the one nearest to the mean.
    Candidates without a descriptor come last.
    """
    known = [c for c in candidates if len(c.descriptor)]
    unknown = [Choice(c.id, -1.0, "nothing is known of it yet") for c in candidates if not len(c.descriptor)]
    if not known:
        return unknown
    rows = _stack([_row(c.descriptor) for c in known])
    left, out = list(range(len(known))), []
    if labelled:
        nearest = torch.cdist(rows, _stack(labelled, rows.shape[1])).amin(1)
    else:
        typical = int((rows - rows.mean(0)).norm(dim=1).argmin())
        nearest = torch.cdist(rows, rows[typical : typical + 1])[:, 0]
        out.append(Choice(known[typical].id, 2.0, "the most typical of all: nothing is annotated yet"))
        left.remove(typical)
    while left:
        best = max(left, key=lambda i: float(nearest[i]))  # the first of equals
        far = float(nearest[best])
        out.append(
            Choice(known[best].id, far, f"unlike all before it: {far:.2f} (0 alike, 2 opposite) from the nearest")
        )
        nearest = torch.minimum(nearest, torch.cdist(rows, rows[best : best + 1])[:, 0])
        left.remove(best)
    return out + unknown


def by_mix(candidates: Sequence[Candidate], labelled: Sequence[Tensor], seed: int) -> list[Choice]:
    """Best mean place in the rankings by uncertainty, by committee and by diversity first.

    Places and not scores, since bits, milliliters and distances have no common unit; candidates that a criterion cannot
    tell apart share their mean place there. A criterion that knows nothing of any candidate does not count.
    """
    used: dict[str, Callable] = {"uncertainty": by_uncertainty}
    if any(c.disagreement_ml is not None for c in candidates):
        used["disagreement"] = by_committee
    if any(len(c.descriptor) for c in candidates):
        used["coverage"] = by_diversity
    places = {name: _places(order(candidates, labelled, seed)) for name, order in used.items()}
    n = len(candidates)
    mean = {c.id: sum(p[c.id] for p in places.values()) / len(places) for c in candidates}
    out = []
    for c in sorted(candidates, key=lambda c: mean[c.id]):
        parts = ", ".join(f"{places[name][c.id]:g} by {name}" for name in places)
        values = [f"uncertainty {c.uncertainty:.2f}"]
        values += [_disagreement(c)] if c.disagreement_ml is not None else []
        out.append(Choice(c.id, (n - mean[c.id]) / n, f"place {parts} (of {n}); {', '.join(values)}"))
    return out


def at_random(candidates: Sequence[Candidate], labelled: Sequence[Tensor], seed: int) -> list[Choice]:
    """In an order drawn from the seed."""
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed)).tolist()
    return _in_order([candidates[i] for i in order], f"drawn at random (seed {seed})")


def by_name(candidates: Sequence[Candidate], labelled: Sequence[Tensor], seed: int) -> list[Choice]:
    """In the order of names."""
    return _in_order(candidates, "first by name")


STRATEGIES: dict[str, Callable[[Sequence[Candidate], Sequence[Tensor], int], list[Choice]]] = {
    "uncertainty": by_uncertainty,
    "committee": by_committee,
    "diversity": by_diversity,
    "mix": by_mix,
    "random": at_random,
    "first": by_name,
}


@torch.inference_mode()
def descriptor(
    model: Segmenter,
    scan: EncodedScan | Tensor,
    prompts: Sequence[Prompt],
    probabilities: Tensor | None = None,
) -> Tensor:
    """What a scan shows where the prompts point: P unit vectors (P, C).

    The method's own features (`Segmenter.place_features`) of the window around the mean position of a prompt's probability,
    averaged with the probability as weight: two scans are near each other when what the prompt means looks alike in them.

    Args:
        scan: encoded, or prepared (2, x, y, z). probabilities: (P, x, y, z) on the prepared grid, before any decision of
        presence (`VolumeResult.extras["ungated"]`); computed if left out.
    """
    prepared, features = (scan, None) if isinstance(scan, Tensor) else (scan.prepared, scan.features)
    image = torch.as_tensor(prepared).as_subclass(Tensor)
    if probabilities is None:
        probabilities = segment_volume(model, image, prompts, features=features).extras["ungated"]
    maps = pad(probabilities.float().clamp_min(0), model.patch)
    padded = pad(image, model.patch)
    device = next(model.parameters()).device
    rows = []
    for weight in maps:
        weight = weight if float(weight.sum()) > 0 else (padded.amax(0) > 0).float()
        part = _window(weight, model.patch)
        seen = model.place_features(padded[(slice(None), *part)][None].to(device))[0].float().cpu()
        pooled = F.adaptive_avg_pool3d(weight[part][None, None], seen.shape[1:])[0]
        rows.append((seen * pooled).flatten(1).sum(1) / pooled.sum().clamp_min(1e-8))
    return F.normalize(torch.stack(rows), dim=1)


def _window(weight: Tensor, patch: int) -> tuple[slice, slice, slice]:
    """The window of `patch` voxels an edge around the mean position of weights (x, y, z), inside the volume."""
    out = []
    for axis, n in enumerate(weight.shape):
        line = weight.sum([a for a in range(3) if a != axis])
        center = float((line * torch.arange(n)).sum() / line.sum().clamp_min(1e-8))
        start = min(max(0, round(center) - patch // 2), n - patch)
        out.append(slice(start, start + patch))
    return tuple(out)


def _row(values: Sequence[float] | Tensor) -> Tensor:
    """A descriptor as a unit vector (C,)."""
    return F.normalize(torch.as_tensor(values, dtype=torch.float32), dim=0)


def _stack(rows: Sequence[Tensor], width: int | None = None) -> Tensor:
    width = rows[0].shape[0] if width is None else width
    if any(row.shape != (width,) for row in rows):
        raise ValueError("descriptors differ in length: score all scans with one method and its weights")
    return torch.stack(list(rows))


def _in_order(candidates: Sequence[Candidate], reason: str) -> list[Choice]:
    n = len(candidates)
    return [Choice(c.id, (n - k) / n, reason) for k, c in enumerate(candidates)]


def _places(choices: Sequence[Choice]) -> dict[str, float]:
    """Id -> place, 1 the first; equal scores share their mean place."""
    places: dict[float, list[int]] = {}
    for k, choice in enumerate(choices, 1):
        places.setdefault(choice.score, []).append(k)
    return {c.id: sum(places[c.score]) / len(places[c.score]) for c in choices}


def _place(k: int, order: Sequence[Candidate]) -> str:
    return f"the highest of {len(order)}" if k == 0 else f"number {k + 1} of {len(order)}"


def _disagreement(candidate: Candidate) -> str:
    if candidate.disagreement_ml is None:
        return "only one method has answered"
    return f"the methods disagree on {candidate.disagreement_ml:.1f} ml"
