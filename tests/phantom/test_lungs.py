"""Vessels of the lung: what is thinner than a voxel is mixed in, and what a phantom's chest looks like."""

import math

import pytest
import torch

from zerotumor.phantom import generate
from zerotumor.phantom.anatomy import TISSUES
from zerotumor.phantom.chest import Chest
from zerotumor.phantom.geometry import Draw, grid
from zerotumor.phantom.lungs import SHRINKS, Lung, mix
from zerotumor.vocabulary import ORGANS


@pytest.mark.parametrize("radius", [0.4, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("voxel", [2.0, 4.0])
def test_a_vessel_fills_its_own_volume(radius, voxel):
    points = grid((64 // int(voxel),) * 3, (voxel,) * 3, (0, 0, 0))
    way = (40.0, 3.0, 5.0)
    share = torch.zeros(points.shape[1:])
    mix(share, points, torch.tensor([-20.0, 1.0, 2.0, *way, radius, radius]), voxel)
    assert float(share.min()) >= 0 and float(share.max()) <= 1
    volume = math.pi * radius**2 * math.hypot(*way)
    assert 0.8 * volume < float(share.sum()) * voxel**3 < 1.5 * volume


def test_branches_begin_where_their_parents_end_and_get_thinner():
    lung = Lung(Draw(3), [30.0, 10.0, 0.0], 1, 120.0)
    start, end = lung.branches[:, :3], lung.branches[:, :3] + lung.branches[:, 3:6]
    roots = (start - torch.tensor(lung.hilum)).abs().amax(1) < 1e-4
    assert int(roots.sum()) == 14
    gaps = torch.cdist(start[~roots], end, compute_mode="donot_use_mm_for_euclid_dist")
    parents = gaps.argmin(1)
    assert float(gaps.amin(1).max()) < 1e-3
    assert torch.allclose(lung.branches[~roots, 6], lung.branches[parents, 6] * SHRINKS)
    assert float(end[:, 0].mean()) > lung.hilum[0] + 20  # a right lung's grow to the right


@pytest.mark.parametrize("spacing", [3.0, 9.0])
def test_blood_is_a_share_of_every_voxel(spacing):
    lung = Lung(Draw(4), [-30.0, 10.0, 0.0], -1, 120.0)
    points = grid((24,) * 3, (spacing,) * 3, (-60, 0, 0))
    share = lung.blood(points)
    assert share.shape == points.shape[1:] and float(share.min()) >= 0 and float(share.max()) <= 1
    assert (float(share.max()) > 0.6) == (spacing < 8)  # a coarse look leaves vessels out


@pytest.mark.parametrize("seed", range(4))
def test_lungs_lie_beside_the_mediastinum_and_hold_air_and_vessels(seed):
    anatomy = Chest(Draw(seed)).evaluate(grid((84, 70, 20), (4.0,) * 3, (0, 0, 30)))
    right, left = (anatomy.organs == ORGANS[f"{side} lung"].index for side in ("right", "left"))
    x = grid((84, 70, 20), (4.0,) * 3, (0, 0, 30))[0]
    assert right.sum() > 2000 and left.sum() > 2000
    assert float(x[right].mean()) > 40 and float(x[left].mean()) < -40
    between = anatomy.organs == ORGANS["mediastinum"].index
    assert between.any() and abs(float(x[between].mean())) < 30
    means = torch.linspace(-1000, 500, len(TISSUES))
    hu = anatomy.values(means)
    lung, muscle = (anatomy.tissue == TISSUES[name] for name in ("lung", "muscle"))
    assert len(hu[lung].unique()) > 100 and len(hu[muscle].unique()) > 100
    plain = ~(lung | muscle)
    assert torch.equal(hu[plain], means[anatomy.tissue[plain].long()])


def test_a_chest_on_ct_is_as_light_as_lungs_are():
    chest = generate(
        9, shape=(64, 64, 32), spacing=4.0, region="chest", modality="CT", category="healthy", organ="heart"
    )
    lung = torch.isin(
        chest.organs, torch.tensor([ORGANS[f"{s} lung"].index for s in ("left", "right")], dtype=torch.uint8)
    )
    hu = chest.image[lung]
    assert lung.float().mean() > 0.05
    assert -900 < float(hu.median()) < -650  # aerated lung
    assert 0.01 < float((hu > -500).float().mean()) < 0.4  # and vessels
