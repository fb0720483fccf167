"""Batches go on where the last one ended, whatever is labeled or broken in between, and leave people's labels alone."""

import nibabel as nib
import numpy as np
import pytest
from lib.compat import import_without_torchvision

import_without_torchvision()
from fastapi import HTTPException
from lib.batch import ResumableBatch
from lib.engine import Engine
from lib.history import Histories
from lib.provenance import Ledger
from lib.store import Folder
from lib.tumor import Tumor

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_label(path):
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), AFFINE), path)
    return str(path)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "studies").mkdir()
    for name in "abcde":
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), AFFINE), tmp_path / "studies" / f"{name}.nii.gz")
    made, ledger = Folder(str(tmp_path / "studies")), Ledger(None)
    made.provenance = ledger.describe
    return made


class Task:
    """Answers as what decides the answer says; b cannot be read."""

    weights = "a" * 64

    def terms(self, request):
        method = request.get("method", "malenia")
        return {"prompt": request.get("prompt", "tumor"), "method": method, "weights_sha256": self.weights}


@pytest.fixture
def task():
    return Task()


@pytest.fixture
def run(task, store, tmp_path):
    """A batch over the folder -> image -> what was answered, skipped or wrong."""

    def infer(request, datastore):
        if request["image"] == "b":
            raise HTTPException(422, "b is damaged")
        info = {"model": request["model"], "params": {**task.terms(request), "score": 0.5}}
        datastore.save_label(request["image"], write_label(tmp_path / "label.nii.gz"), request["label_tag"], info)
        return {"result": "labeled"}

    batch = ResumableBatch({"tumor": task})
    return lambda **request: batch({"model": "tumor", **request}, store, infer)


def done(results):
    return [image for image, reply in results.items() if "result" in reply]


def test_a_batch_of_two_takes_the_next_two(run):
    first, second, third = (run(max_batch_size=2) for _ in range(3))
    assert [done(r) for r in (first, second, third)] == [["a", "c"], ["d", "e"], []]
    assert first["b"] == {"error": "b is damaged"} and set(first) == set("abc")
    assert set(second["a"]) == {"skipped"} and set(third) == set("abcde")
    assert done(run(max_batch_size=1, force=True)) == ["a"]
    assert done(run(force=True)) == list("acde")


def test_another_question_method_or_version_is_answered_anew(run, task, store):
    assert done(run()) == list("acde") and done(run()) == []
    for other in ({"prompt": "renal cyst"}, {"prompt": "renal cyst", "method": "zept"}):
        assert done(run(**other)) == list("acde") and done(run(**other)) == []
    assert store.get_label_info("a", "original")["params"]["method"] == "zept"
    task.weights = "b" * 64
    assert done(run(prompt="renal cyst", method="zept")) == list("acde"), "a version was learned since"
    assert done(run(prompt="lipoma", label_tag="lipomas")) == list("acde")
    assert store.get_label_info("a", "original")["params"]["prompt"] == "renal cyst"


@pytest.mark.parametrize("force", [False, True])
def test_a_persons_label_is_never_replaced(run, store, tmp_path, force):
    run()
    label = write_label(tmp_path / "mine.nii.gz")
    clicked = {"model": "tumor_refine", "params": {"prompt": "tumor", "method": "clicks", "clicks": 3}}
    for image, info in (("a", {"client_id": "ann"}), ("c", clicked)):
        store.save_label(image, label, "original", info)
    before = {i: store.get_label_info(i, "original") for i in "ac"}
    results = run(prompt="renal cyst", force=force)
    assert done(results) == ["d", "e"] and all("a person's" in results[i]["skipped"] for i in "ac")
    assert {i: store.get_label_info(i, "original") for i in "ac"} == before
    store.save_label("d", label, "final", {})
    results = run(prompt="renal cyst", force=force, label_tag="final")
    assert "a person's" in results["d"]["skipped"] and done(results) == list("ace")
    results = run(prompt="renal cyst", force=True, label_tag="final")
    assert done(results) == [], "what is final is a person's, whoever has made it"


def test_a_label_that_a_person_saves_while_a_batch_looks_at_the_scan_stays(task, store, tmp_path):
    def infer(request, datastore):
        datastore.save_label("a", write_label(tmp_path / "mine.nii.gz"), "original", {"client_id": "ann"})
        info = {"model": "tumor", "params": task.terms(request)}
        datastore.save_label("a", write_label(tmp_path / "made.nii.gz"), "original", info)

    results = ResumableBatch({"tumor": task})({"model": "tumor", "images": ["a"]}, store, infer)
    assert "is a person's" in results["a"]["error"] and store.get_label_info("a", "original")["client_id"] == "ann"


def test_a_batch_goes_on_after_whatever_is_wrong_with_one_scan(task, store):
    def infer(request, datastore):
        if request["image"] != "c":
            raise RuntimeError("no memory")
        return {"result": "labeled"}

    results = ResumableBatch({"tumor": task})({"model": "tumor"}, store, infer)
    assert (
        results["a"] == {"error": "RuntimeError: no memory"} and done(results) == ["c"] and set(results) == set("abcde")
    )


def test_what_decides_an_answer_is_what_its_reply_says(folder):
    tumor = Tumor(Engine(folder, 0.3, lambda: [folder]), Histories(None))
    asked = {"prompt": " liver tumor;  something odd", "method": "zept", "overlap": 0.5, "modality": "CT"}
    _, reply = tumor({"image": str(folder / "scan.nii.gz"), **asked})
    terms = tumor.terms(asked)
    assert terms.items() <= reply.items() and {"prompt", "method", "weights_sha256", "modality"} <= terms.keys()
    for other in (
        {"prompt": "cyst"},
        {"method": "malenia"},
        {"overlap": 0.25},
        {"modality": "MR"},
        {"label_prompt": [1]},
    ):
        assert not tumor.terms(asked | other).items() <= reply.items()
    for wrong in ({"prompt": ""}, {"overlap": 2}, {"version": "unknown"}):
        with pytest.raises(HTTPException):
            tumor.terms(asked | wrong)
