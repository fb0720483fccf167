"""The app's own answers, as MONAI Label's endpoint sends them."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from lib.compat import import_without_torchvision

import_without_torchvision()
from fastapi import BackgroundTasks, HTTPException
from main import ZeroTumorApp
from monailabel.endpoints import infer as endpoint

from zerotumor.devices import enough_memory

MESSAGE = "nothing found for: liver tumor"


@pytest.fixture
def app(folder, tmp_path, monkeypatch):
    """The app over a scan; its task finds nothing, and writes no file, if a format is asked for."""

    def answer(request):
        path = None if request.get("format") else str(tmp_path / "mask.nii.gz")
        if path:
            nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
        return path, {"message": MESSAGE}

    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "scan.nii.gz").write_bytes((folder / "scan.nii.gz").read_bytes())
    conf = {"models": str(folder), "state": str(tmp_path / "state")}
    made = ZeroTumorApp(str(tmp_path), str(tmp_path / "studies"), conf)
    made._infers["tumor"] = made._infers["tumor_refine"] = answer
    answer.description = ""
    monkeypatch.setattr(endpoint, "app_instance", lambda: SimpleNamespace(
        info=dict, infer=made.infer, datastore=made.datastore, sessions=made.sessions))  # fmt: skip
    return made


def ask(model, output=None, **params):
    return endpoint.run_inference(BackgroundTasks(), model, "scan", "", json.dumps(params), None, None, output)


@pytest.mark.parametrize("model", ["tumor", "tumor_refine"])
@pytest.mark.parametrize("format", ["dicom-seg", "rtstruct"])
def test_where_dicom_has_no_empty_file_a_client_that_asks_for_it_is_told(app, model, format):
    with pytest.raises(HTTPException) as refused:
        ask(model, "image", format=format)
    assert refused.value.status_code == 422
    assert MESSAGE in refused.value.detail and "output=json" in refused.value.detail
    for output in ("json", "all", None):
        assert ask(model, output, format=format) == {"message": MESSAGE}


def test_an_empty_mask_is_a_file(app):
    assert ask("tumor", "image").path.endswith("mask.nii.gz")
    assert ask("tumor", "all").media_type.startswith("multipart")


def test_what_a_batch_has_found_nothing_in_is_still_json(app):
    app._batch_infer = lambda request, datastore, infer: {"scan": infer({**request, "image": "scan"}, datastore)}
    reply = app.batch_infer({"model": "tumor", "format": "dicom-seg"})
    assert json.loads(json.dumps(reply))["scan"]["params"] == {"message": MESSAGE} and reply["scan"]["file"] is None


def test_a_gpu_without_room_is_a_sentence(app):
    def full(request):
        with enough_memory():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    full.description = ""
    app._infers["tumor"] = full
    with pytest.raises(HTTPException) as refused:
        ask("tumor", "image")
    assert refused.value.status_code == 503 and "--conf device cpu" in refused.value.detail


def test_all_networks_are_on_the_device_of_the_settings(app):
    assert app.engine.device == torch.device("cpu") and app.conf.get("device") is None
    app.conf["device"] = "nowhere"
    with pytest.raises(ValueError, match="there is no device 'nowhere' here: use cpu"):
        app.init_infers()
