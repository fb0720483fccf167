"""Files of answers: what other libraries read in them, and what is left where the disk is full."""

import tempfile
from types import SimpleNamespace

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from fastapi import HTTPException
from lib.answers import write
from lib.options import Options
from nibabel.affines import from_matvec
from scipy.spatial.transform import Rotation

AFFINE = from_matvec(Rotation.from_euler("xyz", (20, -30, 40), degrees=True).as_matrix() * (0.7, 1.1, 3.0), (5, -6, 7))
LABELS = torch.zeros(8, 9, 10, dtype=torch.uint8)
LABELS[2:4, 3, 5:] = 2
SCAN = SimpleNamespace(affine=torch.from_numpy(AFFINE))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd"])
def test_it_lies_on_the_scans_grid_in_the_type_that_was_asked_for(extension, dtype, compress):
    options = Options(result_extension=extension, result_dtype=dtype, result_compress=compress)
    path = write(LABELS, SCAN, options)
    image = sitk.ReadImage(path)
    array = sitk.GetArrayFromImage(image)
    assert array.dtype == dtype and np.array_equal(array.transpose(2, 1, 0), LABELS)
    lps = [image.TransformContinuousIndexToPhysicalPoint(p) for p in ((0.0, 0, 0), (7.0, 8, 9), (2.0, 0, 9))]
    ras = nib.affines.apply_affine(AFFINE, [(0, 0, 0), (7, 8, 9), (2, 0, 9)])
    assert np.allclose(np.array(lps) * (-1, -1, 1), ras, atol=1e-4)
    if extension == ".nrrd":
        assert nrrd.read_header(path)["encoding"] == ("gzip" if compress else "raw")


def test_a_sheared_grid_keeps_its_place():
    """As of a CT gantry that was tilted: no format of ITK has it, NIfTI does."""
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.4 * sheared[:3, 1]
    path = write(LABELS, SimpleNamespace(affine=torch.from_numpy(sheared)), Options(result_extension=".nii.gz"))
    assert np.allclose(nib.load(path).affine, sheared, atol=1e-5)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(HTTPException) as refused:
        write(LABELS, SCAN, Options())
    assert refused.value.status_code == 507 and "make room" in refused.value.detail
    assert not list(place.iterdir())
