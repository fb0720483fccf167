"""A DICOMweb archive as datastore: which labels count, series that are still arriving, and servers that fail."""

import json
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from make_files import ct_values, write_dicom, write_enhanced
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "apps" / "zerotumor"))
from lib.compat import import_without_torchvision

import_without_torchvision()
from fastapi import HTTPException
from lib.archive import Archive
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from requests import Session

from zerotumor import stow
from zerotumor.export import dicom_seg
from zerotumor.volumes import read_scan


class Client(DICOMwebClient):
    """An archive that holds these objects."""

    def __init__(self, objects):
        super().__init__("http://archive.invalid/dicom-web")
        self.objects, self.lost = objects, 0

    def search_for_series(self, search_filters=None, **_):
        series = {str(o.SeriesInstanceUID): o for o in self.objects}.values()
        wanted = [o for o in series if all(o.get(k) == v for k, v in search_filters.items())]
        return [{**o.group_dataset(0x20).to_json_dict(), **o.group_dataset(0x08).to_json_dict()} for o in wanted]

    def search_for_instances(self, study, series, **_):
        return [{} for o in self.objects if o.SeriesInstanceUID == series]

    def retrieve_series(self, study, series, **_):
        return [o for o in self.objects if o.SeriesInstanceUID == series][self.lost :]

    def retrieve_series_metadata(self, study, series, **_):
        found = [o.to_json_dict() for o in self.objects if o.SeriesInstanceUID == series]
        return [{k: v for k, v in o.items() if k != "7FE00010"} for o in found]

    def store_instances(self, datasets, **_):
        self.objects += datasets
        return Dataset()


@pytest.fixture
def folder(tmp_path):
    return write_dicom(tmp_path / "series", ct_values())


@pytest.fixture
def client(folder):
    slices = [pydicom.dcmread(file) for file in folder.iterdir()]
    return Client(sorted(slices, key=lambda s: s.InstanceNumber))


@pytest.fixture
def uid(client):
    return str(client.objects[0].SeriesInstanceUID)


@pytest.fixture
def open_archive(tmp_path):
    """Opens an archive with a cache that lasts as long as the test."""
    opened = []

    def archive(client, **options):
        opened.append(Archive(client, {"Modality": "CT"}, cache_path=str(tmp_path / "cache"), **options))
        return opened[-1]

    yield archive
    for one in opened:
        one._observer.stop()


def like(image, path, voxels=None):
    """A label on an image's grid; empty unless voxels are given."""
    scan = nib.load(image)
    label = np.zeros(scan.shape, np.uint8)
    if voxels is not None:
        label[voxels] = 1
    nib.save(nib.Nifti1Image(label, scan.affine), path)
    return str(path)


def seg_of(folder, image, semiautomatic=False):
    scan = nib.load(image)
    mask = np.zeros((1, *scan.shape), np.uint8)
    mask[0, 6:9, 5:7, 3:5] = 1
    entry = {"prompt": "liver tumor", "concept": "liver tumor", "organs": ["liver"]}
    return dicom_seg(folder, mask, scan.affine, [entry], semiautomatic=semiautomatic)


def test_an_enhanced_object_is_a_series_like_any_other(open_archive, tmp_path):
    folder = write_enhanced(tmp_path / "series", ct_values())
    source = pydicom.dcmread(folder / "enhanced.dcm")
    archive = open_archive(client := Client([source]))
    (uid,) = archive.list_images()
    image = archive.get_image_uri(uid)
    assert np.array_equal(nib.load(image).get_fdata(), read_scan(folder)[0].numpy())
    label = like(image, tmp_path / "label.nii.gz", (slice(6, 9), slice(5, 7), slice(3, 5)))
    archive.save_label(uid, label, "final", {"label_info": [{"name": "liver tumor", "idx": 1}]})
    seg = client.objects[-1]
    named = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert seg.Modality == "SEG" and named.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert seg.NumberOfFrames == 2 and named.ReferencedFrameNumber and archive.get_labeled_images() == [uid]


def test_the_list_for_training_keeps_a_label_that_says_healthy(client, uid, open_archive, tmp_path):
    archive = open_archive(client)
    image = archive.get_image_uri(uid)
    archive.save_label(uid, like(image, tmp_path / "empty.nii.gz"), "final", {})
    label = archive.get_label_uri(uid, "final")
    assert archive.datalist() == [{"image": image, "label": label}]
    assert Path(label).is_file() and archive.get_labeled_images() == [uid]


