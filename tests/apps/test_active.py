"""Scores and strategies over a real MONAI Label datastore, with tiny seeded weights of two methods."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from lib.compat import import_without_torchvision

import_without_torchvision()
from fastapi import HTTPException
from lib.active import DESCRIPTIONS, KEY, NAMES, DiceScoring, UncertaintyScoring, strategies
from lib.engine import Engine
from lib.history import Histories
from lib.store import Folder
from lib.tumor import Tumor

from zerotumor.segmenter import METHODS, build, save
from zerotumor.selection import STRATEGIES
from zerotumor.text import load_text_encoder
from zerotumor.volumes import read_scan

TINY = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "heads": 2, "patch": 32, "spacing": 4.0}
CONFIGS = {"malenia": {**TINY, "dim": 8, "tokens": 2}, "zept": {**TINY, "width": 8}}
AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])
IMAGES = ("a", "b", "c")


def write_weights(folder, seed=0):
    encoder = load_text_encoder()
    for name, config in CONFIGS.items():
        torch.manual_seed(seed)
        model = build(name, config)
        model.bank.fill(encoder)
        save(model, name, folder / METHODS[name].weights, config=config, encoder=encoder)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A folder of three scans and a broken one, all scored for one prompt; its weights beside it."""
    studies, weights = tmp_path_factory.mktemp("studies"), tmp_path_factory.mktemp("weights")
    write_weights(weights)
    generator = np.random.default_rng(0)
    for k, name in enumerate(IMAGES):
        values = generator.normal(0, 40 * (k + 1), (32, 32, 32)).astype(np.float32)
        values[:8] = -1000
        nib.save(nib.Nifti1Image(values, AFFINE), studies / f"{name}.nii.gz")
    (studies / "broken.nii.gz").write_bytes((studies / "a.nii.gz").read_bytes()[:3000])
    task = tumor(weights, studies)
    request = {"prompt": "liver tumor", "modality": "CT", "passes": 1, "method": KEY}
    return studies, weights, UncertaintyScoring(task)(request, Folder(str(studies)))


def tumor(weights, *roots):
    return Tumor(Engine(weights, 0.3, lambda: list(roots)), Histories(None))


@pytest.fixture
def world(scored, tmp_path):
    """A copy of the scored folder that a test may change: datastore, strategies, the task."""
    shutil.copytree(scored[0], tmp_path / "studies")
    task = tumor(scored[1], tmp_path / "studies")
    return Folder(str(tmp_path / "studies")), strategies(task), task


def annotate(store, image, tmp_path, tag="final", affine=AFFINE):
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((32, 32, 32), np.uint8), affine), path)
    store.save_label(image, str(path), tag, {})


def test_a_score_says_value_parts_descriptor_and_weights(scored, world):
    assert set(scored[2]["scored"]) == set(IMAGES) and "damaged" in scored[2]["failed"]["broken"]
    record = world[0].get_image_info("a")[KEY]["liver tumor"]
    assert 0 <= record["value"] <= 1 and record["reason"] and len(record["descriptor"]) > 4
    assert set(record["weights"]) == {"malenia", "zept"} and record["disagreement_ml"] is not None
    assert record["novelty"] == 0.0 and {"entropy", "perturbation", "undecided_ml"} <= set(record)


def test_what_was_scored_with_these_weights_is_not_scored_again(world):
    store, _, task = world
    again = UncertaintyScoring(task)({"prompt": "liver tumor", "modality": "CT", "passes": 1}, store)
    assert again["scored"] == {} and set(again["skipped"]) == set(IMAGES)
    other = UncertaintyScoring(task)({"prompt": "kidney cyst", "modality": "CT", "passes": 0, "max_samples": 1}, store)
    assert list(other["scored"]) == ["a"] and set(store.get_image_info("a")[KEY]) == {"liver tumor", "kidney cyst"}


@pytest.mark.parametrize(
    "other", [{"passes": 0}, {"modality": "auto"}, {"method": "zept"}, {"method": ["zept", "malenia"]}]
)
def test_what_was_scored_in_another_way_is_scored_again(world, other):
    store, _, task = world
    request = {"prompt": "liver tumor", "modality": "CT", "passes": 1, "max_samples": 1, **other}
    assert list(UncertaintyScoring(task)(request, store)["scored"]) == ["a"]
    assert "a" in UncertaintyScoring(task)(request, store)["skipped"]
    assert store.get_image_info("a")[KEY]["liver tumor"]["method"] == ("zept" if "method" in other else "malenia")


