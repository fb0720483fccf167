"""The registry, and weights that are what they say."""

import json

import pytest
import torch

from zerotumor.segmenter import METHODS, WeightsError, available, build, load, save, save_state
from zerotumor.text import TextEncoderError, load_text_encoder

CONFIG = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "dim": 8, "tokens": 2, "heads": 2, "patch": 32}


@pytest.fixture
def weights(tmp_path):
    model = build("malenia", CONFIG)
    encoder = load_text_encoder()
    model.bank.fill(encoder)
    save(model, "malenia", tmp_path / "model.pt", config=CONFIG, encoder=encoder)
    return tmp_path / "model.pt"


def test_saved_weights_come_back(weights):
    model = load("malenia", weights)
    again = load("malenia", weights.parent)
    image = torch.rand(1, 2, 32, 32, 32)
    assert not model.training and torch.equal(model(image), again(image))


@pytest.mark.parametrize("where", ["torch.save", "json.dumps"])
def test_what_is_cut_off_while_it_is_saved_is_not_taken_for_weights(weights, monkeypatch, where):
    before = weights.read_bytes()

    def killed(*arguments, **_):
        if where == "torch.save":
            arguments[1].write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(where, killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(torch.nn.Linear(1, 1), weights, {"method": "malenia"})
    assert {path.name for path in weights.parent.iterdir()} == {"model.pt", "model.json"}
    monkeypatch.undo()
    if where == "torch.save":
        assert weights.read_bytes() == before and load("malenia", weights)
    else:
        with pytest.raises(WeightsError, match="hash differs"):
            load("malenia", weights)


def test_unknown_method():
    with pytest.raises(ValueError, match="there is no method 'unet'"):
        build("unet")
    with pytest.raises(ValueError, match="there is no method 'unet'"):
        load("unet")


@pytest.mark.parametrize("device", ["nowhere", "meta:x", f"cuda:{torch.cuda.device_count()}"])
def test_a_device_that_is_not_there(weights, device):
    with pytest.raises(ValueError, match=f"there is no device '{device}' here: use cpu"):
        load("malenia", weights, device=device)


def test_missing_weights(tmp_path):
    with pytest.raises(WeightsError, match="is missing"):
        load("malenia", tmp_path / "model.pt")


def test_missing_record(weights):
    weights.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match="model.json is missing"):
        load("malenia", weights)


def test_tampered_weights(weights):
    content = bytearray(weights.read_bytes())
    content[-200] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match="hash differs"):
        load("malenia", weights)


@pytest.mark.parametrize("content", [b"{", b"[]", b"7", b"{}", b"\xff\xfe"])
def test_broken_record(weights, content):
    weights.with_suffix(".json").write_bytes(content)
    with pytest.raises(WeightsError, match="not a weights record"):
        load("malenia", weights)


def test_weights_of_another_method(weights):
    record = json.loads(weights.with_suffix(".json").read_text())
    weights.with_suffix(".json").write_text(json.dumps(record | {"method": "zept"}))
    with pytest.raises(WeightsError, match="holds weights of zept"):
        load("malenia", weights)


def test_weights_that_do_not_fit_the_record(weights):
    record = json.loads(weights.with_suffix(".json").read_text())
    record["config"] = CONFIG | {"tokens": 3}
    weights.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(WeightsError, match="does not fit"):
        load("malenia", weights)


def test_another_text_encoder_is_refused(weights):
    record = json.loads(weights.with_suffix(".json").read_text())
    record["text_encoder"]["fingerprint"] = "folder:0000"
    weights.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(TextEncoderError, match="train"):
        load("malenia", weights)


def test_pickled_code_is_not_run(weights, tmp_path):
    """A file with a pickle that would run code, hashed as if it were ours, is refused."""
    from zerotumor.segmenter import sha256

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Evil()}, weights)
    record = json.loads(weights.with_suffix(".json").read_text())
    weights.with_suffix(".json").write_text(json.dumps(record | {"sha256": sha256(weights)}))
    with pytest.raises(WeightsError):
        load("malenia", weights)
    assert not (tmp_path / "ran").exists()


def test_methods_with_weights_are_offered(tmp_path):
    assert "malenia" in available()
    assert available(tmp_path) == []
    (tmp_path / METHODS["malenia"].weights).touch()
    assert available(tmp_path) == ["malenia"]
