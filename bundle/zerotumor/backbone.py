"""The 3-D encoder-decoder that the trained methods share: a residual U-Net that shows its decoder's features.

Unlike `monai.networks.nets.UNet`, which returns one map, this one returns four:

* `f1`, `f2`, `f3`: stride 8, 4 and 2, what tokens and queries attend to (Malenia 3.3, blocks 1 to 3);
* `f4`: stride 1, what the final masks are read from.

The first convolution is strided. The last map comes from a sub-pixel shuffle, which halves the time of a training step on
a CPU, where work on the full grid is bound by memory; or, slower, from convolutions on the full grid, which keep what is a
voxel or two thin: ribs, planes of fat, vessels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from monai.networks.layers import separable_filtering
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn


def coordinates(like: Tensor) -> Tensor:
    """Positions and their squares in [-1, 1] for every voxel of `like` (B, C, X, Y, Z) -> (B, 6, X, Y, Z).

    A dot product with them lets a token select a ball in space, which features of a convolution alone cannot express;
    without it two lesions of equal texture would share one token.
    """
    axes = [torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype) for n in like.shape[2:]]
    xyz = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([xyz, xyz.square()]).expand(like.shape[0], -1, -1, -1, -1)


FINE_ACTIVATION = ("leakyrelu", {"negative_slope": 0.01, "inplace": True})
"""On the full grid the backward pass of MONAI's usual PReLU takes as long as that of a convolution."""


def evened(shuffled: Tensor) -> Tensor:
    """A map (B, C, X, Y, Z) from a sub-pixel shuffle or strided kernels, blurred as little as takes its checkerboard away.

    The eight voxels of a cell come from eight kernels of their own. Where these were trained little, voxels of one parity
    are darker than their neighbors, and masks have holes. Here both parities of every axis give half of every voxel.
    """
    kernel = torch.tensor([0.25, 0.5, 0.25], dtype=shuffled.dtype, device=shuffled.device)
    return separable_filtering(shuffled, [kernel] * 3, mode="replicate")


