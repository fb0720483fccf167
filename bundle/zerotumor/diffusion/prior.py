"""The diffusion model behind one call: images to latents and back, the U-Net under its conditions, and features of both.

Latents are the posterior's mean times the scale factor. A sample would add noise that is a good quarter of the latents'
variance, and all of it would show up in a residual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from ..precision import mixed_on_gpu
from ..transforms import WIDE_HU
from . import networks
from .conditions import Condition, ConditionTensors, tensors_of
from .schedules import Schedule, schedule

__all__ = ["Condition", "DiffusionPrior"]
TILED_FROM = 256**3
"""Voxels of an image from which on the autoencoder works in overlapping tiles. The widest of MAISI's maps would have over
2^31 values, which GPU kernels cannot count, and MONAI's own splitting drops voxels."""
TILE = 192  # voxels


class DiffusionPrior(nn.Module):
    """Autoencoder, U-Net, schedule and scale factor as one.

    Args:
        autoencoder, unet: networks, or options for `networks` (by default the starter's). schedule: options of
        `schedules.schedule`. scale_factor: 1 / standard deviation of the latents. finest_taps: see
        `networks.encoder_blocks`. guidance: classifier-free, 0 for none; towards the modality, away from "unknown".
        preconditioned: the U-Net predicts what a linear guess leaves over, see `Schedule.preconditioning`; published models
        predict all of it. ct_range: HU that become 0 and 1; MAISI's reaches to 1000.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKlMaisi | Mapping[str, object] | None = None,
        unet: DiffusionModelUNetMaisi | Mapping[str, object] | None = None,
        schedule: Schedule | Mapping[str, object] | None = None,
        scale_factor: float = 1.0,
        finest_taps: bool = True,
        guidance: float = 0.0,
        preconditioned: bool = True,
        ct_range: Sequence[float] = WIDE_HU,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder if isinstance(autoencoder, nn.Module) else networks.autoencoder(autoencoder)
        self.unet = unet if isinstance(unet, nn.Module) else networks.unet(unet)
        self.schedule = schedule if isinstance(schedule, Schedule) else build_schedule(schedule)
        self.register_buffer("scale_factor", torch.tensor(float(scale_factor)))
        self.guidance, self.preconditioned, self.frozen = float(guidance), bool(preconditioned), False
        # The compiled U-Net, if there is one; in a tuple, so that it is not registered.
        self._drawing: tuple[Callable[..., Tensor], ...] = ()
        self.ct_range = (float(ct_range[0]), float(ct_range[1]))
        blocks = networks.encoder_blocks(self.autoencoder, finest_taps)
        self.encoder_tap_blocks = tuple(k for k, _, _ in blocks)
        self.encoder_tap_channels = tuple(channels for _, channels, _ in blocks)
        self.encoder_tap_strides = tuple(s for _, _, s in blocks)
        self.latent_channels: int = self.autoencoder.latent_channels
        self.stride: int = blocks[-1][2]
        widths = tuple(self.unet.block_out_channels)
        self.unet_tap_channels = widths
        # The last but one decoder block upsamples already, so two levels share the latent's grid.
        self.unet_tap_strides = tuple(self.stride * 2 ** max(k - 1, 0) for k in range(len(widths)))
        self.multiple = self.stride * 2 ** (len(widths) - 1)
        """What edges of an image must be multiples of."""

    # ---- images and latents -----------------------------------------------------------------------------------------

    def encode(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) in 0..1 -> (B, c, x, y, z): the posterior's mean times the scale factor; no randomness.

        Raises:
            ValueError: an edge is not a multiple of `stride`.
        """
        self._check(image, self.stride)
        return self._tiled(lambda x: self.autoencoder.encode(x)[0], image, 1) * self.scale_factor

    def decode(self, latent: Tensor) -> Tensor:
        """(B, c, x, y, z) -> (B, 1, X, Y, Z)."""
        return self._tiled(self.autoencoder.decode, latent / self.scale_factor, self.stride)

    def reconstruct(self, image: Tensor) -> Tensor:
        """D(E(I)): what residuals are measured against, so that what the autoencoder loses is on both sides."""
        return self.decode(self.encode(image))

    def _tiled(self, network: Callable[[Tensor], Tensor], x: Tensor, stride: int) -> Tensor:
        """A network on a volume whose voxels are `stride` of the image's; in tiles where it is too large for one go."""
        with mixed_on_gpu(x.device):
            if x[0, 0].numel() * stride**3 < TILED_FROM:
                return network(x).to(x)
            tile = [min(TILE // stride, edge) for edge in x.shape[2:]]
            return sliding_window_inference(x, tile, 1, network, overlap=0.25, mode="gaussian").to(x)

    # ---- the U-Net --------------------------------------------------------------------------------------------------

    def predict(self, latent: Tensor, t: Tensor | float, condition: Condition | Sequence[Condition]) -> Tensor:
        """The U-Net's output at noisy latents (B, c, x, y, z); `schedule` says what it means.

        Args:
            t: time, (B,) or one for all. condition: one for all, or one a scan.

        Raises:
            ValueError: an edge is not a multiple of what the U-Net's levels need.
        """
        self._check(latent, self.multiple // self.stride)
        t = torch.as_tensor(t, device=latent.device).expand(len(latent))
        given = tensors_of(condition, len(latent), latent)
        output = self._unet(latent, t, given, given.modality)
        if not self.guidance or self.unet.num_class_embeds is None:
            return output
        unknown = self._unet(latent, t, given, torch.zeros_like(given.modality))
        return unknown + self.guidance * (output - unknown)

    def _unet(self, latent: Tensor, t: Tensor, given: ConditionTensors, modality: Tensor) -> Tensor:
        unet, inputs = self.unet, {}
        if unet.num_class_embeds is not None:
            inputs["class_labels"] = modality
        if unet.include_spacing_input:
            inputs["spacing_tensor"] = given.spacing
        if unet.include_top_region_index_input:
            inputs["top_region_index_tensor"] = given.top
        if unet.include_bottom_region_index_input:
            inputs["bottom_region_index_tensor"] = given.bottom
        call = self._drawing[0] if self._drawing else unet
        if not self.preconditioned:
            return call(latent, t, **inputs)
        skip, out, inward = self.schedule.preconditioning(t, latent)
        return skip * latent + out * call(inward * latent, t, **inputs)

    def forward(self, latent: Tensor, t: Tensor, condition: Condition | Sequence[Condition]) -> Tensor:
        """`predict`, for MONAI's engines."""
        return self.predict(latent, t, condition)

    # ---- features ---------------------------------------------------------------------------------------------------

    def encoder_taps(self, image: Tensor) -> list[Tensor]:
        """Maps of the autoencoder's encoder, fine to coarse: (B, C_l, X / s_l, Y / s_l, Z / s_l), of `encoder_tap_channels`
        and `encoder_tap_strides`."""
        return self.encode_tapped(image)[1]

    def encode_tapped(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`encode` and `encoder_taps` of a window in one go."""
        self._check(image, self.stride)
        blocks = self.autoencoder.encoder.blocks
        with mixed_on_gpu(image.device):
            (mean, _), taps = _outputs(
                [blocks[k] for k in self.encoder_tap_blocks], lambda: self.autoencoder.encode(image)
            )
        return mean.to(image) * self.scale_factor, [tap.to(image) for tap in taps]

    def unet_taps(self, latent: Tensor, t: Tensor | float, condition: Condition | Sequence[Condition]) -> list[Tensor]:
        """Maps of the U-Net's decoder at x_t, fine to coarse: (B, C_l, X / s_l, Y / s_l, Z / s_l), of `unet_tap_channels`
        and `unet_tap_strides`."""
        kept, self.guidance, self._drawing = (self.guidance, self._drawing), 0.0, ()
        try:
            return _outputs(list(self.unet.up_blocks)[::-1], lambda: self.predict(latent, t, condition))[1]
        finally:
            self.guidance, self._drawing = kept

    # ---- use --------------------------------------------------------------------------------------------------------

    def compile_unet(self, backend: str = "inductor") -> DiffusionPrior:
        """Let `predict` use a compiled U-Net (`torch.compile`); features are read from it as it is. Returns itself."""
        self._drawing = (torch.compile(self.unet, backend=backend),)
        return self

    def freeze(self) -> DiffusionPrior:
        """No gradients, evaluation mode for good; returns itself."""
        self.requires_grad_(False)
        self.frozen = True
        return self.eval()

    def train(self, mode: bool = True) -> DiffusionPrior:
        """As every module's, unless frozen: then it stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def _check(self, volume: Tensor, multiple: int) -> None:
        if any(edge % multiple for edge in volume.shape[2:]):
            raise ValueError(f"edges {tuple(volume.shape[2:])} must be multiples of {multiple}: pad the volume")


def build_schedule(options: Mapping[str, object] | None) -> Schedule:
    """A schedule from options; without any, the starter's: an unwarped flow."""
    return schedule(**(options or {"kind": "flow", "warp": False}))


def _outputs(modules: Sequence[nn.Module], call: Callable[[], object]) -> tuple[object, list[Tensor]]:
    """What `call` answers, and what modules put out while it runs."""
    kept: dict[int, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, output, k=k: kept.__setitem__(k, output))
        for k, module in enumerate(modules)
    ]
    try:
        answer = call()
    finally:
        for handle in handles:
            handle.remove()
    return answer, [kept[k] for k in range(len(modules))]
