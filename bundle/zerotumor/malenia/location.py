"""Where things are, by text: voxel features aligned to the location texts of the attribute bank.

An addition of ours. In the paper a token learns its location attribute from lesions alone, so organs whose lesions
were never seen have no location at all. Healthy organs of every kind can be had with labels, and aligning their voxels
with the same texts ("Location: pancreas.") gives unseen hosts a place that a prompt can ask for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Locator(nn.Module):
    """Per-voxel probability of each location text.

    Args:
        channels: width of the feature map (stride 2). dim: C, width of the projected texts.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv3d(channels, dim, 1), nn.ReLU(), nn.Conv3d(dim, dim, 1))
        self.elsewhere = nn.Parameter(torch.randn(1, dim) * 0.1)
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, features: Tensor, locations: Tensor) -> Tensor:
        """features (B, channels, X, Y, Z), projected texts (L, C) -> logits (B, 1 + L, X, Y, Z), 0 = none of them."""
        texts = F.normalize(torch.cat([self.elsewhere, locations]), dim=1)
        embedded = F.normalize(self.embed(features), dim=1)
        # A clamped, learned temperature: CLIP's, so that cosine similarities can become confident.
        return F.conv3d(embedded, texts[:, :, None, None, None]) * self.scale.clamp(0, 4).exp()


def region_average(probabilities: Tensor, masks: Tensor, ring: int = 2) -> tuple[Tensor, Tensor]:
    """Mean location probabilities inside masks and in a shell around them.

    A lesion may hide what its host looks like; the tissue around it does not.

    Args:
        probabilities: (B, L, X, Y, Z). masks: (B, N, X, Y, Z) in 0..1. ring: thickness of the shell in voxels.

    Returns:
        inside, around: (B, N, L) each.
    """
    shell = (F.max_pool3d(masks, 2 * ring + 1, stride=1, padding=ring) - masks).clamp_min(0)

    def average(weights: Tensor) -> Tensor:
        total = weights.flatten(2).sum(-1, keepdim=True).clamp_min(1e-6)
        return torch.einsum("bnxyz,blxyz->bnl", weights, probabilities) / total

    return average(masks), average(shell)
