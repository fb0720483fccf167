"""Uncertainty is zero where an answer is sure, and one where it is a toss; it knows the prompt, and says why."""

import json

import pytest
import torch
from monai.data import MetaTensor

from zerotumor import uncertainty
from zerotumor.calibration import Calibration, Counts, Curve, read, record_of, replaced
from zerotumor.in_turn import IN_TURN
from zerotumor.inferer import segment_volume
from zerotumor.pipeline import segment_scan
from zerotumor.prompts import parse
from zerotumor.segmenter import Segmentation, Segmenter, load
from zerotumor.uncertainty import assess, binary_entropy, case_uncertainty, committee, mirror_axes, novelty


class Bright(Segmenter):
    """Says that a lesion is where the image is bright; `front`: of its front half alone, whichever way it is shown."""

    spacing, patch, theta = 3.0, 16, 0.5

    def __init__(self, front=False):
        super().__init__()
        self.front, self.weight = front, torch.nn.Parameter(torch.zeros(1))

    def encode_image(self, image):
        return {"image": image}

    def segment(self, features, prompts):
        p = features["image"][:, 1:2].expand(-1, len(prompts), -1, -1, -1).clamp(0, 1).clone()
        if self.front:
            p[..., : p.shape[3] // 2, :] *= 0.1
        return Segmentation(torch.logit(p, eps=1e-6), p.flatten(2).amax(-1))


class Words:
    """A text encoder to which a spacecraft is like nothing else."""

    def encode(self, texts):
        return torch.stack([torch.tensor([0.0, 1.0] if "spacecraft" in t else [0.8, 0.6]) for t in texts])


def scan_with(value, shape=(16, 16, 16)):
    """MR with a cube whose soft window is `value`: what `Bright` takes for its probability."""
    image = torch.full(shape, 0.02)
    image[4:9, 9:14, 4:9] = value
    image[0, 0, :8], image[-1, -1, :8] = 1.0, 0.0
    return MetaTensor(image[None] * 1000, affine=torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0])))


@pytest.fixture
def prepared(monkeypatch):
    """Scans are shown to the network as they are: what is tested is what is made of its answers."""

    def prepare(scan, modality, spacing):
        values = torch.as_tensor(scan).as_subclass(torch.Tensor) / 1000
        return MetaTensor(values.repeat(2, 1, 1, 1), affine=scan.affine)

    monkeypatch.setattr("zerotumor.pipeline.prepare", prepare)


def test_entropy_in_bits():
    values = binary_entropy(torch.tensor([0.0, 0.5, 1.0, 0.25]))
    assert torch.allclose(values, torch.tensor([0.0, 1.0, 0.0, 0.8113]), atol=1e-3)


def test_sure_and_unsure_cases():
    sure, unsure = torch.zeros(8, 8, 8), torch.zeros(8, 8, 8)
    sure[2:5, 2:5, 2:5], unsure[2:5, 2:5, 2:5] = 0.999, 0.45
    assert case_uncertainty(sure, 0.9) < 0.05 < 0.9 < case_uncertainty(unsure, 0.9)


@pytest.mark.parametrize(("score", "expected"), [(0.5, 1.0), (0.0, 0.0), (1.0, 0.0)])
def test_where_nothing_may_be_lesion_the_score_decides(score, expected):
    assert case_uncertainty(torch.zeros(4, 4, 4), score) == pytest.approx(expected, abs=1e-3)


def test_a_faint_lesion_is_less_sure_than_a_clear_one(prepared):
    clear, faint = (
        assess(Bright(), scan_with(v), parse("tumor", modality="MR"), calibration=Calibration())[0]
        for v in (0.99, 0.55)
    )
    assert clear.map.shape == (1, 16, 16, 16)
    assert clear.value < 0.4 < 0.9 < faint.value and "undecided" in faint.reason
    assert float(clear.map[0, 6, 11, 6]) < 0.1 < 0.4 < float(faint.map[0, 6, 11, 6]) <= 0.5
    assert float(faint.map[0, 1, 3, 12]) < 0.1, "what is surely no lesion is sure"
    assert faint.perturbation < 0.05, "the looks agree that it is faint"
    json.dumps(faint.parts())


