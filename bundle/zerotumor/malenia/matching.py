"""Hungarian matching of mask tokens to lesion instances (Malenia 3.3.2, after Mask2Former)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def sample_points(voxels: int, points: int, device: torch.device) -> Tensor | None:
    """Indices of `points` random voxels, or None (all of them) when there are no more than that."""
    return None if voxels <= points else torch.randint(voxels, (points,), device=device)


def mask_cost(logits: Tensor, targets: Tensor, bce: float = 5.0, dice: float = 5.0) -> Tensor:
    """Pairwise cost of N masks against K lesions.

    Args:
        logits: (N, S) mask logits on S voxels. targets: (K, S) lesion coverage in 0..1.

    Returns:
        (N, K): bce * mean binary cross-entropy + dice * (1 - soft Dice).
    """
    voxels = logits.shape[1]
    entropy = F.softplus(logits).sum(1, keepdim=True) - logits @ targets.T
    probability = logits.sigmoid()
    overlap = 2 * probability @ targets.T
    total = probability.sum(1, keepdim=True) + targets.sum(1)
    return bce * entropy / voxels + dice * (1 - (overlap + 1) / (total + 1))


@torch.no_grad()
def match(
    logits: Tensor, objectness: Tensor, targets: Tensor, attribute_cost: Tensor | None = None, points: int = 12_544
) -> tuple[Tensor, Tensor]:
    """Best one-to-one assignment for one sample.

    Args:
        logits: (N, X, Y, Z) token masks. objectness: (N,) logits. targets: (K, X, Y, Z) coverage of each lesion.
        attribute_cost: (N, K) extra cost, such as 1 - cosine similarity to the lesion's attributes.
        points: random voxels that the cost is computed on, as in Mask2Former.

    Returns:
        token indices (K',) and lesion indices (K',), K' = min(N, K).
    """
    logits, targets = logits.flatten(1), targets.flatten(1)
    chosen = sample_points(logits.shape[1], points, logits.device)
    if chosen is not None:
        # Small lesions would rarely be hit by uniform points: half of the points come from inside lesions.
        inside = targets.amax(0).nonzero()[:, 0]
        if len(inside):
            extra = inside[torch.randint(len(inside), (points // 2,), device=inside.device)]
            chosen = torch.cat([chosen[: points - len(extra)], extra])
        logits, targets = logits[:, chosen], targets[:, chosen]
    cost = mask_cost(logits.float(), targets.float()) - objectness.sigmoid()[:, None]
    if attribute_cost is not None:
        cost = cost + attribute_cost
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, device=logits.device), torch.as_tensor(columns, device=logits.device)
