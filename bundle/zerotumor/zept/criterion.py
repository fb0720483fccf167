"""The training loss (ZePT 2.4): Dice + cross-entropy of every class that a data set annotates, and the alignment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import LazyMasks
from ..balance import rare_weights
from .alignment import alignment_loss, alignment_targets
from .classes import class_set
from .options import Options
from .samples import Truth

BACKGROUND = 0.2
"""Weight of a background voxel in the grouping: most voxels are background."""
SPARSE = 2
"""Classes that a patch does not have are judged on every other voxel along each axis: an eighth of the work."""


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 sum(p g) / (sum(p) + sum(g) + 1) of R masks (R, ...) -> (R,).

    Smoothed in the denominator alone, as in the paper's code: a class that is absent costs 1 whatever the prediction, and
    only cross-entropy pushes it down.
    """
    p, g = logits.flatten(1).sigmoid(), truth.flatten(1).to(logits)
    return 1 - 2 * (p * g).sum(1) / (p.sum(1) + g.sum(1) + 1)


def batch_dice_loss(here: Tensor, truth: Tensor, classes: Tensor, absent: Tensor, absent_classes: Tensor) -> Tensor:
    """Dice loss of each class over a whole batch, where what is found in patches without the class is false.

    Args:
        here, truth: logits and masks (R, ...) of classes that are present. classes: (R,) which. absent: logits (A, ...) of
        classes that are not, on every `SPARSE`-th voxel along each axis. absent_classes: (A,).

    Returns:
        scalar: the mean over classes that are present somewhere.
    """
    p, g = here.flatten(1).sigmoid(), truth.flatten(1).to(here)
    false = absent.flatten(1).sigmoid().sum(1) * SPARSE**3
    losses = []
    for c in classes.unique():
        mine = classes == c
        either = p[mine].sum() + g[mine].sum() + false[absent_classes == c].sum()
        losses.append(1 - 2 * (p[mine] * g[mine]).sum() / (either + 1))
    return torch.stack(losses).mean()


def partial_loss(
    logits: Tensor | LazyMasks, truth: list[Tensor], present: Tensor, annotated: Tensor, batch: bool = False
) -> Tensor:
    """Dice + binary cross-entropy over annotated classes alone; others get no gradient at all.

    Args:
        logits: (B, C, X, Y, Z). truth: the masks (X, Y, Z) of classes that are annotated and present, in the order of
        `(annotated & present).nonzero()`. present, annotated: (B, C) booleans. batch: let half of the Dice loss be
        that of the batch, see `batch_dice_loss`.

    Returns:
        scalar: mean Dice loss of present classes (absent ones have no gradient, see `dice_loss`) + mean cross-entropy of
        all annotated ones; 0 if there are none.
    """
    here, absent = annotated & present, annotated & ~present
    lazy = isinstance(logits, LazyMasks)
    total = torch.zeros((), device=present.device)
    sparse = (logits.every(SPARSE) if lazy else logits[:, :, ::SPARSE, ::SPARSE, ::SPARSE])[absent]
    if here.any():
        rows = logits.rows(here) if lazy else logits[here]
        masks = torch.stack(truth).to(rows)
        entropy = F.binary_cross_entropy_with_logits(rows, masks, reduction="none").flatten(1).mean(1)
        dice = dice_loss(rows, masks).mean()
        if batch:
            dice = (dice + batch_dice_loss(rows, masks, here.nonzero()[:, 1], sparse, absent.nonzero()[:, 1])) / 2
        total = total + dice + entropy.sum() / annotated.sum()
    if absent.any():
        total = total + F.softplus(sparse).flatten(1).mean(1).sum() / annotated.sum()
    return total


