"""Bodies from a healthy CT: what is in them, and lesions drawn there."""

import pytest
import torch

from zerotumor.phantom import generate, healthy_scan, scanned
from zerotumor.phantom.anatomy import TISSUES
from zerotumor.phantom.geometry import Draw, grid
from zerotumor.vocabulary import ORGANS

FLANK = {"shape": (28, 28, 20), "spacing": 7.0}
LIVER, BONE, BOWEL, AORTA = 5, 6, 7, 8
NAMES = {LIVER: "liver", BONE: "bone", BOWEL: "colon", AORTA: "aorta"}


def made_up(liver=70.0, aorta=None):
    """A CT (40, 32, 30) of 5 mm: fat around muscle, a liver, a bone with marrow, bowel with gas, a table; and an aorta if
    its HU are given."""
    x, y, z = grid((40, 32, 30), (5.0,) * 3, (0.0,) * 3)
    hu = torch.full((40, 32, 30), -1000.0)
    radius = ((x / 85) ** 2 + (y / 65) ** 2).sqrt()
    hu[radius < 1], hu[radius < 0.85] = -100.0, 55.0
    labels = torch.zeros(hu.shape, dtype=torch.long)
    bone = ((x + 30) ** 2 + (y + 20) ** 2).sqrt()
    labels[((x - 35) ** 2 + y**2 + z**2).sqrt() < 28] = LIVER
    labels[bone < 14] = BONE
    labels[((x + 30) ** 2 + (y - 25) ** 2).sqrt() < 15] = BOWEL
    hu[labels == LIVER], hu[labels == BONE], hu[bone < 7] = liver, 900.0, 20.0
    if aorta is not None:
        labels[((x - 5) ** 2 + (y + 30) ** 2).sqrt() < 8] = AORTA
        hu[labels == AORTA] = aorta
    hu[(labels == BOWEL) & (y > 25)] = -900.0
    hu[:, 0] = 300.0  # the table, apart from the body
    noise = torch.randn(hu.shape, generator=torch.Generator().manual_seed(0))
    return hu + 3 * noise, labels


@pytest.fixture(scope="module")
def scan():
    hu, labels = made_up()
    return healthy_scan(hu, labels, NAMES, (5.0,) * 3)


def share(scan, tissue, organ):
    """How much of an organ is of a tissue."""
    inside = scan.organs == (ORGANS[organ].index if organ else 0)
    return float((scan.tissue[inside] == TISSUES[tissue]).float().mean())


def test_tissues_come_from_labels_and_from_hounsfield_units(scan):
    assert share(scan, "liver", "liver") == 1 and share(scan, "fat", "fat") == 1
    assert 0.5 < share(scan, "cortical bone", "bone") < 0.9 and 0.1 < share(scan, "yellow marrow", "bone") < 0.5
    assert 0.2 < share(scan, "gas", "colon") < 0.8
    assert (scan.tissue[:, 0] == TISSUES["air"]).all() and (scan.hu[:, 0] == -1000).all()  # no table
    for tissue, expected in (("liver", 70), ("fat", -100), ("muscle", 55)):
        assert float(scan.means[TISSUES[tissue]]) == pytest.approx(expected, abs=2)


def test_a_body_is_the_scan_turned_and_keeps_its_units(scan):
    points = grid((28, 28, 20), (7.0,) * 3, (0.0,) * 3)
    poses = [scan.body(Draw(seed)) for seed in range(6)]
    for body in poses:
        anatomy = body.evaluate(points)
        ml = float((anatomy.organs == ORGANS["liver"].index).sum()) * 0.343
        assert 30 < ml < 200  # 92 ml, stretched by some
        means = body.means(torch.full_like(scan.means, 500.0), "CT")
        values = body.values(points, anatomy.tissue, means, "CT")
        liver = values[anatomy.tissue == TISSUES["liver"]].median()
        assert float(liver) == pytest.approx(70 if body.own_phase else 500, abs=25)
    assert {body.own_phase for body in poses} == {True, False}
    assert not torch.equal(poses[0].evaluate(points).organs, poses[1].evaluate(points).organs)


