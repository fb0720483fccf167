"""A second run into the same folder: what is kept, what is done anew, and what is never overwritten."""

import csv
import json
import os

import nibabel as nib
import numpy as np
import pytest
import segment
import typer
from make_files import ct_values, write_dicom, write_nifti
from typer.testing import CliRunner

from zerotumor.segmenter import build, load, save
from zerotumor.text import load_text_encoder

CONFIG = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "dim": 8, "tokens": 2, "heads": 2, "patch": 32, "theta": 0.0}
app = typer.Typer()
app.command()(segment.main)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights" / "model.pt"
    model, encoder = build("malenia", CONFIG), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "malenia", path, config=CONFIG, encoder=encoder)
    return path


@pytest.fixture
def run(weights, tmp_path):
    """Run the command line; what it printed, on one line. Results lie in `run.out`."""

    def run(*arguments, code=0, prompt="tumor", out=tmp_path / "out"):
        given = [*arguments, "--out", out, "--weights", weights, "--prompt", prompt]
        result = CliRunner().invoke(app, [str(a) for a in given])
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    run.out = tmp_path / "out"
    return run


def statuses(out):
    """Scan, without its folder's folders -> status, as summary.csv has it."""
    with open(out / "summary.csv") as file:
        return {"/".join(row["scan"].split("/")[-2:]): row["status"] for row in csv.DictReader(file)}


def report_of(out, scan):
    """The one report in a folder that is of a scan."""
    (found,) = (r for f in out.glob("*.json") if (r := json.loads(f.read_text())).get("scan") == str(scan))
    return found


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_nifti(path, ct_values() + np.random.default_rng(seed).normal(0, 5, (20, 18, 16)).astype("f4"))


def test_another_scan_of_the_same_name_has_results_of_its_own(tmp_path, run):
    one, two = write(tmp_path / "a" / "scan.nii.gz", 0), write(tmp_path / "b" / "scan.nii.gz", 1)
    run(one)
    first = (run.out / "scan_mask.nii.gz").stat().st_mtime_ns
    run(two)
    assert statuses(run.out) == {"b/scan.nii.gz": "done"}
    assert report_of(run.out, two)["mask"] != report_of(run.out, one)["mask"] == "scan_mask.nii.gz"
    assert (run.out / "scan_mask.nii.gz").stat().st_mtime_ns == first
    run(one, two)
    assert set(statuses(run.out).values()) == {"skipped"}


def test_a_replaced_scan_is_done_anew_under_its_name(tmp_path, run):
    scan = write(tmp_path / "in" / "scan.nii.gz", 0)
    run(scan)
    write(scan, 1)
    run(scan)
    assert statuses(run.out) == {"in/scan.nii.gz": "done"} and len(list(run.out.glob("*_mask.nii.gz"))) == 1
    scan.rename(tmp_path / "in" / "moved.nii.gz")
    run(tmp_path / "in")
    assert statuses(run.out) == {"in/moved.nii.gz": "done"}


def test_a_dicom_folder_is_another_scan_once_a_slice_changes(tmp_path, run):
    scan = write_dicom(tmp_path / "in" / "series", ct_values())
    run(scan)
    run(scan)
    assert statuses(run.out) == {"in/series": "skipped"}
    os.utime(scan / "003.dcm", ns=(1, 1))
    run(scan)
    assert statuses(run.out) == {"in/series": "done"}


def test_names_stay_when_a_folder_grows(tmp_path, run):
    two = write(tmp_path / "in" / "p2" / "ct.nii.gz", 2)
    run(tmp_path / "in")
    kept = report_of(run.out, two)
    one = write(tmp_path / "in" / "p1" / "ct.nii.gz", 1)
    run(tmp_path / "in")
    assert statuses(run.out) == {"p1/ct.nii.gz": "done", "p2/ct.nii.gz": "skipped"}
    assert report_of(run.out, two) == kept and report_of(run.out, one)["mask"] != kept["mask"]
    run(tmp_path / "in", "--force")
    assert report_of(run.out, two)["mask"] == kept["mask"] and len(list(run.out.glob("ct*_mask.nii.gz"))) == 2


def test_other_settings_of_the_same_weights_are_another_question(tmp_path, run, weights):
    scan = write(tmp_path / "in" / "scan.nii.gz", 0)
    run(scan)
    record = json.loads(weights.with_suffix(".json").read_text())
    record["config"]["theta"] = 0.9
    weights.with_suffix(".json").write_text(json.dumps(record))
    run(scan)
    assert statuses(run.out) == {"in/scan.nii.gz": "done"}


def test_settings_are_of_all_weights_that_answer(weights):
    model, other = load("malenia", weights), load("malenia", weights)
    alone = segment.settings_of(model, (), False)
    other.records = ({**other.records[0], "sha256": "another"},)
    assert len({alone, segment.settings_of(model, (), True), segment.settings_of(model, (other,), False)}) == 3
    assert segment.settings_of(load("malenia", weights), (), False) == alone