class BalancedUnit(ResidualUnit):
    """MONAI's residual unit, its linear path normed and its other path weighed channel by channel.

    In MONAI's the convolutions' path is normed and the linear one is not. What follows the bottleneck is normed, too, so
    nothing holds the linear path's weights: every step of Adam makes them larger (Arora et al., ICLR 2019), and the
    bottleneck ends up as a linear map with a nonlinear part of a few thousandths. Here the linear path is brought to
    size one (a layer norm over channels and voxels), and how much the other one counts is learned from `gain`.

    Args:
        gain: what each channel of the convolutions' path is multiplied with at first.
    """

    def __init__(self, *args: object, gain: float, **more: object) -> None:
        super().__init__(*args, **more)
        self.norm = nn.GroupNorm(1, self.out_channels)
        self.gain = nn.Parameter(torch.full((1, self.out_channels, 1, 1, 1), float(gain)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, X, Y, Z) -> (B, out_channels, ...), smaller by the strides."""
        return self.norm(self.residual(x)) + self.gain * self.conv(x)


class ResidualBackbone(nn.Module):
    """Residual U-Net with five levels.

    Args:
        in_channels: channels of the input (B, in_channels, X, Y, Z).
        channels: width of the encoder's levels, finest (stride 2) first, the last being the bottleneck (stride 16).
        mask_channels: width of `f4`, the full-resolution map.
        gain: of the two deepest levels, which are a `BalancedUnit` each; None: a `ResidualUnit`, like the others.
        fine_channels: width of the image's and the decoder's part on the full grid, which `f4` is convolved from; None: `f4`
            is shuffled from stride 2.
    """

    def __init__(
        self,
        in_channels: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        mask_channels: int = 8,
        gain: float | None = None,
        fine_channels: int | None = None,
    ) -> None:
        super().__init__()
        if len(channels) != 5:
            raise ValueError(f"the backbone has five levels, so give five channel counts; got {list(channels)}")
        c1, c2, c3, c4, c5 = channels
        self.stride = 16
        steps = ((in_channels, c1, 2), (c1, c2, 2), (c2, c3, 2), (c3, c4, 2), (c4, c5, 1))
        kinds = [ResidualUnit] * 3 + [ResidualUnit if gain is None else partial(BalancedUnit, gain=gain)] * 2
        self.encoder = nn.ModuleList(
            unit(3, a, b, strides=s, kernel_size=3, subunits=2) for unit, (a, b, s) in zip(kinds, steps, strict=True)
        )
        self.decoder = nn.ModuleList(self._up(a, b) for a, b in ((c5 + c4, c3), (c3 + c3, c2), (c2 + c2, c1)))
        if fine_channels:
            conv = partial(Convolution, 3, kernel_size=3, act=FINE_ACTIVATION)
            self.detail = conv(in_channels, fine_channels)
            self.rise = nn.ConvTranspose3d(c1, fine_channels, kernel_size=2, stride=2)
            self.fine = conv(2 * fine_channels, mask_channels)
        else:
            # The input, folded to stride 2 without loss, joins the last map: edges that the first strides blurred return.
            self.sharpen = nn.Sequential(
                Convolution(3, 2 * c1 + 8 * in_channels, 2 * c1, kernel_size=3),
                nn.Conv3d(2 * c1, 8 * mask_channels, kernel_size=1),
            )
        self.shuffles = not fine_channels
        self.feature_channels = {"f1": c3, "f2": c2, "f3": c1, "f4": mask_channels}

    @staticmethod
    def _up(cin: int, cout: int) -> nn.Module:
        transposed = Convolution(3, cin, cout, strides=2, kernel_size=3, is_transposed=True)
        return nn.Sequential(transposed, ResidualUnit(3, cout, cout, kernel_size=3, subunits=1))

    def forward(self, image: Tensor, part: Sequence[slice] | None = None) -> dict[str, Tensor]:
        """(B, in_channels, X, Y, Z), each edge a multiple of 16 -> maps f1 (stride 8), f2, f3, f4 (stride 1).

        Args:
            part: of the grid, beginning and ending at even voxels, that f4 is made for, as if there were nothing around it:
                training spares itself most of what the full grid costs. None: all of it.

        Raises:
            ValueError: an edge is not a multiple of 16 voxels.
        """
        levels = self.levels(image, part)
        return {name: levels[name] for name in self.feature_channels}

    def levels(self, image: Tensor, part: Sequence[slice] | None = None) -> dict[str, Tensor]:
        """The maps of `forward`, and those of the encoder: e1 (stride 2), e2, e3, and e5 (stride 16), the bottleneck."""
        if any(n % self.stride for n in image.shape[2:]):
            raise ValueError(
                f"edges must be multiples of {self.stride} voxels, got {tuple(image.shape[2:])}: pad first"
            )
        e1 = self.encoder[0](image)
        e2 = self.encoder[1](e1)
        e3 = self.encoder[2](e2)
        e4 = self.encoder[3](e3)
        e5 = self.encoder[4](e4)
        f1 = self.decoder[0](torch.cat([e5, e4], 1))
        f2 = self.decoder[1](torch.cat([f1, e3], 1))
        f3 = self.decoder[2](torch.cat([f2, e2], 1))
        if part is None:
            f4 = self._full_grid(image, e1, f3)
        else:
            whole, half = ((..., *cut) for cut in (part, [slice(s.start // 2, s.stop // 2) for s in part]))
            f4 = self._full_grid(image[whole], e1[half], f3[half])
        return {"e1": e1, "e2": e2, "e3": e3, "e5": e5, "f1": f1, "f2": f2, "f3": f3, "f4": f4}

    def _full_grid(self, image: Tensor, e1: Tensor, f3: Tensor) -> Tensor:
        """f4 from the image and both maps of stride 2."""
        if self.shuffles:
            folded = pixelunshuffle(image, spatial_dims=3, scale_factor=2)
            return pixelshuffle(self.sharpen(torch.cat([f3, e1, folded], 1)), spatial_dims=3, scale_factor=2)
        return self.fine(torch.cat([evened(self.rise(f3)), self.detail(image)], 1))
