"""Enhanced CT and MR: one object with many frames is the scan that its slices are, and results refer to its frames."""

import numpy as np
import pydicom
import pydicom_seg
import pytest
import torch
from make_files import ct_values, write_dicom, write_enhanced
from test_export import ENTRIES, PIXELS, SERIES, near, places, places_of_image, rasterised, some_masks

from zerotumor.derived import source_headers
from zerotumor.errors import ScanError
from zerotumor.export import dicom_seg, rtstruct, write_dataset
from zerotumor.volumes import find_scans, read_scan


@pytest.fixture(params=SERIES)
def folder(request, tmp_path):
    return write_enhanced(tmp_path / "series", ct_values(), spacing=PIXELS, **SERIES[request.param])


def change(folder, edit):
    """Edit the object of a folder."""
    dataset = pydicom.dcmread(folder / "enhanced.dcm")
    edit(dataset)
    dataset.save_as(folder / "enhanced.dcm", write_like_original=False)


def test_it_is_the_scan_that_its_slices_are(folder):
    single, scan = read_scan(folder.with_name("series-single")), read_scan(folder)
    assert torch.equal(scan.as_tensor(), single.as_tensor()) and scan.meta["modality"] == "CT"
    assert np.allclose(scan.affine, single.affine, atol=1e-6)
    assert find_scans([folder]) == [folder]


def test_frames_may_say_everything_themselves_and_have_a_scale_of_their_own(tmp_path):
    folder = write_enhanced(tmp_path / "series", ct_values() + 1200, "MR", per_frame=True)
    scan, single = read_scan(folder), read_scan(tmp_path / "series-single")
    stored = single.as_tensor()[0] + 1024
    numbers = {header.ImagePositionPatient[2]: header.ReferencedFrameNumber for header in source_headers(folder)}
    assert len(set(numbers.values())) == 16 and scan.meta["modality"] == "MR"
    for z, number in numbers.items():
        k = round((z - 30) / 3)
        assert torch.allclose(scan.as_tensor()[0, :, :, k], stored[:, :, k] * number + 5 * (number - 1))


def without_shared(dataset):
    del dataset.SharedFunctionalGroupsSequence


@pytest.mark.parametrize(("per_frame", "edit"), [(False, None), (True, None), (True, without_shared)])
def test_a_seg_lies_on_its_frames(tmp_path, per_frame, edit):
    """Where frames share their grid, where each says its own, and where nothing is shared at all."""
    folder = write_enhanced(tmp_path / "series", ct_values(), per_frame=per_frame, **SERIES["oblique"])
    if edit:
        change(folder, edit)
    scan = read_scan(folder)
    masks = some_masks(scan)
    seg = dicom_seg(folder, masks, scan.affine, ENTRIES)
    write_dataset(seg, tmp_path / "seg.dcm")
    result = pydicom_seg.SegmentReader().read(pydicom.dcmread(tmp_path / "seg.dcm"))
    for number, mask in enumerate(masks, 1):
        assert near(places_of_image(result.segment_image(number)), places(mask, scan.affine))
    source = pydicom.dcmread(folder / "enhanced.dcm")
    for frame in seg.PerFrameFunctionalGroupsSequence:
        named = frame.DerivationImageSequence[0].SourceImageSequence[0]
        own = source.PerFrameFunctionalGroupsSequence[int(named.ReferencedFrameNumber) - 1]
        assert named.ReferencedSOPInstanceUID == source.SOPInstanceUID
        place, where = (one.PlanePositionSequence[0].ImagePositionPatient for one in (frame, own))
        assert np.allclose(np.array(place, float), np.array(where, float), atol=1e-4)


