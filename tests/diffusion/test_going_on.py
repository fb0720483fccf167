"""Going on from a prior that was trained elsewhere: what its numbers mean comes along, or it is refused."""

from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from zerotumor.diffusion.samples import Healthy
from zerotumor.diffusion.training import (
    export_autoencoder,
    fresh_prior,
    image_folder,
    latent_folder,
    prior_config,
    start_autoencoder,
    start_unet,
)
from zerotumor.diffusion.weights import save_autoencoder, save_prior
from zerotumor.phantom.datalist import phantom_datalist
from zerotumor.segmenter import WeightsError

CONFIGS = Path(__file__).resolve().parents[2] / "bundle" / "configs"
THEIRS = {"preconditioned": False, "ct_range": [-1000.0, 1000.0]}


@pytest.fixture
def theirs(make, sizes, tmp_path):
    """A prior such as the published ones: itself, and its file."""
    autoencoder, unet = sizes
    prior = make(**THEIRS)
    return prior, save_prior(prior, tmp_path / "theirs.pt", {"autoencoder": autoencoder, "unet": unet, **THEIRS})


def parser_of(stage, **given):
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / f"diffusion_{stage}.yaml"))
    parser.update({**given, "patch": 16, "spacing": 8.0})
    return parser


def test_what_a_priors_numbers_mean_comes_with_its_autoencoder(theirs, sizes):
    _, path = theirs
    config = prior_config(path, sizes[1])
    assert {name: config[name] for name in THEIRS} == THEIRS
    prior = fresh_prior(config, path)
    assert not prior.preconditioned and prior.ct_range == (-1000, 1000)
    assert prior_config(path, sizes[1], preconditioned=True)["preconditioned"]


def test_an_autoencoder_alone_brings_its_hounsfield_units(make, sizes, tmp_path):
    trainer = type("Trainer", (), {"state": type("State", (), {"epoch": 1, "iteration": 2})})
    network = make().autoencoder
    path = export_autoencoder(network, tmp_path / "one.pt", sizes[0], trainer, ct_range=[-1000, 1000])
    before = save_autoencoder(network, tmp_path / "before.pt", sizes[0])  # as earlier versions wrote it
    assert [prior_config(p)["ct_range"] for p in (path, before)] == [[-1000, 1000], [-1000, 400]]
    assert prior_config(path)["preconditioned"]


def test_the_unets_config_scales_images_as_the_autoencoder_knows_them(theirs, tmp_path):
    parser = parser_of("unet", autoencoder_weights=str(theirs[1]), output_dir=str(tmp_path), device="cpu")
    for part in ("train", "validate"):
        healthy = parser.get_parsed_content(f"{part}::preprocessing::transforms::0")
        assert (healthy.low, healthy.high) == (-1000, 1000)
    assert parser.get_parsed_content("prior_config")["preconditioned"] is False
    parser.update({"preconditioned": True})
    assert parser.get_parsed_content("prior_config")["preconditioned"] is True


def test_other_hounsfield_units_are_other_images():
    make = Healthy((16,) * 3, 8.0)
    record = next(r for r in phantom_datalist(20) if int(make(r)["ct"]))
    ours, wide = make(record), Healthy((16,) * 3, 8.0, (-1000, 1000))(record)
    below = ours["image"] < 1
    assert torch.allclose(wide["image"][below].float(), ours["image"][below].float() * 0.7, atol=2e-3)
    assert below.any() and (wide["image"][~below] >= 0.699).all()


def test_caches_of_other_hounsfield_units_are_others(theirs, make, sizes, tmp_path):
    ours = save_autoencoder(make().autoencoder, tmp_path / "ours.pt", sizes[0])
    assert latent_folder("run", 16, 8.0, ours).startswith("run/latents_16_8mm_")
    assert "_-1000_1000HU_" in latent_folder("run", 16, 8.0, theirs[1])
    assert (
        image_folder("run", 16, 8.0, [-1000, 400]) == "run/healthy_16_8mm" != image_folder("run", 16, 8, [-1000, 1000])
    )


