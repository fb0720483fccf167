"""Labels that are saved, and a disk that is full: a real limit of the operating system on what a process may write."""

import json
import os
import resource
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import processes
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "apps" / "zerotumor"))
from lib.compat import import_without_torchvision

import_without_torchvision()
from fastapi import HTTPException
from lib.store import Folder
from monailabel.datastore.local import DataModel, ImageLabelModel

from zerotumor.volumes import write_mask


def label(path, voxels):
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), np.eye(4)), path)
    return str(path)


@pytest.fixture
def store(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((40, 40, 40), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    return Folder(str(tmp_path))


@pytest.fixture
def small_disk():
    """From when it is called, no file of this process can grow beyond some bytes; as before at the end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def saved(store, tmp_path):
    index = json.loads((tmp_path / "datastore_v2.json").read_text())
    return np.asarray(nib.load(tmp_path / "labels" / "final" / "scan.nii.gz").dataobj), index


def test_a_label_and_what_was_said_of_it_are_kept(store, tmp_path_factory, tmp_path):
    voxels = np.eye(40)[None].repeat(40, 0)
    store.save_label("scan", label(tmp_path_factory.mktemp("in") / "a.nii.gz", voxels), "final", {"prompt": "cyst"})
    kept, index = saved(store, tmp_path)
    assert np.array_equal(kept, voxels)
    assert index["objects"]["scan"]["labels"]["final"]["info"]["prompt"] == "cyst"
    assert store.get_labeled_images() == ["scan"] and store.get_unlabeled_images() == []


def test_a_second_process_undoes_nothing_that_the_first_has_saved(store, tmp_path_factory, tmp_path):
    """Scoring runs beside the server, on an index of its own."""
    scoring = Folder(str(tmp_path))
    path = label(tmp_path_factory.mktemp("in") / "a.nii.gz", np.ones((40, 40, 40)))
    store.save_label("scan", path, "final", {"prompt": "cyst"})
    scoring.update_image_info("scan", {"score": 0.5})
    store.save_label("scan", path, "original", {})
    index = json.loads((tmp_path / "datastore_v2.json").read_text())["objects"]["scan"]
    assert index["labels"]["final"]["info"]["prompt"] == "cyst" and set(index["labels"]) == {"final", "original"}
    assert index["image"]["info"]["score"] == 0.5


def test_a_score_that_is_written_while_a_label_is_read_stays(store, tmp_path_factory, tmp_path):
    scoring = Folder(str(tmp_path))

    def meanwhile(*_):
        scoring.update_image_info("scan", {"score": 0.5})
        return {"prompt": "cyst"}

    store.provenance = meanwhile
    store.save_label("scan", label(tmp_path_factory.mktemp("in") / "a.nii.gz", np.ones((40, 40, 40))), "final", {})
    entry = json.loads((tmp_path / "datastore_v2.json").read_text())["objects"]["scan"]
    assert entry["image"]["info"]["score"] == 0.5 and entry["labels"]["final"]["info"]["prompt"] == "cyst"


def test_no_label_is_lost_to_a_process_that_writes_all_the_time(tmp_path_factory, tmp_path):
    for k in range(40):
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / f"scan{k}.nii.gz")
    elsewhere = tmp_path_factory.mktemp("in")
    path, program, log = label(elsewhere / "a.nii.gz", np.ones((4, 4, 4))), elsewhere / "scoring.py", elsewhere / "log"
    store = Folder(str(tmp_path))
    program.write_text(
        "import sys; from lib.compat import import_without_torchvision; import_without_torchvision()\n"
        "from lib.store import Folder; store = Folder(sys.argv[1])\n"
        "store.update_image_info('scan0', {'score': 1}); print('ready', flush=True)\n"  # else it may never have its turn
        "for k in range(2, 10**6): store.update_image_info('scan0', {'score': k})"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'apps' / 'zerotumor'}{os.pathsep}{root / 'bundle'}"}
    scoring = processes.start(str(program), [str(tmp_path)], tmp_path, environment, log)
    try:
        while not (log.is_file() and "ready" in log.read_text()):
            assert scoring.is_alive(), log.read_text()
            time.sleep(0.1)
        for k in range(40):
            store.save_label(f"scan{k}", path, "final", {"k": k})
    finally:
        scoring.kill()
        scoring.join()
    objects = json.loads((tmp_path / "datastore_v2.json").read_text())["objects"]
    assert [objects[f"scan{k}"]["labels"]["final"]["info"]["k"] for k in range(40)] == list(range(40))
    assert objects["scan0"]["image"]["info"]["score"] > 0


def test_what_another_process_has_written_is_seen_at_once(store, tmp_path_factory, tmp_path):
    """An index that was renamed into its place tells MONAI Label's watcher nothing."""
    other = Folder(str(tmp_path))
    other.update_image_info("scan", {"score": 0.5})
    assert store.get_image_info("scan")["score"] == 0.5
    other.save_label(
        "scan", label(tmp_path_factory.mktemp("in") / "a.nii.gz", np.ones((40, 40, 40))), "final", {"k": 1}
    )
    assert store.get_unlabeled_images() == [] and store.get_labeled_images() == store.list_images() == ["scan"]
    assert store.get_label_info("scan", "final")["k"] == 1 and len(store.datalist()) == 1
    assert store.get_label_uri("scan", "final") and store.status()["completed"] == 1


def test_two_versions_of_the_index_are_told_apart_within_one_tick_of_the_clock(store, tmp_path):
    index = tmp_path / "datastore_v2.json"
    before = index.stat()
    Folder(str(tmp_path)).update_image_info("scan", {"score": 0.5})
    os.utime(index, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.get_image_info("scan")["score"] == 0.5


@pytest.mark.parametrize("room", [100, 2000, 16_000])
def test_a_full_disk_loses_nothing_saved_before(store, tmp_path_factory, tmp_path, small_disk, room):
    folder = tmp_path_factory.mktemp("in")
    first, second = np.zeros((40, 40, 40)), np.random.default_rng(0).integers(0, 2, (40, 40, 40))
    first[3:9] = 1
    store.save_label("scan", label(folder / "a.nii.gz", first), "final", {"prompt": "first"})
    large = label(folder / "b.nii.gz", second)
    assert 2000 < Path(large).stat().st_size < 16_000, "so that once the label fits, and its index does not"
    small_disk(room)
    with pytest.raises(HTTPException) as refused:
        store.save_label("scan", large, "final", {"prompt": "second", "note": "x" * 20_000})
    assert refused.value.status_code == 507 and "not saved" in refused.value.detail
    small_disk(resource.RLIM_INFINITY)
    kept, index = saved(store, tmp_path)
    assert np.array_equal(kept, first)
    assert index["objects"]["scan"]["labels"]["final"]["info"]["prompt"] == "first"
    assert not list(tmp_path.rglob(".saving-*")) and not list(tmp_path.rglob(".writing-*"))
    store.save_label("scan", large, "final", {"prompt": "second"})
    assert np.array_equal(saved(store, tmp_path)[0], second)


def test_a_label_that_was_corrected_in_another_format_does_not_come_back(tmp_path_factory, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((40, 40, 40), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    extensions = ("*.nii.gz", "*.nii", "*.nrrd")
    store, folder = Folder(str(tmp_path), extensions=extensions), tmp_path_factory.mktemp("in")
    store.save_label("scan", label(folder / "a.nii.gz", np.ones((40, 40, 40))), "final", {})
    write_mask(torch.zeros(40, 40, 40), torch.eye(4), folder / "b.nrrd")
    store.save_label("scan", str(folder / "b.nrrd"), "final", {"prompt": "cyst"})
    assert [f.name for f in (tmp_path / "labels" / "final").iterdir()] == ["scan.nrrd"]
    assert Folder(str(tmp_path), extensions=extensions).get_label_info("scan", "final")["prompt"] == "cyst"
    label(tmp_path / "labels" / "final" / "scan.nii.gz", np.ones((40, 40, 40)))  # as saved by an earlier version
    store.remove_label("scan", "final")
    assert (
        store.get_unlabeled_images() == Folder(str(tmp_path), extensions=extensions).get_unlabeled_images() == ["scan"]
    )


@pytest.mark.parametrize(
    ("image", "tag", "status"), [("scan", "../../up", 400), ("scan", "", 400), ("other", "final", 404)]
)
def test_tags_are_words_and_images_are_known(store, tmp_path_factory, tmp_path, image, tag, status):
    path = label(tmp_path_factory.mktemp("in") / "a.nii.gz", np.ones((40, 40, 40)))
    with pytest.raises(HTTPException) as refused:
        store.save_label(image, path, tag, {})
    assert refused.value.status_code == status
    assert not list(tmp_path.parent.glob("up*"))


@pytest.fixture
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("in") / "other.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.int16), np.eye(4)), path)
    return str(path)


BAD = ["../victim/mod", "/tmp/mod", "a/b", "a\\b", ".hidden", "..", "a\0b", "a\nb", "x" * 300]


@pytest.mark.parametrize("image", BAD)
def test_an_id_is_a_name_in_the_folder(tmp_path, scan, image):
    """Also in an index that an earlier version has written."""
    victim = tmp_path / "victim" / "mod.nii.gz"
    victim.parent.mkdir()
    victim.write_text("mine")
    store = Folder(str(tmp_path / "studies"))
    with pytest.raises(HTTPException) as refused:
        store.add_image(image, scan, {})
    assert refused.value.status_code == 400 and "name" in refused.value.detail
    store._datastore.objects[image] = ImageLabelModel(image=DataModel(ext=".nii.gz"))
    store._update_datastore_file()
    with pytest.raises(HTTPException) as refused:
        store.remove_image(image)
    assert refused.value.status_code == 400
    assert victim.read_text() == "mine" and [f.name for f in tmp_path.rglob("*.nii.gz")] == ["mod.nii.gz"]


@pytest.mark.parametrize("name", ["p.py", "no suffix", "a.nhdr", "a.nii.gz.sh", "a.NII.GZ"])
def test_what_is_no_scan_by_its_name_is_refused(store, tmp_path, scan, name):
    path = Path(scan).with_name(name)
    path.write_bytes(Path(scan).read_bytes())
    with pytest.raises(HTTPException) as refused:
        store.add_image("new", str(path), {})
    assert refused.value.status_code == 400 and ".nii.gz" in refused.value.detail
    assert not list(tmp_path.glob("new*")) and store.list_images() == ["scan"]


def test_a_scan_is_added_and_removed_with_its_labels(store, tmp_path, scan):
    assert store.add_image("", scan, {"Modality": "MR"}) == "other"
    assert (tmp_path / "other.nii.gz").read_bytes() == Path(scan).read_bytes()
    assert Folder(str(tmp_path)).get_image_info("other")["Modality"] == "MR"
    store.save_label("other", scan, "final", {})
    store.remove_image("other")
    assert not list(tmp_path.rglob("other*")) and not list(tmp_path.rglob(".saving-*"))
    assert store.list_images() == Folder(str(tmp_path)).list_images() == ["scan"]
    with pytest.raises(HTTPException) as refused:
        store.remove_image("other")
    assert refused.value.status_code == 404


def test_of_a_linked_scan_the_link_is_removed(tmp_path, scan):
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "linked.nii.gz").symlink_to(scan)
    store = Folder(str(studies))
    store.remove_image("linked")
    assert Path(scan).is_file() and store.list_images() == [] and not list(studies.glob("*.nii.gz"))


def test_another_scan_does_not_come_under_the_labels_of_the_one_before(store, tmp_path, scan):
    store.save_label("scan", scan, "final", {"prompt": "cyst"})
    store.update_image_info("scan", {"score": 0.5})
    before = (tmp_path / "scan.nii.gz").read_bytes()
    with pytest.raises(HTTPException) as refused:
        store.add_image("scan", scan, {})
    assert refused.value.status_code == 409 and (tmp_path / "scan.nii.gz").read_bytes() == before
    same = Path(scan).with_name("same.nii.gz")
    same.write_bytes(before)
    store.add_image("scan", str(same), {"note": "again"})
    for datastore in (store, Folder(str(tmp_path))):
        info = datastore.get_image_info("scan")
        assert (info["score"], info["note"]) == (0.5, "again")
        assert datastore.get_label_info("scan", "final")["prompt"] == "cyst"


@pytest.mark.parametrize("said", [[1], "text", 3])
def test_what_is_said_of_a_label_or_scan_is_an_object(store, scan, said):
    for save in (
        lambda: store.save_label("scan", scan, "final", said),
        lambda: store.add_image("new", scan, said),
    ):
        with pytest.raises(HTTPException) as refused:
            save()
        assert refused.value.status_code == 400 and "params" in refused.value.detail


def test_a_damaged_label_is_refused(store, tmp_path_factory):
    path = Path(label(tmp_path_factory.mktemp("in") / "a.nii.gz", np.ones((40, 40, 40))))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(HTTPException) as refused:
        store.save_label("scan", str(path), "final", {})
    assert refused.value.status_code == 422
