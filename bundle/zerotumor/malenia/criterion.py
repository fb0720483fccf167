"""The training loss (Malenia 3.6): L = sum over scales (l1 L_dice + l2 L_sim) + l3 L_seg, and what tokens need besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..balance import rare_weights
from .alignment import alignment_loss
from .decoder import Decoded
from .injection import ensemble
from .matching import match

if TYPE_CHECKING:
    from .model import Malenia, Targets


PRIOR_SCALES = (0.125, 0.125, 0.25, 0.5)
"""Weights of the lesion prior's four maps, coarse to fine: the finest is what masks are cut by."""


def cover(masks: Tensor, shape: torch.Size) -> Tensor:
    """Share of each coarse voxel that lesions (K, X, Y, Z) cover -> (K, *shape)."""
    if not len(masks):
        return masks.new_zeros((0, *shape))
    return F.adaptive_avg_pool3d(masks[None], shape)[0]


def match_batch(model: Malenia, decoded: Decoded, objectness: Tensor, targets: Targets) -> list[tuple[Tensor, Tensor]]:
    """Match at the last block; one (tokens, lesions) pair of index tensors a sample, shared by all scales."""
    texts = F.normalize(model.bank().detach(), dim=1)
    aligned = F.normalize(model.align(decoded.tokens[-1]).detach(), dim=2)
    pairs = []
    for b, masks in enumerate(targets.masks):
        if not len(masks):
            none = torch.zeros(0, dtype=torch.long, device=objectness.device)
            pairs.append((none, none))
            continue
        similarity = (aligned[b] @ texts.T)[:, targets.values[b].clamp_min(0)]  # (N, K, 8)
        known = (targets.values[b] >= 0).float()
        agreement = (similarity * known).sum(-1) / known.sum(-1).clamp_min(1)
        logits = decoded.masks[-1][b]
        pairs.append(match(logits, objectness[b], cover(masks, logits.shape[1:]), 1 - agreement))
    return pairs


def dice_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft Dice loss + balanced binary cross-entropy of K masks (K, ...), averaged; 0 for K = 0.

    Half of the cross-entropy comes from lesion voxels and half from the rest. A plain mean lets background decide when a
    lesion fills a thousandth of the patch.
    """
    if not len(logits):
        return logits.sum() * 0
    logits, targets = logits.flatten(1), targets.flatten(1)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * targets).sum(1) + 1) / (p.sum(1) + targets.sum(1) + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    inside = (entropy * targets).sum(1) / targets.sum(1).clamp_min(1)
    outside = (entropy * (1 - targets)).sum(1) / (1 - targets).sum(1).clamp_min(1)
    return (dice + 0.25 * inside + 0.75 * outside).mean()


def any_lesion_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Any lesion at all: soft Dice of each patch with a lesion and of the whole batch, and plain cross-entropy.

    One patch's Dice keeps small lesions from drowning beside large ones. In the batch's, patches without a lesion
    count: whatever is found there is false. Classes are not balanced, so that one half is a threshold that decides.

    Args:
        logits, truth: (B, 1, x, y, z); truth is the share of each voxel that is lesion.
    """
    logits, truth = logits.flatten(1), truth.flatten(1)
    p = logits.sigmoid()
    both, either = (p * truth).sum(1), p.sum(1) + truth.sum(1)
    whole = 1 - (2 * both.sum() + 1) / (either.sum() + 1)
    sick = truth.sum(1) > 0
    each = (1 - (2 * both + 1) / (either + 1))[sick].mean() if sick.any() else whole
    return (whole + each) / 2 + 2 * F.binary_cross_entropy_with_logits(logits, truth)


