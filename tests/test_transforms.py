"""What a scan becomes before a network sees it."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from zerotumor.phantom import generate
from zerotumor.transforms import ModalityError, Prepared, decide_modality, modality_of_data, normalize, prepare


def test_ct_windows():
    values = torch.tensor([-2000.0, -1000, -160, 40, 240, 400, 3000]).reshape(1, 7, 1, 1)
    wide, soft = normalize(values, "CT").flatten(1)
    assert torch.allclose(wide, torch.tensor([0, 0, 0.6, 1040 / 1400, 1240 / 1400, 1, 1]))
    assert torch.allclose(soft, torch.tensor([0, 0, 0, 0.5, 1, 1, 1]))


def test_mr_does_not_depend_on_the_scanners_gain():
    image = torch.rand(1, 20, 20, 20) ** 2
    assert torch.allclose(normalize(image, "MR"), normalize(image * 731, "MR"), atol=1e-4)


def test_mr_percentiles_leave_the_background_out():
    image = torch.zeros(1, 20, 20, 20)
    image[:, 5:10] = torch.rand(1, 5, 20, 20) + 1
    padded = torch.nn.functional.pad(image, (30,) * 6)
    assert torch.allclose(normalize(image, "MR")[:, 6], normalize(padded, "MR")[:, 36, 30:50, 30:50], atol=0.02)


def test_a_part_of_an_mr_scan_is_seen_as_in_the_whole():
    scan = torch.rand(1, 20, 20, 20) * 300
    scan[:, 10:] *= 3
    part = (slice(None), slice(0, 10), slice(4, 9), slice(2, 8))
    assert torch.equal(normalize(scan[part], "MR", like=scan), normalize(scan, "MR")[part])
    assert not torch.equal(normalize(scan[part], "MR"), normalize(scan, "MR")[part])


def test_unknown_modality():
    with pytest.raises(ModalityError, match="say CT or MR"):
        normalize(torch.rand(1, 4, 4, 4), "US")


@pytest.mark.parametrize("region", ["limb", "abdomen", "chest", "head", "pelvis"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_modality_is_told_from_the_data(region, modality):
    phantom = generate(5, shape=(24, 24, 24), spacing=8.0, region=region, modality=modality, category="healthy")
    assert modality_of_data(phantom.image) == modality
    assert decide_modality(phantom.image) == decide_modality(phantom.image, user=modality.lower()) == modality


@pytest.mark.parametrize("region", ["limb", "abdomen", "chest", "head", "pelvis"])
@pytest.mark.parametrize("offset", [1000, 1024])
def test_ct_stored_with_an_offset_is_not_taken_for_mr(region, offset):
    image = generate(5, shape=(24, 24, 24), spacing=8.0, region=region, modality="CT", category="healthy").image
    stored = (image.clamp(min=-1024) + offset).round().clamp(min=0)
    for user in (None, "CT"):
        with pytest.raises(ModalityError, match="offset.*--modality MR"):
            decide_modality(stored, user=user)
    padded = stored.clone()
    padded[:, :3] = offset - 2000  # what lies outside the scanner's circle would pass for air
    with pytest.raises(ModalityError, match="subtract the offset"):
        decide_modality(padded)
    assert decide_modality(stored, user="MR") == "MR" and decide_modality(stored - offset) == "CT"


@pytest.mark.parametrize("region", ["limb", "abdomen", "chest", "head", "pelvis"])
def test_mr_of_any_gain_is_mr(region):
    image = generate(5, shape=(24, 24, 24), spacing=8.0, region=region, modality="MR", category="healthy").image
    for gain in (0.1, 1, 3, 1000 / float(image[image > 0.2 * image.max()].median()), 30):
        assert decide_modality((image * gain).round()) == "MR"


def test_what_is_called_ct_and_is_none_may_have_an_offset():
    with pytest.raises(ModalityError, match="say --modality MR, or, if it is a CT stored with an offset"):
        decide_modality(torch.rand(1, 9, 9, 9) * 500, user="CT")


def test_mri_is_a_way_to_write_mr():
    assert decide_modality(torch.rand(1, 4, 4, 4), header="MRI") == "MR"


def test_prepared_grid_is_ras_and_isotropic():
    affine = np.array([[0, -2.0, 0, 30], [3.0, 0, 0, -10], [0, 0, 4.0, 5], [0, 0, 0, 1]])
    scan = MetaTensor(torch.rand(1, 10, 12, 8), affine=affine)
    out = prepare(scan, "MR", 2.5)
    assert out.shape[0] == 2
    assert torch.allclose(out.affine[:3, :3], torch.eye(3, dtype=torch.float64) * 2.5)
    assert abs(out.shape[1] * 2.5 - 24) <= 2.5 and abs(out.shape[2] * 2.5 - 30) <= 2.5


def test_dictionary_form_keeps_affine_and_history():
    scan = MetaTensor(torch.rand(1, 6, 6, 6), affine=torch.eye(4) * 2, meta={"filename_or_obj": "a.nii"})
    out = Prepared("image", modality=["auto", "CT", "MR"])({"image": scan})["image"]
    assert out.shape == (2, 6, 6, 6) and torch.equal(out.affine, scan.affine) and out.meta["filename_or_obj"] == "a.nii"


def test_real_scans_are_told_apart(data_dir):
    from zerotumor.cohorts import real_cases

    for case in real_cases(data_dir):
        scan = case.read()[0]
        assert modality_of_data(scan) == decide_modality(scan) == case.modality, case.name
