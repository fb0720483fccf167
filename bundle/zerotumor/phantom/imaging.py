"""From tissue means to a scan: texture, partial volume, noise, and what each modality adds.

A scanner's randomness is drawn once and applied to a body with and without its lesion, so the two scans differ in the
lesion alone.
"""

from __future__ import annotations

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor

from .anatomy import tissue_texture
from .geometry import Draw, Noise


def blur(volume: Tensor, sigma: tuple[float, float, float]) -> Tensor:
    """Gaussian filter of (X, Y, Z); sigma in voxels, an axis with next to none is left alone."""
    kernels = [gaussian_1d(torch.tensor(max(s, 0.05)), truncated=2.5) for s in sigma]
    return separable_filtering(volume[None, None], [k.to(volume) for k in kernels], mode="replicate")[0, 0]


class Scanner:
    """One scan's settings and noise for a grid.

    Args:
        points: (3, X, Y, Z) mm. spacing: mm. tissue: (X, Y, Z), whose texture the noise follows.
    """

    def __init__(self, draw: Draw, modality: str, points: Tensor, spacing: tuple, tissue: Tensor) -> None:
        shape = points.shape[1:]
        self.modality = modality
        texture = tissue_texture(modality).to(points.device)[tissue.long()]
        self.texture = texture * blur(draw.field(shape), (0.6, 0.6, 0.6)) * 1.8 * draw.uniform(0.5, 1.3)
        self.sigma = self._resolution(draw, spacing)
        self.field_of_view = self._field_of_view(draw, points)
        if modality == "CT":
            grain = draw.uniform(0.0, 0.8)
            noise = blur(draw.field(shape), (grain, grain, grain * 0.7)) if grain > 0.25 else draw.field(shape)
            self.noise = noise / noise.std().clamp_min(1e-3) * draw.log_uniform(2.5, 22)
            self.offset = draw.normal(0, 5)
        else:
            smooth = Noise(draw, draw.uniform(90, 200))(points)[0]
            axis = draw.integer(0, 2)
            slope = (points[axis] - points[axis].mean()) / 150 * draw.normal(0, 0.35)
            self.bias = torch.exp(smooth * draw.uniform(0.02, 0.22) + slope)
            level = draw.log_uniform(0.006, 0.045)
            self.noise = draw.field((2, *shape)) * level
            self.gain = draw.log_uniform(60, 2500)

    @staticmethod
    def _resolution(draw: Draw, spacing: tuple) -> tuple[float, float, float]:
        """Blur in voxels: the scanner's own resolution, thicker along one axis."""
        base = draw.uniform(0.6, 1.4)
        thick = draw.choice((1.0, 2.0, 3.0, 5.0, 6.0))
        sizes = [base, base, base]
        axis = draw.choice((2, 2, 2, 1, 0))
        sizes[axis] = max(base, thick * 0.42)
        return tuple(max(0.3, s / space) for s, space in zip(sizes, spacing, strict=True))

    @staticmethod
    def _field_of_view(draw: Draw, points: Tensor) -> Tensor | None:
        """Where the scan has data, or None for everywhere: round fields, cut-off slabs."""
        kind = draw.choice(("all", "round", "slab"), (0.8, 0.1, 0.1))
        if kind == "all":
            return None
        low, high = points.flatten(1).amin(1), points.flatten(1).amax(1)
        middle, half = (low + high) / 2, (high - low) / 2
        if kind == "round":
            radius = float(half[:2].max()) * draw.uniform(0.95, 1.2)
            return (points[0] - middle[0]).square() + (points[1] - middle[1]).square() < radius**2
        axis, share = draw.integer(0, 2), draw.uniform(0.75, 0.95)
        side = draw.choice((-1, 1))
        return side * (points[axis] - middle[axis]) < half[axis] * (2 * share - 1)

    def scan(self, means: Tensor) -> Tensor:
        """Map of means (X, Y, Z) -> image: HU, or arbitrary units >= 0."""
        image = blur(means + self.texture, self.sigma)
        if self.modality == "CT":
            image = (image + self.noise + self.offset).clamp(-1024, 3071)
            outside = -1024.0
        else:
            image = image.clamp_min(0) * self.bias
            image = ((image + self.noise[0]).square() + self.noise[1].square()).sqrt() * self.gain
            outside = 0.0
        if self.field_of_view is not None:
            image = torch.where(self.field_of_view, image, torch.full_like(image, outside))
        return image
