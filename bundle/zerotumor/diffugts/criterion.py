"""The training losses: of the attention stage (DiffuGTS 1.4.1) and of the residual stage (1.6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

DICE = DiceLoss(reduction="none", smooth_nr=1e-5, smooth_dr=1e-5)
BATCH_DICE = DiceLoss(batch=True, smooth_nr=1e-5, smooth_dr=1e-5)


def similarity_loss(embedded: Tensor, texts: Tensor, tau: float = 0.07) -> Tensor:
    """L_sim = (CE(g t^T / tau, I) + CE(t g^T / tau, I)) / 2, each prompt over its own N texts.

    Args:
        embedded, texts: g and t, (B, P, N, D); both are brought to unit length.
    """
    g, t = F.normalize(embedded, dim=-1), F.normalize(texts, dim=-1)
    logits = (g @ t.transpose(-1, -2) / tau).flatten(0, 1)  # (B * P, N, N)
    right = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.transpose(1, 2), right)) / 2


def anomaly_loss(score: Tensor, present: Tensor) -> Tensor:
    """L_ano = BCE(s, y): logit of s (B, P) and whether there is anything (B, P)."""
    return F.binary_cross_entropy_with_logits(score, present.to(score))


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """L_dice = 1 - (2 sum(p g) + e) / (sum(p) + sum(g) + e), mean over the (B, P, X, Y, Z) masks that are not empty."""
    there = mask.flatten(2).any(2)
    if not there.any():
        return probability.sum() * 0
    return DICE(probability, mask.to(probability))[there].mean()


def batch_dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """The same over all voxels of all masks (B, P, X, Y, Z) at once: what is painted into empty ones costs too."""
    if not mask.any():
        return probability.sum() * 0
    return BATCH_DICE(probability.flatten(0, 1)[:, None], mask.flatten(0, 1)[:, None].to(probability))


class DiffuGTSLoss(nn.Module):
    """Weighted sum of a stage's parts; `self.last` holds the parts of the last call, for logging.

    Args:
        ano, sim, dice: weights of the attention stage's parts, 1 as far as is known. bce, batch: of cross-entropy over
        voxels and of Dice over the whole batch, from which maps of empty masks learn; 0 in the reference: then a whole
        organ is painted when its lesion is hard to see. tau: temperature of L_sim.
    """

    def __init__(
        self,
        ano: float = 1.0,
        sim: float = 1.0,
        dice: float = 1.0,
        bce: float = 0.5,
        batch: float = 1.0,
        tau: float = 0.07,
    ) -> None:
        super().__init__()
        self.weights, self.tau = {"ano": ano, "sim": sim, "dice": dice, "bce": bce, "batch": batch}, tau
        self.last: dict[str, float] = {}

    def forward(self, outputs: dict[str, Tensor], truth: object) -> Tensor:
        """`DiffuGTS.training_outputs` and `samples.Truth` or `samples.Cached` -> scalar."""
        logits, where = outputs["logits"], outputs.get("hole")
        mask = truth.masks if where is None else truth.masks & where
        probability = logits.sigmoid() * (1 if where is None else where)
        parts = {"dice": dice_loss(probability, mask), "batch": batch_dice_loss(probability, mask)}
        entropy = F.binary_cross_entropy_with_logits(logits, mask.to(logits), reduction="none")
        parts["bce"] = entropy.mean() if where is None else (entropy * where).sum() / where.sum().clamp_min(1)
        if "score" in outputs:
            parts["ano"] = anomaly_loss(outputs["score"], mask.flatten(2).any(2))
            parts["sim"] = similarity_loss(outputs["embedded"], outputs["texts"], self.tau)
        self.last = {name: float(value.detach()) for name, value in parts.items()}
        # Without an image's part in the loss, the residual stage is both kinds of Dice and cross-entropy alike.
        weights = self.weights if where is None else {"dice": 1.0, "batch": 1.0, "bce": 1.0}
        return sum(weights[name] * value for name, value in parts.items())
