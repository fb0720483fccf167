"""Which files a request may name: scans of the datastore, and what MONAI Label has taken from a client."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from fastapi import HTTPException
from lib.engine import LATEST, Engine
from lib.options import TumorOptions

from zerotumor.adaptation import Adapted
from zerotumor.in_turn import IN_TURN
from zerotumor.kept import VolumeFeatures, Window
from zerotumor.phantom import generate
from zerotumor.pipeline import EncodedScan
from zerotumor.versions import save_version
from zerotumor.volumes import write_nifti


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


def test_two_methods_in_turn_share_the_models_and_scans_of_the_first(tmp_path):
    engine = Engine(None, 0.3, lambda: [tmp_path])
    assert engine.offered == [IN_TURN, *engine.methods()]
    assert TumorOptions(method=IN_TURN).method == IN_TURN
    model = engine.model(IN_TURN, LATEST)
    assert model.base is engine.model("malenia") and not hasattr(model, "version")
    phantom = generate(3, shape=(40,) * 3, spacing=4.0, modality="CT")
    write_nifti(phantom.image[0].numpy(), torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0])), tmp_path / "scan.nii.gz")
    kept = [engine.encoded(tmp_path / "scan.nii.gz", name, "CT")[1] for name in (IN_TURN, "malenia")]
    assert kept[0] is kept[1]


def test_what_prompts_have_computed_of_a_scan_counts_and_goes_with_the_scan_or_before_it(tmp_path):
    engine = Engine(None, 0.3, lambda: [tmp_path])
    rest, keys = [torch.zeros(1, 10, 10, 10) for _ in range(2)], [("a", "malenia", None), ("b", "malenia", None)]
    scans = [EncodedScan(one, "CT", one, VolumeFeatures([])) for one in rest]
    engine.budget = 3 * scans[0].bytes
    for key, scan in zip(keys, scans, strict=True):
        engine._keep(key, scan)
    assert [engine._known(key) for key in keys] == scans
    scans[1].features.further["organs"] = torch.zeros(2000)  # as much again as a scan
    assert [engine._known(key) for key in keys] == scans
    scans[1].features.further["another"] = VolumeFeatures([Window((), {"a": torch.zeros(1)})])
    assert engine._known(keys[1]) is scans[1] and engine._known(keys[0]) is None
    assert len(scans[1].features.further) == 2
    engine.budget = scans[1].bytes - 1
    assert engine._known(keys[1]) is scans[1] and not scans[1].features.further
    engine.budget = 0
    engine._keep(keys[0], scans[0])
    assert engine._known(keys[0]) is None


def test_what_the_first_has_learned_is_asked_first(tmp_path):
    engine = Engine(None, 0.3, lambda: [tmp_path], tmp_path / "versions")
    learned = Adapted(engine.model("malenia"), [])
    save_version(learned, tmp_path / "versions" / "mine", method="malenia")
    model = engine.model(IN_TURN, LATEST)
    assert model.version == "mine" and model.base is engine.model("malenia", "mine")
    assert engine.model(IN_TURN).base is engine.model("malenia")


def test_weights_that_were_not_measured_for_it_are_offered_one_by_one(tmp_path):
    (tmp_path / "model.pt").touch()
    assert Engine(tmp_path, 0.0, lambda: []).offered == ["malenia"]
