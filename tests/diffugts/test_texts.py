"""Pairs of texts: normal and abnormal, for known words without an encoder and for any words with one."""

import pytest
import torch

from zerotumor.diffugts.texts import ROWS, PairBank, sentences
from zerotumor.prompts import parse
from zerotumor.text import load_text_encoder


@pytest.fixture(scope="module")
def bank():
    bank = PairBank(384, wordings=1)
    bank.fill(load_text_encoder())
    return bank


def pair(bank, text, modality="CT", encoder=None):
    return bank.pair(parse(text, modality=modality)[0], modality, encoder)


def test_templates():
    assert sentences("normal", "CT", "liver", 1) == ["A normal CT of the liver."]
    assert sentences("abnormal", "MR", "liver tumor", 1) == ["An abnormal MR of liver tumor."]
    assert len(sentences("abnormal", "CT", "liver tumor", 3)) == 3 and len(set(ROWS)) == len(ROWS)


def test_a_pair_is_two_unit_vectors_that_differ(bank):
    for text in ("tumor", "liver tumor", "renal cyst", "lesion in the spleen", "sarcoma"):
        both = pair(bank, text)
        assert both.shape == (2, 384) and torch.allclose(both.norm(dim=1), torch.ones(2), atol=1e-5)
        assert both[0] @ both[1] < 0.98


def test_the_reference_template_is_what_is_encoded(bank):
    encoder = load_text_encoder()
    assert torch.allclose(
        bank.row("normal", "CT", "liver"), encoder.encode(["A normal CT of the liver."])[0], atol=1e-5
    )
    anything = pair(bank, "tumor")
    assert torch.allclose(anything[1], encoder.encode(["An abnormal CT of tumor."])[0], atol=1e-5)


def test_paraphrases_are_averaged_to_one_direction():
    bank, encoder = PairBank(384, wordings=3), load_text_encoder()
    bank.fill(encoder)
    mean = encoder.encode(sentences("normal", "MR", "brain", 3)).mean(0)
    assert torch.allclose(bank.row("normal", "MR", "brain"), mean / mean.norm(), atol=1e-5)


def test_what_is_asked_for_makes_the_pair(bank):
    liver, kidney = pair(bank, "liver tumor"), pair(bank, "kidney tumor")
    assert liver[1] @ kidney[1] < 0.95 and liver[0] @ kidney[0] < 0.95
    assert not torch.allclose(pair(bank, "liver tumor", "MR"), liver, atol=1e-3)
    wider = bank.pairs(parse("liver tumor; kidney tumor"), ["CT", "MR"])
    assert wider.shape == (2, 2, 2, 384) and torch.allclose(wider[0, 1], kidney)


def test_own_words_count_where_there_is_an_encoder(bank):
    encoder = load_text_encoder()
    plain, seen = (
        pair(bank, "hypodense lesion in the liver"),
        pair(bank, "hypodense lesion in the liver", "CT", encoder),
    )
    assert not torch.allclose(plain[1], seen[1], atol=1e-2) and torch.equal(plain[0], seen[0])
    assert torch.equal(pair(bank, "liver tumor", "CT", encoder), pair(bank, "liver tumor"))


def test_known_words_need_no_encoder(bank, monkeypatch):
    monkeypatch.setattr("zerotumor.text.TextEncoder.encode", lambda *_: pytest.fail("no encoder is needed"))
    for text in ("tumor", "liver tumor", "kidney cyst"):
        pair(bank, text, "CT", load_text_encoder())


def test_unseen_words_are_told_from_each_other(bank):
    encoder = load_text_encoder()
    made_up = [pair(bank, t, "CT", encoder)[1] for t in ("schwannoma of the vagus nerve", "hydatid of the heart")]
    assert made_up[0] @ made_up[1] < 0.95