def coarse_labels(truth: Truth, logits: Tensor | LazyMasks, organs: int) -> Tensor:
    """Organ labels (B, x, y, z) on the coarser grid of some logits (B, C, x, y, z); what is no organ is background, N."""
    steps = [full // coarse for full, coarse in zip(truth.organs.shape[1:], logits.shape[2:], strict=True)]
    labels = truth.organs[:, :: steps[0], :: steps[1], :: steps[2]]
    return torch.where(labels < 0, organs, labels)


def organ_loss(logits: Tensor | LazyMasks, truth: Truth, organs: int) -> Tensor:
    """`partial_loss` of organ logits (B, N [+ background], x, y, z), on any grid that divides that of the labels."""
    labels = coarse_labels(truth, logits, organs)
    count = logits.shape[1]
    present = torch.stack([torch.bincount(x.flatten(), minlength=organs + 1)[:count] > 0 for x in labels])
    annotated = truth.annotated[:, :count]
    masks = [labels[b] == n for b, n in (annotated & present).nonzero().tolist()]
    return partial_loss(logits, masks, present, annotated)


def known_voxels(logits: Tensor, truth: Truth, organs: int) -> tuple[Tensor, Tensor]:
    """Which query each voxel belongs to, on the grid of logits (B, N [+ background], x, y, z), and which queries are known.

    Returns:
        labels (B, x, y, z), -100 where the voxel's class is not annotated or, without a background query, no organ;
        annotated (B, N [+ background]).
    """
    labels = coarse_labels(truth, logits, organs)
    known = truth.annotated[:, : logits.shape[1]]
    padded = F.pad(known, (0, organs + 1 - known.shape[1]))
    wanted = torch.stack([row[label] for row, label in zip(padded, labels, strict=True)])
    return torch.where(wanted, labels, -100), known


def grouping_loss(logits: Tensor, truth: Truth, organs: int) -> Tensor:
    """Cross-entropy of a level's grouping: each voxel to the query of its organ. An addition of ours.

    Only voxels whose class is annotated count; where there is no background query (N logits), only those in organs.

    Args:
        logits: (B, N [+ background], x, y, z), of `grouping.GroupingBlock`, on any grid that divides that of the labels.
    """
    labels, _ = known_voxels(logits, truth, organs)
    if (labels < 0).all():
        return logits.sum() * 0
    weights = logits.new_ones(logits.shape[1])
    weights[organs:] = BACKGROUND
    return F.cross_entropy(logits, labels, weights, ignore_index=-100)


def choice_loss(logits: Tensor | LazyMasks, truth: Truth, organs: int) -> Tensor:
    """Cross-entropy of organs and background against each other, rare ones counting more. An addition of ours.

    What an organ map shows is the most probable class of each voxel. A sigmoid a class learns nothing of a small organ that
    is nowhere near one half: Dice has no gradient there, and cross-entropy is that of the many voxels without it.

    Args:
        logits: (B, N [+ background], X, Y, Z); they are judged on every `SPARSE`-th voxel along each axis. Classes that a
        sample does not annotate are no rivals in it.
    """
    chosen = logits.every(SPARSE) if isinstance(logits, LazyMasks) else logits[:, :, ::SPARSE, ::SPARSE, ::SPARSE]
    labels, known = known_voxels(chosen, truth, organs)
    if (labels < 0).all():
        return chosen.sum() * 0
    weights = rare_weights(labels[labels >= 0], chosen.shape[1])
    rivals = chosen.masked_fill(~known[:, :, None, None, None], torch.finfo(chosen.dtype).min)
    return F.cross_entropy(rivals, labels, weights, ignore_index=-100)


class ZeptLoss(nn.Module):
    """Weighted sum of the parts; `self.last` holds the parts of the last call, for logging.

    Args:
        classes: name of the class set. organ, tumor, align: weights, 1 in the paper. deep: weight of the organs' loss on
        the four coarse levels, 0 in the paper, whose anomaly maps there are trained by nothing. grouping, choice: weights
        of `grouping_loss` and `choice_loss`, 0 in the paper. similarity, targets: see `options.Options`. normalize: of the
        alignment's targets, see `contrast.multi_positive_cross_entropy`. dice: of tumors, "patch" as in the paper, where a
        tumor that is drawn in a patch without one costs next to nothing, or "batch", see `batch_dice_loss`.

    Raises:
        ValueError: an option is not among its choices.
    """

    def __init__(
        self,
        classes: str = "starter",
        organ: float = 1.0,
        tumor: float = 1.0,
        align: float = 0.3,
        deep: float = 0.5,
        grouping: float = 0.25,
        choice: float = 0.5,
        similarity: str = "cosine",
        targets: str = "cloned",
        normalize: bool = True,
        dice: str = "batch",
    ) -> None:
        super().__init__()
        if dice not in ("patch", "batch"):
            raise ValueError(f"dice must be patch or batch, not {dice!r}")
        Options(similarity=similarity, targets=targets)  # to check them
        self.classes = class_set(classes)
        self.weights = {
            "organ": organ,
            "tumor": tumor,
            "align": align,
            "deep": deep,
            "grouping": grouping,
            "choice": choice,
        }
        self.similarity, self.normalize, self.batch_dice = similarity, normalize, dice == "batch"
        self.targets = alignment_targets(self.classes, aliased=targets == "aliased")
        self.last: dict[str, float] = {}

    def forward(self, outputs: dict[str, object], truth: Truth) -> Tensor:
        """`ZePT.training_outputs` and `samples.truth_of` -> scalar."""
        organs = len(self.classes.organs)
        parts = {"organ": organ_loss(outputs["organs"], truth, organs)}
        if self.weights["choice"]:
            parts["choice"] = choice_loss(outputs["organs"], truth, organs)
        if self.weights["deep"]:
            levels = outputs["responses"]
            parts["deep"] = sum(organ_loss(r, truth, organs) for r in levels) / len(levels)
        if self.weights["grouping"]:
            levels = outputs["grouping"]
            parts["grouping"] = sum(grouping_loss(g, truth, organs) for g in levels) / len(levels)
        if "tumors" in outputs:
            parts["tumor"] = self._tumors(outputs["tumors"], truth)
            parts["align"] = alignment_loss(
                outputs["aligned"], outputs["knowledge"], self.targets, outputs["temperature"],
                kind=self.similarity, normalize=self.normalize,
            )  # fmt: skip
        self.last = {name: float(value.detach()) for name, value in parts.items()}
        return sum(self.weights[name] * value for name, value in parts.items())

    def _tumors(self, logits: Tensor, truth: Truth) -> Tensor:
        annotated = truth.annotated[:, len(self.classes.organs) + 1 :]
        present = truth.tumors.flatten(2).any(2)
        masks = [truth.tumors[b, k] for b, k in (annotated & present).nonzero().tolist()]
        return partial_loss(logits, masks, present, annotated, self.batch_dice)
