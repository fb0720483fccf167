"""What is changed of MONAI's networks changes nothing of what they compute."""

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

from zerotumor.diffusion import networks


@torch.no_grad()
def test_the_autoencoder_is_monais_own(sizes):
    config, _ = sizes
    published = {"use_convtranspose": False, "attention_levels": [False] * 3}
    options = {**networks.STARTER_AUTOENCODER, **published, **config, **networks.COMPUTE}
    options.pop("end_norms")
    theirs = AutoencoderKlMaisi(**options).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = networks.autoencoder(config).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the names are the same
    image = torch.rand(2, 1, 16, 16, 16)
    assert torch.allclose(ours.reconstruct(image), theirs.reconstruct(image), atol=1e-4)
    assert torch.allclose(ours.encode(image)[1], theirs.encode(image)[1], atol=1e-4)


def test_how_to_compute_is_not_taken_from_published_options(sizes):
    config, _ = sizes
    network = networks.autoencoder({**config, "num_splits": 8, "norm_float16": True, "save_mem": True, "dim_split": 1})
    splits = {m.num_splits for m in network.modules() if hasattr(m, "num_splits")}
    assert splits == {1}
    # Twelve is no multiple of eight: MONAI's splitting would drop voxels here.
    assert network.reconstruct(torch.rand(1, 1, 12, 12, 12)).shape == (1, 1, 12, 12, 12)


@torch.no_grad()
@pytest.mark.parametrize("config", [{}, {"num_channels": [8, 16], "norm_num_groups": 4, "use_convtranspose": True}])
def test_a_fresh_starter_loses_nothing(config):
    network = networks.autoencoder({**config, "end_norms": False}).eval()
    image = torch.rand(2, 1, 16, 12, 8)
    mean, sigma = network.encode(image)
    assert mean.shape == (2, 8, 8, 6, 4)
    assert torch.allclose(network.decode(mean), image, atol=1e-5)
    assert torch.allclose(mean[:, :1], torch.nn.functional.avg_pool3d(image, 2), atol=1e-5)
    difference = (image[..., ::2] - image[..., 1::2]) / 2  # along z
    assert torch.allclose(
        mean[:, 1:2], networks.DETAIL * torch.nn.functional.avg_pool3d(difference, (2, 2, 1)), atol=1e-5
    )
    assert torch.allclose(sigma, torch.tensor(networks.LOG_VARIANCE / 2).exp(), rtol=1e-4)


@torch.no_grad()
def test_more_levels_start_with_the_means_of_means():
    config = {"num_channels": [8, 8, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4, "use_convtranspose": True}
    config |= {"end_norms": False}
    network, image = networks.autoencoder(config).eval(), torch.rand(1, 1, 16, 16, 16)
    half = torch.nn.functional.avg_pool3d(image, 2)
    smooth = half.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    assert torch.allclose(network.reconstruct(image), smooth, atol=1e-5)


def test_everything_of_a_fresh_starter_can_learn():
    network, image = networks.autoencoder(), torch.rand(1, 1, 16, 16, 16)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):  # branches that start silent are heard after a step or two
        optimizer.zero_grad()
        (network.reconstruct(image) - image.flip(2)).square().mean().backward()
        optimizer.step()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all("log_sigma" in name for name in silent), silent


def test_published_options_have_norms_and_no_transposed_convolutions(sizes):
    config, _ = sizes
    network = networks.autoencoder(config)
    assert isinstance(network.decoder.blocks[-2], torch.nn.GroupNorm)
    assert not [m for m in network.modules() if isinstance(m, torch.nn.ConvTranspose3d)]


def test_a_starter_without_transposed_convolutions_is_refused():
    with pytest.raises(ValueError, match="use_convtranspose"):
        networks.autoencoder({"use_convtranspose": False})
