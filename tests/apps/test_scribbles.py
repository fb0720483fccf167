"""Scribbles lie where they were drawn, whatever the order of their axes."""

import nibabel as nib
import numpy as np
import pytest
from lib.compat import import_without_torchvision

import_without_torchvision()
from fastapi import HTTPException
from lib.engine import Engine
from lib.scribbles import Scribbles

AFFINE = np.diag([2.5, 2.5, 5.0, 1.0])


@pytest.fixture
def ask(tmp_path):
    """Scribbles on a scan with one bright ball, not in its middle -> the mask."""
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1)
    far = np.linalg.norm(grid - (7, 9, 11), axis=-1)
    values = np.random.default_rng(0).normal(40, 5, far.shape).astype(np.float32)
    values[far < 5] += 150
    values[:2] = -1000
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "scan.nii.gz")
    scribbles = np.zeros(far.shape, np.uint8)
    scribbles[far < 2], scribbles[(far > 8) & (far < 9)] = 3, 2
    task = Scribbles(Engine(None, 0.3, lambda: [tmp_path]))

    def asked(turn, shift=0.0):
        turned = nib.apply_orientation(scribbles, turn)
        affine = AFFINE @ nib.orientations.inv_ornt_aff(turn, far.shape)
        affine[0, 3] += shift
        nib.save(nib.Nifti1Image(turned, affine), tmp_path / "scribbles.nii.gz")
        request = {
            "image": str(tmp_path / "scan.nii.gz"),
            "label": str(tmp_path / "scribbles.nii.gz"),
            "modality": "CT",
        }
        file, _ = task({**request, "device": "cpu", "result_extension": ".nii.gz"})
        return np.asarray(nib.load(file).dataobj) > 0, far < 5

    return asked


def test_turned_scribbles_are_the_same_scribbles(ask):
    plain, truth = ask(np.array([[0, 1], [1, 1], [2, 1]]))
    turned, _ = ask(np.array([[0, -1], [2, 1], [1, -1]]))
    assert 2 * (plain & truth).sum() / (plain.sum() + truth.sum()) > 0.8
    assert np.array_equal(turned, plain)


def test_scribbles_beside_the_scan_are_refused(ask):
    with pytest.raises(HTTPException) as refused:
        ask(np.array([[0, 1], [1, 1], [2, 1]]), shift=10.0)
    assert refused.value.status_code == 422 and "the scribbles" in refused.value.detail
