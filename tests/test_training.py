"""Samples and batches for training."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser

from zerotumor.malenia.attributes import NAMES, value_index
from zerotumor.phantom import generate
from zerotumor.phantom.datalist import FAINT, FLAT, MASSES, phantom_datalist
from zerotumor.training import (
    GeneratePhantom,
    RandAppearance,
    RandMirror,
    about_training,
    collate,
    prepare_batch,
    warm_start,
)
from zerotumor.vocabulary import ORGANS

TRAIN = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "train.yaml"


def sample():
    organs = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    organs[:, :3] = ORGANS["left kidney"].index
    lesions = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    lesions[:, 1:3, 2:4, 2:4] = 1
    lesions[:, 7, 7, 7] = 2
    values = torch.full((2, len(NAMES)), -1, dtype=torch.int16)
    values[:, 0] = value_index("location", "left kidney")
    return {"image": torch.rand(2, 8, 8, 8), "organs": organs, "lesions": lesions, "values": values}


def test_records_cover_the_range_of_difficulty():
    records = phantom_datalist(200, start=7, difficulty=(0.2, 0.6))
    assert [r["seed"] for r in records[:3]] == [7, 8, 9]
    assert min(r["difficulty"] for r in records) < 0.21 and max(r["difficulty"] for r in records) > 0.59


def test_faint_lesions_come_after_the_others_with_seeds_of_their_own():
    records = phantom_datalist(20, start=3, faint=40)
    assert [r["seed"] for r in records] == list(range(3, 63)) and records[:20] == phantom_datalist(20, start=3)
    assert all(FAINT[0] <= r["difficulty"] <= FAINT[1] for r in records[20:])
    assert max(r["difficulty"] for r in records) > 1.3


def test_masses_come_last_by_region_some_flat_some_healthy():
    wanted = {"limb": 45, "head": 30, "chest": 140, "abdomen": 120, "pelvis": 70}
    with pytest.raises(ValueError, match="drawn in knee: choose among limb, head, chest"):
        phantom_datalist(4, masses={"knee": 2})
    records = phantom_datalist(4, start=3, faint=2, masses=wanted)
    masses = records[6:]
    assert [r["seed"] for r in records] == list(range(3, 414)) and records[:6] == phantom_datalist(4, start=3, faint=2)
    assert Counter(r["region"] for r in masses) == wanted
    assert Counter(r["region"] for r in masses if r["modality"] == "CT") == {
        "limb": 15,
        "head": 5,
        "chest": 105,
        "abdomen": 80,
        "pelvis": 35,
    }
    sick = [r for r in masses if r["category"] != "healthy"]
    assert len(sick) == 324 and all(r["organ"] in MASSES[r["region"]].organs for r in sick)
    for region, about in MASSES.items():
        of_region = [r for r in sick if r["region"] == region]
        assert {(r["organ"], r["modality"]) for r in of_region} == {(o, m) for o in about.organs for m in ("CT", "MR")}
        assert {r["organ"] for r in of_region if r["flatness"] < 1} == set(about.organs)
    flat = [r["flatness"] for r in sick if r["flatness"] < 1]
    assert 96 <= len(flat) <= 120 and all(FLAT[0] <= f <= FLAT[1] for f in flat)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_record_says_which_body_and_modality_a_sample_has(modality):
    record = {"seed": 9, "difficulty": 0.6, "region": "limb", "modality": modality, "category": "abstract lesion"}
    data = GeneratePhantom((24, 24, 24), 8.0)({**record, "organ": "muscle", "flatness": 0.4})
    organs = {ORGANS["muscle"].index, ORGANS["bone"].index, ORGANS["fat"].index}
    assert set(data["organs"].unique().tolist()) <= {0, *organs} and data["lesions"].any()
    direct = generate(9, shape=(24,) * 3, spacing=8.0, difficulty=0.6, organ="muscle", flatness=0.4,
                      region="limb", modality=modality, category="abstract lesion")  # fmt: skip
    assert torch.equal(data["lesions"], direct.lesions.to(torch.uint8)) and direct.modality == modality


def test_a_phantom_becomes_a_sample():
    data = GeneratePhantom((24, 24, 24), 8.0)({"seed": 3, "difficulty": 0.0, "category": "kidney cyst"})
    assert data["image"].shape == (2, 24, 24, 24) and data["image"].dtype == torch.float16
    assert len(data["values"]) == data["lesions"].max()


def test_mirroring_left_and_right_changes_sides_of_image_and_words():
    before = sample()
    after = RandMirror(prob=(1.0, 0.0, 0.0))(before)
    assert torch.equal(after["image"], before["image"].flip(1))
    assert (after["organs"][:, -3:] == ORGANS["right kidney"].index).all()
    assert (after["values"][:, 0] == value_index("location", "right kidney")).all() and (
        after["values"][:, 1:] == -1
    ).all()


def test_mirroring_top_and_bottom_keeps_sides():
    after = RandMirror(prob=(0.0, 0.0, 1.0))(sample())
    assert (after["organs"][:, :3] == ORGANS["left kidney"].index).all()


def test_appearance_changes_the_image_alone_and_repeats_with_its_seed():
    transform, before = RandAppearance(prob=1.0), sample()
    first = transform.set_random_state(1)(before)
    second = transform.set_random_state(1)(before)
    assert torch.equal(first["image"], second["image"]) and not torch.equal(first["image"], before["image"])
    assert torch.equal(first["lesions"], before["lesions"])


def test_outside_the_field_of_view_there_is_nothing():
    config = ConfigParser.load_config_file(TRAIN)["train"]["preprocessing"]["transforms"][-1]
    transform, edge = ConfigParser(config).get_parsed_content(""), 32
    smallest = config["spatial_size"]
    before = sample() | {"image": torch.ones(2, edge, edge, edge)}
    for key in ("lesions", "organs"):
        before[key] = torch.randint(1, 200, (1, edge, edge, edge), dtype=torch.uint8)
    truth, boxes, whole = {key: value.clone() for key, value in before.items()}, set(), 0
    for seed in range(60):
        after = transform.set_random_state(seed)(before)
        inside = torch.as_tensor(after["image"][0]) > 0
        extent = inside.nonzero().amax(0) - inside.nonzero().amin(0) + 1
        assert int(inside.sum()) == int(extent.prod()) and int(extent.min()) >= smallest  # a box
        for key in ("lesions", "organs"):
            assert torch.equal(after[key][0], before[key][0] * inside)
        whole += bool(inside.all())
        boxes.add(tuple(extent.tolist()))
    assert len(boxes) > 10 and 20 < whole < 50  # most samples are left as they are
    assert all(torch.equal(before[key], value) for key, value in truth.items())


def test_batch_drops_instances_that_the_patch_cut_away():
    image, targets, _, keywords = prepare_batch(collate([sample(), [sample()]]), "cpu")
    assert image.shape == (2, 2, 8, 8, 8) and keywords["targets"] is targets
    assert [len(m) for m in targets.masks] == [1, 1] and targets.masks[0].sum() == 8
    assert targets.values[0].shape == (1, 8) and targets.organs.shape == (2, 8, 8, 8)


def test_what_earlier_runs_did_is_kept(tmp_path):
    state = SimpleNamespace(state=SimpleNamespace(epoch=2, iteration=50))
    assert "earlier_steps" not in about_training(state, tmp_path / "best.pt")
    before = {"steps": 200, "earlier_steps": 1000, "healthy_scans": ["b"]}
    (tmp_path / "model.json").write_text(json.dumps({"trained": before}))
    for name in ("best.pt", "model.pt"):
        trained = about_training(state, tmp_path / name, [{"name": "a", "image": "a.nii", "seed": k} for k in range(2)])
        assert (trained["steps"], trained["earlier_steps"], trained["healthy_scans"]) == (50, 1200, ["a", "b"])


def test_warm_start_takes_what_fits(tmp_path):
    torch.save({"model": {"weight": torch.ones(3, 2), "bias": torch.ones(5)}}, tmp_path / "a.pt")
    layer = torch.nn.Linear(2, 3)
    assert warm_start(layer, tmp_path / "a.pt") == ["bias"]
    assert (layer.weight == 1).all()


def test_warm_start_takes_what_is_called_differently(tmp_path):
    torch.save({"head.0.weight": torch.ones(3, 2), "head.0.bias": torch.ones(3)}, tmp_path / "a.pt")
    layer = torch.nn.Linear(2, 3)
    assert warm_start(layer, tmp_path / "a.pt", renamed={"head.0.": ""}) == []
    assert (layer.weight == 1).all() and (layer.bias == 1).all()
