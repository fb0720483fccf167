"""The anomaly score map (ZePT 2.2.4): what no organ query claims; a visual prompt for tumor queries, and a logit.

Ours, each behind an option of the model: the range of the map may be that of the whole scan and not of the window, and
what is added to a tumor's logit may be limited to the organs that host the tumor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import masks_of
from ..precision import logit_of

NOT_HERE = -4.0
"""The most anomaly, as a logit, that a tumor is given far from its host organs: a probability of 0.02."""


def anomaly_map(queries: Tensor, features: Tensor) -> Tensor:
    """S = - max_n <Q_n, F(x)>: queries (B, N, d), a map (B, d, x, y, z) -> (B, 1, x, y, z)."""
    response = masks_of(queries, features)
    # For a gradient `max` is the faster (it goes to one query a voxel), without one `amax`.
    best = response.max(1, keepdim=True).values if response.requires_grad else response.amax(1, keepdim=True)
    return -best


def value_range(volume: Tensor) -> Tensor:
    """Minimum and maximum of each sample of (B, 1, x, y, z) -> (B, 2)."""
    flat = volume.flatten(1)
    return torch.stack([flat.amin(1), flat.amax(1)], 1)


def normalize(volume: Tensor, limits: Tensor) -> Tensor:
    """A map (B, 1, x, y, z) scaled from its limits (B, 2) to 0..1; 0 where both limits are the same."""
    low, high = (limits[:, k, None, None, None, None] for k in (0, 1))
    return ((volume - low) / (high - low + 1e-6)).clamp(0, 1)


def blocked(volume: Tensor, limits: Tensor, threshold: float = 0.5) -> Tensor:
    """The self-generated visual prompt: (B, x*y*z), True where tumor queries must not look.

    That is where the normalized map is below the threshold; at least the highest voxel stays open, whatever the map and its
    limits. No gradient flows through it.
    """
    flat = volume.detach().flatten(1)
    closed = normalize(volume.detach(), limits).flatten(1) < threshold
    nothing = closed.all(1, keepdim=True) & (flat == flat.amax(1, keepdim=True))
    return closed & ~nothing


def host_gate(probabilities: Tensor, hosts: Tensor, reach: int = 2) -> Tensor:
    """How far each voxel lies in or near a host organ: 0..1.

    Args:
        probabilities: (B, N, X, Y, Z) of the organs. hosts: (K, N) booleans; a row without a host is open everywhere.
        reach: how far lesions may stick out of the organ, in steps of two voxels.

    Returns:
        (B, K, X, Y, Z), without gradient: where an organ is must not be learned from its tumors.
    """
    size = probabilities.shape[2:]
    gate = probabilities.new_ones(len(probabilities), len(hosts), *size)
    if not hosts.any():
        return gate
    # At half the resolution: max-pooling is the slow part, and the border need not be exact.
    coarse = F.max_pool3d(probabilities.detach(), 2, ceil_mode=True)
    for _ in range(reach):
        coarse = F.max_pool3d(coarse, 3, stride=1, padding=1)
    for k, row in enumerate(hosts):
        if row.any():
            near = F.interpolate(coarse[:, row].amax(1, keepdim=True), size, mode="trilinear")
            gate[:, k] = near[:, 0]
    return gate


def limit(anomaly: Tensor, gate: Tensor) -> Tensor:
    """The anomaly as each tumor sees it: no higher than the logit of a host's being near, which is at least `NOT_HERE`.

    Args:
        anomaly: (B, 1, X, Y, Z). gate: (B, K, X, Y, Z) in 0..1, of `host_gate`.
    """
    return torch.minimum(anomaly, logit_of(gate).clamp_min(NOT_HERE))
