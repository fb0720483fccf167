"""Advanced queries (ZePT 2.2.5): tumor queries look where the anomaly map lets them, then reason with the organ queries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..attention import MaskedDecoderLayer, flatten


class JointReasoning(nn.Module):
    """Self-attention and feed-forward over all queries together, each post-normed.

    Args:
        dim: width. heads: of attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_ = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, queries: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        queries = self.norms[0](queries + self.self_(queries, queries, queries, need_weights=False)[0])
        return self.norms[1](queries + self.feed_forward(queries))


class QueryRefine(nn.Module):
    """K tumor queries through four levels of masked attention, and the joint reasoning.

    Args:
        count: K. widths: d_i of the encoder's maps, coarse to fine. dim: C; the paper's is d_0. heads: of attention.
    """

    def __init__(self, count: int, widths: Sequence[int], dim: int, heads: int = 8) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, dim))
        self.memory = nn.ModuleList(nn.Sequential(nn.Linear(w, dim), nn.GELU()) for w in widths)
        self.layers = nn.ModuleList(MaskedDecoderLayer(dim, heads) for _ in widths)
        # The paper's queries are as wide as the coarsest map. Narrower ones need the organ queries brought to their width.
        self.organs_in = nn.Identity() if widths[0] == dim else nn.Linear(widths[0], dim)
        self.joint = JointReasoning(dim, heads)

    def forward(self, organs: Tensor, encoder: Sequence[Tensor], closed: Sequence[Tensor]) -> Tensor:
        """Organ queries of the coarsest level (B, N, d_0), maps and `anomaly.blocked` of each level -> Z (B, N + K, C)."""
        queries = self.queries.expand(len(organs), -1, -1)
        for project, layer, features, shut in zip(self.memory, self.layers, encoder, closed, strict=True):
            mask = shut[:, None].expand(-1, queries.shape[1], -1)  # the same for all tumor queries
            queries = layer(queries, project(flatten(features)), mask)
        return self.joint(torch.cat([self.organs_in(organs), queries], 1))
