"""Batches go on where the last one ended, whatever is labeled or broken in between."""

import nibabel as nib
import numpy as np
import pytest
from lib.compat import import_without_torchvision

import_without_torchvision()
from fastapi import HTTPException
from lib.batch import ResumableBatch
from lib.store import Folder

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def store(tmp_path):
    (tmp_path / "studies").mkdir()
    for name in "abcde":
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), AFFINE), tmp_path / "studies" / f"{name}.nii.gz")
    return Folder(str(tmp_path / "studies"))


@pytest.fixture
def infer(tmp_path):
    """Labels a scan; b cannot be read."""

    def label(request, datastore):
        if request["image"] == "b":
            raise HTTPException(422, "b is damaged")
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), AFFINE), tmp_path / "label.nii.gz")
        datastore.save_label(request["image"], str(tmp_path / "label.nii.gz"), request["label_tag"], {})
        return {"result": "labeled"}

    return label


def done(results):
    return [image for image, reply in results.items() if "result" in reply]


def test_a_batch_of_two_takes_the_next_two(store, infer):
    batch = ResumableBatch()
    first, second, third = (batch({"max_batch_size": 2}, store, infer) for _ in range(3))
    assert [done(r) for r in (first, second, third)] == [["a", "c"], ["d", "e"], []]
    assert first["b"] == {"error": "b is damaged"} and set(first) == set("abc")
    assert set(second["a"]) == {"skipped"} and set(third) == set("abcde")
    assert done(batch({"max_batch_size": 1, "force": True}, store, infer)) == ["a"]
    assert done(batch({"force": True}, store, infer)) == list("acde")
