"""What methods are measured on, and the baselines."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from zerotumor.baselines import everything, outlier
from zerotumor.cohorts import (
    TEST_SEED,
    measured_phantom,
    measured_phantoms,
    missing_cases,
    phantom_cases,
    real_cases,
    spread,
    word_cases,
)
from zerotumor.phantom.datalist import phantom_datalist
from zerotumor.prompts import parse
from zerotumor.vocabulary import LESIONS, ORGANS


def test_enough_volumes_of_every_split():
    splits = Counter(next(iter(c.prompts.values()))[1] for c in phantom_cases())
    assert splits["seen"] >= 20 and splits["unseen"] >= 40 and splits["healthy"] >= 20


def test_seen_and_unseen_agree_with_the_vocabulary():
    for case in phantom_cases():
        for category, split in case.prompts.values():
            if split != "healthy":
                assert LESIONS[category].seen == (split == "seen"), category


def test_every_prompt_names_its_own_category():
    for case in [*phantom_cases(), *real_cases()]:
        for prompt, (category, split) in case.prompts.items():
            if split != "healthy" and category in LESIONS:
                assert parse(prompt)[0].lesion == category


@pytest.mark.parametrize(("number", "count"), [(90, 50), (31, 20), (90, 46), (90, 1), (90, 0), (5, 9)])
def test_a_few_cases_are_from_all_over_the_list(number, count):
    chosen = spread(range(number), count)
    apart = {b - a for a, b in itertools.pairwise([*chosen, number])}
    assert len(chosen) == min(number, count) and chosen == sorted(set(chosen)) and chosen[:1] in ([], [0])
    assert not apart or max(apart) - min(apart) <= 1  # up to the end of the list
    assert spread(range(number), None) == list(range(number))


def test_a_few_phantoms_are_of_all_splits():
    splits = Counter(split for c in spread(phantom_cases(), 50) for _, split in c.prompts.values())
    assert set(splits) == {"seen", "unseen", "healthy"}


def test_training_never_reaches_test_seeds():
    assert max(r["seed"] for r in phantom_datalist(100_000, start=5_000_000)) < TEST_SEED
    assert min(int(c.name.split("-")[1]) for c in phantom_cases()) >= TEST_SEED


def test_a_phantom_case_has_scan_truth_and_host():
    case = next(iter(phantom_cases()))
    scan, truth, regions = case.read()
    prompt = next(iter(case.prompts))
    assert scan.shape[1:] == truth[prompt].shape == regions[prompt].shape
    assert truth[prompt].any() and scan.meta["modality"] == case.modality


def test_real_truths_lie_on_their_scans(data_dir):
    cases = list(real_cases(data_dir))
    assert len(cases) >= 30
    for case in cases[::5]:
        scan, truth, _ = case.read()
        for prompt, (_, split) in case.prompts.items():
            assert truth[prompt].shape == scan.shape[1:]
            assert bool(truth[prompt].any()) == (split != "healthy"), case.name


def test_cases_whose_files_are_missing_are_left_out_and_named(tmp_path, caplog):
    """One patient with a CT and half of an MR; all else is not there."""
    patient = tmp_path / "tumour" / "sts" / "STS_001"
    patient.mkdir(parents=True)
    for name in ("CT_image", "CT_mask", "MR_T1_image"):
        (patient / f"{name}.nii.gz").touch()
    for _ in range(2):
        assert [case.name for case in real_cases(tmp_path)] == ["STS_001-CT"]
    (line,) = [r.message for r in caplog.records if r.name == "zerotumor.cohorts"]  # and not at every listing
    missing = missing_cases(tmp_path)
    assert all(name in line for name in missing) and "complete the folder" in line
    assert len(missing) == 11 and missing["STS_001-MR"].endswith("MR_T1_mask.nii.gz is missing")
    assert [c.name for c in word_cases(tmp_path) if not c.name.startswith("phantom")] == ["STS_001-CT"]


def test_a_whole_set_that_is_missing_is_named(tmp_path):
    assert list(real_cases(tmp_path)) == []
    assert {"STS_*-CT", "STS_*-MR", "brain1", "example_mr_sm"} <= set(missing_cases(tmp_path))


def wrong_words():
    """Those asked of phantoms."""
    return [case for case in word_cases() if case.name.startswith("phantom")]


def test_wrong_words_name_an_organ_that_the_lesion_does_not_lie_in():
    own, asked = {case.name: case for case in phantom_cases()}, wrong_words()
    assert len(asked) >= 60 and {case.set for case in asked} == {"words"}
    for case in asked:
        ((prompt, (category, split)),) = case.prompts.items()
        assert split == "elsewhere" and own[case.name].prompts[category][0] == category
        assert not set(LESIONS[prompt].hosts) & set(LESIONS[category].hosts)
        assert case.modality in LESIONS[prompt].modalities


def test_the_organ_of_the_wrong_words_is_there_without_a_lesion():
    for case in wrong_words()[::12]:
        prompt = next(iter(case.prompts))
        scan, truth, _ = case.read()
        phantom = measured_phantom(*next(m for m in measured_phantoms() if case.name.endswith(str(m[0])))[:2])[1]
        hosts = torch.tensor([ORGANS[h].index for h in LESIONS[prompt].hosts])
        organ = torch.isin(phantom.organs[0], hosts)
        assert organ.any() and not truth[prompt].any() and truth[prompt].shape == scan.shape[1:], case.name


def scan_of(values, modality):
    return MetaTensor(values[None], affine=np.diag([2.0, 2.0, 2.0, 1.0]), meta={"modality": modality})


def test_everything_is_the_body():
    values = torch.full((20, 20, 20), -1000.0)
    values[5:15, 5:15, 5:15] = 40
    result = everything(scan_of(values, "CT"), parse("liver tumor; renal cyst"), "CT")
    assert torch.equal(result.masks[0] > 0, values > 0) and torch.equal(result.masks[0], result.masks[1])


def test_outlier_finds_the_one_odd_thing():
    values = torch.randn(30, 30, 30, generator=torch.Generator().manual_seed(0)) * 3 + 100
    values[10:18, 10:18, 10:18] += 60
    result = outlier(scan_of(values, "MR"), parse("tumor"), "MR")
    inside = torch.zeros(30, 30, 30, dtype=torch.bool)
    inside[10:18, 10:18, 10:18] = True
    found = result.masks[0] > 0
    assert found[inside].float().mean() > 0.95 and found.float().mean() < 0.15
    assert result.report["prompts"][0]["found"]


def test_outlier_of_nothing_is_nothing():
    result = outlier(scan_of(torch.full((10, 10, 10), -1000.0), "CT"), parse("tumor"), "CT")
    assert not result.masks.any()