def test_the_list_for_training_keeps_a_label_whose_seg_is_gone_from_the_archive(client, uid, open_archive, tmp_path):
    archive = open_archive(client)
    image = archive.get_image_uri(uid)
    archive.save_label(uid, like(image, tmp_path / "a.nii.gz", np.s_[6:9, 5:7, 3:5]), "final", {})
    label = archive.get_label_uri(uid, "final")
    assert archive.datalist() == [{"image": image, "label": label}]
    assert client.objects.pop().Modality == "SEG"
    assert archive.datalist() == [] and Path(label).is_file()


def test_what_is_not_kept_is_not_pushed_either(client, uid, open_archive, tmp_path):
    archive = open_archive(client)
    image = archive.get_image_uri(uid)
    archive.save_label(uid, like(image, tmp_path / "a.nii.gz", np.s_[6:9, 5:7, 3:5]), "final", {})
    pushed, label = len(client.objects), Path(archive.get_label_uri(uid, "final")).read_bytes()
    archive.provenance = lambda *_: {"provenance": {"automatic": True}}
    with pytest.raises(HTTPException, match="person's") as refused:
        archive.save_label(uid, like(image, tmp_path / "b.nii.gz", np.s_[2:9, 5:7, 3:5]), "final", {})
    assert refused.value.status_code == 409 and len(client.objects) == pushed
    assert Path(archive.get_label_uri(uid, "final")).read_bytes() == label


def test_what_the_app_proposed_is_no_label_to_train_on(client, uid, folder, open_archive):
    archive = open_archive(client)
    client.objects.append(seg_of(folder, archive.get_image_uri(uid)))
    assert archive.datalist() == [] and archive.get_label_uri(uid, "final") == ""


def test_a_persons_label_that_the_archive_alone_has_is_fetched(client, uid, folder, open_archive):
    archive = open_archive(client)
    image = archive.get_image_uri(uid)
    client.objects += [seg_of(folder, image), seg_of(folder, image, semiautomatic=True)]
    (pair,) = archive.datalist()
    assert pair["image"] == image and int(read_scan(pair["label"], labels=True).sum()) == 12


def test_a_scan_that_cannot_be_read_does_not_hold_up_the_list_for_training(client, uid, folder, open_archive, caplog):
    archive = open_archive(client)
    client.objects.append(seg_of(folder, archive.get_image_uri(uid), semiautomatic=True))
    other = [pydicom.dcmread(file) for file in write_dicom(folder.parent / "other", ct_values()).iterdir()]
    gap = [s for s in other if s.InstanceNumber != 8]
    foreign = seg_of(folder, archive.get_image_uri(uid), semiautomatic=True)
    foreign.ReferencedSeriesSequence[0].SeriesInstanceUID = other[0].SeriesInstanceUID
    client.objects += [*gap, foreign]
    assert len(archive.get_labeled_images()) == 2
    assert [Path(pair["image"]).name for pair in archive.datalist()] == [f"{uid}.nii.gz"]
    assert str(other[0].SeriesInstanceUID) in caplog.text


def slices(image):
    return nib.load(image).shape[2]


def test_a_series_that_was_still_arriving_is_fetched_again(client, uid, open_archive, tmp_path):
    everything = client.objects
    client.objects = everything[:9]
    archive = open_archive(client)
    image = archive.get_image_uri(uid)
    archive.save_label(uid, like(image, tmp_path / "a.nii.gz"), "original", {})
    assert slices(image) == 9
    client.objects = everything[:12]
    assert slices(archive.get_image_uri(uid)) == 12 and len(list(Path(archive.series_folder(uid)).iterdir())) == 12
    client.objects = everything
    assert slices(open_archive(client).get_image_uri(uid)) == 16
    assert Path(archive.get_label_uri(uid, "original")).is_file(), "what was made before is not lost"


