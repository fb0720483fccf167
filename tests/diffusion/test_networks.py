"""What is changed of MONAI's networks changes nothing of what they compute."""

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

from zerotumor.diffusion import networks


@torch.no_grad()
def test_the_autoencoder_is_monais_own(sizes):
    config, _ = sizes
    options = {**networks.STARTER_AUTOENCODER, **config, **networks.COMPUTE}
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
def test_a_fresh_autoencoder_is_linear_and_of_the_right_size(sizes):
    network = networks.autoencoder({"num_channels": [8, 16, 16], "norm_num_groups": 4, "end_norms": False}).eval()
    assert not [n for n, _ in network.named_parameters() if n.startswith(("encoder.blocks.6", "decoder.blocks.6"))]
    image, other = torch.rand(2, 1, 16, 16, 16), torch.rand(2, 1, 16, 16, 16)
    draw = network.reconstruct
    assert torch.allclose(draw(2 * image + other), 2 * draw(image) + draw(other), atol=1e-4)
    assert draw(torch.zeros_like(image)).abs().max() < 1e-6
    mean, sigma = network.encode(image)
    assert 0.1 < mean.std() < 10 and torch.allclose(sigma, torch.tensor(networks.LOG_VARIANCE / 2).exp(), rtol=1e-4)
    config, _ = sizes  # with its own channels, as published ones
    assert isinstance(networks.autoencoder(config).decoder.blocks[-2], torch.nn.GroupNorm)