def test_a_run_that_fails_in_between_leaves_nothing_that_looks_done(tmp_path, run, monkeypatch):
    scan = write(tmp_path / "in" / "scan.nii.gz", 0)
    run(scan, prompt="liver tumor")
    monkeypatch.setattr(segment, "overlay", lambda *_, **__: 1 / 0)
    run(scan, prompt="bone tumor", code=1)
    assert not json.loads((run.out / "scan.json").read_text())["request"]
    monkeypatch.undo()
    run(scan, prompt="liver tumor")
    assert statuses(run.out) == {"in/scan.nii.gz": "done"}
    assert [e["prompt"] for e in report_of(run.out, scan)["prompts"]] == ["liver tumor"]


def test_a_run_that_fails_before_it_writes_leaves_the_old_answer_whole(tmp_path, run, monkeypatch):
    scan = write(tmp_path / "in" / "scan.nii.gz", 0)
    run(scan, prompt="liver tumor")
    monkeypatch.setattr(segment, "segment_scan", lambda *_, **__: 1 / 0)
    run(scan, prompt="bone tumor", code=1)
    run(scan, prompt="liver tumor")
    assert statuses(run.out) == {"in/scan.nii.gz": "skipped"}


def test_other_formats_of_the_same_answer_stay_and_those_of_another_go(tmp_path, run):
    scan = write(tmp_path / "in" / "scan.nii.gz", 0)
    run(scan)
    run(scan, "--format", "nrrd")
    assert {"scan_mask.nii.gz", "scan_mask.nrrd"} <= {f.name for f in run.out.iterdir()}
    run(scan, prompt="liver tumor")
    assert {f.name for f in run.out.iterdir()} == {"scan_mask.nii.gz", "scan.json", "scan.png", "summary.csv"}


def test_other_peoples_files_are_not_overwritten(tmp_path, run):
    folder = tmp_path / "in"
    write(folder / "x.nii.gz", 0)
    truth = nib.Nifti1Image(np.ones((20, 18, 16), np.uint8), np.eye(4))
    nib.save(truth, folder / "x_mask.nii.gz")
    (folder / "x.json").write_text('{"RepetitionTime": 2}')
    good = write(folder / "y.nii.gz", 1)
    before = {f: f.read_bytes() for f in folder.iterdir()}
    output = run(folder / "x.nii.gz", good, out=folder, code=1)
    assert statuses(folder) == {"in/x.nii.gz": "failed", "in/y.nii.gz": "done"}
    assert "no result of an earlier run, and would be overwritten: move it" in output
    assert all(f.read_bytes() == content for f, content in before.items())


@pytest.mark.parametrize("content", [b"[1]", b"\xff\xfe{", b"7", b"{", b'{"scan": 1, "request": [], "picture": 2}'])
def test_a_file_that_is_no_report_fails_that_scan_alone(tmp_path, run, content):
    one, two = write(tmp_path / "in" / "a.nii.gz", 0), write(tmp_path / "in" / "b.nii.gz", 1)
    run.out.mkdir()
    (run.out / "a.json").write_bytes(content)
    run(one, two, code=1)
    assert statuses(run.out) == {"in/a.nii.gz": "failed", "in/b.nii.gz": "done"}
    assert (run.out / "a.json").read_bytes() == content


def test_another_summary_is_not_overwritten(tmp_path, run):
    run.out.mkdir()
    (run.out / "summary.csv").write_text("patient,age\n1,2\n")
    assert "is no summary of an earlier run" in run(write(tmp_path / "in" / "a.nii.gz", 0), code=2)
    assert (run.out / "summary.csv").read_text() == "patient,age\n1,2\n"


def test_results_among_the_scans_are_no_scans(tmp_path, run):
    folder = tmp_path / "in"
    write(folder / "x.nii.gz", 0)
    series = write_dicom(folder / "series", ct_values())
    for out in (folder, series, folder / "results"):
        for format in ("nifti", "dicom-seg"):
            run(series, "--format", format, out=out)
            run(series, "--format", format, out=out)
            assert statuses(out) == {"in/series": "skipped"}
    run(folder, out=folder)
    run(folder, out=folder)
    assert statuses(folder) == {"in/x.nii.gz": "skipped", "in/series": "skipped"}


def test_an_input_that_cannot_be_searched_does_not_stop_the_rest(tmp_path, run, monkeypatch):
    locked, whole = tmp_path / "locked", segment.find_scans

    def find(inputs):
        if inputs == [locked]:
            raise PermissionError(13, "Permission denied", str(locked / "a"))
        return whole(inputs)

    monkeypatch.setattr(segment, "find_scans", find)
    output = run(locked, write(tmp_path / "in" / "a.nii.gz", 0), code=1)
    assert "cannot be opened (Permission denied): check its permissions" in output and "1 of 2 scans" in output
    assert sorted(statuses(run.out).values()) == ["done", "failed"]


def test_the_folder_one_is_in_has_a_name(tmp_path, run, monkeypatch):
    monkeypatch.chdir(write_dicom(tmp_path / "in" / "series", ct_values()))
    run(".")
    assert {f.name for f in run.out.iterdir()} == {"series_mask.nii.gz", "series.json", "series.png", "summary.csv"}
