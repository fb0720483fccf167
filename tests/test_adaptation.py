"""Adapters: what they see, that they begin as nothing, for whom they speak, and what stays as it was."""

from dataclasses import replace

import pytest
import torch

from zerotumor.adaptation import (
    EMPTY,
    EVERYWHERE,
    NEAR,
    SAME,
    STRIDE,
    Adapted,
    Adapter,
    Learned,
    believed,
    box_mean,
    feature_count,
    method_logits,
    voxel_features,
)
from zerotumor.inferer import segment_volume
from zerotumor.prompts import Prompt, parse
from zerotumor.segmenter import METHODS, Segmentation, build
from zerotumor.text import load_text_encoder
from zerotumor.transforms import normalize

TINY = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "heads": 2, "patch": 32, "spacing": 4.0}
CONFIGS = {"malenia": {**TINY, "dim": 8, "tokens": 2}, "zept": {**TINY, "width": 8}}


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder()


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def model(request, encoder):
    torch.manual_seed(0)
    out = build(request.param, CONFIGS[request.param]).eval()
    out.bank.fill(encoder)
    out.encoder = encoder
    assert request.param in METHODS
    return out


def ct_image(seed=0, size=(32, 36, 32)):
    """(2, X, Y, Z) of CT, a quarter of it air."""
    hu = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 40 + 30
    hu[:8] = -1000
    return normalize(hu[None], "CT").as_subclass(torch.Tensor)


def adapter_for(model, text="soft tissue sarcoma", modality="CT", push=0.0):
    prompt = parse(text, modality=modality, encoder=model.encoder)[0]
    about = Learned(prompt.text, prompt.lesion, modality)
    out = Adapter(about, feature_count(1 + len(model.evidence)), model.encoder.encode([text])[0]).eval()
    with torch.no_grad():
        out.head[-1].bias.fill_(push)
    return out


def test_box_mean_counts_only_what_is_inside():
    values = torch.arange(5.0).reshape(1, 5, 1, 1).expand(1, 5, 5, 5)
    assert box_mean(values, 3)[0, :, 2, 2].tolist() == pytest.approx([0.5, 1, 2, 3, 3.5])
    assert torch.equal(box_mean(values, 1), values)


@pytest.mark.parametrize("size", [(12, 15, 9), (3, 40, 5), (1, 4, 4)])
def test_box_mean_of_a_short_axis_goes_as_far_as_it_is(size):
    values = torch.ones(2, *size)
    assert torch.allclose(box_mean(values, 15), values)


def test_features_are_standardized_over_the_body_and_many_as_said():
    logits = torch.randn(2, 32, 36, 32, generator=torch.Generator().manual_seed(1))
    features, body = voxel_features(ct_image(), logits, 4.0)
    assert features.shape == (feature_count(2), 16, 18, 16) and body.shape == (16, 18, 16)
    assert not body[:4].any() and body[5:].all()
    inside = features[:, body]
    assert torch.allclose(inside.mean(1), torch.zeros(len(inside)), atol=0.05)
    assert float(inside.std(1).amax()) < 1.1


def test_features_do_not_change_with_the_scanner_gain():
    """A brighter MR of the same body is the same body."""
    image = ct_image().clamp(0.1, 0.9)
    logits = torch.zeros(1, 32, 36, 32)
    plain, _ = voxel_features(image, logits, 4.0)
    brighter, _ = voxel_features(image * 0.8 + 0.05, logits, 4.0)
    assert torch.allclose(plain, brighter, atol=2e-2)


def test_a_fresh_adapter_changes_nothing(model):
    prompts = parse("soft tissue sarcoma", encoder=model.encoder)
    plain = segment_volume(model, ct_image(), prompts)
    adapted = segment_volume(Adapted(model, [adapter_for(model)]), ct_image(), prompts)
    if plain.found[0]:
        assert torch.allclose(adapted.probabilities, plain.probabilities, atol=3e-3)
    assert torch.equal(adapted.probabilities >= 0.5, plain.probabilities >= 0.5)
    assert adapted.found == plain.found


def test_what_was_learned_moves_its_prompt_and_no_other(model):
    prompts = parse("soft tissue sarcoma; liver tumor", encoder=model.encoder)
    plain = segment_volume(model, ct_image(), prompts)
    adapted = segment_volume(Adapted(model, [adapter_for(model, push=8.0)]), ct_image(), prompts)
    assert torch.equal(adapted.extras["ungated"][1], plain.extras["ungated"][1])
    assert adapted.scores[1] == plain.scores[1]
    body = ct_image().amax(0) > 0.02
    inside = torch.zeros_like(body)
    inside[10:30, 2:-2, 2:-2] = True
    assert (adapted.probabilities[0] >= 0.5)[inside & body].all() and adapted.found[0]
    air = (slice(0, 6),)
    assert torch.equal((adapted.probabilities[0] >= 0.5)[air], (plain.probabilities[0] >= 0.5)[air])


