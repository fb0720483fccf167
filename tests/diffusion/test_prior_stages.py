"""Both stages by the real configs, resuming, and their losses."""

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle import run as run_bundle

from zerotumor.diffusion.training import AutoencoderLoss, PrepareLatents, fresh_prior, prior_config, set_scale
from zerotumor.diffusion.weights import (
    PUBLISHED,
    load_autoencoder,
    load_prior,
    read_config,
    save_autoencoder,
    save_prior,
)
from zerotumor.segmenter import WeightsError

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
SHORT = {"train_count": 4, "val_count": 2, "epoch_length": 2, "val_interval": 1, "batch_size": 2, "workers": 0,
         "patch": 16, "spacing": 8.0}  # fmt: skip


def train(stage, **arguments):
    """`monai.bundle run` on a stage's config."""
    file = str(BUNDLE / "configs" / f"diffusion_{stage}.yaml")
    run_bundle(config_file=file, bundle_root=str(BUNDLE), logging_file=False, **{**SHORT, **arguments})


def test_both_stages_by_configs_and_resuming(tmp_path, monkeypatch, condition, sizes):
    autoencoder, unet = sizes
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "one", tmp_path / "two"
    for epochs in (1, 2):
        train("autoencoder", output_dir=str(first), max_epochs=epochs, crop=16, network_config=autoencoder)
    state = torch.load(first / "checkpoint_epoch=2.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 4 and (first / "best.pt").is_file()
    weights = first / "autoencoder.pt"
    trained, record = load_autoencoder(weights)
    assert record["config"] == autoencoder and record["trained"]["steps"] == 4
    exported = trained.state_dict()["encoder.blocks.0.conv.conv.weight"]
    assert torch.allclose(exported, state["ema"]["encoder.blocks.0.conv.conv.weight"], atol=1e-3)

    for epochs in (1, 2):
        train("unet", output_dir=str(second), max_epochs=epochs, autoencoder_weights=str(weights), unet_config=unet,
              schedule={"kind": "ddpm", "prediction": "v_prediction"})  # fmt: skip
    state = torch.load(second / "checkpoint_epoch=2.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 4 and list(second.rglob("events.out.tfevents*"))
    prior = load_prior(second / "diffusion.pt")
    record = json.loads((second / "diffusion.json").read_text())
    assert prior.schedule.prediction == "v_prediction" and prior.unet_tap_channels == (8, 8, 16)
    assert float(prior.scale_factor) == pytest.approx(record["scale_factor"], rel=1e-3) and record["scale_factor"] != 1
    assert torch.equal(prior.autoencoder.state_dict()["encoder.blocks.0.conv.conv.weight"], exported)
    assert float(prior.unet.out[-1].conv.weight.abs().max()) > 0  # zero before the first step
    assert torch.isfinite(prior.predict(torch.randn(1, 8, 4, 4, 4), 10, condition)).all()
    assert len(list(second.glob("latents_16_8mm_*"))) == 1


def test_a_few_steps_lower_the_autoencoders_loss(make):
    network, loss, image = make().autoencoder.train(), AutoencoderLoss(kl=1e-6), torch.rand(2, 1, 16, 16, 16)
    optimizer, course = torch.optim.AdamW(network.parameters(), 5e-3), []
    for _ in range(12):
        value = loss(network(image), image)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        course.append(loss.last["reconstruction"])
    assert course[-1] < 0.8 * course[0] and set(loss.last) == {"reconstruction", "kl"}


def test_kl_is_that_of_a_standard_normal():
    mean, sigma, image = torch.zeros(2, 4, 2, 2, 2), torch.ones(2, 4, 2, 2, 2), torch.rand(2, 1, 8, 8, 8)
    loss = AutoencoderLoss(kl=1.0)
    assert float(loss((image, mean, sigma), image)) == pytest.approx(0, abs=1e-6)
    loss((image, mean + 2, sigma), image)
    assert loss.last["kl"] == pytest.approx(0.5 * 4 * 32)  # half the squared mean, summed over a latent
    loss((image, mean, sigma * 0), image)
    assert torch.isfinite(torch.tensor(loss.last["kl"]))


def test_optional_parts_join_and_the_discriminator_learns(make):
    network, image = make().autoencoder, torch.rand(1, 1, 32, 32, 32)
    loss = AutoencoderLoss(perceptual=torch.nn.MSELoss(), perceptual_weight=0.5, adversarial=0.1)
    before = [p.clone() for p in loss.discriminator.parameters()]
    output = network(image)
    loss(output, image).backward()
    assert set(loss.last) == {"reconstruction", "kl", "perceptual", "adversarial"}
    assert loss.last["perceptual"] == pytest.approx(0.5 * float((output[0] - image).square().mean()))
    assert not all(torch.equal(a, b) for a, b in zip(before, loss.discriminator.parameters(), strict=True))
    assert not any(p.requires_grad for p in loss.discriminator.parameters())
    assert all(p.grad is not None for p in network.decoder.parameters())


def test_a_few_steps_lower_the_unets_loss_and_leave_the_autoencoder_alone(make):
    prior = make().train()
    batch = {"latent": torch.randn(4, 8, 4, 4, 4), "ct": torch.tensor([1, 0, 1, 0]), "spacing": torch.full((4, 3), 4.0)}
    prepare, optimizer, course = PrepareLatents(prior, fixed=True), torch.optim.AdamW(prior.unet.parameters(), 5e-3), []
    for _ in range(12):
        noisy, target, _, keywords = prepare(batch, "cpu")
        value = (prior(noisy, **keywords) - target).square().mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        course.append(float(value.detach()))
    assert course[-1] < 0.9 * course[0]
    assert all(p.grad is None for p in prior.autoencoder.parameters())


def test_what_is_prepared_is_what_the_schedule_says(make):
    prior = make(scale_factor=2.0)
    batch = {
        "latent": torch.randn(2, 4, 4, 4, 4),
        "ct": torch.tensor([1, 0]),
        "spacing": torch.tensor([[1.0, 2, 3]] * 2),
    }
    noisy, target, _, keywords = PrepareLatents(prior)(batch, "cpu")
    assert torch.allclose(prior.schedule.x0_of(target, keywords["t"], noisy), 2 * batch["latent"], atol=1e-3)
    assert [(c.modality, c.spacing) for c in keywords["condition"]] == [("CT", (1, 2, 3)), ("MR", (1, 2, 3))]
    again = PrepareLatents(prior)(batch, "cpu")
    assert not torch.equal(again[0], noisy)
    fixed, same = (PrepareLatents(prior, fixed=True)(batch, "cpu") for _ in range(2))
    assert torch.equal(fixed[0], same[0]) and torch.equal(fixed[3]["t"], same[3]["t"])


def test_the_scale_makes_latents_of_unit_spread(make):
    prior, latents = make(), [{"latent": 3 * torch.randn(4, 8, 8, 8)} for _ in range(20)]
    assert set_scale(prior, latents, most=10) == pytest.approx(1 / 3, rel=0.03)
    assert float(prior.scale_factor) == pytest.approx(1 / 3, rel=0.03)


def test_an_autoencoder_may_come_from_a_whole_prior(make, tmp_path, sizes):
    prior, (autoencoder, unet) = make(), sizes
    whole = save_prior(prior, tmp_path / "prior.pt", {"autoencoder": autoencoder, "unet": unet})
    alone = save_autoencoder(prior.autoencoder, tmp_path / "autoencoder.pt", autoencoder)
    image = torch.rand(1, 1, 16, 16, 16)
    made = [fresh_prior(prior_config(path, unet), path).eval().encode(image) for path in (whole, alone)]
    assert torch.equal(*made) and torch.allclose(made[0], prior.encode(image), atol=1e-2)
    with pytest.raises(WeightsError, match="no record"):
        prior_config(tmp_path / "none.pt")


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_configs_can_be_named_on_the_command_line(name):
    parser = ConfigParser({"network_config": f"%{BUNDLE / 'configs' / PUBLISHED[name].config}::unet"})
    parser.parse()
    assert parser.get_parsed_content("network_config") == read_config(name)["unet"]
