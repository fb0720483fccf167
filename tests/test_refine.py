"""Clicks on scans of every orientation, and what holds whatever the network says."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from scipy.spatial.transform import Rotation
from torch import nn

from zerotumor.clicks import Click
from zerotumor.refine import (
    ClickNet,
    Refiner,
    asked_for,
    check_clicks,
    honour,
    paste,
    to_voxels,
    touched,
    window_affine,
    within,
)
from zerotumor.transforms import normalize


class Bright(nn.Module):
    """Calls lesion whatever is bright, and only where a click inside is near: enough to see where things end up."""

    def forward(self, inputs):
        return (inputs[:, :1] - 0.87) * 20


def scan_of(affine, shape=(36, 30, 28), blob=(22, 9, 17)):
    """Soft tissue with one dense ball."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    ball = np.linalg.norm((grid - blob) * spacing, axis=-1) < 9
    values = np.full(shape, 40.0, np.float32)
    values[ball] = 900
    return MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine)), torch.from_numpy(ball)


ORIENTATIONS = [(p, s) for p in itertools.permutations(range(3)) for s in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_click_lands_where_it_was_made_in_all_48_orientations(axes, signs):
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0, 2.5, 3.0])[:, list(axes)] * np.array(signs)
    affine[:3, 3] = (-40, 25, 60)
    scan, ball = scan_of(affine)
    assert float(normalize(scan, "CT")[0].max()) > 0.75
    mask = Refiner(Bright()).update(scan, "CT", torch.zeros(ball.shape), [Click((22, 9, 17), True)])
    overlap = 2 * (mask & ball).sum() / (mask.sum() + ball.sum())
    assert mask[22, 9, 17] and float(overlap) > 0.8
    window, _ = window_affine(scan.affine, torch.zeros(ball.shape), [Click((22, 9, 17), True)], 2.0)
    mm = window @ torch.tensor([*to_voxels([Click((22, 9, 17), True)], scan.affine, window)[0], 1.0]).double()
    assert torch.allclose(mm, torch.from_numpy(affine @ [22, 9, 17, 1]))


@pytest.mark.parametrize("corner", [(-14.0, -25.0, 48.0), (-30.0, -20.0, 80.0), (-300.0, 0.0, 0.0)])
def test_pasting_a_window_is_resampling_it_onto_the_whole_scan(corner):
    """Only the part that the window reaches is computed: the rest must not tell, on an oblique scan either."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [25, -40, 70], degrees=True).as_matrix() @ np.diag([1.5, 2.0, 3.0])
    scan, ball = scan_of(affine)
    window = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    window[:3, 3] = torch.tensor(corner)
    probability = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = MetaTensor(torch.stack([probability, torch.ones_like(probability)]), affine=window)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    whole = resample(maps, dst_affine=scan.affine, spatial_size=ball.shape).as_tensor()
    expected = torch.where(whole[1] > 0.99, whole[0] >= 0.5, ball)
    assert torch.equal(paste(ball, probability, window, scan, 0.5), expected)
    assert torch.equal(expected, ball) == (corner[0] < -200)


class Says(nn.Module):
    """Answers the same everywhere."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, inputs):
        return torch.full_like(inputs[:, :1], self.logit)


@pytest.mark.parametrize("logit", [-9.0, 9.0])
def test_every_click_is_honored_whatever_the_network_says(logit):
    scan, _ = scan_of(np.diag([2.0, 2.5, 3.0, 1.0]))
    clicks = [Click((5, 5, 5), True), Click((6, 5, 5), False), Click((20, 20, 20), False), Click((21, 20, 20), True),
              Click((0, 0, 0), True), Click((35, 29, 27), False)]  # fmt: skip
    mask = Refiner(Says(logit)).update(scan, "CT", torch.zeros(scan.shape[1:]), clicks)
    assert all(bool(mask[c.index]) == c.inside for c in clicks)


def test_what_lies_outside_the_window_stays():
    scan, _ = scan_of(np.diag([6.0, 6.0, 6.0, 1.0]), shape=(60, 30, 28))
    before = torch.zeros(scan.shape[1:])
    before[55:58, 5:8, 5:8] = 1
    after = Refiner(Says(-9.0)).update(scan, "CT", before, [Click((6, 10, 10), True)])
    assert torch.equal(after[50:], before[50:] > 0) and after[6, 10, 10]


def test_nothing_outside_the_roi_changes():
    old, new = torch.zeros(9, 9, 9, dtype=torch.bool), torch.ones(9, 9, 9, dtype=torch.bool)
    changed = within([2, 4, 0, 8, 3, 3], new, old)
    assert int(changed.sum()) == 3 * 9 * 1 and changed[2:5, :, 3].all()


def test_a_contradicted_click_takes_a_small_ball_with_it():
    mask = honour(
        torch.zeros(21, 21, 21, dtype=torch.bool), [Click((10, 10, 10), True)], torch.diag(torch.tensor([2.0, 2, 2, 1]))
    )
    assert 20 < int(mask.sum()) < 60 and mask[10, 10, 12] and not mask[10, 10, 13]


def test_only_the_component_under_the_click_decides_the_window():
    mask = torch.zeros(30, 30, 30)
    mask[2:6, 2:6, 2:6] = 1
    mask[20:28, 20:28, 20:28] = 1
    assert int(touched(mask, [Click((6, 4, 4), False)]).sum()) == 64
    assert not touched(mask, [Click((14, 14, 14), True)]).any()


def test_a_later_click_changes_what_hangs_together_with_it_and_no_more():
    old, new = torch.zeros(20, 20, 20, dtype=torch.bool), torch.zeros(20, 20, 20, dtype=torch.bool)
    old[2:5, 2:5, 2:5] = True  # the network would lose this one
    old[10:14, 10:14, 10:14] = new[10:16, 10:14, 10:14] = True
    new[2:5, 14:17, 2:5] = True  # and find another
    clicks = [Click((11, 11, 11), True), Click((15, 11, 11), True)]
    expected = old.clone()
    expected[10:16, 10:14, 10:14] = True
    assert torch.equal(asked_for(new, old, clicks), expected)
    both = asked_for(new, old, [*clicks, Click((3, 3, 3), False)])  # two complaints at once
    assert not both[2:5, 2:5, 2:5].any() and both[15, 11, 11] and not both[3, 15, 3]
    agreed = [Click((15, 15, 3), False), Click((3, 3, 3), True)]  # nothing to complain of: the last click's place, and
    assert torch.equal(asked_for(new, old, agreed), old)  # a click inside takes nothing away


@pytest.mark.parametrize("clicks", [[], [Click((0, 0, 40), True)], [Click((-1, 0, 0), False)]])
def test_clicks_outside_the_scan_are_refused(clicks):
    with pytest.raises(ValueError, match="click"):
        check_clicks(clicks, (30, 30, 30))


def test_the_network_keeps_the_grid():
    net = ClickNet(channels=[4, 8, 8, 8, 8], mask_channels=4)
    assert net(torch.rand(2, 5, 48, 48, 48)).shape == (2, 1, 48, 48, 48)


@pytest.mark.parametrize("roi", [[-5, -2, 0, 8, 0, 8], [0, 8, -1, -9, 0, 8], [20, 30, 0, 8, 0, 8]])
def test_a_region_beside_the_scan_holds_nothing(roi):
    new, old = torch.ones(9, 9, 9, dtype=torch.bool), torch.zeros(9, 9, 9, dtype=torch.bool)
    assert not within(roi, new, old).any()
    assert within([-5, 0, *roi[2:]], new, old).any() == (roi[2] >= 0)
