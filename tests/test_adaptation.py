"""Specialists: what they start from, for whom and in which scans they speak, and what stays as it was."""

import pytest
import torch

from zerotumor import adaptation
from zerotumor.adaptation import (
    BOUND,
    EMPTY,
    NEAR,
    SAME,
    THETA,
    TOGETHER,
    Adapted,
    Learned,
    Specialist,
    chosen,
    counted,
)
from zerotumor.inferer import encode_volume, segment_volume
from zerotumor.prompts import Prompt, parse
from zerotumor.segmenter import METHODS, Segmentation, build, load
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


@pytest.fixture(autouse=True)
def anywhere(monkeypatch):
    """Places that untrained weights see are of no interest here."""
    monkeypatch.setattr(adaptation.Places, "fits", lambda *_: None)


def ct_image(seed=0, size=(32, 36, 32)):
    """(2, X, Y, Z) of CT, a quarter of it air."""
    hu = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 40 + 30
    hu[:8] = -1000
    return normalize(hu[None], "CT").as_subclass(torch.Tensor)


class Network(torch.nn.Module):
    """In the place of what was learned: sure of the same everywhere."""

    def __init__(self, probability):
        super().__init__()
        self.value, self.asked = probability, 0

    def probability(self, image):
        self.asked += 1
        return torch.full(image.shape[1:], self.value)


def specialist_for(model, text="soft tissue sarcoma", modality="CT", probability=0.9, where=TOGETHER):
    prompt = parse(text, modality=modality, encoder=model.encoder)[0]
    about = Learned(prompt.text, prompt.lesion, modality, where)
    return Specialist(about, Network(probability), model.encoder.encode([text])[0]).eval()


def test_what_is_counted_is_positive_from_theta_and_bounded():
    logits = counted(torch.tensor([0.0, THETA - 0.01, THETA + 0.01, 1.0]))
    assert (logits > 0).tolist() == [False, False, True, True] and logits[0] == -BOUND and logits[-1] == BOUND


def test_a_lesion_network_starts_as_the_prior_of_its_method(encoder):
    model = build("malenia", CONFIGS["malenia"]).eval()
    network = model.lesion_network().eval()
    image = ct_image()[None, :, :32, :32]
    with torch.inference_mode():
        priors, maps = model.decoder.priors(model.backbone(image)), network(image)
    assert [m.shape[2:] for m in maps] == [(4,) * 3, (8,) * 3, (16,) * 3, (32,) * 3]
    assert all(torch.equal(a, b) for a, b in zip(priors, maps, strict=True))
    assert (network.spacing, network.patch, network.zooms) == (model.spacing, model.patch, model.zooms)
    mine = {p.data_ptr() for p in model.parameters()}
    assert not mine & {p.data_ptr() for p in network.parameters()}, "what is trained on must not be the method's own"


def test_a_method_without_one_has_that_of_the_default_method(encoder):
    model = build("zept", CONFIGS["zept"])
    network, own = model.lesion_network(), load().lesion_network()
    assert (network.spacing, network.patch, network.zooms) == (model.spacing, model.patch, model.zooms)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), own.parameters(), strict=True))


def test_a_whole_scan_is_the_mean_of_its_grids_and_air_is_left_out(encoder):
    model = build("malenia", {**CONFIGS["malenia"], "zooms": [1.0, 0.5]})
    network = model.lesion_network().eval()
    image = ct_image(size=(40, 64, 36))
    image[..., 50:, :] = 0
    image[:, :10] = 0
    whole = network.probability(image)
    assert whole.shape == (40, 64, 36) and float(whole.amin()) >= 0 and float(whole.amax()) <= 1
    network.look_on([1.0], None)
    fine = network.probability(image)
    network.look_on([0.5], None)
    assert torch.allclose(whole, (fine + network.probability(image)) / 2, atol=1e-5)
    assert not network.probability(torch.zeros(2, 32, 32, 32)).any()


def test_what_was_learned_moves_its_prompt_and_no_other(model):
    prompts = parse("soft tissue sarcoma; liver tumor", encoder=model.encoder)
    plain = segment_volume(model, ct_image(), prompts)
    adapted = segment_volume(Adapted(model, [specialist_for(model)]), ct_image(), prompts)
    assert torch.equal(adapted.extras["ungated"][1], plain.extras["ungated"][1])
    assert adapted.scores[1] == plain.scores[1]
    assert (adapted.probabilities[0] >= 0.5).all() and adapted.found[0]
    silent = segment_volume(Adapted(model, [specialist_for(model, probability=0.1)]), ct_image(), prompts)
    assert not silent.found[0] and torch.equal(silent.extras["ungated"][1], plain.extras["ungated"][1])


def test_prompts_that_mean_the_same_are_answered_in_one_look(model):
    specialist = specialist_for(model)
    prompts = parse("soft tissue sarcoma; liver tumor; soft-tissue sarcoma", encoder=model.encoder)
    segment_volume(Adapted(model, [specialist]), ct_image(), prompts)
    assert specialist.network.asked == 1


