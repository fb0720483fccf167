"""The command line, with small weights, on files of every kind."""

import csv
import json

import nibabel as nib
import pytest
import segment
import typer
from make_files import ct_values, write_dicom, write_nifti
from typer.testing import CliRunner

from zerotumor.segmenter import build, save
from zerotumor.text import load_text_encoder

CONFIG = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "dim": 8, "tokens": 2, "heads": 2, "patch": 32, "theta": 0.0}
app = typer.Typer()
app.command()(segment.main)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    model, encoder = build("malenia", CONFIG), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "malenia", path, config=CONFIG, encoder=encoder)
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def summary(out):
    with open(out / "summary.csv") as file:
        return list(csv.DictReader(file))


def test_one_scan_two_prompts(tmp_path, weights):
    scan = write_nifti(tmp_path / "a.nii.gz", ct_values())
    out = tmp_path / "out"
    run(scan, "--prompt", "tumor", "--prompt", "renal cyst", "--out", out, "--weights", weights)
    mask = nib.load(out / "a_mask.nii.gz")
    assert mask.shape == (20, 18, 16) and (mask.affine == nib.load(scan).affine).all()
    report = json.loads((out / "a.json").read_text())
    assert [e["prompt"] for e in report["prompts"]] == ["tumor", "renal cyst"] and report["modality"] == "CT"
    assert (out / "a.png").stat().st_size > 5000
    assert [r["prompt"] for r in summary(out)] == ["tumor", "renal cyst"]


def test_what_is_done_is_skipped_until_the_question_changes(tmp_path, weights):
    scan, out = write_nifti(tmp_path / "a.nii.gz", ct_values()), tmp_path / "out"
    common = ("--out", out, "--weights", weights)
    run(scan, "--prompt", "tumor", *common)
    before = (out / "a_mask.nii.gz").stat().st_mtime_ns
    run(scan, "--prompt", "tumor", *common)
    assert summary(out)[0]["status"] == "skipped" and (out / "a_mask.nii.gz").stat().st_mtime_ns == before
    run(scan, "--prompt", "liver tumor", *common)
    assert summary(out)[0]["status"] == "done"
    run(scan, "--prompt", "liver tumor", "--force", *common)
    assert summary(out)[0]["status"] == "done"


def test_a_missing_file_makes_it_undone(tmp_path, weights):
    scan, out = write_nifti(tmp_path / "a.nii.gz", ct_values()), tmp_path / "out"
    run(scan, "--prompt", "tumor", "--out", out, "--weights", weights)
    (out / "a_mask.nii.gz").unlink()
    run(scan, "--prompt", "tumor", "--out", out, "--weights", weights)
    assert (out / "a_mask.nii.gz").is_file()


def test_a_folder_goes_on_past_a_bad_scan(tmp_path, weights):
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "bad.nii.gz").write_bytes(b"no scan")
    write_nifti(folder / "good.nii.gz", ct_values())
    write_dicom(folder / "series", ct_values())
    output = run(folder, "--prompt", "tumor", "--out", tmp_path / "out", "--weights", weights, code=1)
    status = {r["scan"].split("/")[-1]: r["status"] for r in summary(tmp_path / "out")}
    assert status == {"bad.nii.gz": "failed", "good.nii.gz": "done", "series": "done"}
    assert "damaged" in output and "2 of 3 scans" in output
    left = {f.name for f in (tmp_path / "out").iterdir()}
    assert not any(name.startswith((".writing", "bad")) for name in left)


def test_scans_of_one_name_do_not_overwrite_each_other(tmp_path, weights):
    for folder in ("p1", "p2"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        write_nifti(tmp_path / "in" / folder / "scan.nii.gz", ct_values())
    run(tmp_path / "in", "--prompt", "tumor", "--out", tmp_path / "out", "--weights", weights)
    assert len(list((tmp_path / "out").glob("scan*_mask.nii.gz"))) == 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--prompt", "  "], "prompt is empty"),
        (["--prompt", "x" * 400], "400 characters"),
        (["--prompt", "tumor", "--method", "unet"], "no method 'unet'"),
        (["--prompt", "tumor", "--weights", "nowhere.pt"], "is missing"),
    ],
)
def test_bad_requests_are_refused_before_any_work(tmp_path, weights, arguments, words):
    scan = write_nifti(tmp_path / "a.nii.gz", ct_values())
    given = [] if "--weights" in arguments else ["--weights", weights]
    output = run(scan, *arguments, *given, "--out", tmp_path / "out", code=2)
    assert words in " ".join(output.split()) and not (tmp_path / "out").exists()


def test_a_wrong_modality_fails_that_scan(tmp_path, weights):
    scan = write_nifti(tmp_path / "a.nii.gz", ct_values())
    run(scan, "--prompt", "tumor", "--modality", "MR", "--out", tmp_path / "out", "--weights", weights, code=1)
    assert "Hounsfield" in summary(tmp_path / "out")[0]["error"]
