"""Left and right, from masks and from the body."""

import pytest
import torch
from monai.data import MetaTensor

from zerotumor.datasets import ORGAN_LABELS
from zerotumor.sides import body_middle, host_touched, right_part


def scan(first, last, edge=60, table=False):
    """A CT (1, 60, 20, 20) of 8 mm with a body from one column to another, of values between 0 and 80."""
    values = torch.full((edge, 20, 20), -1000.0)
    values[first:last, 3:17] = torch.rand((last - first, 14, 20), generator=torch.Generator().manual_seed(0)) * 80
    values[first:last, 3:5] = -100
    if table:
        values[:, 1] = 200
    return MetaTensor(values[None], affine=torch.diag(torch.tensor([8.0, 8.0, 8.0, 1.0])))


@pytest.mark.parametrize(
    ("first", "last", "middle"),
    [(10, 50, 30), (20, 54, 37), (2, 20, 11), (0, 50, 25), (0, 20, None), (40, 60, None), (0, 60, 30)],
)
@pytest.mark.parametrize("table", [False, True])
def test_the_middle_is_the_bodys_and_a_narrow_view_has_none(first, last, middle, table):
    found = body_middle(scan(first, last, table=table))
    assert found is middle is None or found * 60 == pytest.approx(middle, abs=0.5)


def test_a_scan_of_air_has_no_middle():
    assert body_middle(MetaTensor(torch.full((1, 8, 8, 8), -1000.0), affine=torch.eye(4))) is None


def mask(*boxes):
    out = torch.zeros(40, 12, 12, dtype=torch.bool)
    for x, z in boxes:
        out[x, 3:9, z] = True
    return out


def test_two_parts_beside_each_other_are_the_pair_wherever_the_image_ends():
    both = mask((slice(2, 8), slice(1, 11)), (slice(16, 22), slice(2, 12)))
    for middle in (None, 30.0):
        right = right_part(both, middle, 4.0)
        assert right[16:22].any() and not right[:16].any() and (right[16:] == both[16:]).all()


def test_one_part_is_wholly_on_its_side_and_one_on_both_sides_is_cut():
    one, horseshoe = mask((slice(18, 30), slice(1, 11))), mask((slice(12, 28), slice(1, 11)))
    assert right_part(one, None, 4.0) is None
    assert (right_part(one, 20.0, 4.0) == one).all() and not right_part(one, 28.0, 4.0).any()
    cut = right_part(horseshoe, 20.0, 4.0)
    assert cut[20:].any() and not cut[:20].any()


@pytest.mark.parametrize(
    "second", [(slice(10, 14), slice(1, 11)), (slice(20, 26), slice(8, 12)), (slice(20, 21), slice(1, 2))]
)
def test_parts_of_one_organ_are_no_pair(second):
    """Near each other, one above the other, or one of them a crumb."""
    assert right_part(mask((slice(2, 8), slice(1, 7)), second), None, 4.0) is None


def test_a_lesion_lies_in_the_host_that_it_touches_most():
    organs = torch.zeros(12, 12, 12, dtype=torch.uint8)
    organs[:6], organs[6:] = ORGAN_LABELS["left kidney"], ORGAN_LABELS["right kidney"]
    organs[:, :, 8:] = ORGAN_LABELS["liver"]
    lesion = torch.zeros(organs.shape, dtype=torch.bool)
    lesion[3:7, 4:7, 4:7] = True
    organs[lesion] = 0
    kidneys = ("left kidney", "right kidney")
    assert host_touched(lesion, organs, kidneys) == "left kidney"
    assert host_touched(lesion, organs, ("liver", "spleen")) is None
    lesion = torch.zeros_like(lesion)
    lesion[10:, 10:, 5:8] = True  # in the corner of the scan
    assert host_touched(lesion, organs, kidneys) == "right kidney"
