"""Residual learning (DiffuGTS 1.6): what the pseudo-healthy volume has changed, in voxels and in latents scored by text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from .attention import ABNORMAL, NORMAL, resize

BOUND = 8.0
"""Logits are cut to this where they are an input: certainty beyond it is noise."""


def pixel_residual(reference: Tensor, healthy: Tensor, hole: Tensor) -> Tensor:
    """P = |reference - H| inside the hole, 0 outside; all (B, 1, X, Y, Z).

    The reference should be D(E(I)), the autoencoder's own reconstruction: what it cannot draw is in both and cancels.
    """
    return (reference - healthy).abs() * hole


class FeatureResidual(nn.Module):
    """F_n = <phi(f) / |phi(f)|, t_n> of f = z - z_H: how far the change of the latent speaks for each text.

    phi has no bias, so that no change gives exactly 0.

    Args:
        latent_channels: of z, 4. text_dim: D. hidden: width of a layer between; 0 for the plain projection of the paper.
    """

    def __init__(self, latent_channels: int, text_dim: int, hidden: int = 0) -> None:
        super().__init__()
        widths = [latent_channels, *([hidden] if hidden else []), text_dim]
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv3d(a, b, 1, bias=False), nn.GELU()]
        self.phi = nn.Sequential(*layers[:-1])

    def forward(self, latent: Tensor, healthy: Tensor, texts: Tensor, size: Sequence[int]) -> Tensor:
        """z, z_H (B, c, x, y, z) and t (B, P, N, D) -> F (B, P, N, X, Y, Z) in -1..1."""
        direction = F.normalize(self.phi(latent - healthy), dim=1)
        scored = torch.einsum("bdxyz,bpnd->bpnxyz", direction, F.normalize(texts, dim=-1))
        return resize(scored.flatten(1, 2), size).unflatten(1, scored.shape[1:3])


def spread(values: Tensor, hole: Tensor) -> Tensor:
    """Values scaled from their minimum and maximum inside each hole to 0..1, 0 outside; (B, P, X, Y, Z) both."""
    inside = hole > 0
    flat = values.flatten(2)
    low = flat.masked_fill(~inside.flatten(2), float("inf")).amin(2)[..., None, None, None]
    high = flat.masked_fill(~inside.flatten(2), float("-inf")).amax(2)[..., None, None, None]
    return torch.where(inside, (values - low) / (high - low).clamp_min(1e-6), torch.zeros_like(values))


def combine(pixel: Tensor, feature: Tensor | None, hole: Tensor, beta1: float = 0.5, beta2: float = 0.5) -> Tensor:
    """R = beta1 P + beta2 F without learning, each spread over 0..1 so that the weights mean something.

    Args:
        pixel: P (B, 1, X, Y, Z). feature: F_abnormal - F_normal (B, P, X, Y, Z), or None for the pixel residual alone.
        hole: (B, P, X, Y, Z), each prompt's own.
    """
    pixel = spread(pixel.expand_as(hole), hole)
    return pixel if feature is None else beta1 * pixel + beta2 * spread(feature, hole)


def otsu_probability(residual: Tensor, hole: Tensor) -> Tensor:
    """Otsu's threshold of R inside each hole, as a probability that is 0.5 there: (B, P, X, Y, Z) -> the same shape.

    Otsu always finds two classes; where R does not vary at all there is only one, and it is not a tumor.
    """
    out = torch.zeros_like(residual)
    for b, p in torch.cartesian_prod(*(torch.arange(n) for n in residual.shape[:2])).tolist():
        inside = hole[b, p] > 0
        values = residual[b, p][inside]
        if not len(values) or float(values.max() - values.min()) < 1e-6:
            continue
        cut = float(threshold_otsu(values.float().cpu().numpy()))
        above = 0.5 + 0.5 * (values - cut) / max(float(values.max()) - cut, 1e-6)
        below = 0.5 * (values - float(values.min())) / max(cut - float(values.min()), 1e-6)
        # The threshold itself belongs to the background, as it does in scikit-image.
        out[b, p][inside] = torch.where(values > cut, above, below.clamp_max(0.499)).to(out)
    return out


class Fusion(nn.Module):
    """Learned fusion: three convolutions over residuals and attention -> a correction of the attention's logit.

    Starts as the attention alone (its last layer is 0), so that it can only learn to be better. Channels, each prompt by
    itself: P, the signed residual, |f|, F_abnormal - F_normal, the attention's logit, the hole.

    Args:
        hidden: width.
    """

    channels = 6

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))  # w1, of the attention
        self.net = nn.Sequential(
            nn.Conv3d(self.channels, hidden, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv3d(hidden, hidden, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv3d(hidden, 1, 1),
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, signed: Tensor, change: Tensor, feature: Tensor, logits: Tensor, hole: Tensor) -> Tensor:
        """Logits of the final mask (B, P, X, Y, Z).

        Args:
            signed: reference - H (B, 1, X, Y, Z). change: |z - z_H| on the image's grid (B, 1, X, Y, Z). feature:
            F_abnormal - F_normal, logits: of the attention, hole: all (B, P, X, Y, Z).
        """
        logits = logits.clamp(-BOUND, BOUND)
        hole = hole.to(logits)
        shared = [(scale * x).expand_as(logits) * hole for scale, x in ((10, signed.abs()), (10, signed), (1, change))]
        x = torch.stack([*shared, feature * hole, logits / BOUND, hole], 2)  # (B, P, 6, X, Y, Z)
        return self.weight * logits + self.net(x.flatten(0, 1)).unflatten(0, logits.shape[:2])[:, :, 0]


def difference(scored: Tensor) -> Tensor:
    """F_abnormal - F_normal: (B, P, 2, X, Y, Z) -> (B, P, X, Y, Z)."""
    return scored[:, :, ABNORMAL] - scored[:, :, NORMAL]
