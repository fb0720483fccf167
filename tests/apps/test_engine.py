"""Which files a request may name: scans of the datastore, and what MONAI Label has taken from a client."""

import os
import tempfile
from pathlib import Path

import pytest
from fastapi import HTTPException
from lib.engine import Engine


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder of this test's own."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    return tmp_path / "temp"


@pytest.fixture
def engine(tmp_path, temporary):
    (tmp_path / "studies").mkdir()
    return Engine(None, 0.0, lambda: [tmp_path / "studies"])


@pytest.mark.parametrize("suffix", ["", ".nii.gz", ".v1.2 of ann.nii.gz", ".nrrd"])
def test_what_was_just_sent_is_read(engine, temporary, suffix):
    with tempfile.NamedTemporaryFile(suffix=suffix) as named:  # as MONAI Label, which takes the name alone
        sent = Path(named.name)
    sent.write_bytes(b"a scan")
    assert engine.image_path(str(sent)) == sent.resolve()


@pytest.mark.parametrize(
    "name",
    ["scan.nii.gz", "tmp.nii.gz", "tmpabcd1234-a.nii.gz", "ann/tmpabcd1234.nii.gz", "tmpabcd1234/scan.nii.gz"],
)
def test_other_files_in_the_temporary_folder_are_not(engine, temporary, name):
    (temporary / name).parent.mkdir(exist_ok=True)
    (temporary / name).write_bytes(b"somebody's scan")
    with pytest.raises(HTTPException, match="must lie in the datastore") as refused:
        engine.image_path(str(temporary / name))
    assert refused.value.status_code == 403


def test_neither_folders_nor_links_nor_what_is_not_there_are_uploads(engine, temporary, tmp_path):
    (tmp_path / "private.nii.gz").write_bytes(b"somebody's scan")
    (temporary / "tmpaaaaaaaa").mkdir()
    (temporary / "tmpbbbbbbbb.nii.gz").symlink_to(tmp_path / "private.nii.gz")
    for name in ("tmpaaaaaaaa", "tmpbbbbbbbb.nii.gz", "tmpcccccccc.nii.gz"):
        with pytest.raises(HTTPException) as refused:
            engine.image_path(str(temporary / name))
        assert refused.value.status_code == 403


def test_another_users_file_is_no_upload(engine, temporary, monkeypatch):
    path = temporary / "tmpabcd1234.nii.gz"
    path.write_bytes(b"somebody's scan")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(HTTPException, match="must lie in the datastore"):
        engine.image_path(str(path))


def test_a_scan_of_the_datastore_is_read_and_one_that_is_gone_is_named(engine, tmp_path):
    (tmp_path / "studies" / "scan.nii.gz").write_bytes(b"a scan")
    assert engine.image_path(str(tmp_path / "studies" / "scan.nii.gz")).name == "scan.nii.gz"
    for image, status in (("studies/gone.nii.gz", 404), ("studies/../temp/scan.nii.gz", 403)):
        with pytest.raises(HTTPException) as refused:
            engine.image_path(str(tmp_path / image))
        assert refused.value.status_code == status


def test_what_a_link_in_the_datastore_leads_to_is_read_and_nothing_beside_it(engine, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    scan, other = (tmp_path / "elsewhere" / name for name in ("scan.nii.gz", "other.nii.gz"))
    for path in (scan, other):
        path.write_bytes(b"a scan")
    link = tmp_path / "studies" / "case.nii.gz"
    link.symlink_to(scan)
    assert engine.image_path(str(link)) == scan.resolve()
    for name in (scan, other, link.parent / ".." / "elsewhere" / "scan.nii.gz"):
        with pytest.raises(HTTPException, match="must lie in the datastore"):
            engine.image_path(str(name))