def test_a_scan_is_looked_at_once_by_each_version_that_is_asked_about_it(model):
    prompts, features = parse("soft tissue sarcoma", encoder=model.encoder), encode_volume(model, ct_image())
    old, new = specialist_for(model, probability=0.1), specialist_for(model)
    for version, specialist in (("old", old), ("new", new), ("old", old), ("new", new)):
        adapted = Adapted(model, [specialist], version, weights_sha256=version)
        kept = segment_volume(adapted, ct_image(), prompts, features=features)
        assert torch.equal(kept.probabilities, segment_volume(adapted, ct_image(), prompts).probabilities)
        assert specialist.network.asked < 4  # twice without features, and once with them
    assert features.bytes > encode_volume(model, ct_image()).bytes


def test_a_specialist_is_heard_where_the_place_fits(model, monkeypatch):
    place, specialist = torch.ones(32, 36, 32), specialist_for(model, probability=0.9)
    place[:, :18] = 0.2
    monkeypatch.setattr(adaptation.Places, "fits", lambda at, prompt: place if at.model is model else None)
    prompts = parse("soft tissue sarcoma", encoder=model.encoder)
    found = segment_volume(Adapted(model, [specialist]), ct_image(), prompts).probabilities[0] >= 0.5
    assert found[:, 20:].all() and not found[:, :16].any()
    assert torch.equal(specialist.answer(ct_image(), place), counted(0.9 * place))
    assert torch.equal(specialist.answer(ct_image()), counted(torch.full((32, 36, 32), 0.9)))


@pytest.mark.parametrize(
    "peak, where, changed",
    [
        (1.0, EMPTY, False),  # what the method finds by itself is left alone
        (-1.0, EMPTY, True),
        (0.05, EMPTY, True),  # below the peak that a lesion must reach
        (1.0, TOGETHER, True),  # both count
        (-1.0, TOGETHER, True),
    ],
)
def test_in_which_scans_a_specialist_speaks(encoder, peak, where, changed):
    model = build("malenia", {**CONFIGS["malenia"], "theta": 0.5, "theta_peak": 0.6}).eval()
    model.encoder = encoder
    image, specialist = ct_image()[None], specialist_for(model, where=where)
    logits = torch.full((1, 1, *image.shape[2:]), -3.0)
    logits[..., 20, 20, 20] = peak
    answer = Segmentation(logits, logits.flatten(2).amax(-1).sigmoid(), [[{}]], {"ungated": torch.zeros_like(logits)})
    adapted = Adapted(model, [specialist]).complete(image, answer, parse("soft tissue sarcoma", encoder=encoder))
    same = [torch.equal(adapted.logits, logits), torch.equal(adapted.scores, answer.scores)]
    assert same == [not changed] * 2
    new = specialist.answer(image[0])
    both = peak > 0.5 and where == TOGETHER
    expected = (logits[0, 0] + new) / 2 if both else new if changed else logits[0, 0]
    assert torch.equal(chosen(model, logits[0, 0], new, where), expected)
    assert torch.allclose(adapted.logits[0, 0], expected)


def test_the_other_modality_stays_as_it_was(model):
    prompts = parse("soft tissue sarcoma", encoder=model.encoder)
    learned_on_mr = Adapted(model, [specialist_for(model, modality="MR")])
    plain = segment_volume(model, ct_image(), prompts)
    assert torch.equal(segment_volume(learned_on_mr, ct_image(), prompts).extras["ungated"], plain.extras["ungated"])


def test_maps_of_the_method_are_still_there(model):
    prompts = parse("soft tissue sarcoma", encoder=model.encoder)
    plain = segment_volume(model, ct_image(), prompts).extras
    adapted = segment_volume(Adapted(model, [specialist_for(model)]), ct_image(), prompts).extras
    assert set(adapted) == {"ungated", *model.maps}
    for name in model.maps:
        assert torch.equal(adapted[name], plain[name])


def test_shares(encoder):
    vector = torch.zeros(4)
    vector[0] = 1.0
    specialist = Specialist(Learned("odd thing", None, "CT"), Network(0), vector)

    def near(cosine):
        return torch.tensor([cosine, (1 - cosine**2) ** 0.5, 0, 0])

    assert specialist.share(Prompt("odd thing", "odd thing"), "CT", None) == 1
    assert specialist.share(Prompt("odd thing", "odd thing"), "MR", None) == 0
    other = Prompt("another", "another")
    assert specialist.share(other, "CT", None) == 0
    assert specialist.share(other, "CT", near(NEAR - 0.01)) == 0
    assert specialist.share(other, "CT", near(SAME + 0.01)) == 1
    assert specialist.share(other, "CT", near((NEAR + SAME) / 2)) == pytest.approx(0.5, abs=1e-4)
    sarcoma = Specialist(Learned("sarcoma", "soft tissue sarcoma", "CT"), Network(0), vector)
    named = parse("soft tissue sarcoma", encoder=encoder)[0]
    liver = parse("liver tumor", encoder=encoder)[0]
    assert sarcoma.share(named, "CT", None) == 1  # another word for the same concept
    assert sarcoma.share(liver, "CT", vector) == 0  # another concept, however alike the words


def test_the_nearest_specialist_speaks(model):
    text = "an unheard-of growth"
    specialists = [specialist_for(model, "soft tissue sarcoma"), specialist_for(model, text)]
    asked = parse(text, encoder=model.encoder)[0]
    assert Adapted(model, specialists).best(asked, "CT") == (1, 1)
    assert Adapted(model, specialists).best(parse("brain tumor", encoder=model.encoder)[0], "MR") == (None, 0.0)
    assert Adapted(model, []).best(asked, "CT") == (None, 0.0)