def test_the_unet_starts_and_the_autoencoder_stays(theirs, make, sizes, tmp_path):
    elsewhere, path = theirs
    own = save_prior(make(**THEIRS), tmp_path / "own.pt", {"autoencoder": sizes[0], "unet": sizes[1], **THEIRS})
    config = prior_config(own, sizes[1])
    prior = fresh_prior(config, own)
    before = {name: value.clone() for name, value in prior.autoencoder.state_dict().items()}
    assert start_unet(prior, path, config) == []
    assert all(torch.equal(value, before[name]) for name, value in prior.autoencoder.state_dict().items())
    for name, value in prior.unet.state_dict().items():
        assert torch.allclose(value, elsewhere.unet.state_dict()[name], atol=1e-2), name


def test_a_checkpoint_has_no_record_and_is_started_from(make, sizes, tmp_path):
    prior, other = make(), make()
    torch.save({"model": other.state_dict()}, tmp_path / "checkpoint_epoch=3.pt")
    assert start_unet(prior, tmp_path / "checkpoint_epoch=3.pt", {}) == []
    assert torch.equal(prior.unet.conv_in.conv.weight, other.unet.conv_in.conv.weight)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"preconditioned": True}, "trained with preconditioned False and this run has True"),
        ({"ct_range": [-1000, 400]}, "trained with ct_range .* comes with --autoencoder_weights"),
        ({"schedule": {"kind": "ddpm"}}, "trained with schedule .*flow.* and this run has .*ddpm"),
    ],
)
def test_a_unet_that_means_something_else_is_refused(theirs, make, changed, said):
    with pytest.raises(WeightsError, match=said):
        start_unet(make(), theirs[1], {**THEIRS, **changed})


def test_an_autoencoder_starts_from_a_whole_prior(theirs, make):
    elsewhere, path = theirs
    network = make().autoencoder
    assert start_autoencoder(network, path, [-1000, 1000]) == []
    name = "encoder.blocks.0.conv.conv.weight"
    assert torch.allclose(network.state_dict()[name], elsewhere.autoencoder.state_dict()[name], atol=1e-2)
    with pytest.raises(WeightsError, match=r"give --ct_range '\[-1000, 1000\]'"):
        start_autoencoder(network, path)


IDLE = {"_target_": "ignite.engine.Engine", "process_function": "$lambda engine, batch: None"}


def adversarial_run(folder, epochs):
    """A piece of the autoencoder's training with idle engines, and a step of its discriminator; the loss."""
    network = {"network": "$torch.nn.Linear(1, 1)", "network_def": None, "loss::adversarial": 0.1, "device": "cpu"}
    parser = parser_of("autoencoder", output_dir=str(folder), **network)
    parser.update({"train#trainer": IDLE, "validate#evaluator": IDLE})
    trainer = parser.get_parsed_content("train::trainer")
    for k, line in enumerate(parser["initialize"]):
        if "@saver" in line or "@loss" in line:
            parser.get_parsed_content(f"initialize::{k}")
    parser.get_parsed_content("run::0")
    loss, image = parser.get_parsed_content("loss"), torch.rand(1, 1, 32, 32, 32)
    output = image, torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: loss(output, image))
    trainer.run([0], max_epochs=epochs)
    return loss


def test_the_discriminator_goes_on_with_its_optimizer(tmp_path):
    adversarial_run(tmp_path, 1)
    held = torch.load(tmp_path / "checkpoint_epoch=1.pt", weights_only=True)["loss_optimizers"][0]["state"]
    (optimizer,) = adversarial_run(tmp_path, 2).optimizers
    later = optimizer.state_dict()["state"]
    assert [int(state[0]["step"]) for state in (held, later)] == [1, 2] and held[0]["exp_avg"].any()


def test_the_networks_of_the_loss_are_where_the_images_are(tmp_path):
    parser = parser_of("autoencoder", output_dir=str(tmp_path), device="$torch.device('meta')")
    perceptual = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}
    parser.update({"loss::adversarial": 0.1, "loss::perceptual": perceptual})
    for k, line in enumerate(parser["initialize"]):
        if "@loss" in line:
            parser.get_parsed_content(f"initialize::{k}")
    parts = list(parser.get_parsed_content("loss").parameters())
    assert len(parts) > 2 and all(part.device.type == "meta" for part in parts)
