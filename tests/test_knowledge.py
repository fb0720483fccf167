"""A paragraph for everything that has a name."""

import pytest

from zerotumor.knowledge import LESION_TEXTS, ORGAN_TEXTS, paragraph
from zerotumor.text import load_text_encoder
from zerotumor.vocabulary import LESIONS, ORGANS
from zerotumor.zept.alignment import KnowledgeBank
from zerotumor.zept.classes import ENTRIES, class_set


def test_every_organ_and_lesion_has_one():
    assert set(ORGANS) <= set(ORGAN_TEXTS) and set(LESIONS) <= set(LESION_TEXTS)
    assert all(paragraph(name) for name in ENTRIES)
    with pytest.raises(KeyError, match="write one"):
        paragraph("aura")


def test_they_differ_and_speak_of_imaging_and_fit_the_encoder():
    texts = {**ORGAN_TEXTS, **LESION_TEXTS}
    assert len(set(texts.values())) == len(texts)
    for name, text in texts.items():
        assert "abstract" in name or "CT" in text or "MR" in text
        assert len(text.split()) <= 120


def test_the_bank_has_the_classes_rows_in_order():
    classes, encoder = class_set("paper"), load_text_encoder()
    bank = KnowledgeBank(classes, 384)
    bank.fill(encoder)
    assert bank().shape == (32, 384)
    expected = encoder.encode([paragraph("spleen"), paragraph("kidney tumor")])
    assert bank()[[0, 25]].allclose(expected, atol=1e-6) and bank.of("kidney tumor").allclose(expected[1], atol=1e-6)


def test_kin_are_near():
    bank = KnowledgeBank(class_set("paper"), 384)
    bank.fill(load_text_encoder())
    cyst, other, bone = (bank.of(n) for n in ("kidney cyst", "liver cyst", "bone tumor"))
    assert cyst @ other > cyst @ bone
