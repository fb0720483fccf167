"""The trainer over a real MONAI Label datastore, with tiny seeded weights: what it learns from and what it keeps."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from lib.compat import import_without_torchvision

import_without_torchvision()
from fastapi import HTTPException
from lib.active import current
from lib.engine import LATEST, STARTER, Engine
from lib.history import Histories
from lib.store import Folder
from lib.trainer import TrainTumor
from lib.tumor import Tumor

from zerotumor import held_out, learning
from zerotumor.adaptation import Adapted
from zerotumor.held_out import HeldOut
from zerotumor.label_numbers import LABELS
from zerotumor.learning import learn
from zerotumor.segmenter import METHODS, build, save
from zerotumor.text import load_text_encoder
from zerotumor.versions import RECORD, SPEAKS

METHOD = "malenia"
CONFIG = dict(channels=[4, 4, 8, 8, 8], mask_channels=4, heads=2, dim=8, tokens=2, patch=32, spacing=4.0)
AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])
SHAPE = (32, 32, 32)
BALL = np.linalg.norm(np.indices(SHAPE) - np.array([18, 16, 16])[:, None, None, None], axis=0) < 6
OPTIONS = {"model": "tumor", "replayed": 1, "steps": 2, "check": False}


def write_weights(folder, seed):
    folder.mkdir(exist_ok=True)
    encoder = load_text_encoder()
    torch.manual_seed(seed)
    model = build(METHOD, CONFIG)
    model.bank.fill(encoder)
    save(model, METHOD, folder / METHODS[METHOD].weights, config=CONFIG, encoder=encoder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "models", 0)


@pytest.fixture
def one_is_enough(monkeypatch):
    """For what does not depend on how many labels there are."""
    monkeypatch.setattr("lib.trainer.FEWEST", 1)
    monkeypatch.setattr("zerotumor.learning.FEWEST", 1)


@pytest.fixture
def store(tmp_path):
    """A CT a letter: a bright ball in a noisy body."""
    folder = tmp_path / "studies"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in "abcd":
        values = generator.normal(40, 20, SHAPE) + 60 * BALL
        values[:8] = -1000
        nib.save(nib.Nifti1Image(values.astype(np.float32), AFFINE), folder / f"{name}.nii.gz")
    return Folder(str(folder))


@pytest.fixture
def task(weights, tmp_path, store):
    return make_task(weights, tmp_path)


def make_task(weights, tmp_path):
    engine = Engine(weights, 0.3, lambda: [tmp_path / "studies"], tmp_path / "versions")
    return TrainTumor(engine, tmp_path / "versions", tmp_path / "runs")


def annotate(store, tmp_path, image, mask=BALL, **info):
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), tmp_path / "label.nii.gz")
    store.save_label(image, str(tmp_path / "label.nii.gz"), "final", info)


def learned(model):
    return {(s.learned.prompt, s.learned.modality) for s in model.specialists}


def contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_two_labels_make_a_version_and_the_weights_stay(task, store, weights, tmp_path):
    before = contents(weights)
    for image in "ab":
        annotate(store, tmp_path, image, prompt="liver tumor")
    reply = task({**OPTIONS, "version": "one", "check": True}, store)
    (held,) = reply.pop("held_out").values()
    assert reply == {
        "version": "one", "method": METHOD, "learned_from": {"liver tumor CT": ["a", "b"]}, "refused": {}
    }  # fmt: skip
    assert [h["name"] for h in held] == ["a", "b"] and all(
        set(h) == {"name", "before", "empty", "together"} for h in held
    )
    assert contents(weights) == before
    base, adapted = task.engine.model(METHOD, STARTER), task.engine.model(METHOD, LATEST)
    assert isinstance(adapted, Adapted) and adapted.version == "one" and adapted.base is base
    assert adapted.weights_sha256 != base.weights_sha256 and learned(adapted) == {("liver tumor", "CT")}
    start = base.lesion_network().state_dict()
    assert any(not torch.equal(v, start[k]) for k, v in adapted.specialists[0].network.state_dict().items())
    facts = task.stats()[METHOD]
    assert facts["version"] == "one" and facts["parent"] == STARTER and facts["options"]["steps"] == OPTIONS["steps"]
    where = adapted.specialists[0].learned.where
    mean = sum(h[where] for h in held) / 2
    assert (
        f"| liver tumor | CT | {SPEAKS[where]} | a, b | {mean:.2f} on average"
        in (tmp_path / "versions" / "one" / "card.md").read_text()
    )
    assert not any((tmp_path / "runs").iterdir()), "a run that is done needs nothing to go on from"


def test_what_does_not_help_scans_that_are_left_out_is_no_version(task, store, tmp_path, monkeypatch):
    worse = [HeldOut("a", 0.5, 0.3, 0.3), HeldOut("b", 0.5, 0.52, 0.52)]
    monkeypatch.setattr(held_out, "leave_out", lambda *_, **__: worse)
    for image in "ab":
        annotate(store, tmp_path, image, prompt="liver tumor")
    checked = {**OPTIONS, "version": "one", "check": True}
    with pytest.raises(HTTPException, match="overlap 0.50 without, 0.41 with it") as error:
        task(checked, store)
    assert error.value.status_code == 400 and "check: false" in error.value.detail
    assert task.engine.latest(METHOD) == STARTER and not any((tmp_path / "runs").glob("*"))
    task({**checked, "check": False}, store)
    assert task.engine.latest(METHOD) == "one" and "not measured" in (tmp_path / "versions/one/card.md").read_text()
    # More labels speak against it: the method answers by itself again.
    annotate(store, tmp_path, "c", prompt="liver tumor")
    reply = task({**checked, "version": "two"}, store)
    assert reply["learned_from"] == {} and set(reply["refused"]) == {"a", "b", "c"}
    assert learned(task.engine.model(METHOD, LATEST)) == set()


def test_one_scan_of_a_text_waits_for_another(task, store, tmp_path):
    for image in "ab":
        annotate(store, tmp_path, image, prompt="liver tumor")
    annotate(store, tmp_path, "c", prompt="kidney cyst")
    reply = task({**OPTIONS, "version": "one"}, store)
    assert reply["learned_from"] == {"liver tumor CT": ["a", "b"]}
    assert reply["refused"] == {"c": "1 scan with 'kidney cyst' in CT is too few to learn from: correct another"}


def test_two_lesions_of_one_name_are_one_scan_and_one_mask(task, store, tmp_path, monkeypatch):
    """Else each would be background where the other is learned, and be left out of what learns from the other."""
    two = BALL * np.where(np.arange(32) < 16, 1, 2)
    names = [{"name": "liver tumor", "idx": 1}, {"name": "hepatic tumor", "idx": 2}]
    annotate(store, tmp_path, "a", two, label_info=names)
    with pytest.raises(HTTPException, match="a: 1 scan with 'liver tumor' in CT is too few"):
        task({**OPTIONS, "version": "one"}, store)
    annotate(store, tmp_path, "b", two, label_info=names)
    annotate(store, tmp_path, "c", prompt="liver tumor")
    seen = []
    monkeypatch.setattr(held_out, "learn", lambda *a, **k: seen.extend(a[3]) or learn(*a, **k))
    reply = task({**OPTIONS, "version": "one"}, store)
    assert reply["learned_from"] == {"liver tumor CT": ["a", "b", "c"]}
    assert [one.name for one in seen] == ["a", "b", "c"]
    assert float(seen[0].truth.sum()) == float(seen[1].truth.sum()) == pytest.approx(float(seen[2].truth.sum()))


@pytest.mark.usefixtures("one_is_enough")
def test_a_second_training_keeps_what_others_were_learned_for(task, store, tmp_path):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    task({**OPTIONS, "version": "one"}, store)
    first = task.engine.model(METHOD, LATEST).specialists[0]
    annotate(store, tmp_path, "a", prompt="kidney cyst")
    reply = task({**OPTIONS, "version": "two"}, store)
    second = task.engine.model(METHOD, LATEST)
    assert second.version == "two" and learned(second) == {("liver tumor", "CT"), ("kidney cyst", "CT")}
    kept = next(s for s in second.specialists if s.learned.prompt == "liver tumor")
    assert all(torch.equal(kept.state_dict()[k], v) for k, v in first.state_dict().items())
    assert reply["learned_from"] == {"liver tumor CT": ["a"], "kidney cyst CT": ["a"]}
    assert task.stats()[METHOD]["versions"] == ["one", "two"] and task.stats()[METHOD]["parent"] == "one"
    assert learned(task.engine.model(METHOD, "one")) == {("liver tumor", "CT")}


@pytest.mark.usefixtures("one_is_enough")
def test_scores_go_by_what_was_learned(task, store, tmp_path):
    tumor = Tumor(task.engine, Histories(None))
    before = current(tumor)
    assert before == {METHOD: task.engine.model(METHOD, STARTER).weights_sha256}
    annotate(store, tmp_path, "a", prompt="liver tumor")
    task({**OPTIONS, "version": "one"}, store)
    assert current(tumor) == {METHOD: task.engine.model(METHOD, "one").weights_sha256} != before


@pytest.mark.usefixtures("one_is_enough")
def test_only_labels_of_a_prompt_that_is_asked_for(task, store, tmp_path):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    annotate(store, tmp_path, "b", prompt="kidney cyst")
    reply = task({**OPTIONS, "version": "one", "prompt": "hepatic tumor"}, store)
    assert reply["learned_from"] == {"liver tumor CT": ["a"]}
    annotate(store, tmp_path, "c", prompt="Exophytic  Mass")
    reply = task({**OPTIONS, "version": "two", "prompt": "Exophytic  Mass; renal cyst"}, store)
    assert reply["learned_from"] == {
        "liver tumor CT": ["a"], "kidney cyst CT": ["b"], "exophytic mass CT": ["c"]
    }  # fmt: skip
    with pytest.raises(HTTPException, match="no label to learn from"):
        task({**OPTIONS, "version": "three", "prompt": "meningioma"}, store)


@pytest.mark.usefixtures("one_is_enough")
def test_what_cannot_be_learned_from_is_named_and_the_rest_is_learned(task, store, tmp_path):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    annotate(store, tmp_path, "b", np.zeros(SHAPE), prompt="liver tumor")
    annotate(store, tmp_path, "c", np.ones(SHAPE), prompt="liver tumor")
    annotate(store, tmp_path, "d")
    reply = task({**OPTIONS, "version": "one"}, store)
    assert reply["learned_from"] == {"liver tumor CT": ["a"]} and set(reply["refused"]) == set("bcd")
    for image, words in {"b": "empty", "c": "of the body", "d": "nothing says what the label shows"}.items():
        assert words in reply["refused"][image] and "\n" not in reply["refused"][image]
        assert reply["refused"][image] in (tmp_path / "versions" / "one" / "card.md").read_text()


@pytest.mark.usefixtures("one_is_enough")
def test_segments_without_names_are_no_prompts(task, store, tmp_path):
    two = BALL * np.where(np.arange(32) < 16, 1, 2)
    annotate(store, tmp_path, "a", two, label_info=[{"name": "Segment_1", "idx": 1}, {"name": "Segment_2", "idx": 2}])
    annotate(
        store, tmp_path, "b", two, label_info=[{"name": "liver tumor", "idx": 1}, {"name": "kidney cyst", "idx": 2}]
    )
    reply = task({**OPTIONS, "version": "one"}, store)
    assert reply["learned_from"] == {"liver tumor CT": ["b"], "kidney cyst CT": ["b"]}
    assert "nothing says" in reply["refused"]["a"]


@pytest.mark.usefixtures("one_is_enough")
def test_a_label_of_one_lesion_is_never_learned_as_another(task, store, tmp_path):
    both = "renal cyst; liver tumor"
    annotate(store, tmp_path, "a", BALL * LABELS["liver tumor"], prompt=both)
    annotate(store, tmp_path, "b", prompt=both)
    reply = task({**OPTIONS, "version": "one"}, store)
    assert reply["learned_from"] == {"liver tumor CT": ["a"]}
    assert "names several lesions" in reply["refused"]["b"]


def test_nothing_to_learn_from_is_the_clients_error(task, store, tmp_path):
    with pytest.raises(HTTPException, match="correct a scan and save it") as error:
        task(OPTIONS, store)
    assert error.value.status_code == 400
    annotate(store, tmp_path, "a", np.zeros(SHAPE), prompt="liver tumor")
    with pytest.raises(HTTPException, match="a: the label is empty"):
        task(OPTIONS, store)
    assert not (tmp_path / "versions").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"version": "../models"}, "cannot be the name"),
        ({"version": "/tmp/x"}, "cannot be the name"),
        ({"version": STARTER}, "cannot be the name"),
        ({"version": LATEST}, "cannot be the name"),
        ({"version": "x" * 61}, "version"),
        ({"steps": 0}, "steps"),
        ({"replayed": 10**6}, "replayed"),
        ({"seed": "one"}, "seed"),
        ({"seed": 10**22}, "seed"),
    ],
)
def test_options_that_cannot_be_are_refused(task, store, tmp_path, option, words):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    with pytest.raises(HTTPException, match=words) as error:
        task({**OPTIONS, **option}, store)
    assert error.value.status_code == 400 and not (tmp_path / "versions").exists()


@pytest.mark.usefixtures("one_is_enough")
def test_a_version_is_never_overwritten(task, store, tmp_path):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    task({**OPTIONS, "version": "one"}, store)
    before = contents(tmp_path / "versions")
    with pytest.raises(HTTPException, match="a new name"):
        task({**OPTIONS, "version": "one", "seed": 1}, store)
    assert contents(tmp_path / "versions") == before


@pytest.mark.usefixtures("one_is_enough")
def test_a_name_that_was_freed_may_be_given_to_another_version(task, store, tmp_path):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    task({**OPTIONS, "version": "one"}, store)
    first = task.engine.model(METHOD, "one")
    assert task.engine.model(METHOD, LATEST) is first, "a version is loaded once"
    shutil.rmtree(tmp_path / "versions" / "one")
    assert task.engine.latest(METHOD) == STARTER
    task({**OPTIONS, "version": "one", "seed": 1}, store)
    second = task.engine.model(METHOD, LATEST)
    assert second.weights_sha256 == task.stats()[METHOD]["sha256"] != first.weights_sha256
    pairs = zip(first.specialists[0].parameters(), second.specialists[0].parameters(), strict=True)
    assert not all(torch.equal(one, two) for one, two in pairs)


def test_a_damaged_record_is_no_end_of_the_others(task, tmp_path):
    for name, text in {"one": "[]", "two": '{"base": {"method": "malenia", "sha256": "a"}, "created": null}'}.items():
        (tmp_path / "versions" / name).mkdir(parents=True)
        (tmp_path / "versions" / name / RECORD).write_text(text)
    assert task.engine.latest(METHOD) == STARTER and task.stats() == {}


EPOCH = 2  # here, for time


class Stopped(Exception):
    """In the place of a server that is killed."""


@pytest.fixture
def epochs(monkeypatch):
    """Epochs that were learned, (k, of how many); the first run is stopped after its first."""
    seen = []
    monkeypatch.setattr(learning, "EPOCH", EPOCH)

    def watched(*args, **options):
        def progress(k, total):
            seen.append((k, total))
            if len(seen) == 1:
                raise Stopped

        return learn(*args, **{**options, "progress": progress})

    monkeypatch.setattr(held_out, "learn", watched)
    return seen


@pytest.mark.usefixtures("one_is_enough")
def test_a_run_that_was_stopped_goes_on(task, store, tmp_path, epochs):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    options = {**OPTIONS, "steps": 3 * EPOCH, "version": "one"}
    with pytest.raises(Stopped):
        task(options, store)
    assert not (tmp_path / "versions").exists() and any((tmp_path / "runs").rglob("*.pt"))
    task(options, store)
    assert epochs == [(1, 3), (2, 3), (3, 3)], "the first epoch is not learned twice"
    assert task.engine.latest(METHOD) == "one" and not any((tmp_path / "runs").iterdir())


@pytest.mark.usefixtures("one_is_enough")
def test_another_run_does_not_go_on_from_one_that_was_stopped(task, store, tmp_path, epochs):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    options = {**OPTIONS, "steps": 2 * EPOCH, "version": "one"}
    with pytest.raises(Stopped):
        task(options, store)
    annotate(store, tmp_path, "b", prompt="liver tumor")
    task(options, store)
    assert epochs == [(1, 2), (1, 2), (2, 2)], "with another label it is another run"


@pytest.mark.usefixtures("one_is_enough")
def test_versions_of_other_weights_are_not_in_use(task, store, tmp_path):
    annotate(store, tmp_path, "a", prompt="liver tumor")
    task({**OPTIONS, "version": "one"}, store)
    other = make_task(write_weights(tmp_path / "other", 1), tmp_path)
    assert task.engine.latest(METHOD) == "one" and other.engine.latest(METHOD) == STARTER
    assert not isinstance(other.engine.model(METHOD, LATEST), Adapted)
    with pytest.raises(HTTPException, match="learned on other weights"):
        other.engine.model(METHOD, "one")
    reply = other({**OPTIONS, "version": "two"}, store)
    assert reply["learned_from"] == {"liver tumor CT": ["a"]} and other.stats()[METHOD]["parent"] == STARTER
    assert other.engine.latest(METHOD) == "two" and task.engine.latest(METHOD) == "one"


@pytest.mark.parametrize("version", ["../one", "nothing", "/etc"])
def test_a_version_that_is_not_there_is_not_found(task, version):
    with pytest.raises(HTTPException, match="no version") as error:
        task.engine.model(METHOD, version)
    assert error.value.status_code == 404
