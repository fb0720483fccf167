"""The command line, with small weights, on files of every kind."""

import csv
import json

import nibabel as nib
import pydicom
import pytest
import segment
import typer
from make_files import ct_values, write_dicom, write_nifti
from PIL import Image
from typer.testing import CliRunner

from zerotumor.errors import ServerError
from zerotumor.segmenter import build, load, save
from zerotumor.text import load_text_encoder
from zerotumor.volumes import read_scan

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


def test_the_uncertainty_is_a_map_like_others_and_has_a_reason(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(segment, "available", lambda: [])  # no committee: its weights are not what is tested
    scan, out = write_nifti(tmp_path / "a.nii.gz", ct_values()), tmp_path / "out"
    hesitant, encoder = tmp_path / "hesitant.pt", load_text_encoder()  # with theta 0, all is surely a lesion
    save(load("malenia", weights), "malenia", hesitant, config={**CONFIG, "theta": 0.05}, encoder=encoder)
    common = (scan, "--prompt", "tumor", "--out", out, "--weights", hesitant)
    run(*common)
    plain, picture = nib.load(out / "a_mask.nii.gz").get_fdata(), (out / "a.png").stat().st_size
    run(*common, "--save", "uncertainty")
    written = nib.load(out / "a_uncertainty.nii.gz")
    values = written.get_fdata()
    assert values.shape == (20, 18, 16) and (written.affine == nib.load(scan).affine).all()
    assert 0 <= values.min() < values.max() <= 1
    report = json.loads((out / "a.json").read_text())
    doubts = report["prompts"][0]["doubts"]
    assert doubts["reason"] and doubts["disagreement_ml"] is None and not doubts["calibrated"]
    assert report["maps"]["uncertainty"]["peak"] == pytest.approx(values.max(), abs=1e-3)
    assert (nib.load(out / "a_mask.nii.gz").get_fdata() == plain).all(), "looking again changes no answer"
    assert (out / "a.png").stat().st_size > picture, "the picture has a row for the map"


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


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--prompt", "  "], "prompt is empty"),
        (["--prompt", "x" * 400], "400 characters"),
        (["--prompt", "tumor", "--method", "unet"], "no method 'unet'"),
        (["--prompt", "tumor", "--weights", "nowhere.pt"], "is missing"),
        (["--prompt", "tumor", "--device", "nowhere"], "no device 'nowhere' here: use cpu"),
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


FILES = {"nifti": "_mask.nii.gz", "nrrd": "_mask.nrrd", "dicom-seg": "_seg.dcm", "rtstruct": "_rtstruct.dcm"}


@pytest.fixture
def finds(monkeypatch):
    """Every prompt finds a box, so that a mask is written whatever the small weights say; False: nothing is found."""

    def set_to(found):
        whole = segment.segment_scan

        def boxed(model, scan, prompts, **arguments):
            result = whole(model, scan, prompts, **arguments)
            result.masks[:] = 0
            if found:
                result.masks[:, 6:10, 5:9, 4:8] = 1
            for e in result.report["prompts"]:
                e |= {"found": found, "volume_ml": 1.0, "largest_diameter_mm": 9.0, "centroid_mm": [1.0, 2.0, 3.0]}
            return result

        monkeypatch.setattr(segment, "segment_scan", boxed)

    return set_to


@pytest.mark.parametrize("format", FILES)
def test_formats(tmp_path, weights, finds, format):
    finds(True)
    scan, out = write_dicom(tmp_path / "series", ct_values()), tmp_path / "out"
    common = (scan, "--prompt", 'cyst "x" [/red]', "--out", out, "--weights", weights, "--format", format)
    run(*common)
    path = out / f"series{FILES[format]}"
    assert {f.name for f in out.iterdir()} == {path.name, "series.json", "series.png", "summary.csv"}
    assert summary(out)[0]["mask"] == path.name == json.loads((out / "series.json").read_text())["mask"]
    if format in ("dicom-seg", "rtstruct"):
        read = pydicom.dcmread(path)
        assert read.StudyInstanceUID == pydicom.dcmread(scan / "000.dcm").StudyInstanceUID
        assert 'cyst "x" [/red]' in str(read)
    else:
        assert read_scan(path, labels=True).sum() == 64
    run(*common)
    assert summary(out)[0]["status"] == "skipped"


@pytest.mark.parametrize("format", FILES)
def test_nothing_is_lost_where_prompts_overlap(tmp_path, weights, finds, format):
    finds(True)
    scan, out = write_dicom(tmp_path / "series", ct_values()), tmp_path / "out"
    common = (scan, "--out", out, "--weights", weights, "--format", format, "--prompt", "tumor")
    output = run(*common, "--prompt", "liver tumor")
    assert "(overlaps with" in output
    entries = json.loads((out / "series.json").read_text())["prompts"]
    assert [e["overlaps_with"] for e in entries] == [["liver tumor"], ["tumor"]]
    if format in ("dicom-seg", "rtstruct"):
        return
    labels = read_scan(out / f"series{FILES[format]}", labels=True)
    for number, (entry, row) in enumerate(zip(entries, summary(out), strict=True), 1):
        assert entry["mask"] == row["mask"] == f"series{FILES[format]}".replace("_mask", f"_mask_{number}")
        assert read_scan(out / entry["mask"], labels=True).sum() == 64
        assert entry["volume_in_label_map_ml"] == round(int((labels == number).sum()) * 0.012, 3)
    assert (labels > 0).sum() == 64
    run(*common, "--prompt", "liver tumor")
    assert summary(out)[0]["status"] == "skipped"
    run(*common)
    assert len(list(out.glob("series_mask*"))) == 1 and "overlaps_with" not in (out / "series.json").read_text()


@pytest.mark.parametrize("format", ["dicom-seg", "rtstruct"])
def test_nothing_found_is_said_and_no_dicom_is_written(tmp_path, weights, finds, format):
    scan, out = write_dicom(tmp_path / "series", ct_values()), tmp_path / "out"
    common = (scan, "--prompt", "tumor", "--out", out, "--weights", weights, "--format", format)
    finds(True)
    run(*common)
    finds(False)
    run(*common, "--force")
    assert not list(out.glob("*.dcm")) and summary(out)[0]["mask"] == "none: nothing found"
    run(*common)
    assert (summary(out)[0]["status"], summary(out)[0]["mask"]) == ("skipped", "none: nothing found")


def test_dicom_results_need_a_dicom_scan(tmp_path, weights):
    write_nifti(tmp_path / "a.nii.gz", ct_values())
    out = tmp_path / "out"
    run(tmp_path / "a.nii.gz", "--prompt", "tumor", "--out", out, "--weights", weights, "--format", "rtstruct", code=1)
    assert "no DICOM series" in summary(out)[0]["error"] and [f.name for f in out.iterdir()] == ["summary.csv"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--format", "stl"], "no format 'stl': use one of nifti"),
        (["--push", "http://localhost:1"], "add --format dicom-seg"),
        (["--push", "localhost", "--format", "dicom-seg"], "begins with http"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path, weights, arguments, words):
    scan = write_dicom(tmp_path / "series", ct_values())
    output = run(scan, "--prompt", "tumor", "--weights", weights, *arguments, "--out", tmp_path / "out", code=2)
    assert words in " ".join(output.split()) and not (tmp_path / "out").exists()


def test_a_result_is_stored_once_and_kept_if_the_server_is_down(tmp_path, weights, finds, monkeypatch):
    finds(True)
    stored, down = [], [True]

    def store(url, datasets):
        if down[0]:
            raise ServerError(f"{url} could not be reached")
        stored.extend(d.SOPInstanceUID for d in datasets)

    monkeypatch.setattr(segment, "store", store)
    scan, out = write_dicom(tmp_path / "series", ct_values()), tmp_path / "out"
    common = (scan, "--prompt", "tumor", "--out", out, "--weights", weights, "--format", "dicom-seg")
    url = "http://me:secret@localhost:1/dicom-web"
    run(*common, "--push", url, code=1)
    uid = pydicom.dcmread(out / "series_seg.dcm").SOPInstanceUID
    assert "could not be reached" in summary(out)[0]["error"] and summary(out)[0]["mask"] == "series_seg.dcm"
    down[0] = False
    run(*common, "--push", url)
    run(*common, "--push", url)
    assert stored == [uid] and summary(out)[0]["status"] == "skipped"
    report = (out / "series.json").read_text()
    assert json.loads(report)["stored"] == ["http://localhost:1/dicom-web"] and "secret" not in report


def test_nothing_found_is_not_sent(tmp_path, weights, finds, monkeypatch):
    finds(False)
    monkeypatch.setattr(segment, "store", lambda *_: pytest.fail("nothing is to be stored"))
    scan = write_dicom(tmp_path / "series", ct_values())
    common = ("--prompt", "tumor", "--out", tmp_path / "out", "--weights", weights, "--format", "dicom-seg")
    run(scan, *common, "--push", "http://localhost:1")


@pytest.fixture(scope="module")
def zept_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("zept") / "zept.pt"
    config = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "width": 8, "heads": 2, "patch": 32}
    model, encoder = build("zept", config), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "zept", path, config=config, encoder=encoder)
    return path


