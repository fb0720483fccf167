"""The published MAISI models: exact configurations, and a checkpoint in their layout through the real loading path."""

import json

import pytest
import torch

from zerotumor.diffusion import weights
from zerotumor.diffusion.prior import DiffusionPrior
from zerotumor.diffusion.schedules import Ddpm, Flow
from zerotumor.diffusion.weights import PUBLISHED, load_prior, load_published, published, read_config, save_prior
from zerotumor.segmenter import WeightsError

COUNTS = {"ddpm-ct": 169.37, "rflow-ct": 180.50, "rflow-mr": 180.50, "rflow-mr-brain": 180.50}  # million, of the U-Net


def millions(network):
    return round(sum(p.numel() for p in network.parameters()) / 1e6, 2)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_sizes(name):
    with torch.device("meta"):
        prior = DiffusionPrior(**read_config(name))
    assert millions(prior.autoencoder) == 20.94 and millions(prior.unet) == COUNTS[name]
    assert millions(prior.autoencoder.encoder) == 8.81 and millions(prior.autoencoder.decoder) == 12.13
    assert isinstance(prior.schedule, Ddpm if name == "ddpm-ct" else Flow) and prior.stride == 4
    assert prior.encoder_tap_blocks == (3, 6, 8) and prior.encoder_tap_channels == (64, 128, 256)
    assert prior.encoder_tap_strides == (2, 4, 4) and prior.unet_tap_channels == (64, 128, 256, 512)
    assert prior.unet_tap_strides == (4, 4, 8, 16) and prior.multiple == 32


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_state_dicts(name):
    with torch.device("meta"):
        prior = DiffusionPrior(**read_config(name))
    keys, unet = prior.autoencoder.state_dict(), prior.unet.state_dict()
    assert keys["encoder.blocks.0.conv.conv.weight"].shape == (64, 1, 3, 3, 3)
    assert keys["quant_conv_mu.conv.weight"].shape == keys["post_quant_conv.conv.weight"].shape == (4, 4, 1, 1, 1)
    assert keys["decoder.blocks.0.conv.conv.weight"].shape == (256, 4, 3, 3, 3)
    assert unet["conv_in.conv.weight"].shape == (64, 4, 3, 3, 3) and unet["out.2.conv.weight"].shape == (4, 64, 3, 3, 3)
    assert unet["spacing_layer.0.weight"].shape == (256, 3)
    assert len([k for k in unet if k.endswith("attn.to_q.weight")]) == 11
    assert not [k for k in unet if "cross" in k or "attn2" in k]
    regions = {"top_region_index_layer.0.weight", "bottom_region_index_layer.2.bias"}
    if name == "ddpm-ct":
        assert regions <= set(unet) and "class_embedding.weight" not in unet
    else:
        assert not regions & set(unet) and unet["class_embedding.weight"].shape == (128, 256)


def shrink(name):
    """A published configuration with few channels and all else as it is."""
    config = read_config(name)
    config["autoencoder"] |= {"num_channels": [4, 4, 8], "norm_num_groups": 4}
    config["unet"] |= {"num_channels": [4, 4, 8, 8], "num_head_channels": [0, 0, 4, 4], "norm_num_groups": 4,
                       "num_res_blocks": 1}  # fmt: skip
    return config


@pytest.fixture(params=["ddpm-ct", "rflow-mr"])
def checkpoint(request, tmp_path, monkeypatch):
    """Random weights in the layout of the published files: name, the prior they are of, and the two files."""
    monkeypatch.setattr(weights, "read_config", shrink)
    prior = DiffusionPrior(**shrink(request.param), scale_factor=1.4)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    files = tmp_path / "autoencoder.pt", tmp_path / "unet.pt"
    torch.save(prior.autoencoder.state_dict(), files[0])
    content = {
        "epoch": 10, "loss": 0.1, "num_train_timesteps": 1000, "scale_factor": torch.tensor(1.4),
        "unet_state_dict": prior.unet.state_dict(),
    }  # fmt: skip
    torch.save(content, files[1])
    return request.param, prior, *files


@torch.no_grad()
def test_a_checkpoint_in_the_published_layout_loads(checkpoint, condition, tmp_path):
    name, prior, autoencoder, unet = checkpoint
    loaded = load_published(name, autoencoder, unet)
    assert float(loaded.scale_factor) == pytest.approx(1.4) and loaded.frozen
    image, latent = torch.rand(1, 1, 32, 32, 32), torch.randn(1, 4, 8, 8, 8)
    assert torch.equal(loaded.encode(image), prior.encode(image))
    assert torch.equal(loaded.predict(latent, 10, condition), prior.predict(latent, 10, condition))
    path = save_prior(loaded, tmp_path / "prior.pt", shrink(name), license=published(name).license)
    again = load_prior(path)
    assert type(again.schedule) is type(prior.schedule) and again.guidance == prior.guidance
    assert torch.allclose(again.encode(image), prior.encode(image), atol=1e-2)
    assert json.loads(path.with_suffix(".json").read_text())["license"] == published(name).license


def test_an_autoencoder_may_lie_one_level_deeper(checkpoint, tmp_path):
    name, prior, autoencoder, unet = checkpoint
    torch.save({"unet_state_dict": prior.autoencoder.state_dict()}, autoencoder)
    assert torch.equal(load_published(name, autoencoder, unet).autoencoder.state_dict()["encoder.blocks.0.conv.conv.weight"],
                       prior.autoencoder.state_dict()["encoder.blocks.0.conv.conv.weight"])  # fmt: skip


class Anything:
    """What weights have no need of."""


@pytest.mark.parametrize("content, said", [
    ({"epoch": 1}, "no unet_state_dict and scale_factor"),
    ({"unet_state_dict": {"a": torch.zeros(1)}, "scale_factor": torch.tensor(1.0)}, "does not fit its network"),
    ({"unet_state_dict": Anything(), "scale_factor": torch.tensor(1.0)}, "holds more than weights"),
    ([1, 2], "holds no weights"),
])  # fmt: skip
def test_other_files_are_refused(checkpoint, content, said):
    name, _, autoencoder, unet = checkpoint
    torch.save(content, unet)
    with pytest.raises(WeightsError, match=said):
        load_published(name, autoencoder, unet)


def test_damaged_and_missing_files_are_refused(checkpoint):
    name, _, autoencoder, unet = checkpoint
    unet.write_bytes(unet.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        load_published(name, autoencoder, unet)
    unet.unlink()
    with pytest.raises(WeightsError, match="is missing"):
        load_published(name, autoencoder, unet)


def test_unknown_models_are_named():
    with pytest.raises(WeightsError, match="rflow-ct"):
        published("maisi")


def test_an_altered_prior_is_refused(make, tmp_path):
    path = save_prior(make(), tmp_path / "prior.pt", {})
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="hash differs"):
        load_prior(path)
