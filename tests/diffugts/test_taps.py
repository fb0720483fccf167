"""Features of frozen networks that are kept between steps."""

import pytest
import torch

from zerotumor.diffugts.criterion import DiffuGTSLoss
from zerotumor.diffugts.samples import RandQuestions, collate, known, prepare_batch
from zerotumor.diffugts.taps import KeepTaps, RandMirrorTaps, WithTwin, numbered
from zerotumor.training import GeneratePhantom, RandAppearance, RandMirror


@pytest.fixture
def network(make):
    return make(taps="both").begin("attention")


@pytest.fixture
def keep(network, sample):
    """Two looks at one patch: one of the mirrored ones and the patch as it is."""
    return KeepTaps(network, [sample], [RandMirror((0.5, 0.0, 0.0))])


def test_every_look_at_every_patch_has_a_number_and_is_the_same_each_time(keep):
    records = numbered(1, 6)
    images = [keep(record)["image"] for record in records]
    assert all(torch.equal(keep(record)["image"], image) for record, image in zip(records, images, strict=True))
    assert 1 < len({float(image[:, :8].float().sum()) for image in images}) < 6


def test_training_on_kept_features_is_training_on_the_image(network, keep):
    sample = RandQuestions(3).set_random_state(0)(keep({"number": 0}))
    assert len(sample["taps"]) == len(network.attention.levels)
    kept = prepare_batch(collate([sample]), "cpu")
    fresh = prepare_batch(collate([{k: v for k, v in sample.items() if k != "taps"}]), "cpu")
    assert fresh[1].taps is None and kept[1].taps[0].dtype == torch.float32
    losses = [float(DiffuGTSLoss()(network(b[0], **b[3]), b[1])) for b in (kept, fresh)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)  # they are kept in half precision
    network.taps = None  # not needed any more
    network(kept[0], **kept[3])


def test_features_are_mirrored_with_the_patch(keep):
    sample = keep({"number": 0})
    turned = RandMirrorTaps(1.0)(sample)
    assert torch.equal(turned["image"].flip(1), sample["image"])
    assert all(torch.equal(a.flip(1), b) for a, b in zip(turned["taps"], sample["taps"], strict=True))
    same = RandMirrorTaps(0.0)(sample)
    assert torch.equal(same["image"], sample["image"]) and same["taps"] is sample["taps"]


def test_the_healthy_twin_is_asked_the_same_and_differs_in_the_lesion_alone(network):
    record = {"seed": 1, "difficulty": 0.0, "category": "kidney cyst"}
    patch = known(record, GeneratePhantom((16,) * 3, 12.0, twin=True)(record))
    keep = KeepTaps(network, [patch], [RandMirror((1.0, 0.0, 0.0)), RandAppearance(1.0)])
    sample = RandQuestions(3).set_random_state(0)(RandMirrorTaps(1.0)(keep({"number": 0})))
    own, twin = WithTwin()(sample)
    same = own["image"] == twin["image"]
    assert same.float().mean() > 0.5 and not same[:, own["lesions"][0] > 0].all()
    assert own["masks"].any() and not twin["masks"].any() and own["texts"] == twin["texts"]
    assert not torch.equal(own["taps"][0], twin["taps"][0])
    image, truth, _, keywords = prepare_batch(collate([[own, twin]]), "cpu")
    assert len(image) == 2 and torch.isfinite(network(image, **keywords)["logits"]).all()
