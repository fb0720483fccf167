"""Which files of a real folder are offered as scans."""

import logging

import pytest
from lib.compat import import_without_torchvision

import_without_torchvision()
from lib.store import Folder
from make_files import ct_values, write_nifti
from monailabel.config import settings
from monailabel.datastore.local import DataModel, ImageLabelModel

from zerotumor.results import Results, replacing

MASK = (ct_values() > 0).astype("u1")
ENDINGS = {"report": ".json", "mask": "_mask.nii.gz", "picture": ".png"}


@pytest.fixture
def studies(tmp_path):
    """A scan with what an earlier run of scripts/segment.py wrote beside it, and files that are no scans."""
    scan = write_nifti(tmp_path / "case.nii.gz", ct_values())
    files = Results(tmp_path, ENDINGS).files_of(scan)
    with replacing(files, {"scan": str(scan), "request": {"prompt": ["tumor"]}, "picture": files["picture"].name}):
        write_nifti(files["mask"], MASK)
        files["picture"].write_bytes(b"a picture")
    for name in ("photo.jpg", "slide.tif", "notes.xml", "._case.nii.gz", ".writing-x.nii.gz"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "folder.nii.gz").mkdir()
    return tmp_path


def opened(folder):
    """The folder as the app opens it."""
    return Folder(str(folder), extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT)


def name_of(store, image):
    return store.get_image_uri(image).rsplit("/", 1)[1]


def test_scans_are_offered_and_neither_pictures_nor_results(studies):
    store = opened(studies)
    assert store.list_images() == ["case"] and name_of(store, "case") == "case.nii.gz"


def test_results_of_a_run_while_the_server_runs_are_not_offered(studies):
    store = opened(studies)
    scan = write_nifti(studies / "new.nii.gz", ct_values())
    files = Results(studies, ENDINGS).files_of(scan)
    with replacing(files, {"scan": str(scan), "request": {}, "picture": None}):
        write_nifti(files["mask"], MASK)
        store.refresh()
        assert sorted(store.list_images()) == ["case", "new"]
    store.refresh()
    assert sorted(store.list_images()) == ["case", "new"]
    write_nifti(studies / "case_lesion.nii.gz", ct_values())
    store.refresh()
    assert "case_lesion" in store.list_images(), "no report names it"


def test_of_two_files_of_one_name_the_first_stays_and_the_log_names_the_other(tmp_path, caplog):
    write_nifti(tmp_path / "x.nii.gz", ct_values())
    (tmp_path / "x.nrrd").write_bytes(b"1")
    with caplog.at_level(logging.WARNING, logger="lib.scans"):
        store = opened(tmp_path)
        store.refresh()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and said[0].startswith("x.nrrd is not offered") and "rename" in said[0]
    assert store.list_images() == ["x"] and name_of(store, "x") == "x.nii.gz"


def test_an_id_that_is_taken_stays_its_scans(tmp_path, caplog):
    (tmp_path / "x.nrrd").write_bytes(b"1")
    store = opened(tmp_path)
    store.update_image_info("x", {"score": 0.5})
    write_nifti(tmp_path / "x.nii.gz", ct_values())
    store.refresh()
    for datastore in (store, opened(tmp_path)):
        assert name_of(datastore, "x") == "x.nrrd" and datastore.get_image_info("x")["score"] == 0.5
    assert "x.nii.gz is not offered" in caplog.text


def test_what_an_earlier_version_took_for_scans_is_put_right_and_no_label_lost(studies, tmp_path_factory, caplog):
    store = opened(studies)
    label = str(write_nifti(tmp_path_factory.mktemp("in") / "label.nii.gz", MASK))
    entries = {"case": ".png", "case_mask": ".nii.gz", "photo": ".jpg", "slide": ".tif"}
    for image, suffix in entries.items():
        store._datastore.objects[image] = ImageLabelModel(image=DataModel(ext=suffix))
    store._update_datastore_file()
    for image in ("case", "slide"):
        store.save_label(image, label, "final", {"prompt": "cyst"})
    after = opened(studies)
    assert sorted(after.list_images()) == ["case", "slide"] and name_of(after, "case") == "case.nii.gz"
    assert all(after.get_label_info(i, "final")["prompt"] == "cyst" for i in ("case", "slide"))
    assert "slide.tif is no scan" in caplog.text


@pytest.mark.parametrize("patterns", ["*.png", ["*.svs", "*.xml"], []])
def test_a_folder_of_kinds_that_cannot_be_read_is_refused(tmp_path, patterns):
    with pytest.raises(ValueError, match=r"MONAI_LABEL_DATASTORE_FILE_EXT names no kind of scan .*\*\.nii\.gz"):
        Folder(str(tmp_path), extensions=patterns)


def test_patterns_that_narrow_what_is_offered_still_do(studies):
    write_nifti(studies / "plain.nii", ct_values())
    assert Folder(str(studies), extensions=["*.nii", "*.png"]).list_images() == ["plain"]


def test_a_scan_that_is_a_link_is_offered_as_what_it_is_called_here(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "case.nii.gz").symlink_to(write_nifti(tmp_path / "elsewhere.nii.gz", ct_values()))
    store = opened(tmp_path / "studies")
    assert store.list_images() == ["case"]
    assert store.get_image_uri("case") == str(tmp_path / "studies" / "case.nii.gz")
    assert store.get_image_uri("other") == ""
