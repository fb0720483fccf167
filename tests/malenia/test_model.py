"""Malenia as a whole, small and untrained."""

import pytest
import torch

from zerotumor.malenia import Malenia, Targets
from zerotumor.malenia.attributes import NAMES, SLICES, VALUES, value_index
from zerotumor.malenia.criterion import MaleniaLoss
from zerotumor.malenia.decoder import Decoded
from zerotumor.malenia.knowledge import diagnose, prompt_scores, wanted
from zerotumor.prompts import parse
from zerotumor.text import load_text_encoder
from zerotumor.vocabulary import LESIONS, ORGANS

SMALL = {"channels": [4, 8, 8, 8, 8], "mask_channels": 4, "dim": 16, "tokens": 5, "heads": 2, "patch": 32}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Malenia(**SMALL)
    model.bank.fill(load_text_encoder())
    return model


def targets():
    masks = torch.zeros(2, 32, 32, 32)
    masks[0, 4:12, 4:12, 4:12] = 1
    masks[1, 20:28, 20:28, 20:28] = 1
    record = {**{n: next(iter(v)) for n, v in LESIONS["kidney cyst"].attributes.items()}, "location": "left kidney"}
    values = torch.tensor([[value_index(n, record[n]) for n in NAMES]] * 2)
    organs = torch.zeros(2, 32, 32, 32, dtype=torch.long)
    organs[0, :16] = 2
    nothing = torch.zeros(0, 32, 32, 32)
    return Targets([masks, nothing], [values, torch.zeros(0, 8, dtype=torch.long)], organs)


def test_contract(model):
    image, prompts = torch.rand(2, 2, 32, 32, 32), parse("liver tumor; renal cyst; tumor")
    features = model.encode_image(image)
    answer = model.segment(features, prompts)
    assert answer.logits.shape == (2, 3, 32, 32, 32)
    assert answer.scores.shape == (2, 3) and ((answer.scores >= 0) & (answer.scores <= 1)).all()
    assert torch.equal(model(image, prompts), answer.logits)
    assert model(image).shape == (2, 1, 32, 32, 32)


def test_edges_that_are_no_multiple_of_16_are_refused(model):
    with pytest.raises(ValueError, match="multiples of 16"):
        model(torch.rand(1, 2, 30, 32, 32))


def test_permuting_tokens_leaves_the_map_of_a_prompt_unchanged(model):
    features = model.encode_image(torch.rand(1, 2, 32, 32, 32))
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = {k: v[:, order] if k in ("masks", "objectness", "values", "aligned", "inside", "around") else v
                for k, v in features.items()}  # fmt: skip
    prompts = parse("liver tumor")
    assert torch.allclose(model.segment(features, prompts).logits, model.segment(shuffled, prompts).logits, atol=1e-5)


def test_text_decides(model):
    """Two tokens of equal objectness, one a kidney cyst and one a liver tumor: each prompt picks its own."""
    features = model.encode_image(torch.rand(1, 2, 32, 32, 32))
    model.theta = 0.3
    masks = torch.full((1, 2, 32, 32, 32), -8.0)
    masks[0, 0, :16], masks[0, 1, 16:] = 8.0, 8.0
    values = torch.zeros(1, 2, len(VALUES))
    inside = torch.zeros(1, 2, 1 + SLICES["location"].stop)
    for token, (name, place) in enumerate((("kidney cyst", "left kidney"), ("liver tumor", "liver"))):
        for attribute, shares in LESIONS[name].attributes.items():
            values[0, token, value_index(attribute, max(shares, key=shares.get))] = 1
        inside[0, token, 1 + value_index("location", place)] = 1
    features |= {
        "masks": masks,
        "objectness": torch.full((1, 2), 0.9),
        "values": values,
        "inside": inside,
        "around": inside,
    }
    features["prior"] = torch.full((1, 1, 32, 32, 32), 8.0)
    logits = model.segment(features, parse("renal cyst; liver tumor")).logits[0] > 0
    assert logits[0, :16].all() and not logits[0, 16:].any()
    assert logits[1, 16:].all() and not logits[1, :16].any()


def test_the_place_of_a_small_lesion_is_its_own(model):
    lesion = torch.zeros(1, 1, 24, 24, 24)
    lesion[..., 10:13, 10:13, 10:13] = 1
    mask = 8 * lesion - 4  # 0.02 all around, and that is most of the window
    decoded = Decoded([torch.zeros(1, 1, 16)] * 3, [mask] * 3, [12 * lesion - 7] * 4)
    located = torch.full((1, 1 + len(ORGANS), 24, 24, 24), -9.0)
    located[:, 3] = 0
    located[:, 5, 8:15, 8:15, 8:15] = 9
    retrieved, inside, around = model.retrieve(decoded, located)
    assert inside.argmax(-1).item() == around.argmax(-1).item() == 5
    assert inside[..., 5].item() > 0.9 and inside[..., 3].item() < 0.1
    assert retrieved.probabilities[..., SLICES["location"]].argmax(-1).item() == 4  # without "none"
    torch.testing.assert_close(inside.sum(-1), torch.ones(1, 1))


