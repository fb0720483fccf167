"""The app in a real MONAI Label server, used through MONAI Label's own client, over a folder of scans."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import nibabel as nib
import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClient, MONAILabelClientException
from scipy.ndimage import binary_dilation, binary_erosion
from servers import serving

from zerotumor.in_turn import usual
from zerotumor.phantom import generate
from zerotumor.pipeline import segment_scan
from zerotumor.report import as_mask
from zerotumor.segmenter import load
from zerotumor.volumes import read_scan

APP = Path(__file__).resolve().parents[2] / "apps" / "zerotumor"
AFFINE = np.diag([-3.0, -3.0, 4.0, 1.0])


def write_phantom(path, seed, category, modality, region):
    """A large clear lesion; returns its mask."""
    phantom = generate(seed, shape=(64, 64, 48), spacing=(3.0, 3.0, 4.0), category=category, modality=modality,
                       region=region, difficulty=0.0)  # fmt: skip
    nib.save(nib.Nifti1Image(phantom.image[0].numpy(), AFFINE), path)
    return phantom.lesions[0].numpy() > 0


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Three scans and a broken one."""
    folder = tmp_path_factory.mktemp("studies")
    truths = {
        "liver": write_phantom(folder / "liver.nii.gz", 6_000_101, "liver tumor", "CT", "abdomen"),
        "kidney": write_phantom(folder / "kidney.nii.gz", 6_000_102, "kidney cyst", "CT", "abdomen"),
        "thigh": write_phantom(folder / "thigh.nii.gz", 6_000_103, "soft tissue sarcoma", "MR", "limb"),
    }
    (folder / "broken.nii.gz").write_bytes((folder / "liver.nii.gz").read_bytes()[:5000])
    return folder, truths


@pytest.fixture(scope="module")
def server(studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, APP, studies[0], state=str(folder / "state"), random="first") as url:
        yield url


@pytest.fixture
def client(server, tmp_path):
    return MONAILabelClient(server, tmpdir=str(tmp_path))


def mask_of(path):
    return np.asarray(nib.load(path).dataobj)


def click(mask):
    """A voxel well inside a mask."""
    from zerotumor.clicks import next_click

    return list(next_click(np_to_torch(np.zeros_like(mask)), np_to_torch(mask)).index)


def np_to_torch(mask):
    import torch

    return torch.from_numpy(np.ascontiguousarray(mask))


def test_info_tells_viewers_what_there_is(client):
    info = client.info()
    assert {"tumor", "tumor_refine"} <= set(info["models"]) and isinstance(info["labels"], list)
    tumor = info["models"]["tumor"]
    assert tumor["type"] == "segmentation" and tumor["config"]["prompt"] == "tumor"
    assert all(
        isinstance(v, str | bool | int | float) or all(isinstance(x, str) for x in v) for v in tumor["config"].values()
    )
    assert info["models"]["tumor_refine"]["type"] == "deepgrow" and "tumor" in info["trainers"]
    names = {"uncertainty", "committee", "diversity", "mix"}
    assert {"first", "random", *(f"tumor_{name}" for name in names)} <= set(info["strategies"])


def test_the_servers_mask_is_the_pipelines(client, studies):
    path, reply = client.infer("tumor", "liver", {"prompt": "liver tumor; kidney cyst"})
    scan = read_scan(studies[0] / "liver.nii.gz")
    own = segment_scan(load(usual()), scan, "liver tumor; kidney cyst")
    served = mask_of(path)
    numbers = [e["label"] for e in reply["prompts"]]
    for k, number in enumerate(numbers):
        assert np.array_equal(served == number, as_mask(own.masks).numpy() == k + 1)
    assert np.allclose(nib.load(path).affine, AFFINE, atol=1e-4)
    assert set(reply["label_names"].values()) == set(np.unique(served[served > 0]).tolist())
    for key in ("score", "uncertainty", "volume_ml", "latencies", "method", "prompt"):
        assert key in reply
    assert all("centroid_mm" in e for e in reply["prompts"])


def test_text_that_looks_like_code_is_text(client):
    _, reply = client.infer(
        "tumor", "liver", {"prompt": "$import os; @network; __import__('os').system('touch /tmp/x')"}
    )
    assert [e["prompt"] for e in reply["prompts"]] == [
        "$import os",
        "@network",
        "__import__('os').system('touch /tmp/x')",
    ]


