"""The ablation at the smallest size: what is trained, what is shared, what is not done twice."""

import json

import ablate_zept
import pytest
import typer
from ablate_zept import ROWS
from typer.testing import CliRunner

NETWORK = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "width": 8, "heads": 2, "patch": 32, "spacing": 8.0}
app = typer.Typer()
app.command()(ablate_zept.main)


def run(tmp_path, only):
    arguments = ["--out", tmp_path / "out", "--docs", tmp_path, "--only", only, "--organ-steps", 2, "--tumor-steps", 2,
                 "--batch-size", 1, "--train-count", 2, "--cases", 1, "--network", json.dumps(NETWORK)]  # fmt: skip
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    return json.loads((tmp_path / "ablation_zept.json").read_text())


def test_rows_are_trained_as_far_as_they_differ(tmp_path, monkeypatch):
    trained, whole = [], ablate_zept.monai.bundle.run
    monkeypatch.setattr(
        ablate_zept.monai.bundle, "run", lambda **a: (trained.append(a["output_dir"].split("/")[-1]), whole(**a))
    )
    names = [r.name for r in ROWS]
    chosen = [names.index(n) for n in ("targets: aliased", "anomaly_gate: all", "background: none")]
    rows = run(tmp_path, ",".join(map(str, chosen[:2])))
    assert [r["name"] for r in rows] == ["ours", "targets: aliased", "anomaly_gate: all"]
    assert trained == ["ours_1", "ours_2", "targets_aliased_2"]
    assert (tmp_path / "out/phantoms_patch-32_spacing-8").is_dir() and not (tmp_path / "out/phantoms").exists()
    assert all(set(r["figures"]) == set(ablate_zept.FIGURES) for r in rows)
    rows = run(tmp_path, ",".join(map(str, chosen)))
    assert trained[3:] == ["background_none_1", "background_none_2"] and len(rows) == 4
    page = (tmp_path / "ablation_zept.md").read_text()
    assert page.count("\n| ") == 2 + len(rows) and "| targets: aliased |" in page and "| organs and tumors |" in page


def test_every_option_of_training_and_inference_has_a_row():
    changed = {name for row in ROWS for name in row.network}
    assert changed == {"similarity", "targets", "anomaly_gate", "anomaly_range", "background", "offset"}
    assert {row.name for row in ROWS if not row.stages} == {"anomaly_gate: all", "anomaly_range: window"}


@pytest.mark.parametrize("only", ["99", "-1"])
def test_rows_that_do_not_exist(tmp_path, only):
    result = CliRunner().invoke(app, ["--out", str(tmp_path), "--docs", str(tmp_path), f"--only={only}"])
    assert result.exit_code == 2 and "there are rows 0 to" in result.output