def test_a_look_at_a_labeled_scan_is_no_score_once_the_label_is_gone(world, tmp_path):
    store, offered, task = world
    request = {"prompt": "kidney cyst", "modality": "CT", "passes": 1}
    annotate(store, "a", tmp_path)
    assert list(UncertaintyScoring(task)(request, store)["scored"]) == ["b", "c"]
    annotate(store, "b", tmp_path)
    assert UncertaintyScoring(task)(request, store)["skipped"] == ["c", "a", "b"], "a score is as good as a look"
    store.remove_label("a", "final")
    reply = offered["tumor_committee"]({"prompt": "kidney cyst"}, store)
    assert [c["id"] for c in reply["ranking"]] == ["c"] and "2 not scored yet" in reply["reason"]
    assert list(UncertaintyScoring(task)(request, store)["scored"]) == ["a"]
    assert store.get_image_info("a")[KEY]["kidney cyst"]["disagreement_ml"] is not None


def test_options_out_of_range_are_refused_before_any_scan(world):
    with pytest.raises(HTTPException, match="the option passes cannot be used"):
        UncertaintyScoring(world[2])({"prompt": "liver tumor", "passes": 99}, world[0])


def test_scoring_some_scans_at_a_time_gets_to_the_end(world):
    store, _, task = world
    request = {"prompt": "kidney cyst", "modality": "CT", "passes": 0, "max_samples": 1}
    replies = [UncertaintyScoring(task)(request, store) for _ in range(4)]
    assert [list(r["scored"]) for r in replies] == [["a"], ["b"], ["c"], []], "the broken scan takes nobody's place"
    assert replies[2]["skipped"] == ["a", "b"] and list(replies[2]["failed"]) == ["broken"]
    assert list(UncertaintyScoring(task)({**request, "force": True}, store)["scored"]) == ["a"]


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_answers_with_a_reason_and_skips_what_is_labeled(world, tmp_path, name):
    store, offered, _ = world
    reply = offered[name]({"prompt": "liver tumor", "seed": 1}, store)
    assert reply["id"] == reply["ranking"][0]["id"] and reply["reason"]
    assert offered[name]({"prompt": "liver tumor", "seed": 1}, store) == reply
    annotate(store, reply["id"], tmp_path)
    second = offered[name]({"prompt": "liver tumor", "seed": 1}, store)
    assert second["id"] != reply["id"] and reply["id"] not in [c["id"] for c in second["ranking"]]
    for image in ("broken", *IMAGES):
        annotate(store, image, tmp_path)
    assert offered[name]({"prompt": "liver tumor"}, store) is None


@pytest.mark.parametrize("seed", [99999999999999999999999, "--5", "\u00b2", "one", [1]])
def test_a_seed_that_is_no_number_is_the_clients_error(world, seed):
    with pytest.raises(HTTPException, match="the option seed cannot be used") as error:
        world[1]["random"]({"seed": seed}, world[0])
    assert error.value.status_code == 400
    assert all(world[1]["random"]({"seed": s}, world[0])["id"] for s in (5, "5", -5, "-5", None))


def test_strategies_are_those_of_the_package():
    assert set(NAMES.values()) == set(STRATEGIES) == set(DESCRIPTIONS)


def test_the_ranking_is_by_the_prompt_that_is_asked_for(world):
    store, offered, _ = world
    for image, (one, two) in {"a": (0.1, 0.9), "b": (0.5, 0.5), "c": (0.9, 0.1)}.items():
        known = store.get_image_info(image)[KEY]["liver tumor"]
        records = {"liver tumor": {**known, "entropy": one, "ts": 5}, "kidney cyst": {**known, "entropy": two, "ts": 9}}
        store.update_image_info(image, {KEY: records})
    order = lambda **asked: [c["id"] for c in offered["tumor_uncertainty"](asked, store)["ranking"]]  # noqa: E731
    assert order(prompt="liver tumor") == ["c", "b", "a"] and order(prompt="kidney cyst") == ["a", "b", "c"]
    assert order() == ["a", "b", "c"], "OHIF sends no prompt: the one that was scored last"
    assert "1 not scored yet" in offered["tumor_uncertainty"]({"prompt": "kidney cyst"}, store)["reason"]


def test_where_nothing_is_scored_the_reply_says_so(world):
    store, offered, _ = world
    reply = offered["tumor_mix"]({"prompt": "meningioma"}, store)
    assert reply["id"] == "a" and "no scan is scored for 'meningioma' yet" in reply["reason"]


def test_scores_of_other_weights_are_told_and_never_mixed(world, tmp_path):
    store, _, _ = world
    folder = tmp_path / "weights"
    folder.mkdir()
    write_weights(folder, seed=1)
    task = tumor(folder, tmp_path / "studies")
    offered = strategies(task)
    assert "other weights" in offered["tumor_uncertainty"]({"prompt": "liver tumor"}, store)["reason"]
    UncertaintyScoring(task)({"prompt": "liver tumor", "modality": "CT", "passes": 0, "max_samples": 2}, store)
    reply = offered["tumor_uncertainty"]({"prompt": "liver tumor"}, store)
    assert {c["id"] for c in reply["ranking"]} == {"a", "b"}, "the score of c is of the weights before"
    assert "other weights" not in reply["reason"]


