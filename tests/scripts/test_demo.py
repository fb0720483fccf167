"""The demo, with small weights, on a scan of one's own."""

import demo
import pytest
import segment
import typer
from make_files import ct_values, write_dicom, write_nifti
from typer.testing import CliRunner

from zerotumor.segmenter import build, save
from zerotumor.text import load_text_encoder

CONFIG = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "dim": 8, "tokens": 2, "heads": 2, "patch": 32, "theta": 0.0}
app = typer.Typer()
app.command()(demo.main)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the demo; what it printed, without spaces and line breaks."""
    model, encoder = build("malenia", CONFIG), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "malenia", tmp_path / "model.pt", config=CONFIG, encoder=encoder)
    whole = segment.load
    monkeypatch.setattr(segment, "usual", lambda weights: "malenia")
    monkeypatch.setattr(segment, "load", lambda method, _, **where: whole(method, tmp_path / "model.pt", **where))

    def run(scan):
        result = CliRunner().invoke(app, ["--scan", str(scan), "--out", str(tmp_path / "out")])
        assert result.exit_code == 0, result.output
        return "".join(result.output.split())

    return run


def test_a_scan_further_down_in_a_folder_is_found_and_named(tmp_path, run):
    write_dicom(tmp_path / "nest" / "series", ct_values())
    printed = run(tmp_path / "nest")
    for name in ("series_mask.nii.gz", "series.json", "series.png"):
        assert str(tmp_path / "out" / name) in printed and (tmp_path / "out" / name).is_file()


def test_every_scan_of_a_folder_is_named(tmp_path, run):
    for name in ("a", "b [x]"):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", ct_values())
    printed = run(tmp_path / "in")
    assert "out/a.png" in printed and "out/b[x].png" in printed