def test_what_changes_with_the_look_is_told_from_what_does_not(prepared):
    prompts = parse("tumor", modality="MR")
    steady, fickle = (assess(Bright(f), scan_with(0.95), prompts, calibration=Calibration())[0] for f in (False, True))
    assert fickle.perturbation > 0.15 > 0.05 > steady.perturbation
    assert "answered differently" in fickle.reason and "answered differently" not in steady.reason


def test_weights_that_know_no_mirrored_body_are_shown_none(prepared):
    model, prompts = Bright(True), parse("tumor", modality="MR")  # it answers a mirrored scan differently
    model.mirrored = False
    assert assess(model, scan_with(0.95), prompts, calibration=Calibration())[0].perturbation < 0.05
    assert load("malenia").mirrored and not load("zept").mirrored and not load(IN_TURN).mirrored


def test_the_same_seed_gives_the_same_numbers_and_no_look_changes_the_answer(prepared):
    scan, prompts = scan_with(0.7), parse("tumor", modality="MR")
    one, two, other = (assess(Bright(), scan, prompts, seed=s, calibration=Calibration())[0] for s in (0, 0, 1))
    assert torch.equal(one.map, two.map) and one.value == two.value
    assert not torch.equal(one.probability, other.probability)
    plain = assess(Bright(), scan, prompts, passes=0, calibration=Calibration())[0]
    assert plain.perturbation == pytest.approx(0, abs=1e-6)
    mask = segment_scan(Bright(), scan, prompts).masks[0]
    assert torch.equal(mask > 0, plain.probability >= 0.5)


def test_an_answer_that_is_there_is_not_made_again(prepared, monkeypatch):
    model, scan, prompts = Bright(), scan_with(0.7), parse("tumor", modality="MR")
    settings = {"passes": 2, "calibration": Calibration()}
    asked = assess(model, scan, prompts, **settings)[0]
    answer, calls = segment_scan(model, scan, prompts).answer, []
    monkeypatch.setattr(uncertainty, "segment_volume", lambda *a, **k: calls.append(1) or segment_volume(*a, **k))
    given = assess(model, scan, prompts, plain=answer, **settings)[0]
    assert len(calls) == 2 and torch.equal(given.map, asked.map) and given.parts() == asked.parts()
    assert torch.equal(answer.probabilities, segment_scan(model, scan, prompts).answer.probabilities)  # not written to


def test_a_committee_that_disagrees_says_on_how_much(prepared):
    scan, prompts = scan_with(0.99), parse("tumor", modality="MR")
    own = segment_scan(Bright(), scan, prompts).masks
    half = own.clone()
    half[:, 6:] = 0
    settings = {"passes": 0, "calibration": Calibration()}
    agree = assess(Bright(), scan, prompts, others=[own, own], **settings)[0]
    split = assess(Bright(), scan, prompts, others=[own, half], **settings)[0]
    alone = assess(Bright(), scan, prompts, **settings)[0]
    missing = float((own[0] != half[0]).sum()) * 0.027
    assert agree.disagreement_ml == 0 and alone.disagreement_ml is None
    assert split.disagreement_ml == pytest.approx(missing, rel=1e-4)
    assert f"the 3 methods disagree on {missing:.0f} ml" in split.reason
    assert float(split.map[0][(own[0] != half[0])].min()) >= 0.5 and split.value > agree.value
    votes = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0]])[:, None, None]
    assert torch.allclose(committee(votes)[0, 0], torch.tensor([0.0, 0.9183, 0.0]), atol=1e-3)