@pytest.mark.parametrize(
    ("liver", "aorta", "phase"),
    [(46, 42, "non-contrast"), (20, 38, "non-contrast"), (70, 320, "arterial"), (105, 160, "portal"), (70, 130, "portal"),
     (105, None, None)],
)  # fmt: skip
def test_aorta_and_liver_tell_the_phase(liver, aorta, phase):
    hu, labels = made_up(float(liver), aorta)
    assert healthy_scan(hu, labels, NAMES, (5.0,) * 3).phase == phase


@pytest.mark.parametrize(
    ("kept", "aorta", "words"),
    [(1.0, 40.0, {"non-contrast"}), (1.0, 150.0, {"contrast-enhanced"}), (1.0, None, {None}),
     (0.0, 40.0, {"non-contrast", "contrast-enhanced"})],
)  # fmt: skip
def test_lesions_are_called_enhanced_only_in_a_scan_that_is(kept, aorta, words, monkeypatch):
    """A CT that keeps its own HU keeps its own phase, whatever phase was drawn; one that does not tell it says nothing."""
    monkeypatch.setattr(scanned, "AS_IT_IS", kept)
    hu, labels = made_up(105.0 if aorta == 150 else 50.0, aorta)
    scan = healthy_scan(hu, labels, NAMES, (5.0,) * 3)
    options = {"category": "liver tumor", "modality": "CT", "difficulty": 0.0, "shape": (12,) * 3, "spacing": 15.0}
    phantoms = [generate(seed, scan=scan, **options) for seed in range(8)]
    records = [record.attributes for phantom in phantoms for record in phantom.records]
    assert len(records) >= 6 and {record.get("enhancement") for record in records} == words
    assert kept == 0 or {phantom.contrast for phantom in phantoms} == {scan.phase}
    assert "contrast-enhanced" in words or all(record["specific"] != "rim" for record in records)


def test_fat_and_muscle_mix_on_mr_as_hounsfield_units_say(scan):
    body, points = scan.body(Draw(1)), grid((28, 28, 20), (7.0,) * 3, (0.0,) * 3)
    anatomy = body.evaluate(points)
    means = torch.full_like(scan.means, 0.5)
    means[TISSUES["fat"]], means[TISSUES["muscle"]] = 1.0, 0.2
    values = body.values(points, anatomy.tissue, means, "MR")
    assert float(values[anatomy.tissue == TISSUES["fat"]].median()) == pytest.approx(1, abs=0.1)
    assert float(values[anatomy.tissue == TISSUES["muscle"]].median()) == pytest.approx(0.2, abs=0.1)
    assert values.min() >= 0


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_lesion_changes_the_scan_where_its_mask_is(scan, modality):
    phantom = generate(4, scan=scan, category="liver tumor", modality=modality, difficulty=0.0, **FLANK)
    again = generate(4, scan=scan, category="liver tumor", modality=modality, difficulty=0.0, **FLANK)
    assert torch.equal(phantom.image, again.image) and phantom.region == "abdomen"
    assert phantom.records and phantom.records[0].attributes["location"] == "liver"
    change = (phantom.image - phantom.healthy).abs()
    inside = phantom.lesions > 0
    assert inside.any() and change[inside].mean() > 5 * change[~inside].mean()
    healthy = generate(4, scan=scan, category="healthy", modality=modality, **FLANK)
    assert not healthy.lesions.any() and torch.equal(healthy.image, healthy.healthy)


def test_a_lesion_can_be_sent_to_an_organ(scan):
    made_in = []
    for seed in range(8):
        phantom = generate(seed, scan=scan, category="abstract lesion", organ="liver", difficulty=0.0, **FLANK)
        centers = [
            tuple(int(v) for v in (phantom.lesions[0] == r.instance).nonzero().float().mean(0).round())
            for r in phantom.records
        ]
        made_in += [int(phantom.organs[0][c]) == ORGANS["liver"].index for c in centers]
    assert len(made_in) >= 8 and sum(made_in) > 0.7 * len(made_in)
    assert (
        generate(1, scan=scan, category="abstract lesion", organ="brain", **FLANK).image.isfinite().all()
    )  # it has none


def test_what_is_no_scan_is_refused():
    hu, labels = made_up()
    with pytest.raises(ValueError, match="another shape|those of one scan"):
        healthy_scan(hu, labels[1:], NAMES, (5.0,) * 3)
    with pytest.raises(ValueError, match="no body"):
        healthy_scan(torch.full_like(hu, -1000.0), labels, NAMES, (5.0,) * 3)
