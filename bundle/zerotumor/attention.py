"""The decoder layer of query-based segmentation: masked cross-attention, self-attention, feed-forward, each post-normed.

The order is that of Mask2Former (cross before self), which the methods built on tokens or queries share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class MaskedDecoderLayer(nn.Module):
    """One layer over N queries of width C and a memory of S voxels.

    Args:
        dim: C, the width of queries and memory.
        heads: attention heads; must divide `dim`.
        expansion: width of the feed-forward layer in units of `dim`.
    """

    def __init__(self, dim: int, heads: int = 4, expansion: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.cross = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.self_ = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(dim, expansion * dim), nn.ReLU(), nn.Linear(expansion * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(self, queries: Tensor, memory: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Update queries (B, N, C) from memory (B, S, C).

        `blocked` (B, N, S) is True where a query must not look. A query with everything blocked looks everywhere:
        softmax over nothing would be NaN.
        """
        mask = None
        if blocked is not None:
            blocked = blocked & ~blocked.all(-1, keepdim=True)
            mask = blocked.repeat_interleave(self.heads, dim=0)
        queries = self.norms[0](queries + self.cross(queries, memory, memory, attn_mask=mask, need_weights=False)[0])
        queries = self.norms[1](queries + self.self_(queries, queries, queries, need_weights=False)[0])
        return self.norms[2](queries + self.feed_forward(queries))


def flatten(volume: Tensor) -> Tensor:
    """(B, C, X, Y, Z) -> (B, X*Y*Z, C), the layout of attention."""
    return volume.flatten(2).transpose(1, 2)


def masks_of(queries: Tensor, features: Tensor) -> Tensor:
    """Dot product of queries (B, N, C) with features (B, C, X, Y, Z) -> mask logits (B, N, X, Y, Z).

    Queries of width C + 1 bring an offset as their last number, which is added everywhere.
    """
    if queries.shape[-1] == features.shape[1]:
        return torch.einsum("bnc,bcxyz->bnxyz", queries, features)
    masks = torch.baddbmm(queries[..., -1:], queries[..., :-1], features.flatten(2))
    return masks.unflatten(2, features.shape[2:])


@dataclass
class LazyMasks:
    """Mask logits (B, N, X, Y, Z) of `masks_of` that are computed where they are asked for.

    Of thirty classes a patch holds a few; the others need no full-resolution mask to be told that they are not there.
    """

    queries: Tensor  # (B, N, C) or (B, N, C + 1)
    features: Tensor  # (B, C, X, Y, Z)

    @property
    def shape(self) -> torch.Size:
        """Of the whole."""
        return torch.Size((*self.queries.shape[:2], *self.features.shape[2:]))

    def rows(self, chosen: Tensor) -> Tensor:
        """Whole masks of some: (B, N) booleans -> (R, X, Y, Z), in the order of `chosen.nonzero()`."""
        triples = zip(self.queries, self.features, chosen, strict=True)
        return torch.cat([masks_of(q[None, c], f[None])[0] for q, f, c in triples])

    def every(self, step: int) -> Tensor:
        """All masks on every so many voxels along each axis."""
        return masks_of(self.queries, self.features[:, :, ::step, ::step, ::step])
