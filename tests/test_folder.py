"""A folder of scans as the bundle's inference sees it."""

import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from make_files import ct_values, write_dicom, write_nifti
from monai.transforms import SaveImage

from zerotumor.errors import ScanError
from zerotumor.folder import Readable, ReadScand, check_records, records, say_plainly, tell_left_out
from zerotumor.transforms import Prepared
from zerotumor.volumes import read_scan


def test_every_scan_has_a_name_of_its_own(tmp_path):
    for name in ("x.nrrd", "x.nii.gz", "x.nii", "y.1.NRRD", "notes.txt", ".x.nii"):
        (tmp_path / name).touch()
    (tmp_path / "deep.nii").mkdir()
    found = {record["image"].removeprefix(f"{tmp_path}/"): record["name"] for record in records(tmp_path)}
    assert found == {
        "x.nii": "x.nii.gz", "x.nii.gz": "x-nii-gz.nii.gz", "x.nrrd": "x-nrrd.nii.gz", "y.1.NRRD": "y.1.nii.gz",
    }  # fmt: skip


def test_no_scan_takes_the_name_of_one_that_is_called_like_a_suffix(tmp_path):
    files = ["x-nrrd-nrrd.nii", "x-nrrd.nii.gz", "x.nii.gz", "x.nrrd"]
    for name in files:
        (tmp_path / name).touch()
    found = records(tmp_path)
    assert sorted(record["image"] for record in found) == [str(tmp_path / name) for name in files]
    assert {record["name"] for record in found} == {
        "x-nrrd-nrrd.nii.gz", "x-nrrd.nii.gz", "x.nii.gz", "x-nrrd-nrrd-nrrd.nii.gz",
    }  # fmt: skip


def test_a_folder_without_scans_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ScanError, match="holds no scan.*--dataset_dir"):
            check_records(records(folder), folder)


def test_a_bad_scan_is_left_out_with_its_sentence(tmp_path, capsys):
    write_nifti(tmp_path / "good.nii.gz", ct_values())
    (tmp_path / "bad.nii.gz").touch()
    steps = [ReadScand("image"), Prepared("image", "CT")]
    data = Readable(records(tmp_path), steps)
    assert [record["name"] for record in data] == ["good.nii.gz"]
    assert "bad.nii.gz is empty" in capsys.readouterr().err
    check_records(data, tmp_path)
    with pytest.raises(ScanError, match="1 of 2 scans were left out: .*bad.nii.gz is empty"):
        tell_left_out(data)
    (tmp_path / "good.nii.gz").unlink()
    with pytest.raises(ScanError, match="bad.nii.gz is empty: copy it again"):
        check_records(Readable(records(tmp_path), steps), tmp_path)
    tell_left_out(Readable([], steps))


def test_a_scan_is_read_as_everywhere_and_saved_under_its_name(tmp_path):
    affine = np.array([[-2.0, 0, 0, 11], [0, 0, -3.0, 5], [0, 2.0, 0, -7], [0, 0, 0, 1]])
    path = write_nifti(tmp_path / "x.nii.gz", ct_values(), affine)
    scan = ReadScand("image")({"image": str(path), "name": "x-nii.nii.gz"})["image"]
    own = read_scan(path)
    assert torch.equal(torch.as_tensor(scan), torch.as_tensor(own)) and torch.equal(scan.affine, own.affine)
    assert torch.equal(scan.meta["original_affine"], own.affine) and scan.meta["spatial_shape"] == [20, 18, 16]
    SaveImage(output_dir=tmp_path / "out", output_postfix="mask", resample=False, print_log=False)(scan)
    assert np.allclose(nib.load(tmp_path / "out/x-nii/x-nii_mask.nii.gz").affine, affine)


def test_the_header_says_what_a_dicom_scan_is(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values())
    assert ReadScand("image")({"image": str(folder)})["image"].meta["modality"] == "CT"


def test_a_program_ends_with_the_sentence_alone(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error[1]))
    say_plainly()
    say_plainly()
    wrapped = RuntimeError("Failed to evaluate ConfigExpression")
    wrapped.__cause__ = RuntimeError("applying transform")
    wrapped.__cause__.__cause__ = ScanError("a.nii.gz is empty: copy it again")
    sys.excepthook(RuntimeError, wrapped, None)
    assert capsys.readouterr().err == "Error: a.nii.gz is empty: copy it again\n" and shown == []
    other = RuntimeError("a mistake of ours")
    sys.excepthook(RuntimeError, other, None)
    assert shown == [other]
