"""Fundamental queries and object-aware feature grouping (ZePT 2.2.2, after GroupViT).

Organ queries walk through four blocks, coarse to fine. In each, every voxel is given to exactly one query, and a query
becomes the mean of what it was given: that is how the encoder's features are made to hold together organ by organ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import flatten


def assign(logits: Tensor, training: bool) -> Tensor:
    """Each voxel to one query: logits (B, N, S) -> one-hot over N.

    In training a hard Gumbel-softmax (temperature 1) whose gradient is the soft one's; else the argmax.
    """
    if training:
        return F.gumbel_softmax(logits.float(), tau=1.0, hard=True, dim=1).to(logits)
    return F.one_hot(logits.argmax(1), logits.shape[1]).transpose(1, 2).to(logits)


def row_normalize(assignment: Tensor, epsilon: float = 1.0) -> Tensor:
    """Divide each query's row by its voxels + epsilon: rows sum to less than 1, and a query without voxels stays 0."""
    return assignment / (assignment.sum(-1, keepdim=True) + epsilon)


def feed_forward(dim: int, expansion: int = 4) -> nn.Sequential:
    """Linear, GELU, Linear."""
    return nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))


class GroupingBlock(nn.Module):
    """One level: queries look at the map, then gather the voxels that are theirs.

    Args:
        in_dim: width of the queries that come in. dim: d, width of the map and of the queries that go out.
        heads: of attention.
    """

    def __init__(self, in_dim: int, dim: int, heads: int = 8) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(in_dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.token_norm = nn.LayerNorm(dim)
        self.cross = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.look = nn.Sequential(nn.LayerNorm(dim), feed_forward(dim))
        self.norm = nn.LayerNorm(dim)
        self.to_query, self.to_key, self.to_value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.gather = nn.Sequential(nn.LayerNorm(dim), feed_forward(dim))

    def affinity(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """How much each voxel is each query's: (B, N, d), (B, S, d) -> logits over N, (B, N, S)."""
        return self.to_query(queries) @ self.to_key(tokens).transpose(1, 2) / queries.shape[-1] ** 0.5

    def forward(self, queries: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, N, in_dim) and a map (B, d, x, y, z) -> queries (B, N, d), `affinity` (B, N, x, y, z)."""
        q, x = self.enter(queries), self.token_norm(flatten(features))
        q = q + self.cross(q, x, x, need_weights=False)[0]
        q = self.norm(q + self.look(q))
        affinity = self.affinity(q, x)
        shares = row_normalize(assign(affinity, self.training))
        q = q + self.out(shares @ self.to_value(x))
        return q + self.gather(q), affinity.unflatten(2, features.shape[2:])


class FundamentalQueries(nn.Module):
    """One learned query an organ (and one for the background, if there is any), grouped through all levels.

    Args:
        count: N. widths: d_i of the levels, coarse to fine. heads: of attention.
    """

    def __init__(self, count: int, widths: Sequence[int], heads: int = 8) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, widths[0]))
        before = (widths[0], *widths[:-1])
        self.blocks = nn.ModuleList(GroupingBlock(a, b, heads) for a, b in zip(before, widths, strict=True))

    def forward(self, encoder: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of the encoder, coarse to fine -> Q^f_i (B, N, d_i) of every level, and each level's `affinity`."""
        queries, out, affinities = self.queries.expand(len(encoder[0]), -1, -1), [], []
        for block, features in zip(self.blocks, encoder, strict=True):
            queries, affinity = block(queries, features)
            out.append(queries)
            affinities.append(affinity)
        return out, affinities
