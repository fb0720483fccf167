"""Masks come back on the scan's own grid, for every orientation."""

import itertools
import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from test_inferer import Threshold

from zerotumor.pipeline import masks_on_grid, segment_scan, to_grid
from zerotumor.report import as_mask, overlaps

ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def scan_in(order, signs, spacing=(1.5, 2.0, 2.5), oblique=0.0):
    """An MR of a bright box that lies at one place in space, stored with any order and direction of axes.

    Returns: the scan, and where the box is in it.
    """
    shape = [30, 26, 22]
    turn = np.array([[np.cos(oblique), -np.sin(oblique), 0], [np.sin(oblique), np.cos(oblique), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = [-20, -25, -30]
    values = np.full(shape, 0.1, np.float32)
    values[6:16, 8:20, 5:13] = 1.0
    for axis, sign in enumerate(signs):
        if sign < 0:
            values = np.flip(values, axis)
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    values = np.ascontiguousarray(values.transpose(order))
    affine[:3, :3] = affine[:3, :3][:, list(order)]
    scan = MetaTensor(torch.from_numpy(values[None]), affine=affine, meta={"modality": "MR"})
    return scan, torch.from_numpy(values > 0.5)


def overlap(a, b):
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("order, signs", ORIENTATIONS)
def test_all_48_orientations(order, signs):
    scan, box = scan_in(order, signs)
    result = segment_scan(Threshold(), scan, "tumor")
    assert result.masks.shape == (1, *scan.shape[1:])
    assert overlap(result.masks[0] > 0, box) > 0.93
    center = np.array(result.report["prompts"][0]["centroid_mm"])
    expected = np.array([-20 + 10.5 * 1.5, -25 + 13.5 * 2.0, -30 + 8.5 * 2.5])
    assert np.abs(center - expected).max() < 0.7


def test_oblique_scan():
    scan, box = scan_in((0, 1, 2), (1, 1, 1), oblique=0.3)
    assert overlap(segment_scan(Threshold(), scan, "tumor").masks[0] > 0, box) > 0.85


def test_all_orientations_give_one_answer():
    volumes = [
        segment_scan(Threshold(), scan_in(*o)[0], "tumor").report["prompts"][0]["volume_ml"] for o in ORIENTATIONS[::7]
    ]
    assert max(volumes) - min(volumes) < 0.02 * max(volumes)


def test_report_is_json_and_complete():
    scan, _ = scan_in((0, 1, 2), (1, 1, 1))
    report = json.loads(json.dumps(segment_scan(Threshold(), scan, "tumor; liver tumor").report))
    found, missing = report["prompts"]
    assert found["found"] and 7.0 < found["volume_ml"] < 7.5  # 10 x 12 x 8 voxels of 7.5 mm^3
    assert not missing["found"] and missing["volume_ml"] == 0 and missing["centroid_mm"] is None
    assert report["modality"] == "MR" and report["shape"] == [30, 26, 22]


def test_probabilities_on_request():
    scan, _ = scan_in((2, 0, 1), (1, -1, 1))
    result = segment_scan(Threshold(), scan, "tumor", keep_probabilities=True)
    assert result.probabilities.shape == result.ungated.shape == result.masks.shape
    assert torch.equal((result.probabilities >= 0.5).to(torch.uint8), result.masks)


def test_identity_grid_changes_nothing():
    maps = torch.rand(2, 5, 6, 7)
    scan = MetaTensor(torch.zeros(1, 5, 6, 7), affine=torch.eye(4))
    assert torch.allclose(to_grid(maps, torch.eye(4, dtype=torch.float64), scan), maps, atol=1e-5)


def test_masks_reach_the_last_slice_where_the_coarse_grid_ends_before_it():
    """Slices of 1 mm under voxels of 3.2 mm: the last ones lie beyond the center of the last coarse voxel."""
    scan = MetaTensor(torch.zeros(1, 4, 4, 64), affine=torch.eye(4))
    coarse = torch.full((1, 2, 2, 20), 0.75)  # ends at 60.8 mm; the scan at 63
    affine = torch.diag(torch.tensor([3.2, 3.2, 3.2, 1.0], dtype=torch.float64))
    assert torch.allclose(to_grid(coarse, affine, scan), torch.tensor(0.75))
    assert masks_on_grid(coarse, affine, scan).all()


def test_masks_on_a_grid_are_those_of_its_probabilities():
    maps = torch.rand(3, 5, 6, 7)
    maps[1] = 0
    scan = MetaTensor(torch.zeros(1, 8, 9, 10), affine=torch.diag(torch.tensor([0.6, 0.6, 0.6, 1.0])))
    assert torch.equal(
        masks_on_grid(maps, torch.eye(4), scan), (to_grid(maps, torch.eye(4), scan) >= 0.5).to(torch.uint8)
    )


def test_label_map_of_several_prompts():
    masks = torch.zeros(2, 2, 2, 2, dtype=torch.uint8)
    masks[0, 0], masks[1, :, 0] = 1, 1
    labels = as_mask(masks)
    assert labels[0].unique().tolist() == [1] and labels[1, 0].unique().tolist() == [2] and labels[1, 1].sum() == 0


def test_the_most_probable_prompt_wins_an_overlap():
    masks = torch.ones(3, 2, 2, 2, dtype=torch.uint8)
    masks[2, 1] = 0
    probabilities = torch.full((3, 2, 2, 2), 0.6)
    probabilities[1, 0, 0], probabilities[2] = 0.7, 0.9
    labels = as_mask(masks, probabilities)
    assert labels[0].unique().tolist() == [3] and labels[1].unique().tolist() == [1]
    assert as_mask(masks[:2], probabilities[:2])[0, 0].unique().tolist() == [2]
    assert overlaps(masks) == {0: [1, 2], 1: [0, 2], 2: [0, 1]} and overlaps(masks[:1]) == {}
