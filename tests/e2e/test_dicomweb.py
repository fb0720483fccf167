"""MONAI Label's own client, the app, and Orthanc over DICOMweb: CT and MR, from info to training."""

import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from make_files import merge
from monailabel.client.client import MONAILabelClient
from serve import store

from zerotumor.in_turn import usual
from zerotumor.pipeline import segment_scan
from zerotumor.segmenter import load
from zerotumor.volumes import read_scan


@pytest.fixture
def client(server, tmp_path):
    return MONAILabelClient(server, tmpdir=str(tmp_path))


def stored(archive, modality):
    """DICOM series of a modality in Orthanc, as DICOMweb lists them."""
    answer = requests.get(f"{archive[0]}/dicom-web/series", params={"Modality": modality, "includefield": "all"})
    return [str(pydicom.Dataset.from_json(found).SeriesInstanceUID) for found in answer.json()]


def test_ct_and_mr_are_offered(client, server, uid):
    assert {"tumor", "tumor_refine", "Histogram+GraphCut"} <= set(client.info()["models"])
    assert requests.get(f"{server}/datastore/").json()["total"] == 2
    assert client.next_sample("first", {})["id"] in uid.values()


@pytest.mark.parametrize(("modality", "prompt"), [("CT", "liver tumor; tumor"), ("MR", "soft tissue sarcoma; tumor")])
def test_a_mask_by_dicomweb_is_the_command_lines(client, series, uid, modality, prompt):
    path, reply = client.infer("tumor", uid[modality], {"prompt": prompt, "result_extension": ".nii.gz"})
    assert reply["modality"] == modality
    scan = read_scan(series[modality])
    own = segment_scan(load(usual()), scan, prompt).masks.numpy()
    served = nib.load(path)
    assert np.allclose(served.affine, scan.affine, atol=1e-3)
    labels = np.asarray(served.dataobj)
    free = np.ones(labels.shape, dtype=bool)  # the first prompt wins where two find the same
    for entry, mask in zip(reply["prompts"], own > 0, strict=True):
        assert np.array_equal(labels == entry["label"], mask & free)
        free &= ~mask


def test_clicks_on_an_mr(client, uid):
    path, reply = client.infer("tumor_refine", uid["MR"], {"foreground": [[30, 30, 20]], "background": [[5, 5, 5]]})
    mask = np.asarray(nib.load(path).dataobj) > 0
    assert mask[30, 30, 20] and not mask[5, 5, 5] and reply["clicks"] == 2


def test_a_final_label_becomes_a_dicom_seg_and_the_scan_is_done(client, archive, uid, tmp_path):
    path, reply = client.infer("tumor_refine", uid["MR"], {"foreground": [[30, 30, 20]], "client_id": "saver"})
    before = set(stored(archive, "SEG"))
    client.save_label(
        uid["MR"], str(path), params={"label_info": [{"name": "soft tissue sarcoma", "idx": 1}], "prompt": "sarcoma"}
    )
    new = set(stored(archive, "SEG")) - before
    assert len(new) == 1
    series = requests.post(f"{archive[0]}/tools/lookup", data=new.pop()).json()[0]["ID"]
    instance = requests.get(f"{archive[0]}/series/{series}").json()["Instances"][0]
    (tmp_path / "seg.dcm").write_bytes(requests.get(f"{archive[0]}/instances/{instance}/file").content)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.SegmentSequence[0].SegmentLabel == "soft tissue sarcoma"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid["MR"]
    ones = int(seg.pixel_array.astype(bool).sum())
    assert ones == int((np.asarray(nib.load(path).dataobj) > 0).sum())
    assert client.next_sample("first", {})["id"] == uid["CT"], "a labeled scan is not offered again"


def test_batch_scoring_and_training(client, server, uid):
    batch = requests.post(f"{server}/batch/infer/tumor?run_sync=true", json={"prompt": "tumor", "images": "all"})
    assert batch.ok and "error" not in batch.text, batch.text
    scored = requests.post(f"{server}/scoring/tumor_uncertainty?run_sync=true", json={"prompt": "tumor"})
    assert set(scored.json()["scored"]) == {uid["CT"]}, "the MR has a final label already"
    # The label came back from the archive as DICOM SEG, with its text; one scan is too few to learn from.
    trained = requests.post(f"{server}/train/tumor?run_sync=true", json={})
    assert trained.status_code == 400, trained.text
    detail = trained.json()["detail"]
    assert uid["MR"] in detail and "'soft tissue sarcoma' in MR is too few" in detail and uid["CT"] not in detail


def test_what_the_archive_does_not_have_is_said(server):
    for image in ("1.2.3", "../../etc/passwd"):
        answer = requests.post(f"{server}/infer/tumor", params={"image": image, "output": "json"},
                               data={"params": json.dumps({"prompt": "tumor"})})  # fmt: skip
        assert answer.status_code in (403, 404), answer.text
    assert requests.get(f"{server}/info/").ok


def test_an_enhanced_mr_is_answered_as_its_slices_are_and_labeled(client, archive, series, uid, tmp_path):
    new = {key: pydicom.uid.generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID")}
    folder = merge(series["MR"], tmp_path / "enhanced", **new)
    store(archive[0], folder)
    options = {"prompt": "soft tissue sarcoma", "result_extension": ".nii.gz"}
    masks = [np.asarray(nib.load(client.infer("tumor", u, options)[0]).dataobj)
             for u in (uid["MR"], new["SeriesInstanceUID"])]  # fmt: skip
    assert masks[0].any() and np.array_equal(*masks)
    nib.save(
        nib.Nifti1Image((masks[1] > 0).astype(np.uint8), read_scan(folder).affine.numpy()), tmp_path / "label.nii.gz"
    )
    client.save_label(
        new["SeriesInstanceUID"], str(tmp_path / "label.nii.gz"), params={"label_info": [{"name": "sarcoma", "idx": 1}]}
    )
    listed = requests.get(f"{archive[0]}/dicom-web/studies/{new['StudyInstanceUID']}/series").json()
    kinds = [pydicom.Dataset.from_json(found).Modality for found in listed]
    assert sorted(kinds) == ["MR", "SEG"]