def test_a_series_that_is_whole_is_fetched_once(client, uid, open_archive, monkeypatch):
    for one in client.objects:
        one.NumberOfSeriesRelatedInstances = len(client.objects)
    monkeypatch.setattr(client, "search_for_instances", None)
    image = open_archive(client).get_image_uri(uid)
    monkeypatch.setattr(client, "retrieve_series", None)
    assert open_archive(client).get_image_uri(uid) == image


def test_a_download_that_lacks_slices_is_not_kept(client, uid, open_archive):
    archive, client.lost = open_archive(client), 5
    assert "gave 11 of 16 files" in refused(archive.get_image_uri, uid)
    assert archive.series_folder(uid) == ""
    client.lost = 0
    assert slices(archive.get_image_uri(uid)) == 16


def test_a_series_with_a_gap_is_read_once_the_gap_is_filled(client, uid, open_archive):
    archive, late = open_archive(client), client.objects.pop(7)
    with pytest.raises(HTTPException, match="422") as error:
        archive.get_image_uri(uid)
    assert f"the series {uid}" in error.value.detail and archive.series_folder(uid) == ""
    client.objects.append(late)
    assert slices(archive.get_image_uri(uid)) == 16


def test_files_made_from_frames_are_refused_at_the_start(client, open_archive):
    with pytest.raises(ValueError, match="MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME"):
        open_archive(client, fetch_by_frame=True)


class Handler(BaseHTTPRequestHandler):
    """Answers every question with the server's `status` and `content`."""

    def do_GET(self):
        self.server.logins.append(self.headers.get("Authorization"))
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Handler) as one:
        one.url, one.status, one.content, one.logins = f"http://127.0.0.1:{one.server_port}/dicom-web", 200, b"[]", []
        Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


def refused(ask, *args):
    """The one sentence of a 502."""
    with pytest.raises(HTTPException) as error:
        ask(*args)
    assert error.value.status_code == 502 and "\n" not in error.value.detail
    return error.value.detail


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>log in</html>"),
        (200, b'{"error": "x"}'),
        (200, b'[{"00080060": {"vr": "CS", "Value": ["CT"]}}]'),
        (200, b'["x"]'),
        (200, b"null"),
        (401, b""),
        (500, b"[]"),
        (503, b""),
    ],
)
def test_an_answer_that_is_none(server, open_archive, status, content):
    server.status, server.content = status, content
    archive = open_archive(DICOMwebClient(server.url))
    asked = [archive.list_images, archive.get_labeled_images, archive.get_unlabeled_images, archive.datalist]
    said = [*map(refused, asked), refused(archive.get_image_uri, "1.2.3")]
    assert all("the archive is not reached or does not answer as a DICOMweb server" in sentence for sentence in said)
    assert status in (200, 503) or f"HTTP {status}" in said[0]


def test_a_series_that_belongs_to_no_study(server, open_archive):
    series = {"0020000E": {"vr": "UI", "Value": ["1.2.3"]}, "00080060": {"vr": "CS", "Value": ["SEG"]}}
    server.content = json.dumps([series]).encode()
    archive = open_archive(DICOMwebClient(server.url))
    assert "does not answer as a DICOMweb server" in refused(archive.get_image_uri, "1.2.3")
    assert "does not answer as a DICOMweb server" in refused(archive.get_labeled_images)


def test_no_archive(open_archive):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        archive = open_archive(DICOMwebClient(f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web"))
    start = time.monotonic()
    assert "is not reached" in refused(archive.list_images) and "is not reached" in refused(
        archive.get_image_uri, "1.2"
    )
    assert time.monotonic() - start < 10


def test_a_silent_archive_holds_nobody(open_archive, monkeypatch):
    monkeypatch.setattr(stow, "TIMEOUT", (1, 0.3))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        archive = open_archive(DICOMwebClient(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        start = time.monotonic()
        assert "is not reached" in refused(archive.list_images) and "is not reached" in refused(
            archive.get_image_uri, "1.2"
        )
        assert time.monotonic() - start < 10


def test_the_login_of_the_settings_stays(server, open_archive, tmp_path):
    session = Session()
    session.auth = ("me", "s@fe")
    first = DICOMWebDatastore(DICOMwebClientX(server.url, session=session), {}, cache_path=str(tmp_path / "cache"))
    archive = Archive.like(first)
    archive._observer.stop()
    assert archive.list_images() == [] and set(server.logins) == {"Basic bWU6c0BmZQ=="}
