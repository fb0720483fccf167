"""ZePT as a whole: the contract, the paper's size, whole scans."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from zerotumor.inferer import encode_volume, segment_volume
from zerotumor.prompts import parse
from zerotumor.segmenter import METHODS, WeightsError, build, load, save
from zerotumor.text import load_text_encoder
from zerotumor.zept import ZePT
from zerotumor.zept.classes import CLASS_SETS, class_set
from zerotumor.zept.options import PAPER

CONFIGS = Path(__file__).resolve().parents[2] / "bundle/configs"
PAPER_SIZE = {
    "classes": "paper",
    "backbone": "swin",
    "in_channels": 1,
    "width": None,
    "heads": 8,
    "text_dim": 768,
    **PAPER,
}


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@torch.no_grad()
def test_contract(make):
    model, image = make(), torch.rand(2, 2, 32, 32, 32)
    prompts = parse("liver tumor; splenic lesion; anomaly")
    features = model.encode_image(image)
    answer = model.segment(features, prompts)
    assert answer.logits.shape == (2, 3, 32, 32, 32)
    assert answer.scores.shape == (2, 3) and ((answer.scores >= 0) & (answer.scores <= 1)).all()
    assert torch.equal(model(image, prompts), answer.logits)
    assert model(image).shape == (2, 1, 32, 32, 32)
    assert answer.attributes[0]["answered_by"][0][0] == "liver tumor"
    assert torch.equal(answer.logits[:, 2], features["anomaly"][:, 0])
    shown = answer.extras["anomaly"]
    assert shown.shape == (2, 1, 32, 32, 32) and shown.amin() == 0 and shown.amax() == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_a_scan_is_looked_at_on_all_of_its_grids(make):
    image, prompts = torch.rand(2, 48, 40, 32), parse("liver tumor; anomaly")
    several, fine = make(zooms=(1.0, 0.5), edge_weight=0.05, theta_peak=0.6), make()
    several.load_state_dict(fine.state_dict())
    windows = encode_volume(several, image).windows
    assert {w.zoom for w in windows} == {1.0, 0.5}
    assert (several.theta_peak, several.edge_weight) == (0.6, 0.05)
    results = [segment_volume(m, image, prompts) for m in (several, fine)]
    for name in ("ungated", "anomaly"):
        both, one = (r.extras[name] for r in results)
        assert both.shape[1:] == one.shape[1:] == (48, 40, 32) and not torch.allclose(both, one)


@torch.no_grad()
@pytest.mark.parametrize("background", ["learned", "none"])
def test_what_is_no_organ_is_what_the_background_says(make, background):
    model = make(background=background)
    features = model.encode_image(torch.rand(1, 2, 32, 32, 32))
    maps = model.organ_maps(features)
    assert torch.equal(maps[:, 1:], model.organ_logits(features).sigmoid())
    assert (maps[:, 0] == 0.5).all() == (background == "none")
    if background == "learned":
        model.offsets.organ[model.organs] += 9
        assert (model.organ_maps(model.encode_image(torch.rand(1, 2, 32, 32, 32))).argmax(1) == 0).all()


@torch.no_grad()
def test_theta_is_what_a_voxel_has_to_reach(make):
    model, image = make(), torch.rand(1, 2, 32, 32, 32)
    prompts = parse("liver tumor; anomaly")
    features = model.encode_image(image)
    plain = model.segment(features, prompts)
    middle = float(plain.extras["ungated"][0, 0].median())
    model.theta = middle
    strict = model.segment(features, prompts)
    assert torch.equal(strict.extras["ungated"], plain.extras["ungated"])
    assert (strict.logits[0, 0] >= 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(strict.logits[:, 1], plain.logits[:, 1])  # what is unusual is cut at one half


def test_the_papers_size():
    """129.79 million as published, of which 1.11 are in layers that no forward pass calls, and that are left out here."""
    model = ZePT(**PAPER_SIZE)
    assert millions(model.backbone) == pytest.approx(62.19, abs=0.01)
    assert millions(model.fundamental) == pytest.approx(19.82, abs=0.03)
    assert millions(model.refine) == pytest.approx(46.0, abs=0.02)
    idle = sum(768 * d + 768 + 2 * d for d in (768, 384, 192, 96)) + 2 * 768  # projections and norms
    assert millions(model) + idle / 1e6 == pytest.approx(129.79, abs=0.005)
    assert len(model.classes.organs) == 25 and len(model.classes.tumors) == 7


@torch.no_grad()
def test_the_papers_layout_answers_with_32_channels():
    """The paper's network, four times narrower: one channel an organ and tumor on the image's grid."""
    model = ZePT(**{**PAPER_SIZE, "feature_size": 12, "text_dim": 384}).eval()
    outputs = model.training_outputs(torch.rand(1, 1, 64, 64, 64))
    logits = torch.cat([outputs["organs"], outputs["tumors"]], 1)
    assert logits.shape == (1, 32, 64, 64, 64) and torch.isfinite(logits).all()
    assert outputs["aligned"].shape == (1, 32, 384)


def test_the_papers_config_is_the_papers():
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.yaml") for name in ("train", "zept", "zept_train", "zept_paper")])
    parser["stage"] = 2
    config = parser.get("network_config")
    assert {name: config[name] for name in PAPER} == PAPER
    assert {k: config[k] for k in PAPER_SIZE} == PAPER_SIZE
    loss = parser.get_parsed_content("loss")
    assert loss.targets[0] is loss.targets[1] and not loss.normalize and loss.weights["deep"] == 0
    assert loss.weights["grouping"] == loss.weights["choice"] == 0 and loss.weights["align"] == 1
    assert parser.get_parsed_content("max_epochs") == 200
    assert parser.get_parsed_content("backbone_rate") == 0.1


def test_edges_and_names_are_checked():
    with pytest.raises(ValueError, match="multiples of 16"):
        ZePT(channels=[4] * 5, mask_channels=4, width=4, heads=2)(torch.rand(1, 2, 30, 32, 32))
    with pytest.raises(ValueError, match="choose residual or swin"):
        ZePT(backbone="unet")
    with pytest.raises(ValueError, match="there is no class set"):
        ZePT(classes="mine")
    with pytest.raises(ValueError, match="in_channels must be 1"):
        ZePT(in_channels=3)


def test_the_starter_fits_the_repository():
    assert millions(ZePT()) * 2 < 20  # half precision, in MB


def test_class_sets():
    paper, starter = class_set("paper"), class_set("starter")
    assert (len(paper.organs), len(paper.tumors)) == (25, 7)
    assert [paper.tumors[k] for k in paper.trained] == ["kidney tumor", "liver tumor", "kidney cyst"]
    for classes in CLASS_SETS.values():
        assert set(classes.hosts) == set(classes.tumors) and len(set(classes.names)) == len(classes.names)
        assert all(host in classes.organs for hosts in classes.hosts.values() for host in hosts)
    assert starter.channel_of_label()[0] == -1 and starter.channel_of_label()[1] == 0


@torch.no_grad()
def test_tumor_queries_are_interchangeable(make):
    """Permuting the slots permutes their answers: a slot is its vector and nothing else."""
    model, image, order = make(), torch.rand(1, 2, 32, 32, 32), torch.tensor([7, 2, 5, 0, 1, 3, 6, 4])
    before = model.tumor_weights(model.refined(model.encode_image(image)))
    model.refine.queries.copy_(model.refine.queries[order].clone())
    assert torch.allclose(before[:, order], model.tumor_weights(model.refined(model.encode_image(image))), atol=1e-5)


def test_blocked_voxels_do_not_reach_the_tumor_queries(make):
    model = make()
    features = model.encode_image(torch.rand(1, 2, 32, 32, 32))
    shut = {**features}
    for i in range(4):
        score = torch.zeros_like(features[f"anomaly{i}"])
        score[:, :, :1] = 1  # one half, or all there is, is open
        shut[f"anomaly{i}"] = score
    shut["limits"] = torch.tensor([0.0, 1.0]).expand(1, 5, 2)
    changed = {**shut, "memory3": shut["memory3"].clone()}
    changed["memory3"][:, :, 8:] += 5
    assert torch.allclose(model.refined(shut), model.refined(changed), atol=1e-5)
    changed["memory3"][:, :, 0] += 5
    assert not torch.allclose(model.refined(shut), model.refined(changed), atol=1e-3)


def test_a_whole_scan_has_one_range(make):
    model, prompts = make(), parse("anomaly; splenic lesion")
    scan = torch.rand(2, 40, 32, 32)
    scan[:, 20:] *= 0.2  # the two windows differ
    result = segment_volume(model, scan, prompts)
    assert result.extras["anomaly"].shape == (1, 40, 32, 32)
    assert result.extras["anomaly"].amin() >= 0 and result.extras["anomaly"].amax() <= 1
    kept = segment_volume(model, scan, prompts, features=encode_volume(model, scan))
    assert torch.equal(result.extras["anomaly"], kept.extras["anomaly"])
    assert torch.equal(result.probabilities, kept.probabilities)
    other = make(anomaly_range="window")
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(
        result.extras["anomaly"], segment_volume(other, scan, prompts).extras["anomaly"], atol=1e-3
    )


def test_without_memory_the_range_is_still_the_scans(make, monkeypatch):
    model, scan, prompts = make(), torch.rand(2, 40, 32, 32), parse("tumor")
    expected = segment_volume(model, scan, prompts)
    monkeypatch.setattr("zerotumor.inferer.MemoryPlan.keeps", lambda *_: False)
    assert torch.equal(segment_volume(model, scan, prompts).extras["anomaly"], expected.extras["anomaly"])


def test_weights_come_back_and_missing_ones_are_named(make, tmp_path):
    config = {
        "channels": [4, 4, 8, 8, 8],
        "mask_channels": 4,
        "width": 8,
        "heads": 2,
        "patch": 32,
        "background": "none",
    }
    model, encoder = build("zept", config), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "zept", tmp_path / METHODS["zept"].weights, config=config, encoder=encoder)
    again = load("zept", tmp_path)
    assert again.options.background == "none" and torch.isfinite(again(torch.rand(1, 2, 32, 32, 32))).all()
    with pytest.raises(WeightsError, match="zept/model.pt is missing: train it"):
        load("zept", tmp_path.parent)
