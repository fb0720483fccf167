"""Mask-attribute alignment: the multi-positive contrastive loss MP-NCE (Malenia 3.4, equation 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from .attributes import NAMES, SLICES, VALUES


def positives_and_negatives(values: Tensor) -> tuple[Tensor, Tensor]:
    """Which bank texts describe which lesion.

    Args:
        values: (M, 8) bank index of each lesion's attribute values, -1 where an attribute was not recorded.

    Returns:
        positives, negatives: (M, V) booleans. A lesion's own values are positives. The other values of the same
        attributes are negatives, the bank serving as memory bank; a text equal to one of the lesion's own is never a
        negative, whichever lesion it came from. Locations are negatives only if some lesion of the batch lies there:
        pushing every token away from organs whose lesions were never seen would unlearn them.
    """
    positives = torch.zeros(len(values), len(VALUES), dtype=torch.bool, device=values.device)
    known = values >= 0
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(values)
    positives[rows[known], values[known]] = True
    negatives = torch.zeros_like(positives)
    for column, name in enumerate(NAMES):
        negatives[:, SLICES[name]] = known[:, column, None]
    location = SLICES["location"]
    negatives[:, location] &= positives[:, location].any(0)
    return positives, negatives & ~positives


def mp_nce(similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Multi-positive NCE: every positive competes against the negatives alone, never against another positive.

    Args:
        similarity: (M, V) cosine similarity divided by the temperature.
        positives, negatives: (M, V) booleans.

    Returns:
        scalar: mean over rows that have a positive; 0 if there is none.
    """
    rows = positives.any(1)
    if not rows.any():
        return similarity.sum() * 0
    similarity, positives, negatives = similarity[rows], positives[rows], negatives[rows]
    against = similarity.masked_fill(~negatives, float("-inf")).logsumexp(1, keepdim=True)
    # log e^s / (e^s + sum of negatives) = -softplus(logsumexp(negatives) - s)
    terms = -torch.nn.functional.softplus(against - similarity)
    return -((terms * positives).sum(1) / positives.sum(1)).mean()


def alignment_loss(similarity: Tensor, values: Tensor) -> Tensor:
    """Both directions of MP-NCE, mask to text and text to mask, for M lesions with attribute `values` (M, 8)."""
    positives, negatives = positives_and_negatives(values)
    return (mp_nce(similarity, positives, negatives) + mp_nce(similarity.T, positives.T, negatives.T)) / 2
