"""What of DiffuGTS trains, its weights in two files, and twins that share them."""

import json
from copy import deepcopy

import pytest
import torch

from zerotumor.adaptation import Adapted
from zerotumor.segmenter import WeightsError, available, load, save
from zerotumor.text import load_text_encoder

EDGE = 16


def test_gradients_reach_only_what_trains(make, batch):
    from zerotumor.diffugts.criterion import DiffuGTSLoss

    image, truth, _, keywords = batch
    model = make().train()
    model.begin("attention")
    DiffuGTSLoss()(model(image, **keywords), truth).backward()
    with_gradient = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"attention"}
    assert all(p.grad is not None for p in model.attention.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.prior.parameters())
    assert not model.prior.training


def test_the_prior_is_no_part_of_the_weights_and_copies_share_it(make):
    model = make()
    assert not [k for k in model.state_dict() if "prior" in k or "autoencoder" in k or "unet" in k]
    own = {id(p) for p in model.parameters()}
    assert not own & {id(p) for p in model.prior.parameters()}
    twin = deepcopy(model)
    assert twin.prior is model.prior and twin.attention is not model.attention
    before = [p.clone() for p in model.prior.parameters()]
    model.double()  # what is applied to a module is applied to its prior
    assert all(p.dtype == torch.float64 for p in model.prior.parameters() if p.is_floating_point())
    model.float()
    assert all(torch.equal(a, b) for a, b in zip(before, model.prior.parameters(), strict=True))


def write(folder, model, config):
    encoder = load_text_encoder()
    folder = folder / "diffugts"
    save(model, "diffugts", folder / "model.pt", config=config, encoder=encoder, prior=model.keep_prior(folder))


def test_weights_lie_in_two_files_and_come_back(make, config, prior_file, tmp_path):
    model = make().load_prior(prior_file)
    write(tmp_path, model, config)
    assert {"model.pt", "model.json", "diffusion.pt"} <= {f.name for f in (tmp_path / "diffugts").iterdir()}
    again = load("diffugts", tmp_path)
    assert again.prior_sha256 == model.prior_sha256 != "untrained"
    assert [r["sha256"] for r in again.records] == [again.weights_sha256, again.prior_sha256]
    image = torch.rand(1, 1, EDGE, EDGE, EDGE)
    assert torch.allclose(again.prior.encode(image), model.prior.encode(image), atol=1e-2)
    assert again(torch.rand(1, 2, EDGE, EDGE, EDGE)).shape == (1, 1, EDGE, EDGE, EDGE)


def test_a_prior_that_is_missing_or_altered_is_refused(make, config, prior_file, tmp_path):
    write(tmp_path, make().load_prior(prior_file), config)
    prior = tmp_path / "diffugts/diffusion.pt"
    content = prior.read_bytes()
    prior.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match="diffusion.pt"):
        load("diffugts", tmp_path)
    prior.unlink()
    with pytest.raises(WeightsError, match="diffusion.pt is missing"):
        load("diffugts", tmp_path)
    record = json.loads((tmp_path / "diffugts/model.json").read_text())
    assert record["prior"]["sha256"] and record["config"] == config


def test_without_both_files_the_method_is_not_offered(tmp_path):
    (tmp_path / "diffugts").mkdir()
    (tmp_path / "diffugts/model.pt").touch()
    assert available(tmp_path) == []
    (tmp_path / "diffugts/diffusion.pt").touch()
    assert available(tmp_path) == ["diffugts"]


def test_another_quality_is_a_twin_with_the_same_weights(make):
    model = make()
    best = model.at("best")
    assert (model.quality, best.quality) == ("fast", "best") and best.prior is model.prior
    assert all(a is b for a, b in zip(model.parameters(), best.parameters(), strict=True))
    assert best.as_voter().quality == "fast" and best.quality == "best"
    adapted = Adapted(model, [])
    assert adapted.at("best").base.quality == "best" and adapted.base.quality == "fast"
    with pytest.raises(ValueError, match="has no quality 'superb': choose one of fast, standard, best"):
        model.at("superb")
