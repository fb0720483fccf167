"""Holes, their latent masks, and boxes that hold them."""

import pytest
import torch

from zerotumor.diffugts.holes import boxes, dilate, hole_of, latent_mask, width_mm


def test_a_hole_grows_and_specks_make_none():
    probability = torch.zeros(1, 2, 16, 16, 16)
    probability[0, 0, 6:9, 6:9, 6:9], probability[0, 0, 14, 1, 1] = 0.6, 0.9
    probability[0, 1, 6:9, 6:9, 6:9] = 0.4
    hole = hole_of(probability, 0.5, steps=2)
    assert hole.dtype == torch.bool and hole[0, 0].sum() == 7**3 and not hole[0, 1].any()
    assert hole[0, 0, 4:11, 4:11, 4:11].all()
    assert hole_of(probability, 0.3, steps=2)[0, 1].sum() == 7**3


def test_nothing_grows_to_nothing():
    assert not hole_of(torch.zeros(1, 1, 4, 4, 4)).any() and not dilate(torch.zeros(1, 1, 4, 4, 4), 3).any()


def test_a_single_voxel_survives_on_the_latent_grid():
    hole = torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    hole[0, 0, 5, 2, 7] = True
    mask = latent_mask(hole, 4)
    assert mask.shape == (1, 1, 2, 2, 2) and mask.nonzero().tolist() == [[0, 0, 1, 0, 1]]


def test_every_hole_lies_in_its_mask():
    hole = torch.rand(1, 1, 16, 16, 16) > 0.98
    back = torch.nn.functional.interpolate(latent_mask(hole, 4).float(), scale_factor=4) > 0
    assert (hole <= back).all() and not back.all()


def inside(hole, box):
    masked = hole.clone()
    masked[box] = False
    return not masked.any()


def test_boxes_hold_components_with_context_on_the_grid():
    hole = torch.zeros(96, 48, 48, dtype=torch.bool)
    hole[10:14, 20:24, 20:24] = True
    (box,) = boxes(hole, context=6, multiple=8)
    assert inside(hole, box) and [s.start for s in box] == [0, 8, 8] and [s.stop for s in box] == [24, 32, 32]
    (box,) = boxes(hole, context=6, multiple=8, least=48)
    assert [s.stop - s.start for s in box] == [48, 48, 48]


def test_far_lesions_have_boxes_of_their_own_and_near_ones_share():
    hole = torch.zeros(96, 48, 48, dtype=torch.bool)
    hole[4:8, 20:24, 20:24], hole[88:92, 20:24, 20:24] = True, True
    far = boxes(hole, context=8, multiple=8)
    assert len(far) == 2 and far[0][0].stop <= far[1][0].start or far[1][0].stop <= far[0][0].start
    hole[30:34, 20:24, 20:24] = True
    near = boxes(hole, context=16, multiple=8)
    assert len(near) == 2 and any(b[0] == slice(0, 56) for b in near)
    assert boxes(torch.zeros_like(hole), 8) == []


@pytest.mark.parametrize("seed", range(5))
def test_boxes_never_touch_and_hold_everything(seed):
    generator = torch.Generator().manual_seed(seed)
    hole = torch.rand(64, 48, 32, generator=generator) > 0.9997
    found = boxes(hole, context=4, multiple=4, least=8)
    covered = torch.zeros(hole.shape, dtype=torch.int)
    for box in found:
        covered[box] += 1
        assert all(s.start % 4 == 0 and s.stop % 4 == 0 and s.stop - s.start >= 8 for s in box)
    assert (covered[hole] == 1).all() and covered.max() == 1


def test_width_is_that_of_the_largest_component():
    hole = torch.zeros(1, 1, 32, 32, 32, dtype=torch.bool)
    hole[..., 2:12, 2:12, 2:12], hole[..., 20:24, 20:24, 20:24] = True, True
    assert width_mm(hole, 4.0) == pytest.approx(10 * (6 / 3.14159) ** (1 / 3) * 4, rel=1e-3)
    assert width_mm(torch.zeros(1, 1, 4, 4, 4), 4.0) == 0
