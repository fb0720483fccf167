"""The sceptic's baselines with tiny seeded weights: a network that cannot read, and all methods at once."""

import json

import evaluate
import numpy as np
import pytest
import torch
import typer
from monai.bundle import run as run_bundle
from monai.data import MetaTensor
from typer.testing import CliRunner

from zerotumor.baselines import Ensemble
from zerotumor.closed_set import ClosedSet, ClosedSetLoss, prepare_batch
from zerotumor.phantom import generate
from zerotumor.phantom.datalist import phantom_datalist
from zerotumor.pipeline import segment_scan
from zerotumor.prompts import parse
from zerotumor.segmenter import METHODS, OPPONENTS, WeightsError, available, build, load, save
from zerotumor.text import load_text_encoder
from zerotumor.training import GeneratePhantom, collate

BACKBONE = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2}
TINY = BACKBONE | {"patch": 32, "spacing": 8.0}
OWN = {"malenia": {"dim": 8, "tokens": 2, "heads": 2, "theta": 0.1}, "zept": {"width": 8, "heads": 2}, "closed_set": {}}
app = typer.Typer()
app.command()(evaluate.main)


def write(name, folder, **options):
    """Tiny weights of a method or opponent."""
    torch.manual_seed(0)
    config = TINY | OWN[name] | options
    model, encoder = build(name, config), load_text_encoder()
    if hasattr(model, "bank"):
        model.bank.fill(encoder)
    save(model, name, folder / (METHODS | OPPONENTS)[name].weights, config=config, encoder=encoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of two methods and the opponent."""
    target = tmp_path_factory.mktemp("weights")
    for name in OWN:
        write(name, target)
    return target


@pytest.fixture(scope="module")
def scan():
    """A small phantom with a lesion."""
    phantom = generate(9_300_000, category="liver tumor", modality="CT", shape=(40, 40, 32), spacing=8.0)
    return MetaTensor(phantom.image, affine=np.diag([*phantom.spacing, 1.0]))


# ---- the closed-set U-Net -------------------------------------------------------------------------------------------


def test_it_has_the_size_of_what_it_opposes():
    method = build("malenia", BACKBONE | {"dim": 8, "tokens": 2, "heads": 2})
    count = [sum(p.numel() for p in m.backbone.parameters()) for m in (method, ClosedSet(**BACKBONE))]
    assert count[0] == count[1]


def test_it_answers_alike_whatever_is_asked(scan):
    torch.manual_seed(0)
    model = ClosedSet(**TINY).eval()
    prompts = parse("liver tumor; hyperdense lesion in the brain; anything", modality="CT")
    result = segment_scan(model, scan, prompts, modality="CT", keep_probabilities=True)
    assert torch.equal(result.ungated[0], result.ungated[1]) and torch.equal(result.ungated[0], result.ungated[2])


def test_theta_is_what_a_voxel_has_to_reach():
    model, image = ClosedSet(**TINY, theta=0.8).eval(), torch.rand(1, 2, 32, 32, 32)
    raw, counted = model(image), model(image, parse("tumor; cyst"))
    assert counted.shape == (1, 2, 32, 32, 32)
    assert torch.equal(counted[:, :1] > 0, raw.sigmoid() > 0.8)
    torch.nn.init.constant_(model.head.bias, 10.0)
    assert (model(image, parse("tumor")) > 0).any()


def test_every_lesion_is_its_truth_and_a_few_steps_learn_it():
    # a lesion without a name, and one of a kind
    records = [
        r | {"category": c} for r, c in zip(phantom_datalist(2), ("abstract lesion", "liver tumor"), strict=True)
    ]
    samples = [GeneratePhantom((32, 32, 32), 6.0)(record) for record in records]
    image, truth = prepare_batch(collate(samples), "cpu")
    assert truth.shape == (2, 1, 32, 32, 32) and truth.dtype == torch.float32
    for sample, own in zip(samples, truth, strict=True):
        assert own.any() and torch.equal(own > 0, sample["lesions"] > 0)
    torch.manual_seed(0)
    model, loss = ClosedSet(**TINY).train(), ClosedSetLoss()
    optimizer, course = torch.optim.AdamW(model.parameters(), 1e-2), []
    for _ in range(24):
        value = loss(model(image), truth)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        course.append(float(value.detach()))
    assert course[-1] < 0.9 * course[0] and loss.last == {"dice and cross-entropy": course[-1]}


def test_its_config_trains_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle = evaluate.Path(evaluate.__file__).parents[1] / "bundle"
    run_bundle(
        config_file=[str(bundle / "configs" / f"{name}.yaml") for name in ("train", "closed_set_train")],
        bundle_root=str(bundle), logging_file=False, output_dir=str(tmp_path / "run"), train_count=2, val_count=1,
        epoch_length=1, max_epochs=1, val_interval=1, batch_size=2, workers=0,
        **{f"network_config::{k}": v for k, v in TINY.items()},
    )  # fmt: skip
    model = load("closed_set", tmp_path / "run" / "model.pt")
    assert isinstance(model, ClosedSet) and model.spacing == TINY["spacing"]
    assert (tmp_path / "run" / "best.pt").is_file()


def test_users_are_not_offered_it(folder):
    assert available(folder) == ["malenia", "zept"] and "closed_set" not in METHODS


def test_it_is_measured_by_its_name(folder, tmp_path):
    options = ["--set", "phantom", "--limit", "1", "--weights", str(folder), "--out", str(tmp_path / "e.json")]
    result = CliRunner().invoke(app, [*options, "--method", "closed_set,ensemble"])
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    saved = json.loads((tmp_path / "e.json").read_text())
    assert [r["method"] for r in saved["records"]] == ["closed_set", "ensemble"]
    hashes = saved["weights_sha256"]
    assert hashes["closed_set"] == load("closed_set", folder).weights_sha256
    assert hashes["ensemble"].startswith("malenia:") and ",zept:" in hashes["ensemble"]


@pytest.mark.parametrize(
    "method, sentence",
    [
        ("closed_set", "closed_set/model.pt is missing: train it"),
        ("ensemble", "no method has weights in"),
        ("nothing", "there is no method 'nothing': choose among malenia"),
    ],
)
def test_what_is_missing_is_a_sentence(tmp_path, method, sentence):
    options = ["--method", method, "--weights", str(tmp_path), "--out", str(tmp_path / "e.json")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2 and sentence in " ".join(result.output.split())


# ---- all methods at once --------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_its_methods(folder, scan):
    several, prompts = Ensemble.of(folder), parse("liver tumor; kidney cyst", modality="CT")
    assert list(several.models) == ["malenia", "zept"]
    result = several(scan, prompts, "CT")
    own = [segment_scan(m, scan, prompts, modality="CT", keep_probabilities=True) for m in several.models.values()]
    assert result.masks.shape == (2, *scan.shape[1:])
    torch.testing.assert_close(result.probabilities, (own[0].probabilities + own[1].probabilities) / 2)
    torch.testing.assert_close(result.ungated, (own[0].ungated + own[1].ungated) / 2)
    assert torch.equal(result.masks, (result.probabilities >= 0.5).to(torch.uint8))
    assert not torch.equal(own[0].ungated, own[1].ungated)


@pytest.mark.parametrize("theta", [0.02, 0.9])
def test_one_method_alone_answers_as_itself(tmp_path, scan, theta):
    write("malenia", tmp_path, theta=theta)
    write("closed_set", tmp_path)
    several, prompts = Ensemble.of(tmp_path), parse("liver tumor; kidney cyst", modality="CT")
    assert list(several.models) == ["malenia"]
    result = several(scan, prompts, "CT")
    own = segment_scan(several.models["malenia"], scan, prompts, modality="CT", keep_probabilities=True)
    assert bool(own.masks.any()) is (theta < 0.5)
    assert torch.equal(result.masks, own.masks) and torch.equal(result.ungated, own.ungated)
    for mine, theirs in zip(result.report["prompts"], own.report["prompts"], strict=True):
        assert mine == {k: theirs[k] for k in ("prompt", "found", "score")}


def test_an_ensemble_of_nothing_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no method has weights"):
        Ensemble.of(tmp_path)
