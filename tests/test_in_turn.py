"""Methods that are asked in turn: who answers what, on which grid, and from when on."""

import json
import shutil

import pytest
import torch
from torch import nn

from zerotumor.in_turn import IN_TURN, JOINT, SECOND, InTurn, usual
from zerotumor.inferer import encode_volume, segment_volume
from zerotumor.prompts import parse
from zerotumor.segmenter import MODELS, Segmentation, Segmenter, WeightsError, load, read_record

PROMPTS = "liver tumor; kidney cyst"


class Sees(Segmenter):
    """Calls bright voxels a lesion, as probably as it is told to for each prompt; dark ones never."""

    has_ungated = True

    def __init__(self, probable: dict[str, float], spacing: float = 2.0, **more: float) -> None:
        super().__init__()
        self.probable, self.spacing, self.patch = probable, spacing, 32
        self.paint(more.get("theta", 0.5), more.get("theta_peak", 0.0), 0.0)
        self.nothing = nn.Parameter(torch.zeros(1))

    def encode_image(self, image):
        return {"image": image}

    def segment(self, features, prompts):
        p = torch.tensor([self.probable[prompt.text] for prompt in prompts])[None, :, None, None, None]
        p = torch.where(features["image"][:, :1] > 0.5, p, 0.01)
        logits = torch.logit(p) - torch.logit(torch.tensor(self.theta))
        said = [{"attributes": self.spacing} for _ in prompts]
        return Segmentation(logits, p.flatten(2).amax(2), said, {"ungated": p})


@pytest.fixture
def image():
    image = torch.full((2, 40, 36, 32), 0.2)
    image[:, 10:20, 12:20, 8:16] = 0.9
    return image


def answer(model, image):
    return segment_volume(model, image, parse(PROMPTS))


@pytest.mark.parametrize("spacing", [1.5, 2.0, 4.0])
def test_the_second_answers_what_the_first_does_not_find_on_the_first_ones_grid(image, spacing):
    first = Sees({"liver tumor": 0.9, "kidney cyst": 0.3})
    second = Sees({"liver tumor": 0.01, "kidney cyst": 0.995}, spacing)
    alone, both = answer(first, image), answer(InTurn(("a", first), ("b", second), 0.99), image)
    assert alone.found == [True, False] and both.found == [True, True]
    assert torch.allclose(both.probabilities[0], alone.probabilities[0], atol=1e-5)  # what the first finds is its own
    mask, truth = both.probabilities[1] >= 0.5, image[0] > 0.5
    overlap = 2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum())
    assert overlap > (0.99 if spacing == 2.0 else 0.8)
    assert both.scores[1] == pytest.approx(0.995) and both.scores[0] == alone.scores[0]
    assert both.attributes == [{"attributes": 2.0}, {"found_by": "b", "attributes": spacing}]
    assert torch.equal(both.extras["ungated"][0], alone.extras["ungated"][0])
    assert float(both.extras["ungated"][1].max()) == pytest.approx(0.995)  # voxels rank as who answers says


@pytest.mark.parametrize(("probable", "found"), [(0.95, False), (0.995, True)])
def test_the_second_speaks_from_its_own_peak_on_and_draws_by_its_own_theta(image, probable, found):
    silent = Sees(dict.fromkeys(("liver tumor", "kidney cyst"), 0.3))
    second = Sees(dict.fromkeys(("liver tumor", "kidney cyst"), probable), theta=0.7, theta_peak=0.9)
    alone, both = answer(silent, image), answer(InTurn(("a", silent), ("b", second), 0.99), image)
    assert both.found == [found] * 2 and answer(second, image).found == [True] * 2
    assert (second.theta, second.theta_peak) == (0.7, 0.9)  # it is not changed
    if not found:
        assert torch.equal(both.extras["ungated"], alone.extras["ungated"])
        assert both.scores == alone.scores and not both.probabilities.any()


@pytest.mark.parametrize(("joint", "found"), [(None, [True, True]), (0.8, [True, False])])
def test_with_the_seconds_say_masks_have_a_peak_of_their_own(image, joint, found):
    first = Sees({"liver tumor": 0.9, "kidney cyst": 0.7}, theta_peak=0.6)
    silent = Sees(dict.fromkeys(("liver tumor", "kidney cyst"), 0.01))
    both = InTurn(("a", first), ("b", silent), 0.99, joint)
    assert answer(both, image).found == found and (both.base.theta_peak, first.theta_peak) == (0.6, 0.6)


