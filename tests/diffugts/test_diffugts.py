"""DiffuGTS as a whole: the contract, the second look at whole scans, volumes and scales."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from zerotumor.diffugts import DiffuGTS
from zerotumor.diffugts.attention import peak_logit
from zerotumor.diffugts.options import CHOICES, PAPER, Options
from zerotumor.inferer import encode_volume, segment_volume, settled
from zerotumor.pipeline import segment_scan
from zerotumor.prompts import parse
from zerotumor.segmenter import Segmentation

EDGE = 16
PROMPTS = parse("liver tumor; lesion in the spleen")


def scan_of(edge=EDGE):
    """A "CT" (2, X, Y, Z) whose windows belong together."""
    hounsfield = 200 * torch.rand(1, edge, edge, edge) - 100
    return torch.cat([(hounsfield + 1000) / 1400, ((hounsfield + 160) / 400).clamp(0, 1)])


def first_look(shape, *spots, prompts=1, score=1.0):
    """What windows might have said: lesions at corners of 3 voxels an edge."""
    logits = torch.full((1, prompts, *shape), -4.0)
    for p, x, y, z in spots:
        logits[0, p, x : x + 3, y : y + 3, z : z + 3] = 4.0
    return Segmentation(logits, torch.full((1, prompts), score))


@torch.no_grad()
def test_contract(make):
    model, image = make(theta=0.0, threshold=0.0), torch.stack([scan_of(), scan_of()])
    answer = model.segment(model.encode_image(image), PROMPTS)
    assert answer.logits.shape == (2, 2, EDGE, EDGE, EDGE) and torch.isfinite(answer.logits).all()
    assert answer.scores.shape == (2, 2) and ((answer.scores >= 0) & (answer.scores <= 1)).all()
    assert set(answer.extras) == {*model.maps, "ungated"}
    assert all(answer.extras[name].shape == (2, 1, EDGE, EDGE, EDGE) for name in model.maps)
    assert answer.extras["ungated"].shape == answer.logits.shape
    assert torch.equal(model(image, PROMPTS), answer.logits) and model(image).shape == (2, 1, EDGE, EDGE, EDGE)


@pytest.mark.parametrize("taps", CHOICES["taps"])
@torch.no_grad()
def test_features_come_from_either_network(make, taps):
    model = make(taps=taps)
    queries = [k for k in model.encode_image(scan_of()[None]) if k.startswith("query")]
    count = {"encoder": len(model.prior.encoder_tap_channels), "unet": len(model.prior.unet_tap_channels)}
    assert len(queries) == count.get(taps, sum(count.values()))
    assert model(scan_of()[None], answer="attention").shape == (1, 1, EDGE, EDGE, EDGE)


@pytest.mark.parametrize("answer", CHOICES["answer"])
@torch.no_grad()
def test_the_ablation_answers_in_four_ways(make, answer):
    model, image = make(), scan_of()[None]
    torch.nn.init.normal_(model.fusion.net[-1].weight)
    first = first_look(image.shape[2:], (0, 5, 5, 5))
    out = model.ablate(answer).complete(image, first, PROMPTS[:1])
    hole = out.extras["hole"] > 0
    if answer == "attention":
        assert torch.equal(out.logits, first.logits)
        return
    assert (out.logits[~hole] < 0).all() and not torch.equal(out.logits[hole], first.logits[hole])
    if answer in ("pixel", "feature"):
        assert 0 < int((out.logits[hole] > 0).sum()) < int(hole.sum())  # Otsu tells two kinds apart


def test_unknown_parts_and_options_are_refused(make):
    with pytest.raises(ValueError, match="no answer 'half': choose one of fusion"):
        make().ablate("half")
    for name in CHOICES:
        with pytest.raises(ValueError, match=f"{name} cannot be 'both ways'"):
            Options(**{name: "both ways"})
    with pytest.raises(ValueError, match="alpha must lie in 0..1"):
        Options(alpha=2.0)
    with pytest.raises(ValueError, match="beta1 must be a number"):
        Options(beta1=-1.0)
    assert Options(**PAPER).adapter == "pointwise"
    with pytest.raises(ValueError, match="stages attention and residual"):
        make().begin("all")


@torch.no_grad()
def test_outside_the_hole_the_pseudo_healthy_volume_is_the_scan(make):
    model, image = make(), scan_of(20)[None]
    out = model.complete(image, first_look((20, 20, 20), (0, 8, 8, 8)), PROMPTS[:1])
    hole = out.extras["hole"] > 0
    healthy = out.extras["pseudo_healthy"]
    assert 27 < hole.sum() < hole.numel() / 2 and healthy.shape == (1, 1, 20, 20, 20)
    assert torch.equal(healthy[~hole], image[:, :1][~hole]) and not torch.equal(healthy[hole], image[:, :1][hole])
    assert (out.extras["residual"][~hole] == 0).all() and (out.extras["residual"][hole] > 0).any()


@torch.no_grad()
def test_nothing_found_costs_no_drawing_and_changes_nothing(make, monkeypatch):
    model, image = make(), scan_of()
    monkeypatch.setattr(DiffuGTS, "heal", lambda *_: pytest.fail("nothing is to be drawn"))
    unsure = first_look(image.shape[1:], (0, 5, 5, 5), score=0.4)
    empty = first_look(image.shape[1:], score=0.9)
    for first in (unsure, empty):
        out = model.complete(image[None], first, PROMPTS[:1])
        assert torch.equal(out.extras["pseudo_healthy"][0], image[:1])
        assert out.extras["hole"].sum() == out.extras["residual"].sum() == 0
        assert (out.logits < 0).all() and torch.allclose(out.extras["ungated"], first.logits.sigmoid())
    result = segment_volume(make(threshold=1.0), image, PROMPTS)
    assert result.found == [False, False] and result.probabilities.sum() == 0
    assert torch.equal(result.extras["pseudo_healthy"], image[:1])


@torch.no_grad()
def test_a_learned_score_may_say_no(make):
    model, image = make(), scan_of()[None]
    features = model.encode_image(image)
    peak = peak_logit(model.segment_window(features, PROMPTS).logits).sigmoid()
    torch.nn.init.zeros_(model.attention.score.mlp[-1].weight)
    for says in (5.0, -5.0):
        torch.nn.init.constant_(model.attention.score.mlp[-1].bias, says)
        scores = model.segment_window(features, PROMPTS).scores
        assert torch.allclose(scores, peak.clamp_max(float(torch.tensor(says).sigmoid())))


@pytest.mark.parametrize("answer", ["attention", "fusion"])
@torch.no_grad()
def test_the_answer_is_counted_from_theta_and_its_hole_is_not(make, answer):
    """Above 0 is what reaches theta; the score of what was drawn is that of the fused map."""
    model, image = make().ablate(answer), scan_of()[None]
    torch.nn.init.normal_(model.fusion.net[-1].weight, std=0.1)
    first = first_look(image.shape[2:], (0, 5, 5, 5))
    plain = model.complete(image, first, PROMPTS[:1])
    hole = plain.extras["hole"] > 0
    where = hole if answer == "fusion" else torch.ones_like(hole)
    theta = float(plain.extras["ungated"][where].quantile(0.7))
    model.theta = theta
    counted = model.complete(image, first, PROMPTS[:1])
    assert torch.equal(counted.extras["hole"] > 0, hole) and hole.any() == (answer == "fusion")
    assert torch.allclose(counted.extras["ungated"], plain.extras["ungated"])
    value = counted.extras["ungated"]
    clear = (value - theta).abs() > 1e-4
    assert torch.equal((counted.logits > 0)[clear], ((value > theta) & where)[clear]) and (counted.logits > 0).any()
    if answer == "fusion":
        highest = peak_logit(torch.logit(value).masked_fill(~hole, -8.0)).sigmoid()
        assert torch.allclose(counted.scores, highest, atol=1e-5)


@torch.no_grad()
def test_each_prompt_is_answered_in_its_own_hole(make):
    model, image = make(), scan_of(32)[None]
    first = first_look((32, 32, 32), (0, 4, 4, 4), (1, 24, 24, 24), prompts=2)
    out = model.complete(image, first, PROMPTS)
    left, right = out.logits[0, 0] > 0, out.logits[0, 1] > 0
    assert left[:12].any() and not left[20:].any() and right[20:].any() and not right[:12].any()
    assert out.extras["hole"][0, 0, 5, 5, 5] == out.extras["hole"][0, 0, 25, 25, 25] == 1


@torch.no_grad()
def test_a_lesion_is_drawn_once_however_many_windows_see_it(make, monkeypatch):
    """Where eight windows overlap: one hole, one box, laid around the hole."""
    model, image = make(), scan_of(24)
    image[0, 11:14, 11:14, 11:14] = 1.0
    drawn, seen, whole = [], [], DiffuGTS.heal

    def look(self, features, prompts):
        seen.append(bool((features["bright"] > 0.95).any()))
        return Segmentation(torch.where(features["bright"] > 0.95, 4.0, -4.0), torch.ones(1, 1))

    monkeypatch.setattr(DiffuGTS, "encode_image", lambda self, image: {"bright": image[:, :1]})
    monkeypatch.setattr(DiffuGTS, "segment_window", look)
    monkeypatch.setattr(DiffuGTS, "heal", lambda self, i, h, *a, **k: (drawn.append(h), whole(self, i, h, *a, **k))[1])
    result = segment_volume(model, image, PROMPTS[:1])
    assert sum(seen) == 8 and len(drawn) == 1
    assert drawn[0].sum() == result.extras["hole"].sum() == (3 + 2 * model.steps) ** 3


@pytest.mark.parametrize("modality", ["CT", "MR"])
@torch.no_grad()
def test_the_prior_is_told_what_the_scan_is_and_gets_scaled_means(make, monkeypatch, modality):
    model, image = make(), scan_of()[None]
    model.prior.scale_factor.fill_(1.7)
    if modality == "MR":
        image[:, 1] = image[:, 1].flip(2)
    told, whole = [], type(model.prior).predict
    monkeypatch.setattr(type(model.prior), "predict", lambda self, z, t, c: (told.append(c), whole(self, z, t, c))[1])
    hole = torch.zeros(1, 1, EDGE, EDGE, EDGE, dtype=torch.bool)
    hole[..., 4:8, 4:8, 4:8] = True
    healed = model.heal(image, hole)
    assert told and {c.modality for c in told} == {modality} and {c.spacing for c in told} == {(4.0, 4.0, 4.0)}
    mean = model.prior.autoencoder.encode(image[:, :1])[0]
    assert torch.allclose(healed.latent, 1.7 * mean, atol=1e-5)
    assert torch.allclose(healed.reconstruction, model.prior.autoencoder.decode(mean), atol=1e-4)


@torch.no_grad()
def test_kept_features_answer_alike_and_hold_no_image(make):
    model, image = make(theta=0.0, threshold=0.0), scan_of(20)
    kept = encode_volume(model, image)
    assert "image" not in kept.windows[0].features
    fresh, again = segment_volume(model, image, PROMPTS), segment_volume(model, image, PROMPTS, features=kept)
    assert torch.equal(fresh.probabilities, again.probabilities)
    for name in model.maps:
        assert fresh.extras[name].shape == (1, 20, 20, 20) and torch.equal(fresh.extras[name], again.extras[name])


@torch.no_grad()
def test_a_scan_is_encoded_once_and_text_alone_is_asked_again(make, monkeypatch):
    model = make(threshold=1.0)
    kept = encode_volume(model, scan_of())
    monkeypatch.setattr(DiffuGTS, "encode_image", lambda *_: pytest.fail("the scan is encoded already"))
    monkeypatch.setattr(type(model.prior), "encode", lambda *_: pytest.fail("nothing was found"))
    for text in ("liver tumor", "lesion in the spleen"):
        segment_volume(model, scan_of(), parse(text), features=kept)


@torch.no_grad()
def test_text_decides(make):
    model, image = make(), scan_of()[None]
    one, other, same = (
        model(image, parse(t), answer="attention") for t in ("liver tumor", "lung tumor", "liver tumor")
    )
    assert torch.equal(one, same) and (one - other).abs().max() > 1e-4


@torch.no_grad()
def test_more_of_quality_is_another_drawing(make):
    model, image = make(theta=0.0), scan_of()[None]
    first = first_look(image.shape[2:], (0, 5, 5, 5))
    assert set(model.qualities) == {"fast", "standard", "best"}
    fast, again = (model.complete(image, first, PROMPTS[:1]).extras["pseudo_healthy"] for _ in range(2))
    model.quality = "standard"
    standard = model.complete(image, first, PROMPTS[:1]).extras["pseudo_healthy"]
    assert torch.equal(fast, again) and not torch.equal(fast, standard)


@pytest.mark.parametrize("turn", [np.diag([4.0, 4, 4, 1]), np.diag([-3.0, 5, 4, 1])])
def test_volumes_come_on_the_scans_grid_and_in_its_units(make, turn, monkeypatch):
    """Pseudo-healthy is the scan itself outside the hole, whatever the grid of the network."""
    model = make(theta=0.0)
    values = 200 * torch.rand(1, 22, 20, 18) - 100
    values[:, :3] = -1000.0
    scan = MetaTensor(values, affine=turn, meta={"modality": "CT"})

    def look(self, features, prompts):
        return first_look((EDGE,) * 3, (0, 6, 6, 6))

    monkeypatch.setattr(DiffuGTS, "segment_window", look)
    result = segment_scan(model, scan, "liver tumor", keep=model.maps)
    assert all(result.extras[name].shape == scan.shape for name in model.maps) and result.probabilities is None
    changed = result.extras["hole"] >= 0.5
    healthy = result.extras["pseudo_healthy"]
    assert torch.equal(healthy[~changed], values[~changed]) and changed.any()
    inside = healthy[changed]
    assert (inside >= -1000.5).all() and (inside <= 400.5).all() and not torch.equal(inside, values[changed])
    assert set(segment_scan(model, scan, "liver tumor", keep=["residual"]).extras) == {"residual"}


@torch.no_grad()
def test_a_prior_with_a_wider_window_sees_its_own_scale(make):
    """HU are what they are: 400 is 0.7 to a prior that ends at 1000, and comes back as 400."""
    model, image = make(prior_top_hu=1000.0), scan_of()[None]
    hounsfield = image[:, :1] * 1400 - 1000
    assert torch.allclose(model.seen(image, torch.tensor([True])), (hounsfield + 1000) / 2000, atol=1e-6)
    assert torch.equal(model.seen(image, torch.tensor([False])), image[:, :1])
    healed = model.heal(image, torch.zeros(1, 1, EDGE, EDGE, EDGE, dtype=torch.bool))
    assert torch.allclose(healed.image, image[:, :1], atol=1e-6)
    expected = model.prior.reconstruct((hounsfield + 1000) / 2000) * 2000 / 1400
    assert torch.allclose(healed.reconstruction, expected, atol=1e-4)


def test_the_overlay_for_maisi():
    parser = ConfigParser()
    folder = Path(__file__).resolve().parents[2] / "bundle/configs"
    names = ("train", "diffugts", "diffugts_attention", "diffugts_maisi")
    parser.read_config([str(folder / f"{n}.yaml") for n in names])
    config = parser.get_parsed_content("network_config")
    assert config["prior"]["unet"]["num_channels"] == [64, 128, 256, 512] and config["text_dim"] == 768
    with torch.device("meta"):
        model = DiffuGTS(**config)
    assert sum(p.numel() for p in model.prior.unet.parameters()) / 1e6 == pytest.approx(180.5, abs=0.1)
    assert model.patch % model.prior.multiple == 0
    assert 1 < sum(p.numel() for p in model.parameters()) / 1e6 < 3


@pytest.mark.parametrize("answer", CHOICES["answer"])
def test_parts_of_a_mask_need_a_peak_unless_otsu_has_decided(make, answer):
    model = make(theta=0.5, theta_peak=0.9).ablate(answer)
    maps = torch.zeros(1, 12, 12, 12)
    maps[0, 1:4, 1:4, 1:4] = maps[0, 7:10, 7:10, 7:10] = 0.7
    maps[0, 8, 8, 8] = 0.95
    found = settled(model, maps) >= 0.5
    assert int(found[:, 7:10, 7:10, 7:10].sum()) == 27
    assert int(found.sum()) == (54 if answer in ("pixel", "feature") else 27)
