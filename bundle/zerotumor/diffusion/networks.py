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
from torch import nn

STARTER_AUTOENCODER = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 8,  # MAISI's 4 lose too much where a voxel is 4 mm
    "num_channels": [16, 32, 64],
    "num_res_blocks": [1, 1, 1],
    "attention_levels": [False, False, False],
    "norm_num_groups": 8,
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    "end_norms": False,  # see `autoencoder`
}
STARTER_UNET = {
    "spatial_dims": 3,
    "in_channels": 8,
    "out_channels": 8,
    "num_channels": [48, 80, 112],
    "num_res_blocks": [2, 1, 1],
    "attention_levels": [False, False, True],
    "num_head_channels": [0, 0, 16],
    "norm_num_groups": 16,
    "include_spacing_input": True,
    "num_class_embeds": 16,
}
# How a network computes, not what: weights fit either way. Splitting a convolution to save memory loses voxels wherever the
# edge is not a multiple, and emptying the GPU's cache after every layer costs more than it saves.
COMPUTE = {"num_splits": 1, "dim_split": 0, "save_mem": False, "norm_float16": False}
LOG_VARIANCE = -6.0
"""Of a fresh autoencoder's latents, everywhere."""


def autoencoder(config: Mapping[str, object] | None = None) -> AutoencoderKlMaisi:
    """The autoencoder with fresh weights; `config` replaces options of the starter's.

    `num_splits`, `dim_split`, `save_mem` and `norm_float16` of published configs are not followed, see COMPUTE. `end_norms`
    is ours: without it, the starter's way, encoder and decoder do not norm what they end with. A norm there takes away how
    bright a patch is. A config with its own `num_channels` has these norms, as published ones do, unless it says otherwise.
    """
    config = config or {}
    norms = {"end_norms": True} if "num_channels" in config else {}
    options = {**STARTER_AUTOENCODER, **norms, **config, **COMPUTE}
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
    start_linear(network)
    return network


@torch.no_grad()
def start_linear(network: AutoencoderKlMaisi) -> None:
    """Let a fresh autoencoder be a linear one: of the right size, without offsets, its residual branches silent.

    Trials against torch's own start are in bundle/docs/lab_notebook.md.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    edge = torch.tensor([0.25, 0.5, 0.25])
    smooth = edge[:, None, None] * edge[:, None] * edge
    for module in network.modules():
        if isinstance(module, MaisiResBlock):
            nn.init.zeros_(module.conv2.conv.conv.weight)
        elif isinstance(module, MaisiDownsample | MaisiUpsample):
            weight = module.conv.conv.conv.weight.mul_(0.3)
            for channel in range(len(weight)):
                weight[channel, channel] += smooth
    network.decoder.blocks[-1].conv.conv.weight.mul_(0.1)
    # A fresh posterior of standard deviation 1, or of one that random weights choose, drowns its mean in noise, and the
    # decoder learns to blur first.
    nn.init.zeros_(network.quant_conv_log_sigma.conv.weight)
    nn.init.constant_(network.quant_conv_log_sigma.conv.bias, LOG_VARIANCE)


def unet(config: Mapping[str, object] | None = None) -> DiffusionModelUNetMaisi:
    """The diffusion U-Net with fresh weights; `config` replaces options of the starter's.

    Flash attention, which published configs ask for, exists on GPUs alone and needs no other weights.
    """
    options = {**STARTER_UNET, **(config or {})}
    options["use_flash_attention"] = bool(options.get("use_flash_attention")) and torch.cuda.is_available()
    return DiffusionModelUNetMaisi(**options)


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
