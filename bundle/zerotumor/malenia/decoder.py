"""Mask tokens and the three decoder blocks (Malenia 3.3, figure 2): one scale a block, coarse to fine.

An addition of ours: a token starts from a peak of the lesion prior (what the maps hold there, and where it is) besides its
learned vector. Tokens that start alike take tens of thousands of steps to share the lesions out among themselves; tokens
that start in different places have done so from the beginning.
"""

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
    prior: list[Tensor]  # logits (B, 1, x, y, z) at stride 8, 4, 2, 1: any lesion here, whichever token draws it


def peaks(prior: Tensor, count: int, window: int = 5) -> Tensor:
    """Flat voxel indices (B, count) of the highest local maxima of a map (B, 1, x, y, z), highest first.

    With fewer maxima than `count`, the highest other voxels fill up.
    """
    top = nn.functional.max_pool3d(prior, window, stride=1, padding=window // 2)
    ranked = prior - 100.0 * (prior < top)
    return ranked.flatten(1).topk(count, dim=1).indices


def at(volume: Tensor, indices: Tensor) -> Tensor:
    """Values of a map (B, C, x, y, z) at flat voxel indices (B, N) -> (B, N, C)."""
    flat = volume.flatten(2)
    return flat.gather(2, indices[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


class TokenDecoder(nn.Module):
    """N learnable tokens refined by masked cross-attention to f1, f2 and f3.

    Args:
        feature_channels: width of each map of the backbone. dim: C. tokens: N. heads: attention heads.
    """

    def __init__(self, feature_channels: dict[str, int], dim: int = 64, tokens: int = 8, heads: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, dim) * 0.5)
        self.project = nn.ModuleList(nn.Conv3d(feature_channels[s] + 7, dim, kernel_size=1) for s in SCALES)
        self.start = nn.Sequential(nn.Linear(sum(feature_channels[s] for s in SCALES) + 7, dim), nn.LayerNorm(dim))
        self.prior = nn.ModuleList(nn.Conv3d(feature_channels[s], 1, kernel_size=1) for s in (*SCALES, "f4"))
        self.blocks = nn.ModuleList(MaskedDecoderLayer(dim, heads) for _ in SCALES)
        self.mask_embed = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, features: dict[str, Tensor]) -> Decoded:
        """Maps of the backbone -> tokens, masks and prior at three scales.

        Block l attends where block l-1's mask (the lesion prior, for the first block) is above one half. The masks are
        detached: attention is guided by them and does not train them.
        """
        out = Decoded([], [], self.priors(features))
        tokens = self.queries + self._starts(features, out.prior[2].detach())
        guide = out.prior[0].expand(-1, tokens.shape[1], -1, -1, -1)
        for scale, project, prior, block in zip(SCALES, self.project, out.prior[:3], self.blocks, strict=True):
            source = features[scale]
            memory = project(torch.cat([source, coordinates(source), prior.detach()], 1))
            guide = nn.functional.interpolate(guide.detach(), memory.shape[2:], mode="trilinear")
            tokens = block(tokens, flatten(memory), blocked=guide.flatten(2) < 0)
            guide = masks_of(self.mask_embed(tokens), memory)
            out.tokens.append(tokens)
            out.masks.append(guide)
        return out

    def priors(self, features: dict[str, Tensor]) -> list[Tensor]:
        """The lesion prior on each map, coarse to fine."""
        return [head(features[s]) for s, head in zip((*SCALES, "f4"), self.prior, strict=True)]

    def _starts(self, features: dict[str, Tensor], prior: Tensor) -> Tensor:
        """What the maps hold at the prior's peaks -> (B, N, C)."""
        size = prior.shape[2:]
        where = peaks(prior, len(self.queries))
        coarse = [nn.functional.interpolate(features[s], size) for s in SCALES[:-1]]
        maps = torch.cat([*coarse, features[SCALES[-1]], coordinates(prior), prior], 1)
        return self.start(at(maps, where))