@pytest.mark.parametrize(
    ("model", "image", "params", "status", "words"),
    [
        ("tumor", "liver", {"prompt": ""}, 400, "empty"),
        ("tumor", "liver", {"method": "nnunet"}, 400, "method"),
        ("tumor", "liver", {"modality": "MR"}, 422, "Hounsfield"),
        ("tumor", "broken", {}, 422, "damaged"),
        ("tumor", "/etc/hostname", {}, 403, "datastore"),
        ("tumor", "liver", {"image": "/etc/hostname"}, 403, "datastore"),
        ("tumor", "liver", {"result_extension": "/../../../tmp/x.nrrd"}, 400, "result_extension"),
        ("tumor_refine", "liver", {"foreground": [[1, 2, 4000]]}, 400, "outside the scan"),
        ("tumor_refine", "liver", {"foreground": [[1, 2]]}, 400, "foreground"),
        ("tumor_refine", "liver", {"foreground": [[5, 5, 5]], "label": "/etc/hostname"}, 403, "datastore"),
    ],
)
def test_what_cannot_be_answered_gets_a_sentence_and_the_server_lives(server, model, image, params, status, words):
    answer = requests.post(f"{server}/infer/{model}?image={image}&output=json", data={"params": json.dumps(params)})
    assert answer.status_code == status and words in answer.json()["detail"], answer.text
    assert requests.get(f"{server}/info/").ok


def test_scans_that_are_sent_are_read_and_other_files_of_the_server_are_not(server, client, studies, tmp_path):
    path, options = studies[0] / "thigh.nii.gz", {"prompt": "sarcoma"}
    _, stored = client.infer("tumor", "thigh", options)
    _, sent = client.infer("tumor", "", options, file=str(path))
    session = client.create_session(str(path))["session_id"]
    _, of_session = client.infer("tumor", "", options, session_id=session)
    assert sent["prompts"] == of_session["prompts"] == stored["prompts"]
    inside = click(studies[1]["thigh"])
    nib.save(nib.Nifti1Image(studies[1]["thigh"].astype(np.uint8), AFFINE), tmp_path / "mine.nii.gz")
    mask, _ = client.infer("tumor_refine", "thigh", {"foreground": [inside]}, label_in=str(tmp_path / "mine.nii.gz"))
    assert mask_of(mask)[tuple(inside)]
    other = tmp_path / "scan.nii.gz"
    other.write_bytes(path.read_bytes())
    answer = requests.post(f"{server}/infer/tumor", params={"image": str(other), "output": "json"})
    assert answer.status_code == 403 and "datastore" in answer.json()["detail"]


def test_uploads_stay_in_the_folder_and_take_no_other_scans_place(server, studies):
    before = sorted(studies[0].parent.rglob("*"))
    for image, name, status in (("../up", "a.nii.gz", 400), ("up", "a.py", 400), ("liver", "a.nii.gz", 409)):
        file = {"file": (name, (studies[0] / "thigh.nii.gz").read_bytes())}
        answer = requests.put(f"{server}/datastore/", params={"image": image}, files=file)
        assert answer.status_code == status and answer.json()["detail"], answer.text
    assert requests.delete(f"{server}/datastore/", params={"id": "../up"}).status_code == 400
    label = {"label": ("a.nii.gz", (studies[0] / "thigh.nii.gz").read_bytes())}
    answer = requests.put(f"{server}/datastore/label?image=thigh&tag=other", data={"params": "[1]"}, files=label)
    assert answer.status_code == 400 and "params" in answer.json()["detail"]
    assert sorted(studies[0].parent.rglob("*")) == before


