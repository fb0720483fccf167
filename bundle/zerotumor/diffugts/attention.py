"""Anomaly-aware open-vocabulary attention (DiffuGTS 1.4): small adapters on frozen features, and text against every voxel.

B samples, P prompts, N = 2 texts a prompt (0 normal, 1 abnormal), L levels with C_l channels on grids (x, y, z).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from ..precision import logit_of

NORMAL, ABNORMAL = 0, 1
PEAK_VOXELS = 8


class Adapter(nn.Module):
    """Residual feature adapter: alpha * MLP_l(F_l) + (1 - alpha) * F_l.

    Args:
        channels: C_l. alpha: share of what is learned. context: neighbors are seen too; without it (the paper's), an MLP
        on each voxel alone. coarser: C of the next coarser level's answer, which then is seen too.
    """

    def __init__(self, channels: int, alpha: float = 0.1, context: bool = False, coarser: int = 0) -> None:
        super().__init__()
        self.alpha, self.coarser = alpha, coarser
        between: list[nn.Module] = [nn.ReLU()]
        if context:
            # Without norms the learned share is small at first, and so are its gradients.
            norm = ("group", {"num_groups": gcd(channels, 8), "num_channels": channels})
            for reach in (1, 2):
                between.append(
                    Convolution(3, channels, channels, dilation=reach, norm=norm, act="relu", adn_ordering="NA")
                )
        self.norm = nn.LayerNorm(channels) if context else nn.Identity()
        self.first = nn.Conv3d(channels + coarser, channels, 1)
        self.rest = nn.Sequential(*between, nn.Conv3d(channels, channels, 1))

    def forward(self, features: Tensor, coarser: Tensor | None = None) -> Tensor:
        """F_l (B, C_l, x, y, z) -> the same shape."""
        features = self.norm(features.movedim(1, -1)).movedim(-1, 1)
        seen = features
        if self.coarser:
            seen = torch.cat([seen, resize(coarser, features.shape[2:])], 1)
        return self.alpha * self.rest(self.first(seen)) + (1 - self.alpha) * features


class Adapters(nn.ModuleList):
    """One adapter a level; with context, each hands its answer on to the next finer one."""

    def __init__(self, channels: Sequence[int], alpha: float = 0.1, context: bool = False) -> None:
        coarser = [*channels[1:], 0] if context else [0] * len(channels)
        super().__init__(Adapter(c, alpha, context, d) for c, d in zip(channels, coarser, strict=True))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels, fine to coarse -> adapted levels in that order."""
        out: list[Tensor] = []
        for adapter, features in zip(reversed(self), reversed(levels), strict=True):
            out.insert(0, adapter(features, out[0] if out else None))
        return out


class TextReducer(nn.Sequential):
    """r_l(t) = LN(W2 GELU(W1 t)), D -> D / 2 -> C_l."""

    def __init__(self, text_dim: int, channels: int) -> None:
        middle = max(1, text_dim // 2)
        super().__init__(nn.Linear(text_dim, middle), nn.GELU(), nn.Linear(middle, channels), nn.LayerNorm(channels))


class CrossModalAttention(nn.Module):
    """Q_l = W_Q F_l at every voxel, K_l = W_K r_l(t_n) of every text.

    Args:
        channels: C_l. text_dim: D.
    """

    def __init__(self, channels: int, text_dim: int) -> None:
        super().__init__()
        self.query = nn.Conv3d(channels, channels, 1)
        self.reduce = TextReducer(text_dim, channels)
        self.key = nn.Linear(channels, channels)

    def scores(self, queries: Tensor, texts: Tensor) -> Tensor:
        """Q_l (B, C_l, x, y, z), t (B, P, N, D) -> Q_l[x] . K_l[n] / sqrt(C_l), (B, P, N, x, y, z)."""
        keys = self.key(self.reduce(texts))
        return torch.einsum("bcxyz,bpnc->bpnxyz", queries, keys) / queries.shape[1] ** 0.5

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """F_l (B, C_l, x, y, z), t (B, P, N, D) -> (B, P, N, x, y, z), before the softmax."""
        return self.scores(self.query(features), texts)


def attention(scores: Tensor) -> Tensor:
    """A_l: softmax over the N texts at each voxel, not over space. (B, P, N, x, y, z) -> the same shape."""
    return scores.softmax(2)


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, x, y, z) -> (B, C, X, Y, Z), linear."""
    return F.interpolate(maps, tuple(size), mode="trilinear", align_corners=False)


def anomaly_logit(levels: Sequence[Tensor], size: Sequence[int], aggregate: str = "logit") -> Tensor:
    """Anomaly-aware map of each prompt, as a logit: L score maps (B, P, N, x, y, z) -> (B, P, X, Y, Z).

    "logit": sum over l of (Q_l K_abnormal - Q_l K_normal) / sqrt(C_l), whose sigmoid is a two-way softmax. "mean": the
    paper's sum of A_l, divided by L to be a probability; no sigmoid is taken of what is one already.
    """
    if aggregate == "logit":
        return _sum_resized([s[:, :, ABNORMAL] - s[:, :, NORMAL] for s in levels], size)
    mean = _sum_resized([attention(s)[:, :, ABNORMAL] for s in levels], size) / len(levels)
    return logit_of(mean)


def _sum_resized(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Sum of maps (B, P, x, y, z) on one grid; those that share one are added before they are resized."""
    by_grid: dict[tuple[int, ...], Tensor] = {}
    for one in maps:
        grid = tuple(one.shape[2:])
        by_grid[grid] = by_grid[grid] + one if grid in by_grid else one
    return sum(resize(one, size) for one in by_grid.values())


class ClassEmbedding(nn.Module):
    """g_n = W (sum_x A_n[x] F[x] / sum_x A_n[x]): what the voxels that a text claims look like, in the space of texts.

    Args:
        channels: C of the coarsest level. text_dim: D.
    """

    def __init__(self, channels: int, text_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, text_dim)

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        """F (B, C, x, y, z), A (B, P, N, x, y, z) -> g (B, P, N, D)."""
        total = maps.flatten(3).sum(-1)[..., None].clamp_min(1e-6)
        return self.project(torch.einsum("bcxyz,bpnxyz->bpnc", features, maps) / total)


class AnomalyScore(nn.Module):
    """Logit of s: an MLP on the element-wise maximum over a prompt's class embeddings, (B, P, N, D) -> (B, P)."""

    def __init__(self, text_dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(text_dim, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, embedded: Tensor) -> Tensor:
        return self.mlp(embedded.amax(2))[..., 0]


def peak_logit(logits: Tensor) -> Tensor:
    """Mean logit of the highest voxels, (B, P, X, Y, Z) -> (B, P): one voxel alone says nothing."""
    flat = logits.flatten(2)
    return flat.topk(min(PEAK_VOXELS, flat.shape[2]), dim=2).values.mean(2)


class Attention(nn.Module):
    """All of it: adapters, attention of every level, class embedding, anomaly score.

    Args:
        channels: C_l of the levels, fine to coarse. text_dim: D. alpha, context: of the adapters, see `Adapter`.
        aggregate: see `anomaly_logit`. score: "pooled" or "peak".
    """

    def __init__(
        self,
        channels: Sequence[int],
        text_dim: int,
        alpha: float = 0.1,
        context: bool = True,
        aggregate: str = "logit",
        score: str = "pooled",
    ) -> None:
        super().__init__()
        self.aggregate, self.score_by = aggregate, score
        self.adapters = Adapters(channels, alpha, context)
        self.levels = nn.ModuleList(CrossModalAttention(c, text_dim) for c in channels)
        self.embed = ClassEmbedding(channels[-1], text_dim)
        self.score = AnomalyScore(text_dim)

    def queries(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """What does not depend on the prompt: query0, query1, ... of F_l fine to coarse, and the coarsest adapted map."""
        adapted = self.adapters(levels)
        named = {f"query{i}": self.levels[i].query(f) for i, f in enumerate(adapted)}
        return {**named, "coarsest": adapted[-1]}

    def forward(self, features: dict[str, Tensor], texts: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
        """What depends on it.

        Args:
            features: of `queries`. texts: (B, P, 2, D). size: (X, Y, Z) of the image.

        Returns:
            logits (B, P, X, Y, Z): sigmoid is the abnormal map; score (B, P): logit of "is there anything"; embedded
            (B, P, 2, D): g_n.
        """
        scores = [level.scores(features[f"query{i}"], texts) for i, level in enumerate(self.levels)]
        logits = anomaly_logit(scores, size, self.aggregate)
        embedded = self.embed(features["coarsest"], attention(scores[-1]))
        score = self.score(embedded) if self.score_by == "pooled" else peak_logit(logits)
        return {"logits": logits, "score": score, "embedded": embedded}