def test_scores_of_two_methods_are_never_mixed(world):
    store, offered, task = world
    UncertaintyScoring(task)({"prompt": "liver tumor", "modality": "CT", "method": "zept", "max_samples": 1}, store)
    ranked = lambda **asked: offered["tumor_diversity"]({"prompt": "liver tumor", **asked}, store)  # noqa: E731
    assert {c["id"] for c in ranked()["ranking"]} == {"b", "c"}
    assert (
        {c["id"] for c in ranked(method="zept")["ranking"]}
        == {c["id"] for c in ranked(method=["zept"])["ranking"]}
        == {"a"}
    )
    assert "other weights" not in ranked(method="zept")["reason"]


def test_the_committees_reason_is_milliliters(world):
    store, offered, _ = world
    for image, ml in zip(IMAGES, (3.0, 12.0, 0.0), strict=True):
        known = store.get_image_info(image)[KEY]["liver tumor"]
        store.update_image_info(image, {KEY: {"liver tumor": {**known, "disagreement_ml": ml}}})
    reply = offered["tumor_committee"]({"prompt": "liver tumor"}, store)
    assert reply["id"] == "b" and "disagree on 12.0 ml" in reply["reason"]


def test_dice_of_labels_on_one_grid_alone(world, tmp_path):
    store = world[0]
    for image in IMAGES:
        annotate(store, image, tmp_path)
        annotate(store, image, tmp_path, "original", AFFINE if image == "a" else AFFINE * np.array([-1, 1, 1, 1]))
    reply = DiceScoring()({}, store)
    assert reply["dice"] == {"a": 1.0} and reply["mean"] == 1.0 and "dice" not in store.get_label_info("b", "original")
    assert set(reply["failed"]) == {"b", "c"} and "beside" in reply["failed"]["b"]


@pytest.mark.parametrize("tag", ["final", "original"])
def test_a_label_that_cannot_be_read_ends_no_others_dice(world, tmp_path, tag):
    store = world[0]
    for image in IMAGES:
        for each in ("final", "original"):
            annotate(store, image, tmp_path, each)
    (tmp_path / "studies" / "labels" / tag / "a.nii.gz").write_bytes(b"half a label")
    reply = DiceScoring()({}, store)
    assert reply["dice"] == {"b": 1.0, "c": 1.0} and reply["mean"] == 1.0
    assert list(reply["failed"]) == ["a"] and "damaged" in reply["failed"]["a"]


@pytest.mark.parametrize("error", [RuntimeError("no memory"), OSError("no disk"), HTTPException(502, "no archive")])
def test_whatever_is_wrong_with_one_scan_the_others_are_scored(world, monkeypatch, error):
    store, _, task = world
    look = task.understand

    def understand(request):
        if request["image"].endswith("/b.nii.gz"):
            raise error
        return look(request)

    monkeypatch.setattr(task, "understand", understand)
    reply = UncertaintyScoring(task)({"prompt": "lipoma", "modality": "CT", "passes": 0}, store)
    assert set(reply["scored"]) == {"a", "c"} and set(reply["failed"]) == {"b", "broken"}
    assert str(getattr(error, "detail", error)) in reply["failed"]["b"]


def test_the_task_returns_doubts_and_their_map(world, tmp_path):
    store, _, task = world
    request = {"image": store.get_image_uri("a"), "prompt": "liver tumor; cyst", "modality": "CT", "passes": 1}
    _, plain = task(request)
    assert "uncertainty" not in plain["maps"] and "doubts" not in plain["prompts"][0]
    file, reply = task({**request, "map": "uncertainty"})
    values = read_scan(file, labels=True)
    assert values.shape == (1, 32, 32, 32) and 0 <= float(values.min()) < float(values.max()) <= 1
    assert reply["maps"]["uncertainty"]["peak"] == pytest.approx(float(values.max()), abs=1e-3)
    assert torch.allclose(values.affine, torch.as_tensor(AFFINE), atol=1e-4)
    assert all(e["doubts"]["disagreement_ml"] is not None and e["doubts"]["reason"] for e in reply["prompts"])
    mask, reply = task({**request, "uncertainty": True})
    assert set(read_scan(mask, labels=True).unique().tolist()) <= {0.0, *(float(e["label"]) for e in reply["prompts"])}
    assert "uncertainty" in reply["maps"]
    with pytest.raises(HTTPException, match="has no map"):
        task({**request, "map": "pseudo_healthy"})
