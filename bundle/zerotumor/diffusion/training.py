"""Training the prior with MONAI's engines: the autoencoder first, then the U-Net on its latents."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from monai.inferers import SimpleInferer
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from ..segmenter import WeightsError, sha256
from ..training import about_training, warm_start
from ..transforms import WIDE_HU
from .prior import Condition, DiffusionPrior, build_schedule
from .schedules import Ddpm
from .weights import AUTOENCODER, METHOD, load_autoencoder, load_prior, save_autoencoder, save_prior

# ---- autoencoder ----------------------------------------------------------------------------------------------------


class AutoencoderLoss(nn.Module):
    """L1 + kl * KL + perceptual + adversarial, the last two only if asked for.

    KL is summed over a latent and averaged over the batch, as MAISI's. The last two have networks: the loss has to be moved
    to the images' device. `optimizers` holds the discriminator's, if there is one, whose state is no part of the loss's.

    Args:
        kl: weight. perceptual: a loss of (prediction, image), such as MONAI's PerceptualLoss, and its weight. adversarial:
        weight of a patch discriminator, which is trained along; 0 for none. discriminator_rate: its learning rate.
    """

    def __init__(
        self,
        kl: float = 1e-6,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 0.3,
        adversarial: float = 0.0,
        discriminator_rate: float = 1e-4,
    ) -> None:
        super().__init__()
        self.kl, self.perceptual_weight, self.adversarial = kl, perceptual_weight, adversarial
        self.perceptual = perceptual.requires_grad_(False) if perceptual is not None else None
        self.last: dict[str, float] = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        if adversarial:
            self.discriminator = PatchDiscriminator(
                spatial_dims=3, channels=32, in_channels=1, out_channels=1, num_layers_d=3, norm="INSTANCE"
            )
            self.judge = PatchAdversarialLoss(criterion="least_squares")
            self.optimizers.append(torch.optim.Adam(self.discriminator.parameters(), lr=discriminator_rate))

    def forward(self, output: tuple[Tensor, Tensor, Tensor], image: Tensor) -> Tensor:
        """Scalar loss of an autoencoder's (reconstruction, mean, standard deviation)."""
        prediction, mean, sigma = output
        variance = sigma.square().clamp_min(1e-12)
        divergence = 0.5 * (mean.square() + variance - variance.log() - 1).flatten(1).sum(1).mean()
        parts = {"reconstruction": F.l1_loss(prediction, image), "kl": self.kl * divergence}
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual_weight * self.perceptual(prediction.float(), image.float())
        if self.adversarial:
            parts["adversarial"] = self.adversarial * self._contest(prediction, image)
        self.last = {name: float(part.detach()) for name, part in parts.items()}
        return sum(parts.values())

    def _contest(self, prediction: Tensor, image: Tensor) -> Tensor:
        """One step of the discriminator, then what it says of the prediction."""
        (optimizer,) = self.optimizers
        self.discriminator.requires_grad_(True)
        with torch.enable_grad():
            sides = ((prediction.detach(), False), (image, True))
            loss = sum(
                self.judge(self.discriminator(x.float())[-1], target_is_real=real, for_discriminator=True)
                for x, real in sides
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.discriminator.requires_grad_(False)
        return self.judge(self.discriminator(prediction)[-1], target_is_real=True, for_discriminator=False)


def start_autoencoder(network: nn.Module, path: str | Path, ct_range: Sequence[float] = WIDE_HU) -> list[str]:
    """Start an autoencoder from weights of one, or of a whole prior, as far as they fit; the names that stay fresh.

    Args:
        ct_range: HU that are 0 and 1 in this run.

    Raises:
        segmenter.WeightsError: the record of the weights says that they have learned from other HU.
    """
    record = _record_of(path)
    low, high = _ct_range(record) if record.get("method") in (METHOD, AUTOENCODER) else ct_range
    if (low, high) != tuple(ct_range):
        raise WeightsError(
            f"{path} has learned that {low:g} HU are 0 and {high:g} HU are 1: give --ct_range '[{low:g}, {high:g}]'"
        )
    return warm_start(network, path, {"autoencoder.": ""})


def image_folder(output_dir: str, patch: int, spacing: float, ct_range: Sequence[float] = WIDE_HU) -> str:
    """Where images to learn from are cached; other HU are other images."""
    return f"{output_dir}/healthy_{patch}_{spacing:g}mm{_window(ct_range)}"


def _window(ct_range: Sequence[float]) -> str:
    """Of a cache's name: nothing for the HU that the whole bundle uses."""
    return "" if tuple(ct_range) == WIDE_HU else "_{:g}_{:g}HU".format(*ct_range)


def prepare_images(batch: Mapping[str, Tensor], device: torch.device | str, non_blocking: bool = False, **_) -> tuple:
    """For MONAI's engines: an image is its own target."""
    image = torch.as_tensor(batch["image"]).as_subclass(Tensor).to(device, torch.float32, non_blocking=non_blocking)
    return image, image


class Reconstruct(SimpleInferer):
    """Validates an autoencoder as it will be used: by the posterior's mean."""

    def __call__(self, inputs: Tensor, network: Callable, *args: object, **kwargs: object) -> Tensor:
        return network.reconstruct(inputs)


# ---- U-Net ----------------------------------------------------------------------------------------------------------


def prior_config(
    autoencoder_weights: str | Path,
    unet: Mapping[str, object] | None = None,
    schedule: Mapping[str, object] | None = None,
    finest_taps: bool = True,
    preconditioned: bool | None = None,
) -> dict:
    """Arguments of a DiffusionPrior around a trained autoencoder; its weights are those of an autoencoder or of a prior.

    The autoencoder's HU come with it.

    Args:
        preconditioned: None for what the U-Net beside the autoencoder is, and true if there is none.

    Raises:
        segmenter.WeightsError: the weights have no record.
    """
    record = _record(autoencoder_weights)
    config = record["config"]
    whole = config if record["method"] == METHOD else {}
    given = {"unet": dict(unet) if unet else None, "schedule": dict(schedule) if schedule else None}
    return {
        "autoencoder": whole.get("autoencoder") if whole else config,
        **given,
        "finest_taps": finest_taps,
        "preconditioned": bool(whole.get("preconditioned", True) if preconditioned is None else preconditioned),
        "ct_range": list(_ct_range(record)),
    }


def fresh_prior(config: Mapping[str, object], autoencoder_weights: str | Path) -> DiffusionPrior:
    """A prior with a trained, frozen autoencoder and a fresh U-Net.

    Raises:
        segmenter.WeightsError: the autoencoder's file is missing or altered.
    """
    prior = DiffusionPrior(**config)
    trained = _autoencoder(autoencoder_weights)
    prior.autoencoder.load_state_dict(trained.state_dict())
    prior.autoencoder.requires_grad_(False)
    return prior


def _autoencoder(path: str | Path) -> nn.Module:
    return load_prior(path).autoencoder if _record(path)["method"] == METHOD else load_autoencoder(path)[0]


def _record_of(path: str | Path) -> dict:
    """The record beside weights, or nothing: a checkpoint has none."""
    return _record(path) if Path(path).with_suffix(".json").is_file() else {}


def _record(path: str | Path) -> dict:
    try:
        return json.loads(Path(path).with_suffix(".json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} has no record beside it: train the autoencoder first, or restore both") from error


def _ct_range(record: Mapping) -> tuple[float, float]:
    """HU that are 0 and 1 to the autoencoder of a record."""
    low, high = (record["config"] if record["method"] == METHOD else record).get("ct_range", WIDE_HU)
    return float(low), float(high)


def start_unet(prior: DiffusionPrior, path: str | Path, config: Mapping[str, object]) -> list[str]:
    """Start the U-Net, and nothing but it, from a prior's weights or checkpoint, as far as they fit; what stays fresh.

    Args:
        config: the arguments that the prior was built with.

    Raises:
        segmenter.WeightsError: the record of the weights says that what their U-Net sees or predicts is something else.
    """
    there, here = _record_of(path), _meaning(config)
    for name, value in _meaning(there["config"]).items() if there.get("method") == METHOD else ():
        if value != here[name]:
            raise WeightsError(
                f"{path} was trained with {name} {value} and this run has {here[name]}: set the same (ct_range comes with "
                "--autoencoder_weights), or leave out --pretrained"
            )
    return warm_start(prior.unet, path, {"unet.": ""})


def _meaning(config: Mapping[str, object]) -> dict[str, object]:
    """Of a prior's arguments, those without which its U-Net's numbers mean something else."""
    schedule = build_schedule(config.get("schedule"))
    predicts = {"prediction": schedule.prediction} if isinstance(schedule, Ddpm) else {}
    return {
        "schedule": {"kind": type(schedule).__name__.lower(), **predicts},
        "preconditioned": bool(config.get("preconditioned", True)),
        "ct_range": [float(edge) for edge in config.get("ct_range", WIDE_HU)],
    }


def latent_folder(output_dir: str, patch: int, spacing: float, autoencoder_weights: str | Path) -> str:
    """Where latents are cached; named by the autoencoder that made them, since another's would be noise to this U-Net."""
    name = f"latents_{patch}_{spacing:g}mm{_window(_ct_range(_record(autoencoder_weights)))}"
    return f"{output_dir}/{name}_{sha256(Path(autoencoder_weights))[:8]}"


@torch.no_grad()
def set_scale(prior: DiffusionPrior, latents: Sequence[Mapping[str, Tensor]], most: int = 256) -> float:
    """Set the prior's scale factor to 1 / standard deviation of (at most so many) unscaled latents; returns it."""
    step = max(1, len(latents) // most)
    values = torch.stack([torch.as_tensor(latents[k]["latent"]).float() for k in range(0, len(latents), step)])
    prior.scale_factor.fill_(1 / float(values.std().clamp_min(1e-6)))
    return float(prior.scale_factor)


class PrepareLatents:
    """For MONAI's engines: a batch of latents -> noisy latents, what is to be predicted, and the U-Net's conditions.

    Args:
        prior: its schedule and scale factor are used. fixed: the same times and noise for every epoch, for validation.
    """

    def __init__(self, prior: DiffusionPrior, fixed: bool = False) -> None:
        self.prior, self.fixed = prior, fixed

    def __call__(
        self, batch: Mapping[str, Tensor], device: torch.device | str, non_blocking: bool = False, **_
    ) -> tuple:
        x0 = torch.as_tensor(batch["latent"]).as_subclass(Tensor).to(device, non_blocking=non_blocking)
        x0 = x0 * self.prior.scale_factor
        with torch.random.fork_rng(enabled=self.fixed):
            if self.fixed:
                torch.manual_seed(0)
            t, noise = self.prior.schedule.random_times(x0), torch.randn_like(x0)
        conditions = [
            Condition("CT" if ct else "MR", tuple(spacing.tolist()))
            for ct, spacing in zip(batch["ct"].tolist(), batch["spacing"], strict=True)
        ]
        schedule = self.prior.schedule
        return schedule.add_noise(x0, noise, t), schedule.target(x0, noise, t), (), {"t": t, "condition": conditions}


# ---- what training leaves -------------------------------------------------------------------------------------------


def export_autoencoder(
    network: nn.Module,
    path: str | Path,
    config: Mapping[str, object],
    trainer: Engine,
    pretrained: str | None = None,
    ct_range: Sequence[float] = WIDE_HU,
    scans: Sequence[Mapping[str, object]] = (),
) -> Path:
    """Write a trained autoencoder and its record; returns the weights' path.

    Args:
        pretrained: what the run started from. scans: records that were trained on, see `training.about_training`.
    """
    trained = about_training(trainer, pretrained, scans)
    return save_autoencoder(network, path, config, ct_range=list(ct_range), trained=trained)


def export_prior(
    prior: DiffusionPrior,
    path: str | Path,
    config: Mapping[str, object],
    trainer: Engine,
    pretrained: str | None = None,
    scans: Sequence[Mapping[str, object]] = (),
    autoencoder_weights: str | Path | None = None,
) -> Path:
    """Write a trained prior, both networks and the scale factor, and its record; returns the weights' path.

    Args:
        scans: records that were trained on. autoencoder_weights: whose own scans count, too.
    """
    frozen = [] if autoencoder_weights is None else [autoencoder_weights]
    trained = about_training(trainer, pretrained, scans, frozen)
    return save_prior(prior, path, config, scale_factor=float(prior.scale_factor), trained=trained)
