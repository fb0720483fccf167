"""Scans from files, whatever the format: the same voxels at the same millimeters."""

from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from make_files import ct_values, write_dicom, write_nifti
from pydicom.misc import is_dicom
from pydicom.uid import SecondaryCaptureImageStorage

from zerotumor.volumes import find_scans, read_scan, stem_of, write_mask


def brightest_mm(scan) -> np.ndarray:
    """RAS mm of the middle of the bright block."""
    where = (torch.as_tensor(scan[0]) == 300).nonzero().double().mean(0)
    return (torch.as_tensor(scan.affine) @ torch.cat([where, torch.ones(1, dtype=torch.float64)]))[:3].numpy()


def test_dicom_is_read_in_order_with_hounsfield_units_and_ras(tmp_path):
    values = ct_values().round()
    scan = read_scan(write_dicom(tmp_path / "d", values))
    assert scan.meta["modality"] == "CT"
    assert np.array_equal(np.asarray(scan[0]), values)
    # block center: x index 7, y 5.5, z 3.5; DICOM mm are LPS
    assert np.allclose(brightest_mm(scan), [-(-10 + 7 * 2), -(-20 + 5.5 * 2), 30 + 3.5 * 3])


def test_hounsfield_units_do_not_depend_on_how_slices_are_shown(tmp_path):
    values = ct_values().round()
    scan = read_scan(write_dicom(tmp_path / "d", values, PhotometricInterpretation="MONOCHROME1"))
    plain = read_scan(write_dicom(tmp_path / "e", values))
    assert np.array_equal(np.asarray(scan[0]), values) and torch.equal(scan.affine, plain.affine)


def test_a_screenshot_beside_the_slices_is_no_slice(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values(), series="1.2.3")
    shot = pydicom.dcmread(folder / "000.dcm")
    shot.SOPClassUID = SecondaryCaptureImageStorage
    del shot.ImagePositionPatient, shot.ImageOrientationPatient
    shot.save_as(folder / "shot.dcm")
    assert read_scan(folder).shape == (1, 20, 18, 16)


def test_nrrd_and_nifti_agree(tmp_path):
    values = ct_values()
    affine = np.array([[-2.0, 0, 0, 11], [0, 0, -3.0, 5], [0, 2.0, 0, -7], [0, 0, 0, 1]])
    nifti = read_scan(write_nifti(tmp_path / "a.nii.gz", values, affine))
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    other = read_scan(tmp_path / "a.nrrd")
    assert torch.equal(torch.as_tensor(nifti), torch.as_tensor(other))
    assert torch.allclose(nifti.affine, other.affine)


@pytest.mark.parametrize("unit, factor", [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_lengths_are_mm_whatever_the_files_unit(tmp_path, unit, factor):
    affine = np.array([[-2.0, 0, 0, 11], [0, 0, -3.0, 5], [0, 2.0, 0, -7], [0, 0, 0, 1]])
    scaled = affine * np.array([[1 / factor] * 3 + [1]]).T
    image = nib.Nifti1Image(ct_values(), scaled)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii.gz")
    assert np.allclose(read_scan(tmp_path / "a.nii.gz").affine, affine)
    lps = np.diag([-1, -1, 1, 1]) @ scaled
    header = {"space": "LPS", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), ct_values(), header | ({} if factor == 1 else {"space units": [unit] * 3}))
    assert np.allclose(read_scan(tmp_path / "a.nrrd").affine, affine)


def test_mask_has_the_scans_geometry(tmp_path):
    affine = np.array([[0, 2.0, 0, 1], [-3.0, 0, 0, 2], [0, 0, 1.5, 3], [0, 0, 0, 1]])
    write_mask(torch.ones(3, 4, 5), torch.from_numpy(affine), tmp_path / "m.nii.gz")
    image = nib.load(tmp_path / "m.nii.gz")
    assert image.shape == (3, 4, 5) and image.get_data_dtype() == np.uint8 and np.allclose(image.affine, affine)


def test_scans_are_found_in_folders(tmp_path):
    one = write_nifti(tmp_path / "b.nii.gz", ct_values())
    series = write_dicom(tmp_path / "deep" / "series", ct_values())
    (tmp_path / "notes.txt").write_text("no scan")
    assert find_scans([tmp_path]) == [one, series]
    assert find_scans([one, one]) == [one]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert find_scans([empty]) == [empty]


@pytest.mark.parametrize("form", ["CT.1.3.12.2.{}", "{}.IMA", "1.2.840.{}", "IM{}"])
def test_a_series_is_found_however_its_files_are_called(tmp_path, form):
    series = write_dicom(tmp_path / "deep" / "series", ct_values())
    for k, file in enumerate(sorted(series.iterdir())):
        file.rename(series / form.format(k))
    assert find_scans([tmp_path]) == [series]
    assert read_scan(series).shape == (1, 20, 18, 16)


def test_the_index_of_a_disc_is_no_scan(tmp_path):
    series = write_dicom(tmp_path / "series", ct_values())
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert find_scans([tmp_path]) == [series]


def test_a_file_that_cannot_be_opened_does_not_end_the_search(tmp_path, monkeypatch):
    def forbidden(file):
        if Path(file).name == "secret":
            raise PermissionError(13, "Permission denied", str(file))
        return is_dicom(file)

    one = write_nifti(tmp_path / "b.nii.gz", ct_values())
    (tmp_path / "secret").touch()
    monkeypatch.setattr("zerotumor.dicom.is_dicom", forbidden)
    assert find_scans([tmp_path]) == [one]


@pytest.mark.parametrize("name, stem", [("a.nii.gz", "a"), ("a.b.nii", "a.b"), ("c.NRRD", "c")])
def test_stem(tmp_path, name, stem):
    (tmp_path / name).touch()
    assert stem_of(tmp_path / name) == stem


def test_real_jpeg2000_series(data_dir):
    scan = read_scan(data_dir / "dicom" / "ct_jpeg2000")
    assert scan.shape[3] == 20 and -1100 < float(scan.min()) < -900 and scan.meta["modality"] == "CT"


def test_real_series_are_found(data_dir):
    found = find_scans([data_dir / "dicom"])
    assert data_dir / "dicom" / "ct_jpeg2000" in found and data_dir / "dicom" / "crlm_ct" / "CRLM-CT-1004" in found


def test_real_nrrd(data_dir):
    scan = read_scan(data_dir / "tumour" / "brain_mr" / "brain1_image.nrrd")
    mask = read_scan(data_dir / "tumour" / "brain_mr" / "brain1_label.nrrd", labels=True)
    assert scan.shape == mask.shape and torch.allclose(scan.affine, mask.affine)
