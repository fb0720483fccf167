"""MONAI's own MAISI networks from plain options: the starter's by default, the published ones from configs/maisi_*.json."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    AutoencoderKlMaisi,
    MaisiDownsample,
    MaisiGroupNorm3D,
    MaisiResBlock,
    MaisiUpsample,
)
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor, nn

STARTER_AUTOENCODER = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 8,  # of 2 x 2 x 2 voxels: MAISI's 4 of 4 x 4 x 4 lose too much where a voxel is 4 mm
    "num_channels": [16, 32],
    "num_res_blocks": [1, 1],
    "attention_levels": [False, False],
    "norm_num_groups": 8,
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    "use_convtranspose": True,  # see `start_as_wavelets`
    "end_norms": False,  # see `autoencoder`
}
STARTER_UNET = {
    "spatial_dims": 3,
    "in_channels": 8,
    "out_channels": 8,
    "num_channels": [32, 64, 96],
    "num_res_blocks": [1, 1, 1],
    "attention_levels": [False, False, True],
    "num_head_channels": [0, 0, 16],
    "norm_num_groups": 16,
    "include_spacing_input": True,
    "num_class_embeds": 16,
}
# How a network computes, not what: weights fit either way. Splitting a convolution to save memory loses voxels wherever the
# edge is not a multiple, and emptying the GPU's cache after every layer costs more than it saves.
COMPUTE = {"num_splits": 1, "dim_split": 0, "save_mem": False, "norm_float16": False}
LOG_VARIANCE = -10.0
"""Of a fresh starter's latents, everywhere."""
DETAIL = 4.0
"""How much a fresh starter's latents enlarge differences: noise is added to all latents alike, and means vary most."""


def autoencoder(config: Mapping[str, object] | None = None) -> AutoencoderKlMaisi:
    """The autoencoder with fresh weights; `config` replaces options of the starter's.

    `num_splits`, `dim_split`, `save_mem` and `norm_float16` of published configs are not followed, see COMPUTE. `end_norms`
    is ours: without it, the starter's way, encoder and decoder do not norm what they end with (a norm there takes away how
    bright a patch is) and start as `start_as_wavelets` says. A config with its own `num_channels` has these norms, no
    transposed convolutions and one residual block a level, unless it says otherwise, as published ones do.
    """
    config = config or {}
    published = {}
    if levels := len(config.get("num_channels", ())):
        published = {"end_norms": True, "use_convtranspose": False}
        published |= {"attention_levels": [False] * levels, "num_res_blocks": [1] * levels}
    options = {**STARTER_AUTOENCODER, **published, **config, **COMPUTE}
    end_norms = options.pop("end_norms")
    network = AutoencoderKlMaisi(**options)
    # MAISI's own norm goes group by group, to save memory. torch's has the same weights and result, and a training step on a
    # CPU takes two thirds of the time.
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, MaisiGroupNorm3D):
                setattr(parent, name, nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps))
    if not end_norms:
        network.encoder.blocks[-2] = network.decoder.blocks[-2] = nn.Identity()
        start_as_wavelets(network)
    return network


