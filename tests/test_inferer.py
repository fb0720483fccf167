"""Sliding windows, prompts and blending, with a method whose answer is known."""

import pytest
import torch

from zerotumor.inferer import (
    OVERLAP,
    PromptedSlidingWindowInferer,
    encode_volume,
    segment_volume,
    window_slices,
)
from zerotumor.kept import MemoryPlan
from zerotumor.prompts import parse
from zerotumor.segmenter import Segmentation, Segmenter


class Threshold(Segmenter):
    """Bright voxels are the lesion of every prompt but "liver tumor", which it never finds."""

    spacing, patch, theta = 2.0, 16, 0.5

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(20.0))
        self.encoded = 0

    def encode_image(self, image):
        self.encoded += 1
        return {"image": image[:, :1]}

    def segment(self, features, prompts):
        logits = (features["image"] - 0.5) * self.scale
        logits = torch.cat([logits - 100 * (p.lesion == "liver tumor") for p in prompts], 1)
        return Segmentation(logits, logits.flatten(2).amax(2).sigmoid())


def volume(*shape):
    image = torch.rand(2, *shape) * 0.2
    image[:, 5:12, 6:14, 3:9] = 1.0
    return image


@pytest.mark.parametrize("shape", [(20, 33, 17), (9, 40, 5), (16, 16, 16)])
def test_mask_is_exact_whatever_the_shape(shape):
    image = volume(*shape)
    result = segment_volume(Threshold(), image, parse("tumor"))
    assert result.probabilities.shape == (1, *shape)
    assert torch.equal(result.probabilities[0] >= 0.5, image[0] > 0.5)
    assert result.found == [True] and result.scores[0] > 0.9


def test_features_are_computed_once_for_all_prompts():
    image, model = volume(20, 33, 17), Threshold()
    segment_volume(model, image, parse("tumor"))
    one = model.encoded
    segment_volume(model, image, parse("tumor; renal cyst; bright"))
    assert model.encoded == 2 * one


def test_kept_features_answer_the_next_prompt_without_the_network():
    image, model = volume(20, 33, 17), Threshold()
    features = encode_volume(model, image)
    before = model.encoded
    kept = segment_volume(model, image, parse("renal cyst"), features=features)
    assert model.encoded == before
    assert torch.equal(kept.probabilities, segment_volume(model, image, parse("renal cyst")).probabilities)


def test_features_that_do_not_fit_are_not_kept():
    assert encode_volume(Threshold(), volume(20, 33, 17), plan=MemoryPlan(share=0.0)) is None


def test_a_prompt_without_a_lesion_is_empty_and_says_so():
    result = segment_volume(Threshold(), volume(20, 20, 20), parse("liver tumor; tumor"))
    assert result.found == [False, True]
    assert result.probabilities[0].sum() == 0 and result.probabilities[1].sum() > 0


def test_specks_are_not_findings():
    image = torch.zeros(2, 20, 20, 20)
    image[:, 3, 3, 3] = 1  # 8 cubic millimeters
    assert segment_volume(Threshold(), image, parse("tumor")).found == [False]


def test_no_prompt_is_an_error():
    with pytest.raises(ValueError, match="no prompt"):
        segment_volume(Threshold(), volume(16, 16, 16), [])


def test_progress_reaches_the_end():
    seen = []
    segment_volume(Threshold(), volume(20, 33, 17), parse("tumor"), progress=lambda k, n: seen.append((k, n)))
    assert seen[-1][0] == seen[-1][1] == len(window_slices((20, 33, 17), 16, OVERLAP))


def test_bundle_inferer_paints_prompts_by_number():
    image = volume(20, 20, 20)
    labels = PromptedSlidingWindowInferer("liver tumor; tumor")(image[None], Threshold())
    assert labels.shape == (1, 1, 20, 20, 20)
    assert labels.unique().tolist() == [0, 2]


def test_an_untouched_drop_down_sends_a_list():
    assert PromptedSlidingWindowInferer(["tumor", "cyst"]).prompt == "tumor"


def test_commas_of_a_prompt_survive_the_command_line():
    assert PromptedSlidingWindowInferer(("hypodense", "round")).prompt == "hypodense, round"


class Zoomed(Threshold):
    """Looks on three grids; what it has seen of each is counted."""

    zooms = (1.5, 1.0, 0.75)


def test_several_grids_agree_on_a_lesion_that_all_of_them_show():
    image = volume(20, 33, 17)
    result = segment_volume(Zoomed(), image, parse("tumor"))
    mask, truth = result.probabilities[0] >= 0.5, image[0] > 0.5
    assert result.probabilities.shape == (1, 20, 33, 17)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85
    shifted = [(m.nonzero().float().mean(0)) for m in (mask, truth)]
    assert torch.allclose(*shifted, atol=0.3)  # no grid moves it


