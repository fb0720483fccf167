"""The shipped weights of ZePT, on the real path. Seeds here are of neither training nor testing."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from zerotumor.datasets import ORGAN_LABELS
from zerotumor.metrics import dice
from zerotumor.organs import organ_labels
from zerotumor.phantom import generate
from zerotumor.pipeline import segment_scan
from zerotumor.segmenter import MODELS, available, load

SEEDS = range(6_100_000, 6_100_006)


@pytest.fixture(scope="module")
def model():
    return load("zept")


@pytest.fixture(scope="module")
def livers():
    """Scans with a large and clear lesion of the liver, and all that is known of them."""
    return [scan_of(seed, "liver tumor") for seed in SEEDS[:4]]


def scan_of(seed, category, edge=56):
    modality = ("CT", "MR")[seed % 2]
    phantom = generate(seed, category=category, modality=modality, shape=(edge,) * 3, spacing=4.0, difficulty=0.0)
    return MetaTensor(phantom.image, affine=np.diag([*phantom.spacing, 1.0]), meta={"modality": modality}), phantom


def test_it_is_offered_beside_the_first_method():
    assert available()[:2] == ["malenia", "zept"]
    record = json.loads((MODELS / "zept" / "model.json").read_text())
    assert record["trained"]["steps"] + record["trained"]["earlier_steps"] > 5000
    assert (MODELS / "zept" / "model.pt").stat().st_size < 20e6


def test_finds_large_lesions_of_a_seen_kind(model, livers):
    masks = [segment_scan(model, scan, "liver tumor").masks[0] for scan, _ in livers]
    values = [dice(m > 0, p.lesions[0] > 0) for m, (_, p) in zip(masks, livers, strict=True) if p.records]
    assert np.mean(values) > 0.2


def test_knows_organs_of_the_abdomen_and_their_sides(model, livers):
    """Among them those that a mirror would turn into one another: liver and spleen, aorta and vena cava, left and right."""
    names = ("liver", "spleen", "left kidney", "right kidney", "aorta", "inferior vena cava", "stomach")
    values = {name: [] for name in names}
    for scan, phantom in livers:
        labels = organ_labels(model, scan, str(scan.meta["modality"]))
        for name in names:
            truth = phantom.organs[0] == ORGAN_LABELS[name]
            if truth.sum() > 50:
                values[name].append(float(dice(labels == 1 + model.organ_names.index(name), truth)))
    means = {name: np.mean(found) for name, found in values.items()}
    assert means["liver"] > 0.7 and min(means.values()) > 0.2 and np.mean(list(means.values())) > 0.5, means


def test_lesions_are_more_anomalous_than_the_rest_of_the_body(model):
    """AUROC of the anomaly map, lesion against body, over large and clear lesions of any kind."""
    values = []
    for seed in SEEDS:
        scan, phantom = scan_of(seed, "abstract lesion", edge=48)
        lesion, body = phantom.lesions[0] > 0, phantom.organs[0] > 0
        anomaly = segment_scan(model, scan, "anomaly", keep_probabilities=True).extras["anomaly"].reshape(lesion.shape)
        if lesion.any():
            inside, outside = anomaly[lesion], anomaly[body & ~lesion][::50]
            values.append(float((inside[:, None] > outside[None]).float().mean()))
    assert torch.tensor(values).mean() > 0.6, values
