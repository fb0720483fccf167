"""A mask that comes back with its axes turned around is the same mask; one on another grid is refused."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from zerotumor.errors import ScanError
from zerotumor.grids import on_grid, shift_mm

SHAPE = (7, 8, 9)
TURNS = [(p, s) for p in itertools.permutations(range(3)) for s in itertools.product((1, -1), repeat=3)]


def affine_of(angles=(25, -40, 45)):
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([1.5, 2.0, 3.0])
    out[:3, 3] = (-40, 25, 60)
    return torch.from_numpy(out)


def stored(values, affine, axes, signs):
    """The same voxels in the same places, in another order."""
    turn = np.stack([axes, signs], axis=1)
    turned = nib.apply_orientation(values.numpy(), turn).copy()
    moved = affine @ torch.from_numpy(nib.orientations.inv_ornt_aff(turn, values.shape))
    return MetaTensor(torch.from_numpy(turned)[None], affine=moved)


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, -40, 45)])
@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_a_mask_is_turned_back_from_all_48_orders_of_its_axes(axes, signs, angles):
    values, affine = (torch.rand(SHAPE) > 0.7).float(), affine_of(angles)
    back = on_grid(stored(values, affine, axes, signs), affine, SHAPE)
    assert torch.equal(back.as_tensor()[0], values) and torch.allclose(back.affine, affine)


def test_rounding_is_no_other_grid():
    affine = affine_of()
    mask = MetaTensor(torch.ones(1, *SHAPE), affine=affine.float() + 1e-4)
    assert on_grid(mask, affine, SHAPE).shape == (1, *SHAPE)


@pytest.mark.parametrize(
    ("change", "shape", "words"),
    [
        (np.diag([1.0, 1.0, 1.0, 1.0]), (7, 8, 10), "voxels"),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), SHAPE, "beside"),  # mirrored about the origin, and not stored in another order
        (np.diag([1.2, 1.0, 1.0, 1.0]), SHAPE, "beside"),
        (np.array([[1, 0, 0, 3.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), SHAPE, "4.5 mm beside"),
        (np.diag([0.0, 1.0, 1.0, 1.0]), SHAPE, "no length"),
    ],
)
def test_another_grid_is_refused_with_a_sentence(change, shape, words):
    affine = affine_of()
    mask = MetaTensor(torch.ones(1, *shape), affine=affine @ torch.from_numpy(change))
    with pytest.raises(ScanError, match=words):
        on_grid(mask, affine, SHAPE)


def test_a_shift_is_that_of_the_corner_that_is_farthest_off():
    one = torch.eye(4)
    two = torch.diag(torch.tensor([1.5, 1.0, 1.0, 1.0]))
    assert shift_mm(one, one, SHAPE) == 0 and shift_mm(one, two, SHAPE) == pytest.approx(3.0)
