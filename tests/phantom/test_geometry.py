"""Shapes are where their numbers say."""

import pytest
import torch

from zerotumor.phantom.anatomy import TISSUES
from zerotumor.phantom.geometry import (
    Draw,
    Noise,
    cylinder,
    ellipsoid,
    grid,
    length,
    sheet,
    threads,
    tube,
    voronoi,
    voxel_of,
)
from zerotumor.phantom.head import Head
from zerotumor.phantom.limb import Limb


def points(n=21, spacing=2.0):
    return grid((n, n, n), (spacing,) * 3, (0, 0, 0))


def test_grid_is_centered():
    p = grid((3, 4, 5), (1.0, 2.0, 3.0), (10, 20, 30))
    assert p.shape == (3, 3, 4, 5)
    assert torch.allclose(p.flatten(1).mean(1), torch.tensor([10.0, 20, 30]))
    assert p[0, :, 0, 0].tolist() == [9, 10, 11] and p[2, 0, 0, 1] - p[2, 0, 0, 0] == 3


def test_length_is_the_norm():
    p = points(5)
    assert torch.allclose(length(p), p.norm(dim=0))


def test_ball_is_exact_and_ellipsoid_changes_sign_on_its_surface():
    p = points()
    assert torch.allclose(ellipsoid(p, (0, 0, 0), (8, 8, 8), reach=None), length(p) - 8, atol=1e-4)
    on = torch.tensor([[4.0, 0, 0], [0, 6.0, 0], [0, 0, 8.0]]).T[:, :, None, None]
    assert torch.allclose(ellipsoid(on, (0, 0, 0), (4, 6, 8)), torch.zeros(3, 1, 1), atol=1e-5)


def test_rotation_keeps_volume():
    draw, p = Draw(0), points(41, 1.0)
    plain = (ellipsoid(p, (0, 0, 0), (5, 9, 12)) < 0).sum()
    turned = (ellipsoid(p, (0, 0, 0), (5, 9, 12), draw.rotation()) < 0).sum()
    assert abs(int(plain) - int(turned)) < 0.03 * int(plain)


def test_tube_has_its_radius_and_skips_what_is_out_of_reach():
    p = points()
    distance = tube(p, [[-100, 0, 0], [100, 0, 0]], 5.0)
    assert torch.allclose(distance, (p[1] ** 2 + p[2] ** 2).sqrt() - 5, atol=1e-4)
    assert (tube(p, [[300, 0, 0], [300, 50, 0]], 5.0) > 100).all()


def test_cylinder_is_endless_along_z():
    distance = cylinder(points(), 0, 0, 10, 6)
    assert torch.equal(distance[:, :, 0], distance[:, :, -1]) and distance[10, 10, 0] < 0 < distance[0, 0, 0]


def test_voronoi_finds_the_nearest_site():
    p, sites = points(9), torch.tensor([[-6.0, 0, 0], [6.0, 0, 0]])
    index, gap = voronoi(p, sites)
    assert (index[:4] == 0).all() and (index[5:] == 1).all() and (gap[4] < 1e-4).all()


@pytest.mark.parametrize("scale", [6.0, 20.0])
def test_noise_is_smooth_centered_and_the_same_wherever_it_is_looked_at(scale):
    noise, p = Noise(Draw(1), scale), points(41)
    values = noise(p)[0]
    assert abs(float(values.mean())) < 0.5 and 0.4 < float(values.std()) < 1.6
    assert float((values[1:] - values[:-1]).abs().max()) < 12 / scale * 2
    assert torch.allclose(noise(p[:, 10:20, 5:15])[0], values[10:20, 5:15], atol=1e-5)


def test_threads_are_thin():
    noise = Noise(Draw(2), 10.0, 2)(points(41))
    share = float(threads(noise[0], noise[1], 0.15).float().mean())
    assert 0.001 < share < 0.08


def test_draws_repeat():
    a, b = Draw(3), Draw(3)
    assert [a.uniform(), a.integer(0, 9), a.choice("xyz")] == [b.uniform(), b.integer(0, 9), b.choice("xyz")]
    assert all(2 <= Draw(k).log_uniform(2, 5) <= 5 for k in range(20))


@pytest.mark.parametrize("half", [0.3, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("offset", [0.0, 0.9, 1.7])
def test_a_sheet_fills_its_own_thickness(half, offset):
    p = grid((30, 3, 3), (4.0, 4.0, 4.0), (offset, 0, 0))
    share = sheet(p[0], half, voxel_of(p))
    assert float(share.min()) >= 0 and float(share.max()) <= 1
    assert float(share[:, 0, 0].sum()) * 4.0 == pytest.approx(2 * half, rel=0.1)


def test_the_size_of_a_voxel_is_that_of_a_cube_as_large():
    assert voxel_of(grid((5, 6, 7), (1.0, 2.0, 4.0), (0, 0, 0))) == pytest.approx(2.0)
    assert voxel_of(grid((5, 6, 1), (2.0, 4.0, 4.0), (0, 0, 0))) == pytest.approx(
        2.0
    )  # one slice says nothing of its own


def test_muscles_of_a_limb_hold_septa_and_streaks_of_fat():
    draw = Draw(5)
    limb = Limb(draw)
    anatomy = limb.evaluate(grid((60, 60, 12), (3.0,) * 3, (0, 0, 0)))
    muscle = anatomy.tissue == TISSUES["muscle"]
    share = anatomy.mixed["muscle", "fat"][muscle]
    assert muscle.sum() > 3000 and float(share.min()) >= 0 and float(share.max()) <= 1
    assert float(share.std()) > 0.01
    means = torch.zeros(len(TISSUES))
    means[TISSUES["fat"]] = 1.0
    assert torch.allclose(anatomy.values(means)[muscle], share)
    assert (anatomy.values(means)[anatomy.tissue == TISSUES["fat"]] == 1).all()


def test_a_brain_has_gray_matter_between_water_and_white_matter():
    anatomy = Head(Draw(2)).evaluate(grid((56, 66, 12), (3.0,) * 3, (0, 0, 40)))
    gray = anatomy.tissue == TISSUES["gray matter"]
    water, white = (anatomy.mixed["gray matter", name][gray] for name in ("csf", "white matter"))
    for share in (water, white):
        assert float(share.min()) >= 0 and float(share.max()) <= 1
        assert ((share > 0.1) & (share < 0.9)).float().mean() > 0.05  # the ribbon is about as thin as a voxel
    assert (anatomy.tissue == TISSUES["white matter"]).sum() > 1000
    means = torch.zeros(len(TISSUES))
    means[TISSUES["csf"]] = 1.0
    assert torch.allclose(anatomy.values(means)[gray], water)
