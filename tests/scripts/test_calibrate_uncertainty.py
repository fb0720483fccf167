"""The calibration of uncertainties: what it writes is what is read, for these weights alone, and it draws the diagram."""

import json
import math

import calibrate_uncertainty
import pytest
import torch
import typer
from PIL import Image
from starter_plan import TOOLS
from typer.testing import CliRunner

from zerotumor.calibration import Counts, Curve, read
from zerotumor.in_turn import IN_TURN, joint_sha256
from zerotumor.segmenter import METHODS, MODELS, build, load, save
from zerotumor.text import load_text_encoder

CONFIG = {
    "channels": [4, 4, 4, 4, 4],
    "mask_channels": 2,
    "dim": 8,
    "tokens": 2,
    "heads": 2,
    "patch": 32,
    "spacing": 6.0,
}
app = typer.Typer()
app.command()(calibrate_uncertainty.main)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.manual_seed(0)
    model, encoder = build("malenia", CONFIG), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "malenia", path, config=CONFIG, encoder=encoder)
    return path


def test_measure_write_read(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate_uncertainty, "EXTENT", (192.0, 192.0, 192.0))
    out, picture = tmp_path / "uncertainty.json", tmp_path / "reliability.png"
    out.write_text(json.dumps({"weights": [{"weights_sha256": "others"}]}))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- reliability:begin -->\nold\n<!-- reliability:end -->\nafter\n")
    options = ["--weights", weights, "--count", 4, "--passes", 0, "--out", out, "--picture", picture, "--page", page]
    result = CliRunner().invoke(app, [str(o) for o in options])
    assert result.exit_code == 0, result.output
    model = load("malenia", weights)
    known = read(model, out)
    assert known.measured["phantoms"] == 4 and len(known.measured["cases"]) == 4
    assert {c["category"] for c in known.measured["cases"]} == {
        "liver tumor", "pancreatic tumor", "kidney cyst", "healthy",
    }  # fmt: skip
    assert known.measured["ece_before"] == known.measured["ece_before"], "a number"
    assert [r["weights_sha256"] for r in json.loads(out.read_text())["weights"]] == ["others", model.weights_sha256]
    assert Image.open(picture).size == (1100, 480)
    text = page.read_text()
    assert "4 phantoms, 1 of them healthy" in text and "(reliability.png)" in text and "old" not in text
    assert text.startswith("before\n") and text.endswith("after\n") and len(list(tmp_path.iterdir())) == 3


def test_no_method_replaces_what_was_said_of_another(weights, tmp_path):
    """Neither its picture nor its block of the page; and what cannot be written is said before anything is measured."""
    pictures = [calibrate_uncertainty.reliability_picture(method) for method in (*METHODS, IN_TURN)]
    assert pictures == [
        "reliability.png", "reliability_zept.png", "reliability_diffugts.png", "reliability_malenia_zept.png",
    ]  # fmt: skip
    planned = [tool.arguments for tool in TOOLS if tool.script == "calibrate_uncertainty.py"]
    assert [arguments[arguments.index("--picture") + 1] for arguments in planned] == [
        f"{{cards}}/{p}" for p in pictures
    ]
    page, out = tmp_path / "page.md", tmp_path / "uncertainty.json"
    page.write_text("<!-- reliability-zept:begin -->\nof ZePT\n<!-- reliability-zept:end -->\n")
    result = CliRunner().invoke(app, ["--weights", str(weights), "--out", str(out), "--page", str(page)])
    assert result.exit_code == 2 and "no lines <!-- reliability:begin -->" in " ".join(result.output.split())
    assert "of ZePT" in page.read_text() and not out.exists()


def test_a_block_is_replaced_and_another_methods_stays():
    assert calibrate_uncertainty.marks("malenia") == ("<!-- reliability:begin -->", "<!-- reliability:end -->")
    page = "".join("\n".join([begin, method, end, ""]) for method in METHODS
                   for begin, end in [calibrate_uncertainty.marks(method)])  # fmt: skip
    text = calibrate_uncertainty.replace_between(page, *calibrate_uncertainty.marks("zept"), ["anew"])
    assert text == page.replace("\nzept\n", "\nanew\n")