def test_features_of_several_grids_are_kept_and_progress_counts_all():
    image, model, seen = volume(20, 33, 17), Zoomed(), []
    features = encode_volume(model, image, progress=lambda k, n: seen.append((k, n)))
    assert {w.zoom for w in features.windows} == set(model.zooms)
    counts = [len(window_slices(shape, 16, OVERLAP)) for shape in ((30, 50, 26), (20, 33, 17), (16, 25, 16))]
    assert seen[-1] == (sum(counts), sum(counts)) and model.encoded == len(features.windows)
    kept = segment_volume(model, image, parse("tumor"), features=features)
    assert torch.equal(kept.probabilities, segment_volume(model, image, parse("tumor")).probabilities)


class Tight(Zoomed):
    """Looks on other grids where one window holds a whole scan."""

    tight_zooms = (1.0, 1.5)


@pytest.mark.parametrize(
    ("shape", "zooms"), [((16, 14, 16), (1.0, 1.5)), ((17, 14, 16), (1.5, 1.0, 0.75)), ((40, 14, 9), (1.5, 1.0, 0.75))]
)
def test_a_scan_that_one_window_holds_is_looked_at_on_its_own_grids(shape, zooms):
    image, model = volume(*shape), Tight()
    features = encode_volume(model, image)
    assert {w.zoom for w in features.windows} == set(zooms)
    result = segment_volume(model, image, parse("tumor"), features=features)
    mask, truth = result.probabilities[0] >= 0.5, image[0] > 0.5
    assert mask.shape == shape
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.8
    assert Zoomed().grids(shape) == Zoomed.zooms  # a method without such grids answers as before


class FineOnly(Segmenter):
    """Finds its lesion, with a probability of 0.8, on its first grid alone; on the second it says 0.05."""

    patch, spacing, zooms = 16, 4.0, (1.25, 1.0)

    def __init__(self, theta, fine):
        super().__init__()
        self.theta, self.fine, self.anything = theta, fine, torch.nn.Parameter(torch.zeros(1))

    def encode_image(self, image):
        self.fine -= 1
        return {"p": torch.full_like(image[:, :1], 0.8 if self.fine >= 0 else 0.05)}

    def segment(self, features, prompts):
        threshold = torch.logit(torch.tensor(self.theta))
        return Segmentation(torch.logit(features["p"]) - threshold, features["p"].flatten(2).amax(2))


@pytest.mark.parametrize(("theta", "painted"), [(0.4, True), (0.45, False)])
def test_grids_are_averaged_as_probabilities_before_theta_counts(theta, painted):
    fine = len(window_slices((20, 20, 20), 16, OVERLAP))
    result = segment_volume(FineOnly(theta, fine), torch.rand(2, 16, 16, 16), parse("tumor"))
    assert result.found == [painted]  # (0.8 + 0.05) / 2 lies between both thetas
    assert bool((result.probabilities[0] >= 0.5).all()) == painted
    assert result.scores[0] == pytest.approx(0.425, abs=1e-3)


class Graded(Threshold):
    """The image's first channel is the probability, counted from theta."""

    def segment(self, features, prompts):
        p = features["image"].clamp(1e-4, 1 - 1e-4).repeat(1, len(prompts), 1, 1, 1)
        logits = torch.logit(p) - torch.logit(torch.tensor(self.theta))
        return Segmentation(logits, p.flatten(2).amax(2), extras={"ungated": p})

    has_ungated = True


@pytest.mark.parametrize(("peak", "sure", "unsure"), [(0.0, True, True), (0.6, True, False), (0.9, False, False)])
def test_a_connected_part_must_reach_the_peak_somewhere(peak, sure, unsure):
    """The sure part is painted down to theta all the same, and what ranks voxels stays as it was."""
    image, model = torch.full((2, 20, 20, 20), 0.1), Graded()
    image[:, 2:7, 2:7, 2:7], image[:, 12:18, 12:18, 12:18] = 0.45, 0.45
    image[:, 4, 4, 4] = 0.7
    model.theta, model.theta_peak = 0.4, peak
    result = segment_volume(model, image, parse("tumor"))
    painted = result.probabilities[0] >= 0.5
    assert bool(painted[2:7, 2:7, 2:7].all()) == sure and bool(painted[12:18, 12:18, 12:18].all()) == unsure
    assert int(painted.sum()) == 125 * sure + 216 * unsure
    assert result.found == [sure] and result.scores[0] == pytest.approx(0.7, abs=1e-3)
    assert torch.allclose(result.extras["ungated"][0], image[0], atol=1e-3)
