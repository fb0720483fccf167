"""Cross-modal knowledge injection and the attribute bank."""

import pytest
import torch

from zerotumor.malenia.attributes import NAMES, SLICES, VALUES, AttributeBank, value_index
from zerotumor.malenia.injection import KnowledgeInjection, ensemble
from zerotumor.malenia.location import region_average
from zerotumor.text import load_text_encoder
from zerotumor.vocabulary import ATTRIBUTES


def test_shapes():
    module = KnowledgeInjection(dim=16, mask_channels=5)
    tokens, texts = torch.randn(2, 3, 16), torch.randn(2, 3, 8, 16)
    fused = module.fuse(tokens, texts)
    assert [f.shape for f in fused] == [(2, 3, 16)] * 2
    assert [q.shape for q in module(tokens, texts)] == [(2, 3, 5)] * 2


def test_text_changes_both_branches():
    module = KnowledgeInjection(dim=16, mask_channels=5).eval()
    tokens, texts = torch.randn(1, 3, 16), torch.randn(1, 3, 8, 16)
    before, after = module(tokens, texts), module(tokens, texts + 1)
    assert all(not torch.allclose(a, b) for a, b in zip(before, after, strict=True))


def test_ensemble_is_the_mean_probability():
    a, b = torch.randn(10), torch.randn(10)
    assert torch.allclose(ensemble(a, b).sigmoid(), (a.sigmoid() + b.sigmoid()) / 2, atol=1e-5)


def test_bank_holds_every_value_once():
    assert len(VALUES) == sum(map(len, ATTRIBUTES.values()))
    assert VALUES[value_index("density", "hyperdense")] == ("density", "hyperdense")
    with pytest.raises(ValueError):
        value_index("density", "purple")


def test_retrieval_is_a_distribution_within_each_attribute_and_finds_its_own_text():
    bank = AttributeBank(384, 16)
    bank.fill(load_text_encoder())
    assert torch.allclose(bank.texts.norm(dim=1), torch.ones(len(VALUES)), atol=1e-5)
    wanted = value_index("shape", "irregular")
    found = bank.retrieve(bank()[wanted], torch.tensor(0.01))
    for name in NAMES:
        assert torch.allclose(found[SLICES[name]].sum(), torch.tensor(1.0), atol=1e-5)
    assert int(found[SLICES["shape"]].argmax()) + SLICES["shape"].start == wanted


def test_an_encoder_of_another_width_is_refused():
    with pytest.raises(ValueError, match="384 numbers"):
        AttributeBank(768, 16).fill(load_text_encoder())


def test_region_average_tells_inside_from_around():
    maps = torch.zeros(1, 2, 12, 12, 12)
    maps[:, 0], masks = 1.0, torch.zeros(1, 1, 12, 12, 12)
    masks[..., 4:8, 4:8, 4:8] = 1
    maps[:, :, 4:8, 4:8, 4:8] = torch.tensor([0.0, 1.0])[None, :, None, None, None]
    inside, around = region_average(maps, masks)
    assert inside[0, 0].tolist() == [0, 1] and around[0, 0].tolist() == [1, 0]
