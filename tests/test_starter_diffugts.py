"""The shipped weights of DiffuGTS, on the real path. Seeds here are of neither training nor testing."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from zerotumor.metrics import dice
from zerotumor.phantom import generate
from zerotumor.pipeline import segment_scan
from zerotumor.segmenter import MODELS, available, load

SEEDS = range(6_300_000, 6_300_002)
FOLDER = MODELS / "diffugts"


@pytest.fixture(scope="module")
def model():
    return load("diffugts").at("fast")


@pytest.fixture(scope="module")
def answers(model):
    """Scans with large lesions of a seen kind: phantom, and the answer with all that was drawn."""
    out = []
    for seed in SEEDS:
        modality = ("CT", "MR")[seed % 2]
        phantom = generate(
            seed, category="liver tumor", modality=modality, shape=(48, 48, 48), spacing=4.0, difficulty=0.0
        )
        scan = MetaTensor(phantom.image, affine=np.diag([4.0, 4, 4, 1]), meta={"modality": modality})
        if phantom.records:
            out.append((phantom, segment_scan(model, scan, "liver tumor", keep_probabilities=True)))
    return out


def test_it_is_offered_with_the_prior_that_it_was_trained_with(model):
    assert available() == ["malenia", "zept", "diffugts"]
    record = json.loads((FOLDER / "model.json").read_text())
    assert record["prior"]["sha256"] == json.loads((FOLDER / "diffusion.json").read_text())["sha256"]
    assert model.prior_sha256 == record["prior"]["sha256"] and "calibrated" in record
    assert sum((FOLDER / f"{name}.pt").stat().st_size for name in ("model", "diffusion")) < 20e6


def test_finds_large_lesions_of_a_seen_kind(answers):
    values = [dice(answer.masks[0] > 0, phantom.lesions[0] > 0) for phantom, answer in answers]
    assert np.mean(values) > 0.1, values


def test_attention_ranks_lesions_above_the_rest_of_the_body(answers):
    values = []
    for phantom, answer in answers:
        lesion, body = phantom.lesions[0] > 0, phantom.organs[0] > 0
        inside, outside = answer.ungated[0][lesion], answer.ungated[0][body & ~lesion][::50]
        values.append(float((inside[:, None] > outside[None]).float().mean()))
    assert np.mean(values) > 0.75, values


def test_outside_the_hole_the_pseudo_healthy_scan_is_the_scan(answers):
    drawn = 0
    for phantom, answer in answers:
        hole, healthy = answer.extras["hole"] >= 0.5, answer.extras["pseudo_healthy"]
        drawn += int(hole.any())
        assert torch.equal(healthy[~hole], phantom.image[~hole].float())
        assert not hole.any() or not torch.equal(healthy[hole], phantom.image[hole].float())
    assert drawn
