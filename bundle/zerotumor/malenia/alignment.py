"""Mask-attribute alignment by `contrast.mp_nce` (Malenia 3.4, equation 6): which texts describe which lesion."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contrast import mp_nce
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


def alignment_loss(similarity: Tensor, values: Tensor) -> Tensor:
    """Both directions of MP-NCE, mask to text and text to mask, for M lesions with attribute `values` (M, 8)."""
    positives, negatives = positives_and_negatives(values)
    return (mp_nce(similarity, positives, negatives) + mp_nce(similarity.T, positives.T, negatives.T)) / 2