class MaleniaLoss(nn.Module):
    """Weighted sum of the parts; `self.last` holds the parts of the last call, for logging.

    Args:
        mask, align, final: the paper's lambda 1 to 3. objectness: is a token a lesion. no_lesion: weight of unmatched
        tokens in it. prior, location: the lesion prior and the location map.
    """

    def __init__(
        self,
        mask: float = 1.0,
        align: float = 0.3,
        final: float = 2.0,
        objectness: float = 1.0,
        no_lesion: float = 0.3,
        prior: float = 1.5,
        location: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = dict(mask=mask, align=align, final=final, objectness=objectness, prior=prior, location=location)
        self.no_lesion = no_lesion
        self.last: dict[str, float] = {}

    def forward(self, outputs: dict[str, object], targets: Targets) -> Tensor:
        """`Malenia.training_outputs` (or `dense_outputs`, or `DenseMalenia`'s: fewer parts) and its targets -> scalar."""
        parts_shown = (None, None, None, outputs.get("part"))
        parts = {
            "prior": sum(
                w * self._prior(p, targets, part)
                for w, p, part in zip(PRIOR_SCALES, outputs["prior"], parts_shown, strict=True)
            ),
            "location": self._location(outputs["located"], targets.organs),
        }
        if "decoded" in outputs:
            decoded: Decoded = outputs["decoded"]
            pairs = outputs["pairs"]
            parts |= {
                "mask": sum(self._masks(m, pairs, targets) for m in decoded.masks) / 3,
                "align": self._alignment(outputs, targets),
                "final": self._final(outputs["drawn"], pairs, targets),
                "objectness": self._objectness(outputs["objectness"], pairs),
            }
        self.last = {name: float(torch.as_tensor(value).detach()) for name, value in parts.items()}
        return sum(self.weights[name] * value for name, value in parts.items())

    @staticmethod
    def _masks(logits: Tensor, pairs: list, targets: Targets) -> Tensor:
        chosen, truth = [], []
        for b, (tokens, lesions) in enumerate(pairs):
            chosen.append(logits[b, tokens])
            truth.append(cover(targets.masks[b], logits.shape[2:])[lesions])
        return dice_bce(torch.cat(chosen), torch.cat(truth))

    @staticmethod
    def _final(drawn: list, pairs: list, targets: Targets) -> Tensor:
        """The ensemble, and each branch by itself at half weight (3.5, item 6)."""
        truth = torch.cat([targets.masks[b][lesions] for b, (_, lesions) in enumerate(pairs)])
        mask, text = (torch.cat([d[k] for d in drawn]) for k in (0, 1))
        return (dice_bce(ensemble(mask, text), truth) + (dice_bce(mask, truth) + dice_bce(text, truth)) / 2) / 2

    @staticmethod
    def _alignment(outputs: dict[str, object], targets: Targets) -> Tensor:
        values = torch.cat([targets.values[b][lesions] for b, (_, lesions) in enumerate(outputs["pairs"])])
        texts = F.normalize(outputs["bank"], dim=1)
        total = 0.0
        for aligned in outputs["aligned"]:
            tokens = torch.cat([aligned[b, t] for b, (t, _) in enumerate(outputs["pairs"])])
            total = total + alignment_loss(F.normalize(tokens, dim=1) @ texts.T / outputs["temperature"], values)
        return total / 3

    def _objectness(self, logits: Tensor, pairs: list) -> Tensor:
        truth = torch.zeros_like(logits)
        for b, (tokens, _) in enumerate(pairs):
            truth[b, tokens] = 1
        weight = torch.where(truth > 0, 1.0, self.no_lesion)
        return F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum") / weight.sum()

    @staticmethod
    def _prior(logits: Tensor, targets: Targets, part: Sequence[slice] | None = None) -> Tensor:
        """Of one map of the lesion prior; `part` of the patches is what it shows, None: all of them."""
        cut, shape = (..., *(part or ())), logits.shape[2:]
        truth = [cover(m[cut], shape).amax(0) if len(m) else logits.new_zeros(shape) for m in targets.masks]
        return any_lesion_loss(logits, torch.stack(truth)[:, None])

    @staticmethod
    def _location(logits: Tensor, organs: Tensor) -> Tensor:
        """Cross-entropy of the location map (B, 1 + L, x, y, z) against organ labels (B, X, Y, Z), nearest sampled."""
        steps = [full // coarse for full, coarse in zip(organs.shape[1:], logits.shape[2:], strict=True)]
        organs = organs[:, :: steps[0], :: steps[1], :: steps[2]]
        return F.cross_entropy(logits, organs, weight=rare_weights(organs, logits.shape[1]))