def test_words_far_from_all_that_was_seen_are_new():
    assert novelty(parse("liver tumor")[0], None) == 0.0
    assert novelty(parse("hull of a spacecraft")[0], None) is None
    assert novelty(parse("hull of a spacecraft")[0], Words()) == pytest.approx(0.4)
    assert novelty(parse("glioblastoma")[0], Words()) == pytest.approx(0, abs=1e-6)


def test_a_prompt_that_means_one_side_is_not_mirrored_across_it():
    assert mirror_axes(parse("kidney tumor")) == (0, 1, 2)
    assert mirror_axes(parse("left kidney tumor")) == (1, 2)
    assert mirror_axes(parse("liver tumor; cyst in the right kidney")) == (1, 2)
    for text in ("left-sided colon mass", "LEFT mass", "lesion (left)", "left/lower lobe mass", "right_sided mass"):
        assert mirror_axes(parse(text)) == (1, 2), text
    assert mirror_axes(parse("bright mass")) == mirror_axes(parse("cleft lesion")) == (0, 1, 2)


def test_calibration_learns_how_often_what_was_said_was_so(tmp_path):
    generator = torch.Generator().manual_seed(0)
    said = torch.rand(20_000, generator=generator)
    was = (torch.rand(20_000, generator=generator) < said.square()).double()  # twice too bold
    counts = Counts.of(said, was)
    curve = counts.fit()
    assert counts.ece() > 0.1 > 0.02 > counts.ece(curve)
    assert torch.allclose(curve(torch.tensor([0.3, 0.6, 0.9])), torch.tensor([0.09, 0.36, 0.81]), atol=0.06)
    assert all(a <= b for a, b in zip(curve.observed, curve.observed[1:], strict=False))
    assert counts.above(0.5).number.sum() == (said >= 0.5).sum()
    model = Bright()
    model.weights_sha256 = "abc"
    path = tmp_path / "uncertainty.json"
    path.write_text(json.dumps({"weights": [record_of(Calibration(curve, Curve(), {"phantoms": 3}), "abc")]}))
    known = read(model, path)
    assert known.measured == {"phantoms": 3} and known.voxel(torch.tensor([0.6])) == pytest.approx(0.36, abs=0.06)
    model.weights_sha256 = "other"
    assert read(model, path).measured is None, "curves of other weights say nothing"
    path.write_text("{}")
    with pytest.raises(ValueError, match="measure again"):
        read(model, path)


def test_new_curves_take_the_place_of_those_of_weights_that_went():
    def record(sha, file=None):
        return record_of(Calibration(measured={"phantoms": 1}), sha, file)

    known = [record("a", "model.pt"), record("b", "zept/model.pt"), record("mine"), record("c")]
    assert [r["weights_sha256"] for r in replaced(known, [record("new", "zept/model.pt")])] == ["a", "mine", "c", "new"]
    assert [r["weights_sha256"] for r in replaced(known, [record("mine")])] == ["a", "b", "c", "mine"]
    assert replaced(known, [record("c", "c.pt")])[-1]["file"] == "c.pt" and "file" not in record("mine")


def test_a_calibrated_map_says_how_often_the_answer_is_wrong(prepared):
    bold = Calibration(Curve((0.0, 0.7, 1.0), (0.0, 0.2, 0.9)), Curve((0.0, 1.0), (0.5, 0.6)), {"phantoms": 1})
    result = assess(Bright(), scan_with(0.7), parse("tumor", modality="MR"), passes=0, calibration=bold)[0]
    assert float(result.map[0, 6, 11, 6]) == pytest.approx(0.8, abs=0.02), "it answered lesion, which one in five is"
    assert 0.5 <= result.value <= 0.6 and result.calibrated


def test_looks_leave_what_is_outside_of_the_scan_empty():
    image = torch.zeros(2, 8, 8, 8)
    image[:, 2:5] = 0.5
    for look, axis in uncertainty.looks(image, (0,), 4, 0):
        look = look if axis is None else look.flip(1 + axis)
        assert float(look[:, 5:].abs().max()) == 0 and not torch.equal(look[:, 2:5], image[:, 2:5])