def test_features_of_the_second_are_made_once_a_scan_if_they_are_wanted_at_all(image):
    class Counts(Sees):
        looks = 0

        def encode_image(self, image):
            Counts.looks += 1
            return super().encode_image(image)

    first, sure = Sees({"liver tumor": 0.9, "kidney cyst": 0.3}), dict.fromkeys(("liver tumor", "kidney cyst"), 0.995)
    model = InTurn(("a", first), ("b", Counts(sure)), 0.99)
    features = encode_volume(model, image)
    alone = features.bytes
    segment_volume(model, image, parse("liver tumor"), features=features)
    assert Counts.looks == 0 and features.bytes == alone
    plain = answer(model, image)
    once = Counts.looks
    for _ in range(2):
        kept = segment_volume(model, image, parse(PROMPTS), features=features)
        assert torch.equal(kept.probabilities, plain.probabilities) and kept.scores == plain.scores
        assert Counts.looks == 2 * once and features.bytes > alone


def test_a_first_method_that_finds_everything_is_never_followed(image):
    class Never(Sees):
        def encode_image(self, image):
            raise AssertionError("it was asked")

    sure = dict.fromkeys(("liver tumor", "kidney cyst"), 0.9)
    assert answer(InTurn(("a", Sees(sure)), ("b", Never(sure)), 0.95), image).found == [True, True]


def test_starter_weights_are_asked_in_turn_by_default():
    model = load(IN_TURN)
    first, second = (
        read_record(MODELS / file, name) for file, name in (("model.pt", "malenia"), ("zept/model.pt", "zept"))
    )
    assert usual() == IN_TURN and model.records == (first, second)
    assert model.weights_sha256 == f"malenia:{first['sha256']},zept:{second['sha256']}"
    assert second[SECOND]["after"] == first["sha256"]
    assert model.second.theta_peak == second[SECOND]["theta_peak"] > second["config"]["theta_peak"]
    assert model.second.theta == second["config"]["theta"]
    assert second[JOINT]["after"] == first["sha256"] and model.theta_peak == second[JOINT]["theta_peak"]
    assert (model.theta, model.base.theta_peak) == tuple(first["config"][key] for key in ("theta", "theta_peak"))


@pytest.mark.parametrize(
    ("method", "message"),
    [("malenia+malenia", "two methods"), ("malenia+zept+diffugts", "two methods"), ("malenia+", "no method ''"),
     ("malenia+nobody", "no method 'nobody'"), ("zept+malenia", "calibrate.py")],
)  # fmt: skip
def test_what_cannot_be_asked_in_turn_is_refused(method, message):
    with pytest.raises((ValueError, WeightsError), match=message):
        load(method)


def test_one_file_of_weights_is_one_method():
    with pytest.raises(ValueError, match="give the folder of both"):
        load(IN_TURN, MODELS / "model.pt")
    assert usual(MODELS / "model.pt") == "malenia"


def test_weights_for_which_nobody_measured_the_second_are_asked_alone(tmp_path):
    (tmp_path / "zept").mkdir()
    for name in ("model.pt", "model.json"):
        shutil.copyfile(MODELS / name, tmp_path / name)
    assert usual(tmp_path) == "malenia"
    for name in ("zept/model.pt", "zept/model.json"):
        shutil.copyfile(MODELS / name, tmp_path / name)
    assert usual(tmp_path) == IN_TURN
    record = json.loads((tmp_path / "zept/model.json").read_text())
    record[SECOND]["after"] = "0" * 64  # of other weights
    (tmp_path / "zept/model.json").write_text(json.dumps(record))
    assert usual(tmp_path) == "malenia"
    with pytest.raises(WeightsError, match="calibrate.py"):
        load(IN_TURN, tmp_path)
    (tmp_path / "zept/model.pt").write_bytes(b"tampered")
    with pytest.raises(WeightsError, match="hash differs"):
        usual(tmp_path)
