"""Finds of one method at the places of another, and masks that two methods see in different organs."""

import pytest
import torch
from torch import nn

from zerotumor.in_turn import InTurn, undisputed
from zerotumor.inferer import encode_volume, segment_volume
from zerotumor.placed import SHARE, WITHIN, Placed, Seen, together
from zerotumor.prompts import parse
from zerotumor.segmenter import Segmentation, Segmenter

LIVER, KIDNEY = "liver tumor", "kidney tumor"


class Sees(Segmenter):
    """Calls bright voxels a lesion, as probably as it is told to, whatever is asked for; all that it sees is liver."""

    organ_names = ("liver", "left kidney", "right kidney")

    def __init__(self, probable: float, spacing: float = 2.0) -> None:
        super().__init__()
        self.probable, self.spacing, self.patch = probable, spacing, 32
        self.paint(0.5, 0.0, 0.0)
        self.weights_sha256 = str(probable)
        self.nothing = nn.Parameter(torch.zeros(1))

    def encode_image(self, image):
        return {"image": image}

    def segment(self, features, prompts):
        p = torch.full((1, len(prompts), 1, 1, 1), self.probable)
        p = torch.where(features["image"][:, :1] > 0.5, p, 0.01)
        return Segmentation(torch.logit(p), p.flatten(2).amax(2))

    def organ_maps(self, features):
        """The whole body is one organ, nearly for sure."""
        image = features["image"][:, :1]
        maps = [torch.full_like(image, 0.97 if name == "liver" else 0.01) for name in self.organ_names]
        return torch.cat([torch.full_like(image, 0.01), *maps], 1)


@pytest.fixture
def image():
    image = torch.full((2, 40, 36, 32), 0.2)
    image[:, 10:20, 12:20, 8:16] = 0.9
    return image


def answer(model, image, text=f"{LIVER}; {KIDNEY}; tumor", **more):
    return segment_volume(model, image, parse(text), **more)


@pytest.mark.parametrize("spacing", [1.5, 2.0, 4.0])
def test_what_the_first_finds_counts_where_the_second_sees_the_organ(image, spacing):
    first, second = Sees(0.9), Sees(0.01, spacing)
    alone, placed = answer(first, image), answer(Placed(first, second), image)
    assert alone.found == [True] * 3 and placed.found == [True, False, True]
    doubted = together(alone.probabilities, torch.full_like(alone.probabilities, -WITHIN), None)  # as far as it may
    assert torch.allclose(placed.probabilities[[0, 2]], doubted[[0, 2]], atol=1e-5)
    less = float(doubted.max() / alone.probabilities.max())
    assert placed.scores[::2] == pytest.approx([less * s for s in alone.scores[::2]]) and placed.scores[1] < 0.05
    ranks = placed.extras["ungated"][1]  # still told apart, for what ranks voxels
    assert 0 < float(ranks.max()) < 0.05 and float(ranks[10:20, 12:20, 8:16].min()) > float(ranks[30:].max())


def test_where_the_second_knows_no_such_organ_it_says_nothing_and_looks_at_nothing(image):
    class Never(Sees):
        def encode_image(self, image):
            raise AssertionError("it was asked")

    first = Sees(0.9)
    alone, placed = (answer(m, image, "anomaly; brain tumor") for m in (first, Placed(first, Never(0.01))))
    assert torch.allclose(alone.probabilities, placed.probabilities, atol=1e-5) and alone.scores == placed.scores


def test_theta_of_the_first_counts_as_it_did(image):
    """Its logits count from theta; what is multiplied is the probability."""
    first = Sees(0.4)
    first.theta = 0.3
    first.segment = lambda features, prompts: Segmentation(
        torch.logit(torch.where(features["image"][:, :1] > 0.5, 0.4, 0.01)) - torch.logit(torch.tensor(0.3)),
        torch.tensor([[0.4]]),
    )
    half = Sees(0.5)
    half.organ_maps = lambda features: torch.tensor([0.0, 0.32, 0.98, 0.0])[None, :, None, None, None].expand(
        1, 4, *features["image"].shape[2:]
    )
    whole = answer(Placed(first, Sees(0.5)), image, LIVER)
    less = answer(Placed(first, half), image, LIVER)
    assert whole.found == [True] and less.found == [True]  # 0.425 times 0.32 / 0.98 / 0.4 is 0.347, and theta is 0.3
    nearer = float(torch.sigmoid((1 - SHARE) * torch.logit(torch.tensor(0.4))))  # the second is as good as silent
    assert whole.scores[0] == pytest.approx(nearer, abs=1e-3)
    assert less.scores[0] == pytest.approx(nearer * 0.32 / 0.98 / 0.4, abs=1e-3)


