"""Contrastive losses between queries or tokens and texts, with several positives a row; one place for all methods."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def clamped_temperature(log_temperature: Tensor, low: float = 0.01, high: float = 0.5) -> Tensor:
    """A learned temperature kept in CLIP's range: outside of it, cosine similarities say nothing or everything."""
    return log_temperature.exp().clamp(low, high)


def mp_nce(similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Multi-positive NCE (Malenia, equation 6): every positive competes against the negatives alone.

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
    terms = -F.softplus(against - similarity)
    return -((terms * positives).sum(1) / positives.sum(1)).mean()


def multi_positive_cross_entropy(similarity: Tensor, targets: Tensor, normalize: bool = True) -> Tensor:
    """Cross-entropy against several right answers (ZePT, query-knowledge alignment): positives share one softmax.

    Args:
        similarity: (..., M, V) logits. targets: (M, V), 1 where a column is a right answer of the row.
        normalize: divide each row by its number of positives, so that rows with many do not outweigh the others; the
            paper leaves them as they are.
    """
    if normalize:
        targets = targets / targets.sum(-1, keepdim=True).clamp_min(1)
    return -(targets * similarity.log_softmax(-1)).sum(-1).mean()
