"""The evaluation and the pages made from it."""

import json

import evaluate
import model_card
import pytest
import typer
from typer.testing import CliRunner

FIELDS = {
    "method", "set", "split", "category", "modality", "case", "prompt", "dice", "nsd2", "auroc", "fpr95", "lesion_f1",
    "volume_ml", "fp_ml", "seconds",
}  # fmt: skip
evaluation, card = typer.Typer(), typer.Typer()
evaluation.command()(evaluate.main)
card.command()(model_card.main)


def test_records_are_complete(tmp_path):
    arguments = [
        "--method",
        "outlier,everything",
        "--set",
        "phantom",
        "--limit",
        "2",
        "--masks",
        str(tmp_path / "masks"),
    ]
    result = CliRunner().invoke(evaluation, [*arguments, "--out", str(tmp_path / "e.json")])
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "e.json").read_text())
    assert all(set(r) >= FIELDS for r in saved["records"])
    assert {r["method"] for r in saved["records"]} == {"outlier", "everything"}
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == len(saved["records"])


@pytest.mark.parametrize("arguments, code", [(["--set", "moon"], 2), (["--method", "nothing"], 2)])
def test_wrong_words(tmp_path, arguments, code):
    assert CliRunner().invoke(evaluation, [*arguments, "--out", str(tmp_path / "e.json")]).exit_code == code


def made_up(method, set_, split, dice, fp):
    figures = dict.fromkeys(("nsd2", "auroc", "fpr95", "lesion_f1"), 0.5)
    return {"method": method, "set": set_, "split": split, "category": "x", "modality": "CT", "case": "c", "prompt": "p",
            "found": True, "score": 0.5, "dice": dice, "volume_ml": 1.0, "fp_ml": fp, "seconds": 2.0, **figures}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    records = [
        made_up("malenia", "phantom", "seen", 0.25, 1.0),
        made_up("malenia", "phantom", "seen", 0.75, 1.0),
        made_up("malenia", "real", "unseen", 0.125, 9.0),
        made_up("malenia", "real", "healthy", None, 3.25),
    ]
    (tmp_path / "e.json").write_text(json.dumps({"weights_sha256": {"malenia": "abc"}, "records": records}))
    record = {
        "sha256": "abc",
        "config": {"spacing": 4.0},
        "text_encoder": {"name": "minilm"},
        "trained": {"steps": 1234},
    }
    (tmp_path / "model.json").write_text(json.dumps(record))
    (tmp_path / "README.md").write_text("a\n<!-- results:begin -->\nold\n<!-- results:end -->\nb\n")
    return tmp_path


def arguments(files):
    return [str(files / "e.json"), "--models", str(files), "--docs", str(files), "--readme", str(files / "README.md")]


def test_pages_hold_the_records_figures(files):
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    page = (files / "results.md").read_text()
    assert "0.50 (0.25 to 0.75)" in page and "3.2" in page
    model = (files / "model_card.md").read_text()
    assert "steps: 1234" in model and "abc" in model and "liver tumor" in model
    readme = (files / "README.md").read_text()
    assert "old" not in readme and readme.startswith("a\n") and readme.endswith("b\n") and "0.12" in readme


def test_records_of_other_weights_are_refused(files):
    (files / "model.json").write_text((files / "model.json").read_text().replace("abc", "xyz"))
    result = CliRunner().invoke(card, arguments(files))
    assert result.exit_code == 1 and "other weights" in result.output