def test_maps_are_kept_on_request(tmp_path, zept_weights):
    scan, out = write_nifti(tmp_path / "a.nii.gz", ct_values()), tmp_path / "out"
    common = (scan, "--prompt", "tumor", "--method", "zept", "--weights", zept_weights, "--out", out)
    run(*common)
    small = Image.open(out / "a.png").height
    assert not (out / "a_anomaly.nii.gz").exists() and "maps" not in json.loads((out / "a.json").read_text())
    run(*common, "--save", "anomaly")
    values, report = nib.load(out / "a_anomaly.nii.gz"), json.loads((out / "a.json").read_text())
    assert values.shape == (20, 18, 16) and (values.affine == nib.load(scan).affine).all()
    assert report["maps"]["anomaly"]["peak"] == pytest.approx(values.get_fdata().max(), abs=1e-3)
    assert Image.open(out / "a.png").height == 2 * small
    run(*common, "--save", "anomaly")
    assert summary(out)[0]["status"] == "skipped"
    (out / "a_anomaly.nii.gz").unlink()
    run(*common, "--save", "anomaly")
    assert summary(out)[0]["status"] == "done" and (out / "a_anomaly.nii.gz").is_file()


def test_maps_that_a_method_does_not_have(tmp_path, weights):
    common = (write_nifti(tmp_path / "a.nii.gz", ct_values()), "--prompt", "tumor", "--weights", weights)
    output = run(*common, "--out", tmp_path / "out", "--save", "anomaly", code=2)
    assert "malenia has no map 'anomaly'" in " ".join(output.split()) and not (tmp_path / "out").exists()