def test_who_is_sure_is_not_outvoted_and_who_doubts_is_told():
    """The first's probability from which on a mask is painted lies between what the second may add and take away."""
    said = torch.linspace(0.01, 0.99, 99)
    for belief in (-WITHIN, 0.0, WITHIN):
        heard = together(said, torch.full_like(said, belief), None)
        assert (heard.diff() > 0).all()  # voxels rank as they did
        painted = float(said[heard >= 0.5].min())
        assert torch.logit(torch.tensor(painted)) == pytest.approx(-belief * SHARE / (1 - SHARE), abs=0.05)
    assert torch.equal(together(said, None, None), said)
    assert torch.allclose(together(said, None, torch.full_like(said, 0.5)), said / 2)


@pytest.mark.parametrize(("second", "found"), [(0.01, False), (0.99, True)])
@pytest.mark.parametrize("spacing", [2.0, 4.0])
def test_where_the_first_is_in_doubt_the_second_decides(image, second, found, spacing):
    text = f"{LIVER}; tumor"
    assert answer(Placed(Sees(0.5), Sees(second, spacing)), image, text).found == [found] * 2
    assert answer(Placed(Sees(0.8), Sees(second, spacing)), image, text).found == [True] * 2
    assert answer(Placed(Sees(0.2), Sees(second, spacing)), image, text).found == [False] * 2


def test_each_prompt_is_asked_once(image):
    asked = []

    class Counts(Sees):
        def segment(self, features, prompts):
            asked.append([prompt.text for prompt in prompts])
            return super().segment(features, prompts)

    seen = Seen(Counts(0.9), image, 2.0, None)
    prompts = parse(f"{LIVER}; brain tumor; tumor; anomaly")
    liver, brain, anywhere, anomaly = seen.believes(prompts)
    assert brain is None and anomaly is None and torch.equal(liver, anywhere)
    assert (liver[image[0] > 0.5] == WITHIN).all() and (liver[image[0] < 0.5] == -WITHIN).all()
    assert seen.says(prompts[:3]).scores == pytest.approx([0.9] * 3)
    windows = len(encode_volume(Sees(0.9), image).windows)
    assert asked == [[LIVER, "tumor"]] * windows + [["brain tumor"]] * windows


def test_a_scan_is_looked_at_once_by_each_with_what_is_kept_and_without(image):
    looks = []

    class Counts(Sees):
        def encode_image(self, image):
            looks.append(1)
            return super().encode_image(image)

    second = Counts(0.999)
    model = InTurn(("a", Sees(0.2)), ("b", second), 0.99)  # the second is asked for places and for lesions
    plain = answer(model, image)
    once = len(looks)
    assert once == len(encode_volume(Sees(0.999), image).windows)
    features = encode_volume(model, image)
    for _ in range(2):
        kept = answer(model, image, features=features)
        assert torch.equal(kept.probabilities, plain.probabilities) and len(looks) == 2 * once
    assert Seen(model.second, image, 2.0, features).features is features.further[second.weights_sha256]


def test_the_second_does_not_speak_where_the_first_sees_the_same_in_another_organ(image):
    """The first finds a kidney tumor, and nothing in the liver; the second is sure that it lies in the liver."""
    first, second = Sees(0.9), Sees(0.999)
    first.organ_names = ()
    kidney = parse(KIDNEY)[0].organs
    first.segment = lambda features, prompts: Segmentation(
        torch.logit(p := torch.stack([
            torch.where(features["image"][0, 0] > 0.5, 0.9 if not q.organs or q.organs == kidney else 0.02, 0.01)
            for q in prompts
        ])[None]), p.flatten(2).amax(2)
    )  # fmt: skip
    assert answer(first, image).found == [False, True, True] and answer(second, image).found == [True] * 3
    both = answer(InTurn(("a", first), ("b", second), 0.99), image)
    assert both.found == [False, False, True]  # the kidney's by the second's places, the liver's by the first
    blind = Sees(0.2)
    blind.organ_names = ()
    assert answer(InTurn(("a", blind), ("b", second), 0.99), image).found == [True, True, True]


def test_only_parts_that_are_touched_are_disputed():
    masks, other = torch.full((9, 9, 9), 0.1), torch.zeros(9, 9, 9, dtype=torch.bool)
    masks[:3, :3, :3], masks[6:, 6:, 6:] = 0.9, 0.8
    assert torch.equal(undisputed(masks, other), masks)
    other[2:5, 2, 2] = True
    left = undisputed(masks, other)
    assert (left[:3, :3, :3] < 0.5).all() and torch.equal(left[6:], masks[6:]) and (left[3:6] == 0.1).all()