def test_outlines_lie_on_its_frames(folder, tmp_path):
    scan = read_scan(folder)
    masks = some_masks(scan)
    write_dataset(rtstruct(folder, masks, scan.affine, ENTRIES), tmp_path / "rt.dcm")
    structure, headers = pydicom.dcmread(tmp_path / "rt.dcm"), source_headers(folder)
    for number, mask in enumerate(masks, 1):
        assert (rasterised(headers, structure, number).transpose(2, 1, 0) == mask).all()
    study = structure.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    images = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert sorted(int(image.ReferencedFrameNumber) for image in images) == list(range(1, 17))


def test_a_segmentation_beside_it_is_no_scan(tmp_path):
    folder = write_enhanced(tmp_path / "series", ct_values())
    scan = read_scan(folder)
    write_dataset(dicom_seg(folder, some_masks(scan), scan.affine, ENTRIES), folder / "seg.dcm")
    assert torch.equal(read_scan(folder).as_tensor(), scan.as_tensor())


def moved(k, z):
    def edit(dataset):
        dataset.PerFrameFunctionalGroupsSequence[k].PlanePositionSequence[0].ImagePositionPatient = [-10, -20, z]

    return edit


def two_echoes(dataset):
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [-10, -20, 3 * (k // 2)]


def without_place(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def fewer(dataset):
    """Than the functional groups say."""
    dataset.NumberOfFrames = 15
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(8)] * 15)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless


def cut(dataset):
    dataset.PixelData = dataset.PixelData[:-400]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (two_echoes, "at the same place"),
        (moved(0, 15.0), "a slice is missing"),
        (without_place, "no valid ImagePositionPatient"),
        (cut, "is damaged"),
        (fewer, "cannot be decoded"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path, edit, words):
    folder = write_enhanced(tmp_path / "series", ct_values())
    change(folder, edit)
    with pytest.raises(ScanError, match=words):
        read_scan(folder)


def test_a_volume_in_two_objects_is_read_and_has_no_seg(tmp_path):
    values, series = ct_values(), pydicom.uid.generate_uid()
    folder = write_enhanced(tmp_path / "near", values[..., :8], series=series)
    further = write_enhanced(tmp_path / "far", values[..., 8:], series=series)
    shift = pydicom.dcmread(further / "enhanced.dcm")
    for frame in shift.PerFrameFunctionalGroupsSequence:
        x, y, z = frame.PlanePositionSequence[0].ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + 8 * 3.0]
    for key in ("StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(shift, key, pydicom.dcmread(folder / "enhanced.dcm")[key].value)
    shift.save_as(folder / "far.dcm", write_like_original=False)
    scan = read_scan(folder)
    assert torch.equal(scan.as_tensor(), read_scan(write_dicom(tmp_path / "whole", values)).as_tensor())
    masks = some_masks(scan)
    with pytest.raises(ScanError, match="--format nifti or rtstruct"):
        dicom_seg(folder, masks, scan.affine, ENTRIES)
    assert rtstruct(folder, masks, scan.affine, ENTRIES) is not None


@pytest.mark.parametrize("per_frame", [False, True])
def test_compressed_pixels_are_read_by_whichever_library_can(tmp_path, per_frame, monkeypatch):
    folder = write_enhanced(tmp_path / "series", ct_values() + 1200 * per_frame, per_frame=per_frame)
    plain = read_scan(folder).as_tensor()
    change(folder, lambda dataset: dataset.compress(pydicom.uid.RLELossless))
    assert torch.equal(read_scan(folder).as_tensor(), plain)

    def cannot(dataset):
        raise NotImplementedError("no decoder")

    monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(cannot))
    assert torch.allclose(read_scan(folder).as_tensor(), plain)


def compressed(dataset):
    dataset.PixelData = pydicom.encaps.encapsulate([b"no JPEG"] * 16)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless


def test_an_object_that_cannot_be_decoded_gets_a_sentence(tmp_path):
    folder = write_enhanced(tmp_path / "series", ct_values())
    change(folder, compressed)
    with pytest.raises(ScanError, match="the pixels cannot be decoded: export the series again, uncompressed"):
        read_scan(folder)
