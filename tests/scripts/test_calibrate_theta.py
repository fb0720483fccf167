"""The choice of thresholds: what counts as best, that masks are those of inference, and what is written."""

import json
from pathlib import Path

import calibrate
import pytest
import torch
import typer
from typer.testing import CliRunner

from zerotumor.in_turn import InTurn
from zerotumor.inferer import segment_volume
from zerotumor.phantom import generate
from zerotumor.prompts import parse
from zerotumor.segmenter import build, load, save
from zerotumor.text import load_text_encoder
from zerotumor.vocabulary import LESIONS

CONFIG = {"channels": [4] * 5, "mask_channels": 2, "dim": 8, "tokens": 2, "heads": 2, "patch": 32, "spacing": 6.0}
FIRST = Path("first/model.pt")
app = typer.Typer()
app.command()(calibrate.main)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.manual_seed(0)
    model, encoder = build("malenia", CONFIG), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "malenia", path, config=CONFIG, encoder=encoder)
    return path


def test_the_best_of_those_that_are_quiet_enough_and_of_equals_the_quietest():
    measured = {(0.2, 0.0): (0.9, 0.2), (0.4, 0.0): (0.5, 0.75), (0.4, 0.6): (0.495, 0.8), (0.6, 0.0): (0.4, 0.9)}
    assert calibrate.chosen(measured, 0.75) == (0.4, 0.6)
    assert calibrate.chosen(measured, 0.85) == (0.6, 0.0)
    assert calibrate.chosen(measured, 0.95) == (0.6, 0.0)  # none is: the highest theta


def test_half_of_what_is_asked_for_names_a_place_and_no_lesion_is_of_an_unseen_kind():
    drawn = [calibrate.lesion(k) for k in range(2 * len(calibrate.PLACES) * 2)]
    assert {a["category"] for a, _ in drawn} == {*calibrate.KINDS, calibrate.ANYTHING}
    assert all(LESIONS[a["category"]].seen for a, _ in drawn)
    placed = {(text, a["organ"], a["modality"]) for a, text in drawn if "organ" in a}
    assert placed == {(t, LESIONS[t].hosts[0], m) for t in calibrate.PLACES for m in LESIONS[t].modalities}
    arguments, text = calibrate.lesion(5)
    phantom = generate(3, shape=(40,) * 3, spacing=6.0, **arguments)
    assert text == "lung tumor" and phantom.region == "chest"
    assert calibrate.share_in(phantom, "left lung") > calibrate.INSIDE
    assert calibrate.share_in(phantom, "right lung") < 0.05


def test_masks_are_those_of_inference(weights, monkeypatch):
    """The network has learned nothing, so thresholds are taken from what it says."""
    monkeypatch.setattr(calibrate, "EXTENT", (192.0, 192.0, 192.0))
    model = load("malenia", weights)
    image, _ = calibrate.prepared(model.spacing, calibrate.SEED, category="liver tumor", modality="CT")
    prompts = parse("tumor; liver tumor", modality="CT")
    model.theta = 0.5
    said = segment_volume(model, image, prompts).extras["ungated"].flatten()
    low, middle, high = (float(said.quantile(q)) for q in (0.5, 0.9, 0.99))
    choices = [(low, 0.0), (middle, 0.0), (middle, high), (high, 0.0)]
    measured = dict(calibrate.answers(model, image, prompts, choices))
    assert all(masks.any() for masks in measured.values())
    for (theta, peak), masks in measured.items():
        model.theta, model.theta_peak = theta, peak
        answer = segment_volume(model, image, prompts, minimum_ml=0)
        assert float(((answer.probabilities >= 0.5) != masks).float().mean()) < 1e-3


def test_both_thresholds_go_into_the_record(weights, monkeypatch):
    monkeypatch.setattr(calibrate, "EXTENT", (192.0, 192.0, 192.0))
    arguments = ["--weights", str(weights), "--count", "2", "--thetas", "0.3,0.7", "--peaks", "0.5,0.9"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    record = json.loads(weights.with_suffix(".json").read_text())
    pair = record["config"]["theta"], record["config"].get("theta_peak", 0.0)
    assert pair in [(0.3, 0.0), (0.7, 0.0), (0.3, 0.5), (0.3, 0.9), (0.7, 0.9)]
    assert record["calibrated"]["phantoms"] == 4 and record["calibrated"]["at_least"] == calibrate.QUIET
    model = load("malenia", weights)
    assert (model.theta, model.theta_peak) == pair


@pytest.fixture
def first(weights, monkeypatch):
    """Asked first; it finds what its theta lets it."""
    model = load("malenia", weights)
    model.spacing, model.theta_peak, model.weights_sha256 = 8.0, 0.0, "a" * 64
    monkeypatch.setattr(calibrate, "load", lambda name, file, **_: model if file == FIRST else load(name, file))
    monkeypatch.setattr(calibrate, "EXTENT", (192.0, 192.0, 192.0))
    return model


def test_who_is_asked_second_is_measured_where_the_first_finds_nothing(weights, first):
    model, prompts = load("malenia", weights), parse("tumor; liver tumor", modality="CT")
    image, _ = calibrate.prepared(first.spacing, calibrate.SEED, category="liver tumor", modality="CT")
    first.theta, model.theta = 0.999, 0.01
    both = InTurn(("first", first), ("second", model), 0.01)
    measured = dict(calibrate.left_over(both, image, prompts, [(0.01, 0.0), (0.01, 0.999)]))
    assert {choice: masks.shape for choice, masks in measured.items()} == {
        (0.01, 0.0): (2, *image.shape[1:]), (0.01, 0.999): (2, *image.shape[1:])
    }  # fmt: skip
    assert measured[0.01, 0.0].any() and not measured[0.01, 0.999].any()
    first.theta = 1e-5
    both = InTurn(("first", first), ("second", model), 0.01)
    assert not dict(calibrate.left_over(both, image, prompts[:1], [(0.01, 0.0)]))


def test_the_peak_of_who_is_asked_second_stands_beside_its_own_thresholds(weights, first):
    first.theta, before = 0.999, json.loads(weights.with_suffix(".json").read_text())
    arguments = ["--weights", str(weights), "--after", str(FIRST), "--count", "1", "--peaks", "0.9999,0.99999"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    record = json.loads(weights.with_suffix(".json").read_text())
    second = record.pop("second")
    assert record == {k: v for k, v in before.items() if k != "second"}  # theta and the joint peak stay what they are
    assert second["after"] == "a" * 64 and second["theta_peak"] == 0.99999  # of those that draw nothing the highest
    assert second["phantoms"] == 2 and second["healthy_under_5_ml"] == 1.0


def test_the_peak_of_what_two_find_together_is_measured_before_the_second_is_asked_alone(weights, first):
    first.theta = 0.3
    path = weights.with_suffix(".json")
    before = json.loads(path.read_text()) | {"second": {"after": "a" * 64, "theta_peak": 0.9}}
    path.write_text(json.dumps(before))
    arguments = ["--weights", str(weights), "--beside", str(FIRST), "--count", "1", "--peaks", "0.9999", "--quiet", "0"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    record = json.loads(path.read_text())
    joint = record.pop("joint")
    assert "second" not in record and record.items() <= before.items()  # it was measured with another peak
    assert joint["after"] == "a" * 64 and joint["theta_peak"] in (0.3, 0.9999) and joint["phantoms"] == 2


def test_two_measurements_are_not_made_at_once(weights):
    run = CliRunner().invoke(app, ["--weights", str(weights), "--after", str(FIRST), "--beside", str(FIRST)])
    assert run.exit_code == 2 and "first --beside" in run.output
