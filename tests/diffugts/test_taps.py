"""Features of frozen networks that are kept between steps."""

import pytest
import torch

from zerotumor.diffugts.criterion import DiffuGTSLoss
from zerotumor.diffugts.samples import RandQuestions, collate, prepare_batch
from zerotumor.diffugts.taps import KeepTaps, RandMirrorTaps, numbered
from zerotumor.training import RandMirror


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
