"""Open vocabulary: which tumor queries answer a prompt, and in which organs."""

import torch

from zerotumor.prompts import asks_for_anomaly, parse
from zerotumor.text import load_text_encoder
from zerotumor.zept.classes import ANY, class_set
from zerotumor.zept.selection import slot_weights, wanted_hosts

STARTER = class_set("starter")


def best(model, text):
    prompt = parse(text, encoder=model.encoder)[0]
    return STARTER.tumors[int(model.select([prompt])[0].argmax())]


def test_known_names_find_their_slots_and_new_ones_their_kin(make):
    model = make()
    assert best(model, "renal cell carcinoma") == "kidney tumor" and best(model, "liver tumor") == "liver tumor"
    assert best(model, "pancreatic cyst") == "kidney cyst" and best(model, "liver metastasis") == "liver tumor"
    assert best(model, "tumor") == ANY


def test_untrained_slots_never_answer(make):
    model = make()
    weights = model.select(parse("lung tumor; colon cancer; pancreatic cancer; splenic lesion; tumor"))
    untrained = [k for k in range(len(STARTER.tumors)) if k not in STARTER.trained]
    assert (weights[:, untrained] == 0).all() and torch.allclose(weights.sum(1), torch.ones(5), atol=1e-5)
    assert [STARTER.tumors[k] for k in STARTER.trained] == ["kidney tumor", "liver tumor", "kidney cyst", ANY]


def test_attributes_select(make):
    model = make()
    weights = model.select(parse("homogeneous lesion in the left kidney; heterogeneous lesion in the left kidney"))
    cyst, tumor = STARTER.tumors.index("kidney cyst"), STARTER.tumors.index("kidney tumor")
    assert weights[0, cyst] > 0.6 > weights[1, cyst] and weights[1, tumor] > weights[0, tumor]


def test_unknown_words_work_from_their_embedding(make):
    prompt = parse("gubbins of unclear dignity", encoder=load_text_encoder())[0]
    weights = slot_weights(prompt, STARTER, make().bank, load_text_encoder())
    assert torch.isclose(weights.sum(), torch.tensor(1.0)) and (weights >= 0).all()
    without = slot_weights(parse("gubbins of unclear dignity")[0], STARTER, make().bank)
    assert torch.isclose(without.sum(), torch.tensor(1.0))


def test_hosts_of_a_prompt():
    rows = wanted_hosts(parse("splenic lesion; tumor; lung nodule; left renal mass"), STARTER)
    found = [{STARTER.organs[k] for k in row.nonzero()[:, 0].tolist()} for row in rows]
    assert found == [{"spleen"}, set(), {"left lung", "right lung"}, {"left kidney"}]
    paper = class_set("paper")
    bowel = wanted_hosts(parse("duodenal lesion"), paper)[0]
    assert {paper.organs[k] for k in bowel.nonzero()[:, 0].tolist()} == {"duodenum", "small bowel"}


def scene(model):
    """Features of a scan in which the spleen fills one end, the liver the other, and all is an anomaly."""
    image = torch.rand(1, 2, 32, 32, 32)
    features = model.encode_image(image)
    mask = torch.zeros_like(features["mask"])
    mask[:, 0, :8], mask[:, 1, 24:], mask[:, 2, 8:24] = 1, 1, 1
    weights = torch.full_like(features["organ_weights"], -20.0)
    weights[..., mask.shape[1] :] = 0  # the offsets
    for name, channel in (("spleen", 0), ("liver", 1)):
        weights[:, STARTER.organs.index(name), channel] = 20
    return {**features, "mask": mask, "organ_weights": weights, "anomaly": torch.full_like(features["anomaly"], 30.0)}


@torch.no_grad()
def test_a_prompt_that_never_had_a_slot_is_drawn_in_its_organ_alone(make):
    model = make()
    with_host = scene(model)
    spleen, liver, anywhere = model.segment(with_host, parse("splenic lesion; liver metastasis; tumor")).logits[0] > 0
    assert spleen[:8].all() and not spleen[16:].any()
    assert liver[24:].all() and not liver[:16].any()
    assert anywhere.all()


@torch.no_grad()
def test_words_of_another_organ_find_less_and_those_of_none_as_much(make):
    """The anomaly is everywhere and limited nowhere: what tells the answers apart is the place."""
    free, placed = make(anomaly_gate="all"), make(anomaly_gate="all", place=0.5)
    placed.load_state_dict(free.state_dict())
    everywhere, prompts = scene(free), parse("splenic lesion; liver metastasis; tumor; anomaly")
    before, after = (m.segment(everywhere, prompts) for m in (free, placed))
    assert (before.logits > 0).all()
    spleen, liver = (after.logits[0, p] > 0 for p in (0, 1))
    assert spleen[:4].all() and not spleen[26:].any() and liver[28:].all() and not liver[:6].any()
    assert (after.logits[0, 2:] > 0).all() and torch.isfinite(after.logits).all()
    same = before.extras["ungated"][:, 2:], after.extras["ungated"][:, 2:]
    assert torch.allclose(*same, atol=1e-5)


@torch.no_grad()
def test_prompts_do_not_disturb_one_another(make):
    model = make()
    features = model.encode_image(torch.rand(1, 2, 32, 32, 32))
    both = model.segment(features, parse("splenic lesion; renal cyst")).logits
    turned = model.segment(features, parse("renal cyst; splenic lesion")).logits
    assert torch.allclose(both, turned.flip(1), atol=1e-5)
    assert torch.allclose(both[:, :1], model.segment(features, parse("splenic lesion")).logits, atol=1e-5)


def test_asking_for_the_anomaly():
    assert all(asks_for_anomaly(p) for p in parse("anomaly; Where is anything unusual?"))
    assert not any(asks_for_anomaly(p) for p in parse("tumor; anomaly in the liver"))