def test_where_weights_lie_beside_their_curves(tmp_path):
    place_of = calibrate_uncertainty.place_of
    assert place_of("zept", None, MODELS / "uncertainty.json") == "zept/model.pt"
    assert place_of("malenia", tmp_path, tmp_path / "uncertainty.json") == "model.pt"
    assert place_of("zept", tmp_path / "mine.pt", tmp_path / "uncertainty.json") == "mine.pt"
    assert place_of("zept", tmp_path / "mine.pt", MODELS / "uncertainty.json") is None
    assert place_of(IN_TURN, None, MODELS / "uncertainty.json") == "model.pt+zept/model.pt"
    assert place_of(IN_TURN, tmp_path, MODELS / "uncertainty.json") is None


def test_a_page_names_all_weights_that_were_measured():
    assert calibrate_uncertainty.named("0123456789abcdef") == "`0123456789ab`"
    both = joint_sha256({"malenia": "0123456789abcdef", "zept": "fedcba9876543210"})
    assert calibrate_uncertainty.named(both) == "`0123456789ab` and `fedcba987654`"


def test_what_the_page_says_of_a_method_is_the_record_of_the_weights_that_ship():
    page = MODELS.parent / "docs" / "active_learning.md"
    text, records = page.read_text(), json.loads((MODELS / "uncertainty.json").read_text())["weights"]
    told = [method for method in (*METHODS, IN_TURN) if calibrate_uncertainty.marks(method)[0] in text]
    assert told == ["malenia", "zept", IN_TURN]
    by_file = {record["file"]: record for record in records}
    places = {method: calibrate_uncertainty.place_of(method, None, MODELS / "uncertainty.json") for method in told}
    assert sorted(by_file) == sorted(places.values()) and len(records) == len(told)
    for method, place in places.items():
        record = by_file[place]
        assert record["weights_sha256"] == load(method).weights_sha256, f"{method}: measure its doubts anew"
        picture = page.parent / "images" / calibrate_uncertainty.reliability_picture(method)
        block = calibrate_uncertainty.section(record, picture, page)
        assert calibrate_uncertainty.replace_between(text, *calibrate_uncertainty.marks(method), block) == text
        assert Image.open(picture).size == (1100, 480)


def test_after_is_measured_on_what_was_not_fitted():
    """Two halves that contradict each other: each curve is right at home, and wrong on the other half."""
    said = torch.full((1000,), 0.5)
    halves = [Counts.of(said, torch.full((1000,), share)) for share in (0.1, 0.9)]
    assert [c.ece(c.fit()) for c in halves] == pytest.approx([0, 0], abs=1e-6)
    assert calibrate_uncertainty.held_out_ece(calibrate_uncertainty.crossed(halves)) == pytest.approx(0.8, abs=1e-6)


def test_a_half_without_a_voxel_that_may_be_lesion_weighs_nothing():
    quiet, loud = Counts.of(torch.full((9,), 0.01), torch.zeros(9)), Counts.of(torch.full((9,), 0.5), torch.ones(9))
    held_out, above, crossed = (getattr(calibrate_uncertainty, n) for n in ("held_out_ece", "above", "crossed"))
    for halves in ([quiet, loud], [loud, quiet]):
        assert held_out(above(crossed(halves))) == pytest.approx(1.0)  # the quiet half's curve says that nothing is
    assert math.isnan(held_out(above(crossed([quiet, quiet]))))


def test_a_curve_that_makes_the_other_half_no_better_is_not_used():
    curve = Curve((0.0, 0.5, 1.0), (0.0, 0.1, 0.2))
    assert calibrate_uncertainty.worth_it(curve, before=0.2, after=0.1) is curve
    for after in (0.2, 0.3):
        left = calibrate_uncertainty.worth_it(curve, before=0.2, after=after)
        assert torch.equal(left(torch.tensor([0.0, 0.3, 1.0])), torch.tensor([0.0, 0.3, 1.0]))


def test_weights_that_are_not_there_are_named(tmp_path):
    result = CliRunner().invoke(app, ["--weights", str(tmp_path / "none.pt")])
    assert result.exit_code == 2 and "missing" in " ".join(result.output.split())
