"""A second U-Net stacked on the first: it sees the first's maps and the image once more, and corrects the maps.

Stacked hourglass networks (Newell et al., ECCV 2016) do the same. The first is cheap and finds its way in the body; the
second is three times as wide at stride 2, and starts as no change at all: what the first knows is not lost while the second
learns. It works at stride 2, where a CPU's convolutions are bound by arithmetic and not by memory; the image and the first's
finest map come to it folded, without loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import UnetResBlock, UnetUpBlock
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn

from .backbone import ResidualBackbone

NORM = ("instance", {"affine": True})


class SecondUNet(nn.Module):
    """Corrections of a backbone's two finest maps.

    Args:
        in_channels: of the image. maps: width of each of the first backbone's maps f1 to f4, by name.
        channels: width of this one's levels, at strides 2, 4, 8 and 16.
    """

    def __init__(self, in_channels: int, maps: dict[str, int], channels: Sequence[int]) -> None:
        super().__init__()
        if len(channels) != 4:
            raise ValueError(f"the second U-Net has four levels, so give four channel counts; got {list(channels)}")
        c1, c2, c3, c4 = channels
        self.enter = nn.Conv3d(8 * (in_channels + maps["f4"]) + maps["f3"], c1, kernel_size=1)
        self.context = nn.ModuleList(nn.Conv3d(maps[m], c, kernel_size=1) for m, c in (("f2", c2), ("f1", c3)))
        self.down = nn.ModuleList(
            UnetResBlock(3, a, b, kernel_size=3, stride=s, norm_name=NORM)
            for a, b, s in ((c1, c1, 1), (c1, c2, 2), (c2, c3, 2), (c3, c4, 2))
        )
        self.up = nn.ModuleList(
            UnetUpBlock(3, a, b, kernel_size=3, stride=1, upsample_kernel_size=2, norm_name=NORM)
            for a, b in ((c4, c3), (c3, c2), (c2, c1))
        )
        self.leave = nn.Conv3d(c1, maps["f3"] + 8 * maps["f4"], kernel_size=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.split = [maps["f3"], 8 * maps["f4"]]

    def forward(self, image: Tensor, maps: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Image (B, in_channels, X, Y, Z) and the first's maps -> what is added to f3 (stride 2) and to f4 (stride 1)."""
        folded = pixelunshuffle(torch.cat([image, maps["f4"]], 1), spatial_dims=3, scale_factor=2)
        x1 = self.down[0](self.enter(torch.cat([folded, maps["f3"]], 1)))
        x2 = self.down[1](x1) + self.context[0](maps["f2"])
        x3 = self.down[2](x2) + self.context[1](maps["f1"])
        y = self.down[3](x3)
        for up, skip in zip(self.up, (x3, x2, x1), strict=True):
            y = up(y, skip)
        coarse, fine = self.leave(y).split(self.split, dim=1)
        return coarse, pixelshuffle(fine, spatial_dims=3, scale_factor=2)


class StackedBackbone(ResidualBackbone):
    """`ResidualBackbone` whose maps f3 and f4 a second U-Net corrects; weights of the former are where they were.

    Args:
        in_channels, channels, mask_channels: of the first. second: widths of `SecondUNet`.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], mask_channels: int, second: Sequence[int] = (64, 128, 224, 256)
    ) -> None:
        super().__init__(in_channels, channels, mask_channels)
        self.second = SecondUNet(in_channels, self.feature_channels, second)

    def levels(self, image: Tensor) -> dict[str, Tensor]:
        """The maps of the first, f3 and f4 corrected."""
        maps = super().levels(image)
        coarse, fine = self.second(image, maps)
        return maps | {"f3": maps["f3"] + coarse, "f4": maps["f4"] + fine}

    def freeze_first(self) -> None:
        """Leave the first as it is while the second learns: a step then takes no backward pass through it."""
        self.requires_grad_(False)
        self.second.requires_grad_(True)
