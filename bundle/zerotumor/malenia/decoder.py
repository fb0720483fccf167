"""Mask tokens and the three decoder blocks (Malenia 3.3, figure 2): one scale a block, coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attention import MaskedDecoderLayer, flatten, masks_of
from ..backbone import coordinates

SCALES = ("f1", "f2", "f3")


@dataclass
class Decoded:
    """What the decoder knows of N tokens; lists run over the three scales, coarse to fine."""

    tokens: list[Tensor]  # (B, N, C)
    masks: list[Tensor]  # logits (B, N, x, y, z) at stride 8, 4, 2
    prior: list[Tensor]  # logits (B, 1, x, y, z): is there any lesion here, whichever token draws it


class TokenDecoder(nn.Module):
    """N learnable tokens refined by masked cross-attention to f1, f2 and f3.

    Args:
        feature_channels: width of each map of the backbone. dim: C. tokens: N. heads: attention heads.
    """

    def __init__(self, feature_channels: dict[str, int], dim: int = 64, tokens: int = 8, heads: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, dim) * 0.5)
        self.project = nn.ModuleList(nn.Conv3d(feature_channels[s] + 6, dim, kernel_size=1) for s in SCALES)
        self.prior = nn.ModuleList(nn.Conv3d(feature_channels[s], 1, kernel_size=1) for s in SCALES)
        self.blocks = nn.ModuleList(MaskedDecoderLayer(dim, heads) for _ in SCALES)
        self.mask_embed = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, features: dict[str, Tensor]) -> Decoded:
        """Maps of the backbone -> tokens, masks and prior at three scales.

        Block l attends where block l-1's mask (the lesion prior, for the first block) is above one half. The masks are
        detached: attention is guided by them and does not train them.
        """
        tokens = self.queries.expand(len(features["f1"]), -1, -1)
        out = Decoded([], [], [])
        guide = None
        for scale, project, prior, block in zip(SCALES, self.project, self.prior, self.blocks, strict=True):
            source = features[scale]
            memory = project(torch.cat([source, coordinates(source)], 1))
            out.prior.append(prior(source))
            if guide is None:
                guide = out.prior[0].expand(-1, tokens.shape[1], -1, -1, -1)
            guide = nn.functional.interpolate(guide.detach(), memory.shape[2:], mode="trilinear")
            tokens = block(tokens, flatten(memory), blocked=guide.flatten(2) < 0)
            guide = masks_of(self.mask_embed(tokens), memory)
            out.tokens.append(tokens)
            out.masks.append(guide)
        return out