@torch.no_grad()
def start_as_wavelets(network: AutoencoderKlMaisi) -> None:
    """Let a fresh autoencoder be a Haar transform and back: mean and seven differences of every 2 x 2 x 2 voxels.

    With two levels, eight latent channels and transposed convolutions nothing is lost from the first step on; only these can
    tell an odd voxel from an even one. More levels halve the mean's map alone and keep the last one's differences. Residual
    branches are silent at first. Channels beyond these start at random and are not listened to yet.

    Raises:
        ValueError: the network upsamples without transposed convolutions.
    """
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    haar = torch.einsum("ai,bj,ck->abcijk", signs, signs, signs).reshape(8, 2, 2, 2)
    gains = torch.tensor([1.0, *[DETAIL] * 7])[:, None, None, None]
    for convolution in [m for m in network.modules() if isinstance(m, nn.Conv3d)]:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
        nn.init.zeros_(convolution.bias)
    inward, outward = network.encoder.blocks, network.decoder.blocks
    for block in [*inward, *outward]:
        if isinstance(block, MaisiResBlock):
            nn.init.zeros_(block.conv2.conv.conv.weight)
            if block.in_channels != block.out_channels:
                _pass_on(block.nin_shortcut.conv.conv)
        elif isinstance(block, MaisiDownsample):
            weight = block.conv.conv.conv.weight
            weight[:8] = 0
            weight[:8, 0, :2, :2, :2] = (haar * gains / 8)[: len(weight)]
        elif isinstance(block, MaisiUpsample):
            if not block.use_convtranspose:
                raise ValueError("an autoencoder without end_norms needs use_convtranspose: true to start as wavelets")
            _up(block.conv.conv.conv, haar / gains)
    for convolution in (inward[0], inward[-1], outward[0], outward[-1]):
        _pass_on(convolution.conv.conv)
    for convolution in (network.quant_conv_mu, network.post_quant_conv):
        _pass_on(convolution.conv)
    # A fresh posterior of standard deviation 1, or of one that random weights choose, drowns its mean in noise, and the
    # decoder learns to blur first.
    nn.init.zeros_(network.quant_conv_log_sigma.conv.weight)
    nn.init.constant_(network.quant_conv_log_sigma.conv.bias, LOG_VARIANCE)


def _pass_on(convolution: nn.Conv3d) -> None:
    """Hand on the first (at most eight) channels as they are."""
    weight = convolution.weight
    width = min(8, *weight.shape[:2])
    center = [edge // 2 for edge in weight.shape[2:]]
    weight[:width] = 0
    weight[(range(width), range(width), *center)] = 1


def _up(convolution: nn.ConvTranspose3d, synthesis: Tensor) -> None:
    """Let a transposed convolution (kernel 3, stride 2) draw its first channel from the first eight by (8, 2, 2, 2)."""
    nn.init.zeros_(convolution.bias)
    weight = convolution.weight  # (in, out, 3, 3, 3); an even voxel is met by tap 1, the odd one behind it by tap 2
    nn.init.normal_(weight, std=(8 * len(weight)) ** -0.5)
    weight[:, :8] = 0
    weight[:8, 0, 1:, 1:, 1:] = synthesis[: len(weight)]


def unet(config: Mapping[str, object] | None = None) -> DiffusionModelUNetMaisi:
    """The diffusion U-Net with fresh weights; `config` replaces options of the starter's.

    Flash attention, which published configs ask for, exists on GPUs alone and needs no other weights. `end_norm` is ours:
    without it, the starter's way, what the U-Net ends with is not normed, as a norm there takes away how bright a whole
    latent is to be. A config with its own `num_channels` has that norm, as published ones, unless it says otherwise.
    """
    config = config or {}
    options = {**STARTER_UNET, "end_norm": "num_channels" in config, **config}
    end_norm = options.pop("end_norm")
    options["use_flash_attention"] = bool(options.get("use_flash_attention")) and torch.cuda.is_available()
    network = DiffusionModelUNetMaisi(**options)
    if not end_norm:
        network.out[0] = nn.Identity()
    return network


def encoder_blocks(network: AutoencoderKlMaisi, finest: bool) -> list[tuple[int, int, int]]:
    """Blocks of the encoder to read features from, fine to coarse: (index, channels, stride).

    Args:
        finest: the last residual block of every level. Otherwise as published for MAISI: every downsampling, and the last
            residual block; that leaves out full resolution, whose maps fill a GPU at MAISI's size.
    """
    found, stride, last = [], 1, None
    for k, block in enumerate(network.encoder.blocks):
        if isinstance(block, MaisiResBlock):
            last = (k, block.out_channels, stride)
        elif isinstance(block, MaisiDownsample):
            stride *= 2
            found.append(last if finest else (k, last[1], stride))
    return [*found, last]