def test_clicks_are_honored_undone_and_reset(client, studies):
    truth = studies[1]["liver"]
    inside, outside = click(truth), [2, 2, 2]
    options = {"foreground": [inside], "background": [], "label": "Segment_1"}
    first, reply = client.infer("tumor_refine", "liver", options)
    first = mask_of(first) > 0
    assert first[tuple(inside)] and reply["clicks"] == 1 and reply["steps"] == 1
    wrong = np.argwhere(first & ~truth)
    outside = wrong[len(wrong) // 2].tolist() if len(wrong) else outside
    second, reply = client.infer("tumor_refine", "liver", {**options, "background": [outside]})
    second = mask_of(second) > 0
    assert second[tuple(inside)] and not second[tuple(outside)] and reply["steps"] == 2
    back, reply = client.infer("tumor_refine", "liver", {**options, "background": [outside], "undo": True})
    assert np.array_equal(mask_of(back) > 0, first) and reply["steps"] == 1
    _, reply = client.infer(
        "tumor_refine", "liver", {"foreground": [], "background": [], "label": "Segment_1", "reset": True}
    )
    assert reply["steps"] == 0 and reply["clicks"] == 0


def test_a_segments_name_is_a_prompt_and_a_clients_history_its_own(server, tmp_path):
    one, two = (MONAILabelClient(server, tmpdir=str(tmp_path), client_id=name) for name in ("one", "two"))
    _, named = one.infer("tumor_refine", "liver", {"label": "liver tumor"})
    _, found = one.infer("tumor", "liver", {"prompt": "liver tumor"})
    assert named["prompt"] == "liver tumor" and named["volume_ml"] == pytest.approx(found["volume_ml"], rel=1e-3)
    _, unnamed = one.infer("tumor_refine", "liver", {"label": "Segment_1"})
    assert unnamed["volume_ml"] == pytest.approx(found["volume_ml"], rel=1e-3), "clicks go on from what was found"
    _, other = two.infer("tumor_refine", "liver", {"label": "Segment_1"})
    assert other["volume_ml"] == 0 and "empty" in other["message"]


def test_clicks_go_on_after_a_restart(studies, tmp_path):
    conf = {"state": str(tmp_path / "state")}
    inside = click(studies[1]["thigh"])
    with serving(tmp_path / "one", APP, studies[0], **conf) as url:
        MONAILabelClient(url, tmpdir=str(tmp_path)).infer("tumor_refine", "thigh", {"foreground": [inside]})
    with serving(tmp_path / "two", APP, studies[0], **conf) as url:
        _, reply = MONAILabelClient(url, tmpdir=str(tmp_path)).infer(
            "tumor_refine", "thigh", {"foreground": [inside, [inside[0] + 1, *inside[1:]]]}
        )
    assert reply["clicks"] == 2 and reply["steps"] == 2


def test_two_clients_on_two_scans_at_once(server):
    def ask(image, prompt):
        answer = requests.post(
            f"{server}/infer/tumor?image={image}&output=json", data={"params": json.dumps({"prompt": prompt})}
        )
        return answer.json()["prompt"]

    with ThreadPoolExecutor(4) as pool:
        asked = [("kidney", "renal cyst"), ("thigh", "sarcoma"), ("kidney", "tumor"), ("thigh", "lipoma")]
        assert list(pool.map(lambda pair: ask(*pair), asked)) == [prompt for _, prompt in asked]


@pytest.mark.parametrize("missing", [0, 10])
def test_a_request_killed_half_way_leaves_the_server_alive(server, client, missing):
    """A client that is gone before the answer, or before it has said all."""
    where, body = urlsplit(server), "params=" + quote(json.dumps({"prompt": "sarcoma", "overlap": 0.75}))
    head = (f"POST /infer/tumor?image=thigh&output=json HTTP/1.1\r\nHost: {where.netloc}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body) + missing}\r\n\r\n")  # fmt: skip
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall((head + body).encode())
    _, reply = client.infer("tumor", "thigh", {"prompt": "sarcoma"})
    assert reply["prompt"] == "sarcoma"


def test_save_next_score_and_batch(server, client, studies, tmp_path):
    client = MONAILabelClient(server, tmpdir=str(tmp_path))
    batch = requests.post(f"{server}/batch/infer/tumor?run_sync=true", json={"prompt": "tumor", "images": "all"})
    assert batch.ok, batch.text
    assert requests.get(f"{server}/datastore/").json()["total"] == 4
    first = client.next_sample("first", {})["id"]
    assert client.next_sample("random", {})["id"] == first, "an app setting maps OHIF's random to another strategy"
    nib.save(nib.Nifti1Image(studies[1]["kidney"].astype(np.uint8), AFFINE), tmp_path / "label.nii.gz")
    client.save_label(
        "kidney", str(tmp_path / "label.nii.gz"), params={"label_info": [{"name": "kidney cyst", "idx": 1}]}
    )
    saved = studies[0] / "labels" / "final" / "kidney.nii.gz"
    assert np.array_equal(mask_of(saved) > 0, studies[1]["kidney"])
    scored = requests.post(f"{server}/scoring/dice?run_sync=true", json={}).json()
    assert "kidney" in json.dumps(scored)
    unsure = requests.post(
        f"{server}/scoring/tumor_uncertainty?run_sync=true", json={"prompt": "tumor", "passes": 1}
    ).json()
    assert {"liver", "thigh"} <= set(unsure["scored"]) and "damaged" in unsure["failed"]["broken"]
    ranked = client.next_sample("tumor_uncertainty", {"prompt": "tumor"})
    notes = [requests.get(f"{server}/datastore/image/info?image={c['id']}").json() for c in ranked["ranking"]]
    entropies = [note["tumor_uncertainty"]["tumor"]["entropy"] for note in notes]
    assert {c["id"] for c in ranked["ranking"]} == set(unsure["scored"]) == {"liver", "thigh"}
    assert entropies == sorted(entropies, reverse=True) and len(set(entropies)) == 2
    assert ranked["id"] == ranked["ranking"][0]["id"] and "uncertainty" in ranked["reason"]
    assert client.next_sample("tumor_diversity", {"prompt": "tumor"})["id"] in ("liver", "thigh")


def test_a_saved_label_says_where_it_comes_from(server, studies, tmp_path):
    """3D Slicer sends names of segments and no prompt; the server knows what it had proposed, and to whom."""
    ann = MONAILabelClient(server, tmpdir=str(tmp_path), client_id="ann")
    path, reply = ann.infer("tumor", "liver", {"prompt": "liver tumor"})
    truth = studies[1]["liver"]
    ann.infer("tumor_refine", "liver", {"foreground": [click(truth)], "label": "Segment_1"})
    nib.save(nib.Nifti1Image(truth.astype(np.uint8), AFFINE), tmp_path / "label.nii.gz")
    ann.save_label("liver", str(tmp_path / "label.nii.gz"), params={"label_info": [{"name": "Segment_1", "idx": 1}]})
    info = requests.get(f"{server}/datastore/label/info?label=liver&tag=final").json()
    known = info["provenance"]
    assert info["prompt"] == "liver tumor" and known["prompt_from"] == "proposal" and known["client_id"] == "ann"
    assert known["weights_sha256"] == reply["weights_sha256"] and known["proposed_ml"] == reply["volume_ml"]
    assert (known["clicks_inside"], known["clicks_outside"]) == (1, 0) and known["seconds"] >= 0
    proposed = mask_of(path) > 0
    overlap = 2 * (proposed & truth).sum() / (proposed.sum() + truth.sum())
    assert known["dice"] == pytest.approx(overlap, abs=1e-3)


def test_a_map_of_doubts_in_place_of_labels(client):
    path, reply = client.infer("tumor", "thigh", {"prompt": "sarcoma", "map": "uncertainty", "passes": 1})
    values = mask_of(path)
    assert values.dtype == np.float32 and 0 <= values.min() < values.max() <= 1
    assert reply["maps"]["uncertainty"]["peak"] == pytest.approx(float(values.max()), abs=1e-3)
    assert reply["prompts"][0]["doubts"]["reason"]


def test_training_makes_a_new_version_beside_the_old(client, server, studies, tmp_path):
    weights = APP.parents[1] / "bundle" / "models" / "model.pt"
    before = weights.read_bytes()
    for image in ("kidney", "liver"):
        nib.save(nib.Nifti1Image(studies[1][image].astype(np.uint8), AFFINE), tmp_path / "label.nii.gz")
        client.save_label(image, str(tmp_path / "label.nii.gz"), params={"prompt": "growth of the abdomen"})
    options = {"prompt": "growth of the abdomen", "version": "one", "steps": 2, "replayed": 0, "check": False}
    answer = requests.post(f"{server}/train/tumor?run_sync=true", json=options, timeout=600)
    assert answer.ok and answer.json()["version"] == "one", answer.text
    stats = client.info()["train_stats"]["tumor"]["malenia"]
    assert stats["version"] == "one" and stats["learned_from"] == {"growth of the abdomen CT": ["kidney", "liver"]}
    assert weights.read_bytes() == before
    refused = requests.post(f"{server}/train/tumor?run_sync=true", json={"steps": -1})
    assert refused.status_code == 400 and "steps" in refused.json()["detail"]


@pytest.mark.parametrize("image", ["liver", "thigh"])
def test_scribbles_segment_ct_and_mr(client, studies, tmp_path, image):
    truth = studies[1][image]
    scribbles = np.zeros(truth.shape, dtype=np.uint8)
    scribbles[binary_erosion(truth, iterations=2)] = 3
    scribbles[binary_dilation(truth, iterations=4) & ~binary_dilation(truth, iterations=3)] = 2
    nib.save(nib.Nifti1Image(scribbles, AFFINE), tmp_path / "scribbles.nii.gz")
    path, _ = client.infer("Histogram+GraphCut", image, {}, label_in=str(tmp_path / "scribbles.nii.gz"))
    mask = mask_of(path) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.3
    nib.save(nib.Nifti1Image(np.zeros_like(scribbles), AFFINE), tmp_path / "none.nii.gz")
    with pytest.raises(MONAILabelClientException, match="draw at least one"):
        client.infer("Histogram+GraphCut", image, {}, label_in=str(tmp_path / "none.nii.gz"))


def test_an_unknown_model_is_the_clients_error(client):
    with pytest.raises(MONAILabelClientException):
        client.infer("nothing", "liver", {})
