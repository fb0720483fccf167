"""Whose a file in a folder of results is, and which scan a result is of."""

import json
from pathlib import Path

import pytest

from zerotumor.errors import ScanError
from zerotumor.results import Results, kept, read_report, refuse_to_overwrite, replacing, state_of, without_results

ENDINGS = {"mask": "_mask.nii.gz", "report": ".json", "picture": ".png"}
SCAN = Path("/in/a")
REPORT = {"scan": str(SCAN), "scan_state": "s", "request": {"prompts": ["tumor"], "format": "nifti", "save": []}}


def write(files, report):
    report = report | {"picture": files["picture"].name}
    with replacing(files, report):
        files["mask"].touch()
        files["picture"].touch()
    return report


def test_what_was_written_is_kept_for_the_same_scan_and_question(tmp_path):
    files = Results(tmp_path, ENDINGS).files_of(SCAN)
    report = write(files, REPORT)
    assert report["files"] == ["a_mask.nii.gz", "a.png"]
    assert kept(files, REPORT["request"], "s") == report
    assert kept(files, REPORT["request"], "other") is None and kept(files, {}, "s") is None
    assert kept(files, REPORT["request"], None) is None
    refuse_to_overwrite(files)
    files["mask"].unlink()
    assert kept(files, REPORT["request"], "s") is None


def test_a_stop_in_between_claims_the_files_and_says_nothing_of_them(tmp_path):
    files = Results(tmp_path, ENDINGS).files_of(SCAN)
    write(files, REPORT)
    with pytest.raises(KeyboardInterrupt), replacing(files, REPORT):
        files["mask"].touch()
        raise KeyboardInterrupt
    assert kept(files, REPORT["request"], "s") is None and "unfinished" in files["report"].read_text()
    refuse_to_overwrite(files)
    assert without_results([files["mask"]]) == []
    assert Results(tmp_path, ENDINGS).files_of(SCAN) == files


def test_names_are_distinct_and_those_in_reports_stay(tmp_path):
    write(Results(tmp_path, ENDINGS).files_of(Path("/in/p2/a")), REPORT | {"scan": "/in/p2/a"})
    names = [Results(tmp_path, ENDINGS).files_of(Path(f"/in/{p}/a"))["report"].stem for p in ("p1", "p2", "p1")]
    assert names[1] == "a" and names[0] == names[2] != "a"


def test_reports_from_before_they_named_their_files_are_known(tmp_path):
    old = {"scan": "in/a", "request": {}, "mask": "a_mask.nii.gz", "picture": "a.png"}
    (tmp_path / "a.json").write_text(json.dumps(old))
    files = Results(tmp_path, ENDINGS).files_of(Path("in/a").absolute())
    for file in files.values():
        file.touch()
    (tmp_path / "a.json").write_text(json.dumps(old))
    refuse_to_overwrite(files)
    assert kept(files, {}, "s") is None


def test_a_report_names_files_beside_it_alone(tmp_path):
    (tmp_path / "user.nii.gz").touch()
    folder = tmp_path / "out"
    folder.mkdir()
    names = ["../user.nii.gz", str(tmp_path / "user.nii.gz"), 7, "a.png"]
    (folder / "a.json").write_text(json.dumps(REPORT | {"picture": "a.png", "files": names}))
    assert read_report(folder / "a.json")["files"] == ["a.png"]
    write(Results(folder, ENDINGS).files_of(SCAN), REPORT)
    assert (tmp_path / "user.nii.gz").is_file()


def test_a_file_of_somebody_else_is_refused(tmp_path):
    files = Results(tmp_path, ENDINGS).files_of(SCAN)
    files["picture"].touch()
    with pytest.raises(ScanError, match="a.png is no result of an earlier run.* choose another --out"):
        refuse_to_overwrite(files)


def test_a_header_is_another_scan_once_its_voxels_change(tmp_path):
    for name in ("a.nhdr", "a.raw"):
        (tmp_path / name).touch()
    before = state_of(tmp_path / "a.nhdr")
    write(Results(tmp_path, ENDINGS).files_of(tmp_path / "a.nhdr"), REPORT)
    assert state_of(tmp_path / "a.nhdr") == before
    (tmp_path / "a.raw").write_bytes(b"1")
    assert state_of(tmp_path / "a.nhdr") != before and state_of(tmp_path / "none.nii") is None
