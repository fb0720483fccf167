"""Cross-Modal Knowledge Injection (Malenia 3.5): tokens and their retrieved texts fuse, then each draws a mask."""

from __future__ import annotations

from torch import Tensor, nn

from ..precision import logit_of


class FusionLayer(nn.Module):
    """One deep-fusion layer: both streams cross-attend to each other, then self-attend, with weights of their own."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()

        def attention() -> nn.MultiheadAttention:
            return nn.MultiheadAttention(dim, heads, batch_first=True)

        self.cross = nn.ModuleList([attention(), attention()])
        self.self_ = nn.ModuleList([attention(), attention()])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))

    def _stream(self, k: int, own: Tensor, other: Tensor) -> Tensor:
        own = self.norms[2 * k](own + self.cross[k](own, other, other, need_weights=False)[0])
        return self.norms[2 * k + 1](own + self.self_[k](own, own, own, need_weights=False)[0])

    def forward(self, tokens: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """tokens, texts: (B, N, C) each -> the same shapes."""
        return self._stream(0, tokens, texts), self._stream(1, texts, tokens)


class KnowledgeInjection(nn.Module):
    """CMKI: N tokens and the eight texts of each -> two query sets for the full-resolution map.

    Args:
        dim: C. mask_channels: width of the map the masks are read from. depth: fusion layers (3 in the paper).
    """

    def __init__(self, dim: int, mask_channels: int, attributes: int = 8, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.token_in = nn.Linear(dim, dim)
        self.text_in = nn.Linear(attributes * dim, dim)
        self.layers = nn.ModuleList(FusionLayer(dim, heads) for _ in range(depth))
        # The paper projects the map to C channels (K = Linear(F4)); (Q W) . F4 = Q . (W F4) is the same number
        # without a C-channel map at full resolution.
        self.mask_query = nn.Linear(dim, mask_channels)
        self.text_query = nn.Linear(dim, mask_channels)

    def fuse(self, tokens: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, N, C), texts (B, N, 8, C) -> fused tokens and texts, each (B, N, C)."""
        m, t = self.token_in(tokens), self.text_in(texts.flatten(2))
        for layer in self.layers:
            m, t = layer(m, t)
        return m, t

    def forward(self, tokens: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """-> Q_m, Q_t, each (B, N, mask_channels)."""
        m, t = self.fuse(tokens, texts)
        return self.mask_query(m), self.text_query(t)


def ensemble(mask_logits: Tensor, text_logits: Tensor) -> Tensor:
    """Mean of the two branches' probabilities, as a logit (any equal shapes)."""
    return logit_of((mask_logits.sigmoid() + text_logits.sigmoid()) / 2)
