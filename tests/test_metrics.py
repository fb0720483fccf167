"""Figures whose value is known by mathematics."""

import math

import numpy as np
import pytest
import torch

from zerotumor.metrics import auroc, bootstrap, dice, fpr95, lesion_f1, near, sample, score_case, surface_dice


def cube(low, high, size=20):
    mask = torch.zeros(size, size, size, dtype=torch.uint8)
    mask[low:high, low:high, low:high] = 1
    return mask


def test_dice_of_perfect_shifted_and_empty():
    truth = cube(4, 12)
    assert dice(truth, truth) == 1
    assert math.isclose(dice(torch.roll(truth, 4, 0), truth), 0.5)
    assert dice(torch.zeros_like(truth), truth) == 0
    assert math.isnan(dice(truth, torch.zeros_like(truth)))


def test_surface_dice_knows_the_tolerance_and_the_spacing():
    truth = cube(6, 13)
    shifted = torch.roll(truth, 1, 0)
    assert surface_dice(truth, truth, (1, 1, 1)) == 1
    assert surface_dice(shifted, truth, (1.9, 1.9, 1.9)) == 1
    assert surface_dice(shifted, truth, (2.1, 2.1, 2.1)) < 1
    assert surface_dice(torch.zeros_like(truth), truth, (1, 1, 1)) == 0
    assert math.isnan(surface_dice(truth, torch.zeros_like(truth), (1, 1, 1)))


def test_surface_dice_at_the_edge_of_the_scan():
    truth = cube(0, 20)
    assert surface_dice(truth, truth, (1, 1, 1)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_auroc_is_the_probability_of_the_right_order(seed):
    random = np.random.default_rng(seed)
    scores, truth = random.integers(0, 6, 60).astype(float), random.random(60) < 0.3
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[truth] for n in scores[~truth]]
    assert math.isclose(auroc(scores, truth), np.mean(pairs))


def test_separable_scores_are_perfect():
    truth = np.array([0, 0, 0, 1, 1], bool)
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert auroc(scores, truth) == 1 and fpr95(scores, truth) == 0
    assert auroc(-scores, truth) == 0 and fpr95(-scores, truth) == 1


def test_fpr95_counts_what_lies_above_the_threshold():
    truth = np.r_[np.ones(100, bool), np.zeros(100, bool)]
    scores = np.r_[np.arange(100) + 100.0, np.arange(100) + 6.5]
    # 95 of 100 tumor voxels score 105 or more; one other voxel (105.5) does
    assert math.isclose(fpr95(scores, truth), 0.01)


def test_one_kind_alone_has_no_ranking():
    assert math.isnan(auroc(np.arange(3.0), np.zeros(3, bool))) and math.isnan(fpr95(np.arange(3.0), np.ones(3, bool)))


def test_lesions_are_counted_one_by_one():
    truth = cube(1, 5) + cube(10, 14)
    assert lesion_f1(truth, truth) == 1
    one = cube(1, 5)
    assert math.isclose(lesion_f1(one, truth), 2 / 3)
    false = torch.roll(cube(1, 5), 14, 0)
    assert lesion_f1(false, truth) == 0
    assert math.isnan(lesion_f1(torch.zeros_like(truth), torch.zeros_like(truth)))
    assert lesion_f1(one, torch.zeros_like(truth)) == 0


def test_sampling_is_seeded_and_keeps_to_the_region():
    scores, truth, region = torch.rand(10, 10, 10), torch.zeros(10, 10, 10), torch.zeros(10, 10, 10)
    region[:5] = 1
    assert len(sample(scores, truth, region)[0]) == 500
    large = torch.rand(110, 100, 100)
    (first, labels), (second, _) = (sample(large, large > 0.99) for _ in range(2))
    assert labels.sum() == (large > 0.99).sum() and (~labels).sum() == 1_000_000 and np.array_equal(first, second)


def test_region_grows_by_millimeters():
    grown = near(cube(10, 11), (5.0, 2.0, 10.0), margin_mm=10)
    assert [int(grown[:, 10, 10].sum()), int(grown[10, :, 10].sum()), int(grown[10, 10].sum())] == [5, 11, 3]


def test_all_figures_of_a_case():
    truth = cube(4, 12)
    figures = score_case(truth, truth, truth.float(), (2.0, 2.0, 2.0), region=cube(2, 14))
    assert figures["dice"] == figures["nsd2"] == figures["auroc"] == figures["lesion_f1"] == 1
    assert figures["fpr95"] == figures["fp_ml"] == 0 and math.isclose(figures["volume_ml"], 8**3 * 8 / 1000)


def test_bootstrap_surrounds_the_mean_and_is_seeded():
    values = [0.1, 0.5, 0.9, None, float("nan")]
    mean, low, high = bootstrap(values)
    assert math.isclose(mean, 0.5) and low < mean < high and bootstrap(values) == (mean, low, high)
    assert all(math.isnan(x) for x in bootstrap([]))
    assert bootstrap([0.3, 0.3]) == pytest.approx((0.3, 0.3, 0.3))
    assert bootstrap([0.1, 0.5, 0.9], patients=["a", "a", "a"]) == pytest.approx((0.5, 0.5, 0.5))
