"""A tiny prior of the real classes."""

import pytest
import torch

from zerotumor.diffusion.conditions import Condition
from zerotumor.diffusion.prior import DiffusionPrior

AUTOENCODER = {"num_channels": [4, 4, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4}
UNET = {
    "num_channels": [8, 8, 16], "num_res_blocks": 1, "attention_levels": [False, False, True],
    "num_head_channels": [0, 0, 8], "norm_num_groups": 4,
}  # fmt: skip


@pytest.fixture
def sizes():
    """Options of the autoencoder and of the U-Net."""
    return dict(AUTOENCODER), dict(UNET)


@pytest.fixture
def make():
    """Builds a tiny prior with options. No layer of it is zero, as many of a fresh diffusion model are."""

    def build(unet=None, **options):
        prior = DiffusionPrior(AUTOENCODER, {**UNET, **(unet or {})}, **options)
        for parameter in prior.unet.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        return prior.eval()

    return build


@pytest.fixture
def condition():
    return Condition("CT", 4.0)
