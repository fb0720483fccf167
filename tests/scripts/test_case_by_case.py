"""Records are kept as they come, whatever is measured; what the evaluation makes of it is in test_evaluate.py."""

import json
from types import SimpleNamespace

import evaluate_clicks
import evaluate_organs
import pytest
import typer
from typer.testing import CliRunner

from zerotumor.errors import ScanError


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs a script on cases without scans: name -> the error that measuring raises, or None."""

    def run(script, **errors):
        cases = [SimpleNamespace(name=name) for name in errors]

        def records_of(case, *_):
            if (error := errors[case.name]) is not None:
                raise error
            return [{"case": case.name, "set": "real", "organ": "liver", "method": "malenia", "dice": 1.0}]

        monkeypatch.setattr(script, "evaluate_case", records_of)
        if script is evaluate_organs:
            monkeypatch.setattr(script, "SETS", {"real": lambda: cases})
        else:
            for name, listed in (("real_cases", cases), ("phantom_cases", [])):
                monkeypatch.setattr(script, name, lambda listed=listed: listed)
            monkeypatch.setattr(script, "rows", lambda records: [])
        app = typer.Typer()
        app.command()(script.main)
        return CliRunner().invoke(app, ["--method", "malenia", "--out", str(tmp_path / "r.json")])

    return run


SCRIPTS = pytest.mark.parametrize("script", [evaluate_organs, evaluate_clicks], ids=["organs", "clicks"])


@SCRIPTS
def test_a_bad_scan_is_left_out_by_name(tmp_path, start, script):
    result = start(script, a=None, b=ScanError("b is damaged: copy it again"), c=None)
    assert result.exit_code == 0 and "b is left out: b is damaged" in result.output, result.output
    saved = json.loads((tmp_path / "r.json").read_text())
    assert [r["case"] for r in saved["records"]] == ["a", "c"]
    assert saved["left_out"] == {"b": "b is damaged: copy it again"}
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


@SCRIPTS
def test_a_run_that_is_cut_off_leaves_what_it_measured(tmp_path, start, script):
    (tmp_path / "r.json").write_text("of an earlier run")
    assert start(script, a=None, b=KeyboardInterrupt(), c=None).exit_code == 130
    saved = json.loads((tmp_path / "r.partial.json").read_text())
    assert [r["case"] for r in saved["records"]] == ["a"]
    assert (tmp_path / "r.json").read_text() == "of an earlier run"


@SCRIPTS
def test_a_folder_that_cannot_be_written_is_said_at_the_first_case(tmp_path, start, script):
    (tmp_path / "r.partial.json").mkdir()
    result = start(script, a=None, b=MemoryError())
    assert result.exit_code == 1 and "could not be written" in " ".join(result.output.split())
