"""Latent inpainting without training (DiffuGTS 1.5): the hole is drawn anew by the frozen prior, the rest stays what it is.

RePaint's composition (Lugmayr et al., CVPR 2022) in latent space, for any schedule: at every step the hole comes from the
reverse process and its surroundings from the scan's own latent, both at the noise level that the step leads to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.prior import Condition, DiffusionPrior
from ..diffusion.schedules import normal
from ..precision import mixed
from .holes import latent_mask


@dataclass(frozen=True)
class Quality:
    """What an inpainting may cost."""

    steps: int  # of the reverse process
    samples: int  # drawn; the answer is their median
    resamplings: int  # r: how often every step is taken, with fresh noise in between, so that hole and context agree


QUALITIES = {"fast": Quality(8, 1, 1), "standard": Quality(20, 2, 1), "best": Quality(50, 4, 4)}


@dataclass
class Healed:
    """What was drawn; all on the grid of the image that was given, latents on that of the latent."""

    image: Tensor  # (B, 1, X, Y, Z): the input, as the prior sees it
    healthy: Tensor  # (B, 1, X, Y, Z): H, decoded, everywhere
    reconstruction: Tensor  # (B, 1, X, Y, Z): D(E(I))
    latent: Tensor  # (B, c, x, y, z): z
    latent_healthy: Tensor  # (B, c, x, y, z): z_H; equal to z outside the latent mask, bit for bit


@torch.no_grad()
def inpaint_latent(
    prior: DiffusionPrior,
    latent: Tensor,
    mask: Tensor,
    condition: Condition,
    quality: Quality,
    *,
    start: float = 1.0,
    guess: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the latent anew where the mask is.

    Args:
        latent: z_0 (B, c, x, y, z). mask: m (B, 1, x, y, z) bool. start: noise level to start from, 0..1 of the schedule; 1
        starts from noise alone, less keeps a trace of the guess (SDEdit, Meng et al., ICLR 2022). guess: a latent of that
        shape; by default z_0 itself.

    Returns:
        (B, c, x, y, z): outside the mask z_0 itself, bit for bit, whatever the schedule.
    """
    if not mask.any():
        return latent.clone()
    schedule = prior.schedule
    times = schedule.timesteps(quality.steps, start, latent[0, 0].numel())
    # One noise for the surroundings throughout: what is drawn moves on a smooth path, and so must what it is to fit.
    noise = normal(latent, generator)
    z = noise if start >= 1 else schedule.add_noise(latent if guess is None else guess, noise, times[0])
    z = torch.where(mask, z, schedule.add_noise(latent, noise, times[0]))
    for k, t in enumerate(times):
        following = times[k + 1] if k + 1 < len(times) else None
        for r in range(quality.resamplings):
            with mixed(z.device):
                prediction = prior.predict(z, t, condition).to(z)
            drawn = schedule.step(prediction, t, following, z, generator)
            known = latent if following is None else schedule.add_noise(latent, noise, following)
            z_next = torch.where(mask, drawn, known)
            if following is None or r == quality.resamplings - 1:
                break
            z = schedule.renoise(z_next, following, t, generator)
        z = z_next
    return z


def median(samples: Tensor) -> Tensor:
    """Median over the first axis; of an even number, the mean of the middle two (torch's own takes the lower)."""
    ordered, n = samples.sort(0).values, len(samples)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@torch.no_grad()
def heal(
    prior: DiffusionPrior,
    image: Tensor,
    hole: Tensor,
    condition: Condition,
    quality: Quality,
    *,
    start: float = 1.0,
    guess: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Healed:
    """The pseudo-healthy version of an image.

    Args:
        image: (B, 1, X, Y, Z) in 0..1, edges multiples of what the prior needs. hole: (B, 1, X, Y, Z) bool. start: see
        `inpaint_latent`. guess: an image of that shape to start from; by default the image itself.
    """
    latent = prior.encode(image)
    mask = latent_mask(hole, prior.stride)
    reconstruction = prior.decode(latent)
    if not mask.any():
        return Healed(image, reconstruction, reconstruction, latent, latent.clone())
    many = quality.samples
    first = None if guess is None else prior.encode(guess).repeat(many, 1, 1, 1, 1)
    # All samples of a scan go through the network as one batch.
    drawn = inpaint_latent(
        prior, latent.repeat(many, 1, 1, 1, 1), mask.repeat(many, 1, 1, 1, 1), condition, quality,
        start=start, guess=first, generator=generator,
    )  # fmt: skip
    healthy = median(torch.stack([prior.decode(z) for z in drawn.split(len(latent))]))
    latent_healthy = torch.where(mask, median(drawn.unflatten(0, (many, -1))), latent)
    return Healed(image, healthy, reconstruction, latent, latent_healthy)