@pytest.mark.parametrize(
    "found, where, push, changed",
    [
        (True, EMPTY, 8.0, False),  # what the method finds by itself is left alone
        (False, EMPTY, 8.0, True),
        (True, EVERYWHERE, 8.0, True),
        (True, EVERYWHERE, -8.0, False),  # an adapter that leaves nothing of it is not believed
    ],
)
def test_in_which_scans_an_adapter_speaks(encoder, found, where, push, changed):
    model = build("malenia", CONFIGS["malenia"]).eval()
    model.encoder = encoder
    image, adapter = ct_image()[None], adapter_for(model, push=push)
    adapter.learned = replace(adapter.learned, where=where)
    logits = torch.full((1, 1, *image.shape[2:]), -3.0)
    logits[..., 20, 20, 20] = 1.0 if found else -1.0
    maps = {name: torch.zeros_like(logits) for name in ("ungated", *model.evidence)}
    answer = Segmentation(logits, logits.flatten(2).amax(-1).sigmoid(), [[{}]], maps)
    adapted = Adapted(model, [adapter]).complete(image, answer, parse("soft tissue sarcoma", encoder=encoder))
    same = [torch.equal(adapted.logits, logits), torch.equal(adapted.scores, answer.scores)]
    assert same == [not changed] * 2


def test_an_adapter_may_take_away_three_quarters():
    own = torch.tensor([1.0] * 8 + [-1.0] * 8)
    new = -own
    assert not believed(own, new)
    new[:2] = 1.0
    assert believed(own, new) and not believed(own, new, EMPTY) and believed(-own.abs(), new, EMPTY)


def test_the_other_modality_stays_as_it_was(model):
    prompts = parse("soft tissue sarcoma", encoder=model.encoder)
    learned_on_mr = Adapted(model, [adapter_for(model, modality="MR", push=8.0)])
    plain = segment_volume(model, ct_image(), prompts)
    assert torch.equal(segment_volume(learned_on_mr, ct_image(), prompts).extras["ungated"], plain.extras["ungated"])


def test_maps_of_the_method_are_still_there(model):
    prompts = parse("soft tissue sarcoma", encoder=model.encoder)
    plain = segment_volume(model, ct_image(), prompts).extras
    adapted = segment_volume(Adapted(model, [adapter_for(model, push=8.0)]), ct_image(), prompts).extras
    assert set(adapted) == {"ungated", *model.maps}
    for name in model.maps:
        assert torch.equal(adapted[name], plain[name])


def test_shares(encoder):
    vector = torch.zeros(4)
    vector[0] = 1.0
    adapter = Adapter(Learned("odd thing", None, "CT"), 6, vector)

    def near(cosine):
        return torch.tensor([cosine, (1 - cosine**2) ** 0.5, 0, 0])

    assert adapter.share(Prompt("odd thing", "odd thing"), "CT", None) == 1
    assert adapter.share(Prompt("odd thing", "odd thing"), "MR", None) == 0
    other = Prompt("another", "another")
    assert adapter.share(other, "CT", None) == 0
    assert adapter.share(other, "CT", near(NEAR - 0.01)) == 0
    assert adapter.share(other, "CT", near(SAME + 0.01)) == 1
    assert adapter.share(other, "CT", near((NEAR + SAME) / 2)) == pytest.approx(0.5, abs=1e-4)
    sarcoma = Adapter(Learned("sarcoma", "soft tissue sarcoma", "CT"), 6, vector)
    named = parse("soft tissue sarcoma", encoder=encoder)[0]
    liver = parse("liver tumor", encoder=encoder)[0]
    assert sarcoma.share(named, "CT", None) == 1  # another word for the same concept
    assert sarcoma.share(liver, "CT", vector) == 0  # another concept, however alike the words


def test_the_nearest_adapter_speaks(model):
    text = "an unheard-of growth"
    adapters = [adapter_for(model, "soft tissue sarcoma"), adapter_for(model, text)]
    asked = parse(text, encoder=model.encoder)[0]
    chosen, share = Adapted(model, adapters).best(asked, "CT")
    assert chosen is adapters[1] and share == 1
    assert Adapted(model, adapters).best(parse("brain tumor", encoder=model.encoder)[0], "MR") == (None, 0.0)


def test_method_logits_are_bounded():
    out = method_logits(torch.tensor([[[0.0, 1.0, 0.5]]]), [torch.tensor([[[1.0, 0.5, 0.0]]])])
    assert out.shape == (2, 1, 1, 3) and torch.isfinite(out).all()
    assert float(out[0, 0, 0, 2]) == 0 and STRIDE > 1
