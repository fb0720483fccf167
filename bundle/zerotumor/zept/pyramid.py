"""The maps that ZePT reads from a backbone (2.2.1): four levels of encoder and decoder, and the map masks are read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

from ..backbone import ResidualBackbone, evened

LEVELS = 4


@dataclass
class Pyramid:
    """Maps at four levels, coarse to fine; encoder and decoder of one level have the same shape (B, d_i, x, y, z)."""

    encoder: list[Tensor]  # keys and values of all queries
    decoder: list[Tensor]  # what the anomaly maps are read from
    mask: Tensor  # P (B, M, X, Y, Z) at full resolution


class ResidualPyramid(ResidualBackbone):
    """The shared residual U-Net, strides 16, 8, 4 and 2: the starter's backbone.

    Its tensors have the names that they have in every method on this backbone, so that one can start from another's.

    Args:
        in_channels, channels, mask_channels, gain, fine_channels: of `backbone.ResidualBackbone`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        mask_channels: int,
        gain: float | None = None,
        fine_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, channels, mask_channels, gain, fine_channels)
        c1, c2, c3, _, c5 = channels
        self.widths, self.mask_channels = (c5, c3, c2, c1), mask_channels

    def forward(self, image: Tensor) -> Pyramid:
        """(B, in_channels, X, Y, Z), edges multiples of 16 -> its maps."""
        maps = self.levels(image)
        # The bottleneck is the encoder's last word and the decoder's first. It leaves the network without a norm, and with
        # values in the hundreds would drown every query that looks at it.
        maps["e5"] = F.layer_norm(maps["e5"].movedim(1, -1), maps["e5"].shape[1:2]).movedim(-1, 1)
        encoder, decoder = ([maps[k] for k in keys] for keys in (("e5", "e3", "e2", "e1"), ("e5", "f1", "f2", "f3")))
        return Pyramid(encoder, decoder, evened(maps["f4"]) if self.shuffles else maps["f4"])


class SwinPyramid(nn.Module):
    """MONAI's SwinUNETR without its output layer, strides 32, 16, 8 and 4: the paper's backbone.

    Args:
        in_channels: 1 in the paper. feature_size: 48 in the paper, giving widths 768, 384, 192, 96 and P of 48.
        checkpointing: recompute activations in the backward pass, as 96^3 patches need on most GPUs.
    """

    def __init__(self, in_channels: int = 1, feature_size: int = 48, checkpointing: bool = False) -> None:
        super().__init__()
        self.net = SwinUNETR(in_channels, 1, feature_size=feature_size, use_checkpoint=checkpointing)
        self.net.out = nn.Identity()
        self.widths = tuple(feature_size * f for f in (16, 8, 4, 2))
        self.mask_channels, self.stride = feature_size, 32

    def forward(self, image: Tensor) -> Pyramid:
        """(B, in_channels, X, Y, Z), edges multiples of 32 -> its maps."""
        net = self.net
        hidden = net.swinViT(image, net.normalize)
        fine, half, quarter, eighth = (
            net.encoder1(image), net.encoder2(hidden[0]), net.encoder3(hidden[1]), net.encoder4(hidden[2])
        )  # fmt: skip
        d0 = net.encoder10(hidden[4])
        d1 = net.decoder5(d0, hidden[3])
        d2 = net.decoder4(d1, eighth)
        d3 = net.decoder3(d2, quarter)
        mask = net.decoder1(net.decoder2(d3, half), fine)
        return Pyramid([hidden[4], hidden[3], hidden[2], hidden[1]], [d0, d1, d2, d3], mask)


def check_edges(image: Tensor, stride: int) -> None:
    """Refuse edges that the backbone cannot halve often enough.

    Raises:
        ValueError: an edge is not a multiple of `stride` voxels.
    """
    if any(n % stride for n in image.shape[2:]):
        raise ValueError(f"edges must be multiples of {stride} voxels, got {tuple(image.shape[2:])}: pad first")
