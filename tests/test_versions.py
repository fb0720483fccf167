"""Versions of a method are kept, never overwritten, and are what they say."""

import json
from dataclasses import replace

import pytest
import torch

from zerotumor.adaptation import EMPTY, Adapted
from zerotumor.learning import fresh
from zerotumor.prompts import parse
from zerotumor.segmenter import WeightsError, load
from zerotumor.versions import FILE, load_version, save_version, versions_of


@pytest.fixture
def model(tiny_malenia):
    return tiny_malenia()


@pytest.fixture
def version(model, tmp_path):
    specialist = fresh(model, parse("soft tissue sarcoma", encoder=model.encoder)[0], "CT")
    torch.nn.init.normal_(specialist.network.heads[-1].weight)
    specialist.learned = replace(specialist.learned, where=EMPTY)
    facts = {"learned_from": {"soft tissue sarcoma CT": ["scan0", "scan1"]}, "refused": {"scan2": "the label is empty"}}
    return save_version(Adapted(model, [specialist]), tmp_path / "first", method="malenia", **facts), specialist


def test_a_version_comes_back_as_it_was(model, version):
    folder, specialist = version
    loaded = load_version(model, folder)
    about = {"prompt": "soft tissue sarcoma", "lesion": "soft tissue sarcoma", "modality": "CT", "where": EMPTY}
    assert loaded.describe() == [about]
    for a, b in zip(loaded.specialists[0].parameters(), specialist.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)  # half precision
    assert loaded.weights_sha256 == json.loads((folder / FILE).with_suffix(".json").read_text())["sha256"]
    card = (folder / "card.md").read_text()
    assert "scan0, scan1" in card and "scan2: the label is empty" in card and "soft tissue sarcoma | CT" in card


def test_a_version_is_never_overwritten(model, version):
    folder, specialist = version
    before = (folder / FILE).read_bytes()
    with pytest.raises(FileExistsError, match="another name"):
        save_version(Adapted(model, [specialist]), folder, method="malenia")
    assert (folder / FILE).read_bytes() == before


def test_a_version_of_other_weights_or_a_tampered_one_is_refused(model, version):
    folder, _ = version
    model.weights_sha256 = "b" * 64
    with pytest.raises(WeightsError, match="learned on other weights"):
        load_version(model, folder)
    model.weights_sha256 = "a" * 64
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="hash differs"):
        load_version(model, folder)


def test_a_version_of_a_network_of_another_size_is_refused(model, version, monkeypatch):
    larger = load().lesion_network()
    monkeypatch.setattr(type(model), "lesion_network", lambda self: larger)
    with pytest.raises(WeightsError, match="does not fit"):
        load_version(model, version[0])


@pytest.mark.parametrize(
    "specialists", [[{}], [3], [{"prompt": "tumor", "lesion": None, "modality": "CT", "embedding": "x"}]]
)
def test_a_version_whose_specialists_are_not_described_is_refused(model, version, specialists):
    record = (version[0] / FILE).with_suffix(".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "specialists": specialists}))
    with pytest.raises(WeightsError, match="first is damaged .*restore it, or remove its folder"):
        load_version(model, version[0])


def test_versions_by_age_method_and_weights(model, version, tmp_path):
    folder, specialist = version
    record = (folder / FILE).with_suffix(".json")
    content = json.loads(record.read_text())
    for name, created, base in (
        ("older", "2001-01-01 00:00:00", content["base"]),
        ("other", "2099-01-01 00:00:00", {"method": "malenia", "sha256": "c" * 64}),
        ("zept", "2099-01-01 00:00:00", {"method": "zept", "sha256": "a" * 64}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / record.name).write_text(json.dumps({**content, "created": created, "base": base}))
    damaged = [[], {**content, "created": None}, {**content, "base": "malenia"}, {**content, "specialists": None}]
    for k, text in enumerate(["{", *map(json.dumps, damaged)]):
        (tmp_path / f"broken{k}").mkdir()
        (tmp_path / f"broken{k}" / record.name).write_text(text)
        with pytest.raises(WeightsError, match=f"the record of version broken{k} is damaged"):
            load_version(model, tmp_path / f"broken{k}")
    assert versions_of(tmp_path, "malenia") == ["older", "first", "other"]
    assert versions_of(tmp_path, "malenia", "a" * 64) == ["older", "first"]
    assert versions_of(tmp_path / "nowhere", "malenia") == []


def test_a_record_that_changes_is_read_again(version, tmp_path):
    record = (version[0] / FILE).with_suffix(".json")
    content = json.loads(record.read_text())
    assert versions_of(tmp_path, "malenia") == versions_of(tmp_path, "malenia") == ["first"]
    record.write_text(json.dumps({**content, "base": {"method": "zept", "sha256": "a" * 64}}))
    assert versions_of(tmp_path, "malenia") == [] and versions_of(tmp_path, "zept") == ["first"]
