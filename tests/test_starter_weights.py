"""The shipped weights, on the real path: offline, from scan to mask. Seeds here are of neither training nor testing."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from zerotumor.phantom import generate
from zerotumor.pipeline import segment_scan
from zerotumor.segmenter import MODELS, load
from zerotumor.volumes import read_scan


@pytest.fixture(scope="module")
def model():
    return load("malenia")


def scan_of(seed, category, modality, **options):
    phantom = generate(seed, category=category, modality=modality, shape=(56, 56, 56), spacing=4.0, **options)
    affine = np.diag([*phantom.spacing, 1.0])
    return MetaTensor(phantom.image, affine=affine, meta={"modality": modality}), phantom


def overlap(mask, truth):
    return float(2 * ((mask > 0) & (truth > 0)).sum() / ((mask > 0).sum() + (truth > 0).sum()).clamp_min(1))


def mean_overlap(model, category, prompt, seeds=range(6_000_000, 6_000_005), difficulty=0.0):
    found = []
    for seed in seeds:
        scan, phantom = scan_of(seed, category, ("CT", "MR")[seed % 2], difficulty=difficulty)
        if phantom.records:
            found.append(overlap(segment_scan(model, scan, prompt).masks[0], phantom.lesions[0]))
    return float(np.mean(found))


def test_record_tells_how_the_weights_were_made():
    record = json.loads((MODELS / "model.json").read_text())
    trained = record["trained"]
    assert trained["steps"] + trained.get("earlier_steps", 0) > 3000 and record["text_encoder"]["name"] == "minilm"
    assert record["sha256"] and record["config"]["spacing"] > 0


def test_finds_large_lesions_of_a_seen_kind(model):
    assert mean_overlap(model, "liver tumor", "liver tumor") > 0.3


def test_finds_large_lesions_of_a_kind_it_never_saw(model):
    assert mean_overlap(model, "soft tissue sarcoma", "soft tissue sarcoma") > 0.2


def test_text_decides(model):
    """A cyst of the kidney: asked for by its name it scores higher than a brain tumor, and the masks differ somewhere."""
    better, different = 0, 0
    for seed in range(6_000_000, 6_000_004):
        scan, _ = scan_of(seed, "kidney cyst", "CT", difficulty=0.0)
        result = segment_scan(model, scan, "renal cyst; brain tumor; liver tumor")
        scores = [entry["score"] for entry in result.report["prompts"]]
        better += scores[0] > scores[1]
        different += not torch.equal(result.masks[0], result.masks[2])
    assert better >= 3 and different >= 1


def test_brain_tumors_are_not_found_in_healthy_thighs(model):
    for seed in range(6_000_000, 6_000_002):
        scan, _ = scan_of(seed, "healthy", "MR", region="limb")
        assert not segment_scan(model, scan, "brain tumor").report["prompts"][0]["found"]


def test_words_outside_the_vocabulary_get_an_answer(model):
    scan, _ = scan_of(6_000_001, "kidney cyst", "CT")
    entry = segment_scan(model, scan, "Nierenzyste").report["prompts"][0]
    assert entry["nearest_concept"] and 0 <= entry["score"] <= 1


def test_same_scan_same_answer(model):
    scan, _ = scan_of(6_000_002, "liver tumor", "CT")
    assert torch.equal(segment_scan(model, scan, "tumor").masks, segment_scan(model, scan, "tumor").masks)


def test_real_mr_end_to_end(model, data_dir):
    scan = read_scan(data_dir / "tumour" / "tiny_flair" / "image.nii.gz")
    result = segment_scan(model, scan, "brain tumor; liver tumor")
    assert result.masks.shape == (2, *scan.shape[1:])
    assert result.report["modality"] == "MR" and len(result.report["prompts"]) == 2
