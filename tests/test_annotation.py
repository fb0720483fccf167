"""Labels that would teach something wrong are refused, each with its own sentence; good ones are not."""

import numpy as np
import pytest
import torch
from make_files import ct_values
from monai.data import MetaTensor

from zerotumor.annotation import LabelError, body_of, check_label
from zerotumor.phantom import generate

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))


def scan_of(values, affine=AFFINE):
    return MetaTensor(torch.as_tensor(values)[None].float(), affine=affine)


@pytest.fixture
def scan():
    return scan_of(ct_values())


def box(scan, *slices):
    mask = torch.zeros(scan.shape[1:])
    mask[slices] = 1
    return MetaTensor(mask[None], affine=scan.affine)


def test_a_lesion_in_the_body_may_be_learned_from(scan):
    check_label(box(scan, slice(6, 9), slice(6, 9), slice(4, 8)), scan)
    check_label(torch.as_tensor(box(scan, slice(6, 9), slice(6, 9), slice(4, 8)))[0], scan)


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ((slice(0, 0),), "empty"),
        ((slice(None),) * 3, "the body: label the lesions alone"),
        ((slice(0, 2), slice(None), slice(None)), "outside the body"),
    ],
)
def test_bad_masks_are_refused(scan, slices, words):
    with pytest.raises(LabelError, match=words):
        check_label(box(scan, *slices), scan)


@pytest.mark.parametrize("value", [256, 257, -1])
def test_values_that_eight_bits_do_not_hold_are_refused(scan, value):
    mask = box(scan, slice(6, 9), slice(6, 9), slice(4, 8))
    mask[0, 6, 6, 4] = value
    with pytest.raises(LabelError, match="number its lesions from 1 to 255"):
        check_label(mask, scan)
    mask[0, 6, 6, 4] = 255
    check_label(mask, scan)


def test_other_grids_are_refused(scan):
    good = box(scan, slice(6, 9), slice(6, 9), slice(4, 8))
    with pytest.raises(LabelError, match="draw it on this scan"):
        check_label(good[:, :-1], scan)
    moved = AFFINE.clone()
    moved[0, 3] = 7.0
    with pytest.raises(LabelError, match=r"7\.0 mm"):
        check_label(MetaTensor(good.as_tensor(), affine=moved), scan)
    rounded = AFFINE.clone()
    rounded[0, 3] = 1e-3
    check_label(MetaTensor(good.as_tensor(), affine=rounded), scan)


def test_the_lungs_are_inside_the_body_even_where_the_scan_cuts_them_open():
    values = np.full((40, 40, 20), -1000.0)
    values[4:36, 4:36] = 40
    values[10:30, 10:30] = -960.0  # emphysema, darker than the limit, and open at both ends of the scan
    body, steps = body_of(scan_of(values))
    assert steps == (1, 1, 1) and body[20, 20, 0] and body[20, 20, 10] and not body[1, 1, 10]


@pytest.mark.parametrize(
    ("category", "modality", "region"),
    [("lung tumor", "CT", "chest"), ("soft tissue sarcoma", "MR", "limb"), ("brain tumor", "MR", "head")],
)
def test_true_labels_of_phantoms_pass_and_shifted_ones_do_not(category, modality, region):
    phantom = generate(7_100_001, shape=(56, 56, 40), spacing=5.0, category=category, modality=modality,
                       region=region, difficulty=0.0)  # fmt: skip
    scan = MetaTensor(phantom.image, affine=torch.diag(torch.tensor([5.0, 5.0, 5.0, 1.0])))
    check_label(MetaTensor((phantom.lesions > 0).float(), affine=scan.affine), scan)
    body, _ = body_of(scan)
    with pytest.raises(LabelError, match="outside the body|the body: label"):
        check_label((~body).float(), scan)
