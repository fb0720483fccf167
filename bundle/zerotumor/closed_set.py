"""A sceptic's opponent: a closed-set U-Net that is trained like the methods and cannot read.

It is the backbone that the methods share with one head: all lesions of training are one class. What text adds is what a
method is better than this by. It is measured beside the methods and offered to nobody, see `segmenter.OPPONENTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from .backbone import ResidualBackbone
from .prompts import Prompt
from .segmenter import Segmentation, Segmenter


class ClosedSet(Segmenter):
    """U-Net with one class: any lesion.

    Args:
        channels, mask_channels, gain, fine_channels: of the backbone. spacing: mm of the grid. patch: edge of the training
        patch and the inference window, in voxels. theta: probability from which a voxel is painted. theta_peak, edge_weight,
        zooms, tight_zooms: see `Segmenter`.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        mask_channels: int = 8,
        spacing: float = 4.0,
        patch: int = 48,
        theta: float = 0.5,
        theta_peak: float = 0.0,
        edge_weight: float = 0.0,
        zooms: Sequence[float] = (1.0,),
        tight_zooms: Sequence[float] | None = None,
        gain: float | None = None,
        fine_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.spacing, self.patch = float(spacing), int(patch)
        self.paint(theta, theta_peak, edge_weight)
        self.look_on(zooms, tight_zooms)
        self.backbone = ResidualBackbone(2, channels, mask_channels, gain, fine_channels)
        self.head = nn.Conv3d(mask_channels, 1, kernel_size=1)

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 2, X, Y, Z), edges multiples of 16 -> lesion (B, 1, X, Y, Z): the logit of any lesion."""
        return {"lesion": self.head(self.backbone(image)["f4"])}

    def segment(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        """The same for every prompt; the logit is counted from theta."""
        logits = features["lesion"].float().expand(-1, len(prompts), -1, -1, -1)
        threshold = torch.logit(logits.new_tensor(self.theta), eps=1e-6)
        return Segmentation(logits - threshold, logits.sigmoid().flatten(2).amax(-1))

    def forward(self, image: Tensor, prompts: Sequence[Prompt] | None = None) -> Tensor:
        """(B, 2, X, Y, Z) -> logits (B, P, X, Y, Z); without prompts, P = 1 and not counted from theta: for training."""
        return self.encode_image(image)["lesion"] if prompts is None else super().forward(image, prompts)


class ClosedSetLoss(DiceCELoss):
    """Soft Dice of the whole batch, in which patches without a lesion count, and cross-entropy; `last` is for the log."""

    def __init__(self) -> None:
        super().__init__(sigmoid=True, batch=True)
        self.last: dict[str, float] = {}

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Logits and truth, both (B, 1, X, Y, Z) -> scalar."""
        loss = super().forward(input, target)
        self.last = {"dice and cross-entropy": float(loss.detach())}
        return loss


def prepare_batch(
    batch: Mapping[str, object], device: torch.device | str, non_blocking: bool = False, **_
) -> tuple[Tensor, Tensor]:
    """For MONAI's SupervisedTrainer, from `training.collate`: image (B, 2, X, Y, Z) and every lesion (B, 1, X, Y, Z)."""
    lesions = torch.stack([label["lesions"] for label in batch["label"]])
    image = batch["image"].to(device, non_blocking=non_blocking)
    return image, (lesions > 0).float().to(device, non_blocking=non_blocking)
