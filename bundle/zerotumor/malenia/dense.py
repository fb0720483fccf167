"""A first stage of training without tokens or queries: the backbone learns organs and lesions voxel by voxel.

Lesions are few, and a network that is told of nothing else learns only what tells them apart in phantoms. So the maps f1, f2
and f4 are also asked which organ every voxel belongs to, each by one linear layer. Malenia goes on without these layers;
ZePT's organs begin as the one on f4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..balance import rare_weights
from ..vocabulary import ORGANS
from .criterion import MaleniaLoss
from .model import Malenia, Targets

SPARSE = {"f1": 1, "f2": 1, "f4": 2}
"""Along each axis, organs are judged on every so many-th voxel of a map, beginning anywhere: on the full grid a linear layer
with 32 answers takes as long as all that is below it."""
LEVELS = {"f1": 0.15, "f2": 0.25, "f4": 1.0}
"""What the organs of each map count in the loss."""


class DenseMalenia(nn.Module):
    """Malenia's backbone, lesion prior and locator, with linear layers for organs.

    Args:
        method: is trained in place; its tokens take no part. part: edge of the part of a patch, anywhere in it, in which f4
        is learned in most steps; None: all of it. whole: the share of steps that learn all of it even so, since f4 is normed
        over whatever there is.
    """

    def __init__(self, method: Malenia, part: int | None = None, whole: float = 0.25) -> None:
        super().__init__()
        self.method, self.part, self.whole = method, part, whole
        widths = method.backbone.feature_channels
        self.organs = nn.ModuleDict({name: nn.Conv3d(widths[name], 1 + len(ORGANS), kernel_size=1) for name in LEVELS})

    @property
    def bank(self) -> nn.Module:
        """Malenia's, to be filled with texts."""
        return self.method.bank

    def forward(self, image: Tensor, targets: Targets | None = None, dense: bool = True) -> Tensor | dict[str, object]:
        """(B, 2, X, Y, Z) -> the lesion prior (B, 1, X, Y, Z); with `targets`, what `DenseLoss` needs.

        Returns:
            with `targets`: `Malenia.dense_outputs`; organs: name of a map -> logits (B, 1 + L, x, y, z) and the labels
            (B, x, y, z) there; part: where the finest prior is, None if everywhere.
        """
        if targets is None:
            return self.method.decoder.priors(self.method.backbone(image))[-1]
        part = self.some_part(image.shape[2:])
        features = self.method.backbone(image, part)
        organs = {name: self.on_some(name, features[name], image, targets.organs, part) for name in LEVELS}
        return {
            **self.method.dense_of(features),
            "organs": organs,
            "part": part,
        }

    def some_part(self, shape: Sequence[int]) -> list[slice] | None:
        """Where f4 is learned this time, on a grid of the given edges."""
        if self.part is None or float(torch.rand(())) < self.whole:
            return None
        first = [2 * int(torch.randint((n - self.part) // 2 + 1, ())) for n in shape]
        return [slice(a, a + self.part) for a in first]

    def on_some(self, name: str, features: Tensor, image: Tensor, organs: Tensor, part: list | None) -> tuple:
        """Logits of a map's layer on some of its voxels, and the labels there."""
        if name == "f4" and part is not None:
            organs, stride = organs[:, *part], 1
        else:
            stride = image.shape[-1] // features.shape[-1]
        first = torch.randint(SPARSE[name], (3,)).tolist()
        logits = self.organs[name](features[:, :, *(slice(a, None, SPARSE[name]) for a in first)])
        # the voxel in the middle of each cell of a coarse map stands for it
        return logits, organs[:, *(slice(a + stride // 2, None, stride * SPARSE[name]) for a in first)]


def organ_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in which rare organs count more, and the mean soft Dice loss of the organs that the batch shows.

    Args:
        logits: (B, 1 + L, x, y, z). labels: (B, x, y, z), 0 none, else 1 + number of the organ.
    """
    entropy = F.cross_entropy(logits, labels, weight=rare_weights(labels, logits.shape[1]))
    p, flat = logits.softmax(1), labels.flatten()
    own = p.gather(1, labels[:, None]).flatten()
    both = own.new_zeros(logits.shape[1]).index_add(0, flat, own)  # a mask a class would fill the memory
    truth = torch.bincount(flat, minlength=logits.shape[1])
    dice = 1 - (2 * both + 1) / (p.sum((0, 2, 3, 4)) + truth + 1)
    present = truth > 0
    present[0] = False
    return entropy + (dice[present].mean() if present.any() else 0.0)


class DenseLoss(MaleniaLoss):
    """Malenia's loss without its tokens' parts, and that of the organs on all maps.

    Args:
        organs: its weight. more: see `MaleniaLoss`.
    """

    def __init__(self, organs: float = 1.0, **more: float) -> None:
        super().__init__(**more)
        self.organs = organs

    def forward(self, outputs: dict[str, object], targets: Targets) -> Tensor:
        """`DenseMalenia`'s answer and its targets -> scalar."""
        total = super().forward(outputs, targets)
        parts = {name: organ_loss(logits.float(), labels) for name, (logits, labels) in outputs["organs"].items()}
        self.last |= {f"organs {name}": float(value.detach()) for name, value in parts.items()}
        return total + self.organs * sum(LEVELS[name] * value for name, value in parts.items())
