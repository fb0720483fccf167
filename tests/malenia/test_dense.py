"""The first stage: organs and lesions voxel by voxel."""

import pytest
import torch
from monai.losses import DiceLoss

from zerotumor.balance import rare_weights
from zerotumor.malenia import Malenia, Targets
from zerotumor.malenia.criterion import MaleniaLoss
from zerotumor.malenia.dense import LEVELS, DenseLoss, DenseMalenia, organ_loss
from zerotumor.text import load_text_encoder
from zerotumor.vocabulary import ORGANS

SMALL = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "fine_channels": 2, "dim": 8, "tokens": 2, "heads": 2,
         "patch": 32}  # fmt: skip


def small(**more):
    torch.manual_seed(0)
    network = DenseMalenia(Malenia(**SMALL), **more)
    network.bank.fill(load_text_encoder())
    return network


def targets():
    mask = torch.zeros(1, 32, 32, 32)
    mask[0, 4:12, 4:12, 4:12] = 1
    nothing = torch.zeros(0, 32, 32, 32)
    organs = torch.arange(32).expand(2, 32, 32, 32) % 4
    return Targets([mask, nothing], [torch.zeros(1, 8, dtype=torch.long), torch.zeros(0, 8, dtype=torch.long)], organs)


@pytest.mark.parametrize("part", [None, 16])
def test_trains_the_backbone_and_leaves_tokens_alone(part):
    network, loss = small(part=part, whole=0.0), DenseLoss()
    outputs = network(torch.rand(2, 2, 32, 32, 32), targets())
    loss(outputs, targets()).backward()
    assert set(loss.last) == {"prior", "location", *(f"organs {name}" for name in LEVELS)}
    assert outputs["prior"][-1].shape[2:] == (part or 32,) * 3
    assert all(p.grad is not None for p in network.method.backbone.parameters())
    assert all(p.grad is not None for p in network.organs.parameters())
    assert all(p.grad is None for p in network.method.injection.parameters())


def test_validation_sees_the_prior_everywhere():
    assert small(part=16, whole=0.0)(torch.rand(2, 2, 32, 32, 32)).shape == (2, 1, 32, 32, 32)


def test_some_steps_learn_everything():
    network = small(part=16, whole=0.5)
    parts = [network.some_part((32, 32, 32)) for _ in range(200)]
    assert 60 < sum(part is None for part in parts) < 140
    cuts = [cut for part in parts if part for cut in part]
    assert all(cut.start % 2 == 0 and cut.stop - cut.start == 16 and cut.stop <= 32 for cut in cuts)
    assert {cut.start for cut in cuts} == set(range(0, 17, 2))


@pytest.mark.parametrize("name, stride", [("f1", 8), ("f2", 4), ("f4", 1)])
def test_labels_lie_where_the_voxels_do(name, stride):
    network = small(part=16)
    network.organs[name] = torch.nn.Identity()
    torch.manual_seed(1)
    image, organs = torch.zeros(1, 2, 32, 32, 32), torch.randint(0, 9, (1, 32, 32, 32))
    middle = organs[:, stride // 2 :: stride, stride // 2 :: stride, stride // 2 :: stride]
    shown, labels = network.on_some(name, middle[:, None], image, organs, None)
    assert torch.equal(shown[:, 0], labels) and labels.numel() >= 64
    if name == "f4":
        part = [slice(2, 18), slice(16, 32), slice(0, 16)]
        shown, labels = network.on_some(name, organs[:, None, *part], image, organs, part)
        assert torch.equal(shown[:, 0], labels) and labels.numel() == 8**3


def test_the_prior_is_judged_where_it_is_shown():
    truth, part = targets(), [slice(4, 20), slice(4, 20), slice(4, 20)]
    shown = torch.full((2, 1, 16, 16, 16), -8.0)
    shown[0, :, :8, :8, :8] = 8.0  # the lesion begins where the part does
    assert MaleniaLoss._prior(shown, truth, part) < 0.02 < MaleniaLoss._prior(shown.flip(2), truth, part)


def test_right_organs_cost_nothing_and_a_missed_rare_one_much():
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    labels[:, :4], labels[:, 7, 7, 7] = 3, 5
    right = torch.nn.functional.one_hot(labels, 1 + len(ORGANS)).movedim(-1, 1) * 20.0
    missed = right.clone()
    missed[:, :, 7, 7, 7] = right[:, :, 7, 7, 6].roll(1, 0)
    assert organ_loss(right, labels) < 0.01
    assert organ_loss(missed, labels) > 0.3
    empty = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    assert organ_loss(torch.nn.functional.one_hot(empty, 1 + len(ORGANS)).movedim(-1, 1) * 20.0, empty) < 0.01


def test_the_organ_loss_is_a_weighed_cross_entropy_and_monais_dice_of_the_organs_shown():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 8, 8, 8), generator=generator) * 2  # two organs of many
    logits = torch.randn(2, 1 + len(ORGANS), 8, 8, 8, generator=generator)
    entropy = torch.nn.functional.cross_entropy(logits, labels, weight=rare_weights(labels, 1 + len(ORGANS)))
    every = DiceLoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0, reduction="none")
    shown = every(logits, labels[:, None]).flatten()[[2, 4]]
    assert organ_loss(logits, labels) == pytest.approx(float(entropy + shown.mean()), rel=1e-5)