def test_any_lesion_is_objectness_alone(model):
    features = model.encode_image(torch.rand(1, 2, 32, 32, 32))
    scores = prompt_scores(model, features, parse("tumor"))[..., 0]
    assert torch.allclose(scores, features["objectness"] ** 0.5)


def test_stated_attributes_weigh_more_than_usual_ones(model):
    _, usual = wanted(parse("liver tumor")[0], model)
    _, stated = wanted(parse("hyperdense liver tumor")[0], model)
    assert stated["density"] > usual["density"] and stated["shape"] == usual["shape"]


def test_unknown_words_ask_for_something_when_there_is_an_encoder(model):
    prompt = parse("Nierenzyste", encoder=load_text_encoder())[0]
    assert not wanted(prompt, model)[1]
    model.encoder = load_text_encoder()
    row, exponents = wanted(prompt, model)
    assert set(exponents) == set(NAMES) and row.max() == 1


def test_diagnosis_names_the_disease_of_its_own_attributes():
    for name, place in (("kidney cyst", "left kidney"), ("pancreatic tumor", "pancreas"), ("lung tumor", "left lung")):
        values = torch.zeros(len(VALUES))
        for attribute, shares in LESIONS[name].attributes.items():
            values[value_index(attribute, max(shares, key=shares.get))] = 1
        values[value_index("location", place)] = 1
        assert name in [n for n, _ in diagnose(values, top=3)]


def test_loss_has_all_parts_and_reaches_every_parameter(model):
    loss, truth = MaleniaLoss(), targets()
    total = loss(model(torch.rand(2, 2, 32, 32, 32), targets=truth), truth)
    total.backward()
    assert set(loss.last) == {"mask", "align", "final", "objectness", "prior", "location"}
    assert torch.isfinite(total)
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without


def test_a_batch_without_lesions_trains_too(model):
    truth = targets()
    truth = Targets([truth.masks[1]] * 2, [truth.values[1]] * 2, truth.organs)
    total = MaleniaLoss()(model(torch.rand(2, 2, 32, 32, 32), targets=truth), truth)
    total.backward()
    assert torch.isfinite(total)


def test_a_few_steps_fit_one_sample(model):
    image, truth, loss = torch.rand(2, 2, 32, 32, 32) * 0.1, targets(), MaleniaLoss()
    for mask in truth.masks[0]:
        image[0] += mask
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    history = []
    for _ in range(12):
        total = loss(model(image, targets=truth), truth)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(float(total))
    assert history[-1] < 0.8 * history[0]


def test_teacher_forcing_feeds_the_true_texts(model, monkeypatch):
    truth, fed = targets(), {}
    original = model.texts_of
    monkeypatch.setattr(model, "texts_of", lambda values: fed.update(values=values) or original(values))
    out = model.training_outputs(torch.rand(2, 2, 32, 32, 32), truth, teacher=1.0)
    tokens, lesions = out["pairs"][0]
    assert torch.equal(fed["values"][0, tokens], truth.values[0][lesions])


def test_the_first_stage_trains_the_prior_and_the_places_alone(model):
    image, loss = torch.rand(2, 2, 32, 32, 32), MaleniaLoss()
    outputs = model(image, targets=targets(), dense=True)
    loss(outputs, targets()).backward()
    assert set(loss.last) == {"prior", "location"}
    assert model.backbone.encoder[0].conv.unit0.conv.weight.grad is not None
    assert all(p.grad is None for p in model.injection.parameters())
    assert model(image, dense=True).shape == (2, 1, 32, 32, 32)


def test_the_lesion_prior_counts_small_lesions_and_false_ones():
    small, large = torch.zeros(1, 16, 16, 16), torch.zeros(1, 16, 16, 16)
    small[0, 2:4, 2:4, 2:4], large[0, 4:14, 4:14, 4:14] = 1, 1
    nothing = torch.zeros(0, 16, 16, 16)
    truth = Targets([small, large, nothing], [], torch.zeros(3, 16, 16, 16, dtype=torch.long))
    right = torch.stack([small, large, torch.zeros(1, 16, 16, 16)]) * 16 - 8
    missed, false = right.clone(), right.clone()
    missed[0], false[2, 0, :4, :4, :4] = -8.0, 8.0
    exact, without, extra = (float(MaleniaLoss._prior(x, truth)) for x in (right, missed, false))
    assert exact < 0.03 and without > exact + 0.2 and extra > exact + 0.02
