"""Noise schedules as one protocol: denoising diffusion (DDPM, with DDIM steps) and rectified flow.

At time t a latent is x_t = a(t) x_0 + b(t) noise. With a and b known, steps, jumps back and exact inversion are the same
arithmetic for both; what differs is a, b, and what the network predicts. The constants, training times and the warp of
times come from MONAI's schedulers. Their `step` and `set_timesteps` are not used: they know one fixed grid that cannot start
late or jump back, DDIM's misses the last 19 times, and the flow's is rounded to half precision and whole times.

Times are the network's own, 0..1000: whole numbers for DDPM, real ones for flows. None stands for no noise at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler
from monai.networks.schedulers.rectified_flow import timestep_transform
from monai.utils import unsqueeze_right
from torch import Tensor

TRAIN_STEPS = 1000
BETAS = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}
"""Of the published MAISI models."""


class Schedule(ABC):
    """What the two kinds have in common. `t` is a scalar tensor or (B,); x, x0, noise and prediction share one shape."""

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a(t) and b(t), in t's shape, float32."""

    @abstractmethod
    def timesteps(self, n: int, start: float | None = None, numel: int | None = None) -> Tensor:
        """Times of n steps, descending (n,); from the last the step leads to no noise.

        Args:
            start: share of the schedule to start from, 0..1; None or 1 for all of it, where nothing is left of x_0.
            numel: voxels of a latent; large ones spend more of their steps where there is much noise (flows alone).

        Raises:
            ValueError: n is below 1 or more than there are times, or start is not in (0, 1].
        """

    @abstractmethod
    def random_times(self, x0: Tensor) -> Tensor:
        """Training times (B,) for a batch x0 (B, C, x, y, z), from torch's global generator."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to predict at x_t."""

    @abstractmethod
    def split(self, prediction: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 and noise that a prediction at x_t implies."""

    def _levels(self, t: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """`levels` in the shape of `like`, so that they multiply it; float32 whatever the latents are."""
        if t is None:
            return like.new_ones((), dtype=torch.float32), like.new_zeros((), dtype=torch.float32)
        t = torch.as_tensor(t, device=like.device)
        return tuple(unsqueeze_right(level, like.ndim) if level.ndim else level for level in self.levels(t))

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor | None) -> Tensor:
        """x_t of x_0."""
        a, b = self._levels(t, x0)
        return (a * x0 + b * noise).to(x0)

    def x0_of(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The x_0 that a prediction at x_t implies."""
        return self.split(prediction, t, x)[0].to(x)

    def preconditioning(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in, in the shape of `like` (Karras et al., NeurIPS 2022, B.6).

        Where x_0 and noise have variance 1, so has c_in x_t, and so has what is left for a network F to predict if the whole
        prediction is c_skip x_t + c_out F(c_in x_t).
        """
        a, b = self._levels(t, like)
        t = torch.as_tensor(t, device=like.device)
        one, zero = torch.ones_like(t, dtype=torch.float32), torch.zeros_like(t, dtype=torch.float32)
        # The target is linear in x_0 and noise: p x_0 + q noise.
        p, q = (self.target(*parts, t) for parts in ((one, zero), (zero, one)))
        p, q = (unsqueeze_right(c, like.ndim) if c.ndim else c for c in (p, q))
        power = a.square() + b.square()
        return (p * a + q * b) / power, (p * b - q * a).abs() / power.sqrt(), power.rsqrt()

    def step(
        self,
        prediction: Tensor,
        t: Tensor,
        t_next: Tensor | None,
        x: Tensor,
        generator: torch.Generator | None = None,
        *,
        eta: float = 0.0,
    ) -> Tensor:
        """x at t -> x at t_next, one reverse step (DDIM, eq. 12 and 16; for a flow with eta 0, Euler's).

        Args:
            t_next: less than t; None for x_0. eta: 0 is deterministic, 1 is DDPM's ancestral sampling.
        """
        x0, noise = self.split(prediction, t, x)
        if t_next is None:
            return x0.to(x)
        a, b = self._levels(t_next, x)
        if not eta:
            return (a * x0 + b * noise).to(x)
        fresh = eta * b / self._levels(t, x)[1].clamp_min(1e-8) * self._forward_spread(t_next, t, x)
        direction = (b.square() - fresh.square()).clamp_min(0).sqrt()
        return (a * x0 + direction * noise + fresh * normal(x, generator)).to(x)

    def renoise(self, x: Tensor, t: Tensor | None, t_to: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x at t -> x at a noisier t_to, with the mean and the variance that it would have there (RePaint, alg. 1)."""
        shrink = self._levels(t_to, x)[0] / self._levels(t, x)[0]
        return (shrink * x + self._forward_spread(t, t_to, x) * normal(x, generator)).to(x)

    def _forward_spread(self, t: Tensor | None, t_to: Tensor, like: Tensor) -> Tensor:
        """Standard deviation of the noise that leads from x_t to x_t_to."""
        (a, b), (a_to, b_to) = self._levels(t, like), self._levels(t_to, like)
        return (b_to.square() - (a_to / a * b).square()).clamp_min(0).sqrt()


class Ddpm(Schedule):
    """Denoising diffusion over 1000 whole times, stepped by DDIM.

    Args:
        prediction: what the network says of x_t: "epsilon" (the noise) or "v_prediction".
    """

    def __init__(self, prediction: str = "epsilon") -> None:
        self.scheduler = DDIMScheduler(
            num_train_timesteps=TRAIN_STEPS, clip_sample=False, prediction_type=prediction, **BETAS
        )
        self.prediction = prediction

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt of alpha-bar and of its complement. The table is MONAI's, read but never cast: its own `add_noise` keeps
        whatever precision it was last called in."""
        kept = self.scheduler.alphas_cumprod.to(t.device)[t.long()]
        return kept.sqrt(), (1 - kept).sqrt()

    def timesteps(self, n: int, start: float | None = None, numel: int | None = None) -> Tensor:
        """Evenly spaced, the first at the start itself (999 of 1000)."""
        first = round(TRAIN_STEPS * _start(start))
        _check(n, max(first, 1))
        return (torch.linspace(1, 0, n + 1)[:-1] * first).round().long() - 1

    def random_times(self, x0: Tensor) -> Tensor:
        """Uniform over all times."""
        return torch.randint(0, TRAIN_STEPS, (len(x0),), device=x0.device)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noise, or v = a noise - b x_0."""
        if self.prediction == "epsilon":
            return noise
        a, b = self._levels(t, x0)
        return (a * noise - b * x0).to(x0)

    def split(self, prediction: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 = (x - b eps) / a; of v, x_0 = a x - b v and noise = b x + a v."""
        a, b = self._levels(t, x)
        if self.prediction == "epsilon":
            return (x - b * prediction) / a, prediction
        return a * x - b * prediction, b * x + a * prediction


class Flow(Schedule):
    """Rectified flow: x_t lies on the straight line from x_0 to noise, the network predicts its velocity x_0 - noise.

    Args:
        warp: spend more steps where there is much noise, the more the larger the latent, as the published models were
        trained.
    """

    def __init__(self, warp: bool = True) -> None:
        self.warp = warp
        self.scheduler = RFlowScheduler(
            num_train_timesteps=TRAIN_STEPS, use_discrete_timesteps=False, sample_method="uniform",
            use_timestep_transform=warp,
        )  # fmt: skip

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 - u and u, of u = t / 1000."""
        u = t.float() / TRAIN_STEPS
        return 1 - u, u

    def timesteps(self, n: int, start: float | None = None, numel: int | None = None) -> Tensor:
        """Evenly spaced before the warp; the first is the start itself, warped or not."""
        _check(n, TRAIN_STEPS)
        first, base = _start(start), self.scheduler.base_img_size_numel
        if not self.warp or numel is None:
            return torch.linspace(1, 0, n + 1)[:-1] * first * TRAIN_STEPS
        # The warp by the inverse ratio undoes the warp: where the grid has to start so that it ends up at `first`.
        origin = timestep_transform(torch.tensor(first * TRAIN_STEPS), base, numel, num_train_timesteps=TRAIN_STEPS)
        grid = torch.linspace(1, 0, n + 1)[:-1] * origin
        return timestep_transform(grid, numel, base, num_train_timesteps=TRAIN_STEPS)

    def random_times(self, x0: Tensor) -> Tensor:
        """Uniform, then warped by the latent's size."""
        return self.scheduler.sample_timesteps(x0)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity x_0 - noise."""
        return x0 - noise

    def split(self, prediction: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 = x + u v, noise = x - (1 - u) v."""
        a, b = self._levels(t, x)
        return x + b * prediction, x - a * prediction


SCHEDULES = {"ddpm": Ddpm, "flow": Flow}


def schedule(kind: str = "flow", **options: object) -> Schedule:
    """A schedule by its name, "ddpm" or "flow".

    Raises:
        ValueError: there is no such schedule.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"there is no noise schedule {kind!r}: choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[kind](**options)


def normal(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise; drawn on the generator's device, so that a seed means the same everywhere."""
    device = generator.device if generator is not None else like.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=torch.float32).to(like.device)


def _start(start: float | None) -> float:
    start = 1.0 if start is None else float(start)
    if not 0 < start <= 1:
        raise ValueError(f"a schedule can start at a share of 0..1 of it, not at {start}")
    return start


def _check(n: int, most: int) -> None:
    if not 1 <= n <= most:
        raise ValueError(f"{n} steps cannot be taken: choose 1 to {most}")
