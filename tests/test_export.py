"""DICOM SEG and RTSTRUCT: other libraries read back exactly the mask, in its place, under its name."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pydicom_seg
import pytest
import SimpleITK as sitk
import torch
from make_files import ct_values, write_dicom, write_nifti
from rt_utils import RTStructBuilder
from skimage.draw import polygon2mask

from zerotumor.derived import plain_text, source_headers
from zerotumor.dicom import LPS_TO_RAS, plane_of
from zerotumor.errors import ScanError
from zerotumor.export import dicom_seg, rtstruct, save_mask, write_dataset
from zerotumor.volumes import read_scan

TURN = np.array([[0.936, -0.352, 0.0], [0.329, 0.875, -0.355], [0.125, 0.332, 0.935]])  # about two axes
TURN = np.linalg.qr(TURN)[0] * np.sign(np.diag(np.linalg.qr(TURN)[1]))
SERIES = {
    "axial": {},
    "descending": {"descending": True},
    "coronal": {"x": (1, 0, 0), "y": (0, 0, -1)},
    "sagittal": {"x": (0, 1, 0), "y": (0, 0, -1), "descending": True},
    "oblique": {"x": tuple(TURN[:, 0]), "y": tuple(TURN[:, 1])},
    "mirrored": {"x": (-1, 0, 0), "y": (0, 1, 0)},
}
PIXELS = (1.5, 2.5, 3.0)  # mm between columns, rows, slices: all different, so that no mix-up goes unseen


@pytest.fixture(params=SERIES)
def folder(request, tmp_path):
    return write_dicom(tmp_path / "series", ct_values(), spacing=PIXELS, **SERIES[request.param])


def entry(prompt, concept=None, organs=(), score=0.75):
    return {"prompt": prompt, "concept": concept or prompt, "organs": list(organs), "score": score}


ENTRIES = [entry("liver tumor", organs=["liver"]), entry("left kidney cyst", "kidney cyst", ["left kidney"])]


def some_masks(scan):
    """Two overlapping masks of random blobs: single pixels, thin lines, holes, and the scan's corners."""
    shape, random = scan.shape[1:], np.random.default_rng(1)
    masks = np.zeros((2, *shape), dtype=np.uint8)
    masks[0, 4:15, 3:12, 2:9] = 1
    masks[0, 7:10, 5:8, 4:8] = 0
    masks[0, 0, 0, 0] = masks[0, -1, -1, 0] = masks[0, 17, 3:9, 3] = 1
    masks[1] = random.random(shape) > 0.7
    masks[1, :, :, 5] = 0
    return masks


def places(mask, affine):
    """Sorted places (LPS, hundredths of mm) of a mask's voxels."""
    to_lps = LPS_TO_RAS @ np.asarray(affine)
    return {tuple(p) for p in np.rint((np.argwhere(mask) @ to_lps[:3, :3].T + to_lps[:3, 3]) * 50).astype(int)}


def near(one, other):
    """Do two sets of places agree, up to rounding to the next hundredth?"""
    one, other = np.array(sorted(one)), np.array(sorted(other))
    if one.shape != other.shape:
        return False
    distances = np.abs(one[:, None] - other[None]).max(-1)
    return bool((distances.min(0) <= 1).all() and (distances.min(1) <= 1).all())


def places_of_image(image):
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return places(sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ matrix)


def test_pydicom_seg_reads_the_same_voxels(folder, tmp_path):
    scan = read_scan(folder)
    masks = some_masks(scan)
    write_dataset(dicom_seg(folder, masks, scan.affine, ENTRIES), tmp_path / "seg.dcm")
    result = pydicom_seg.SegmentReader().read(pydicom.dcmread(tmp_path / "seg.dcm"))
    assert len(result.available_segments) == 2
    for number, mask in enumerate(masks, 1):
        assert near(places_of_image(result.segment_image(number)), places(mask, scan.affine))


def test_dcmqi_reads_the_same_voxels(folder, tmp_path):
    tool = Path(sys.executable).parent / "segimage2itkimage"
    if not tool.is_file():
        pytest.skip("needs dcmqi's segimage2itkimage")
    scan = read_scan(folder)
    masks = some_masks(scan)
    write_dataset(dicom_seg(folder, masks, scan.affine, ENTRIES), tmp_path / "seg.dcm")
    (tmp_path / "nrrd").mkdir()
    command = [tool, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path / "nrrd", "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    for number, mask in enumerate(masks, 1):
        image = sitk.ReadImage(str(tmp_path / "nrrd" / f"{number}.nrrd"))
        assert near(places_of_image(image), places(mask, scan.affine))


def test_every_frame_names_the_slice_it_lies_on(folder):
    scan = read_scan(folder)
    masks = some_masks(scan)
    seg = dicom_seg(folder, masks, scan.affine, ENTRIES)
    where = {h.SOPInstanceUID: h for h in source_headers(folder)}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(np.array(place, float), np.array(where[source].ImagePositionPatient, float), atol=1e-4)
    assert seg.NumberOfFrames == sum(int(mask[:, :, k].any()) for mask in masks for k in range(mask.shape[2]))
    pixels = seg.get_pixels_by_source_instance(list(where))
    assert pixels.sum((0, 1, 2)).tolist() == masks.sum((1, 2, 3)).tolist()


def rasterised(headers, structure, number):
    """Frames (N, rows, columns) of a region: pixel centers inside an odd number of its contours."""
    frames = np.zeros((len(headers), headers[0].Rows, headers[0].Columns), dtype=bool)
    index = {(h.SOPInstanceUID, h.get("ReferencedFrameNumber")): n for n, h in enumerate(headers)}
    for contour in structure.ROIContourSequence[number - 1].ContourSequence:
        image = contour.ContourImageSequence[0]
        n = index[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")]
        origin, column, row = plane_of(headers[n])
        steps = np.array(contour.ContourData, float).reshape(-1, 3) - origin
        assert np.abs(steps @ np.cross(column, row)).max() < 1e-2 and contour.NumberOfContourPoints == len(steps) > 3
        corners = np.stack([steps @ row / (row @ row), steps @ column / (column @ column)], axis=1)
        frames[n] ^= polygon2mask(frames.shape[1:], corners)
    return frames


def test_outlines_hold_exactly_the_mask(folder, tmp_path):
    scan = read_scan(folder)
    masks = some_masks(scan)
    write_dataset(rtstruct(folder, masks, scan.affine, ENTRIES), tmp_path / "rt.dcm")
    structure, headers = pydicom.dcmread(tmp_path / "rt.dcm"), source_headers(folder)
    for number, mask in enumerate(masks, 1):
        frames = rasterised(headers, structure, number)
        assert (frames.transpose(2, 1, 0) == mask).all()  # read_scan: columns, rows, slices along the normal


@pytest.mark.parametrize("descending", [False, True])
def test_rt_utils_reads_its_own_regions(tmp_path, descending):
    values = ct_values((18, 18, 16))  # rt-utils reads square slices of square pixels only
    folder = write_dicom(tmp_path / "series", values, descending=descending)
    scan = read_scan(folder)
    masks = some_masks(scan)
    write_dataset(rtstruct(folder, masks, scan.affine, ENTRIES), tmp_path / "rt.dcm")
    read = RTStructBuilder.create_from(str(folder), str(tmp_path / "rt.dcm"))
    for label, mask in zip(read.get_roi_names(), masks, strict=True):
        assert (read.get_roi_mask_by_name(label).transpose(1, 0, 2) == mask).all()


def test_masks_in_another_orientation_land_in_the_same_place(tmp_path):
    folder = write_dicom(tmp_path / "series", ct_values(), spacing=PIXELS)
    scan = read_scan(folder)
    masks, affine = some_masks(scan), np.asarray(scan.affine)
    turned = np.array([[0, 0, -1, masks.shape[1] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    other = masks.transpose(0, 2, 3, 1)[..., ::-1]
    one, two = (dicom_seg(folder, m, a, ENTRIES) for m, a in ((masks, affine), (other, affine @ turned)))
    assert one.PixelData == two.PixelData


def test_masks_on_another_grid_are_refused(tmp_path):
    folder = write_dicom(tmp_path / "series", ct_values())
    scan = read_scan(folder)
    masks, affine = some_masks(scan), np.asarray(scan.affine)
    for wrong in (affine @ np.diag([0.5, 1, 1, 1]), affine + np.eye(4, k=3) * 5):
        with pytest.raises(ScanError, match="not on the grid"):
            dicom_seg(folder, masks, wrong, ENTRIES)


def test_what_a_segmentation_says(tmp_path):
    folder = write_dicom(tmp_path / "series", ct_values(), SeriesNumber=7)
    scan, source = read_scan(folder), source_headers(folder)[0]
    seg = dicom_seg(folder, some_masks(scan), scan.affine, ENTRIES, weights="ab" * 32)
    for key in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert seg[key].value == source[key].value
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID and seg.SeriesNumber == 1_000_007
    assert (seg.Modality, seg.SegmentationType, seg.Manufacturer) == ("SEG", "BINARY", "ZeroTumor")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 16
    tumor, cyst = seg.SegmentSequence
    assert (tumor.SegmentLabel, tumor.SegmentAlgorithmType) == ("liver tumor", "AUTOMATIC")
    assert tumor.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert tumor.AnatomicRegionSequence[0].CodeValue == "10200004"
    assert "AnatomicRegionModifierSequence" not in tumor.AnatomicRegionSequence[0]
    assert cyst.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Cyst"
    region = cyst.AnatomicRegionSequence[0]
    assert (region.CodeMeaning, region.AnatomicRegionModifierSequence[0].CodeMeaning) == ("Kidney", "Left")
    algorithm = tumor.SegmentationAlgorithmIdentificationSequence[0]
    assert tumor.SegmentAlgorithmName == algorithm.AlgorithmName == "ZeroTumor malenia"
    assert "ab" * 32 in algorithm.AlgorithmParameters and algorithm.AlgorithmVersion == seg.SoftwareVersions
    assert tumor.TrackingUID != cyst.TrackingUID
    clicked = dicom_seg(folder, some_masks(scan), scan.affine, ENTRIES, semiautomatic=True)
    assert clicked.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert len({seg.SOPInstanceUID, clicked.SOPInstanceUID, seg.SeriesInstanceUID, clicked.SeriesInstanceUID}) == 4


def test_what_a_structure_set_says(tmp_path):
    folder = write_dicom(tmp_path / "series", ct_values())
    scan, source = read_scan(folder), source_headers(folder)[0]
    structure = rtstruct(folder, some_masks(scan), scan.affine, ENTRIES)
    reference = structure.ReferencedFrameOfReferenceSequence[0]
    assert reference.FrameOfReferenceUID == source.FrameOfReferenceUID
    series = reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID and len(series.ContourImageSequence) == 16
    assert [r.ROIName for r in structure.StructureSetROISequence] == ["liver tumor", "left kidney cyst"]
    assert {r.ROIGenerationAlgorithm for r in structure.StructureSetROISequence} == {"AUTOMATIC"}
    assert [o.ReferencedROINumber for o in structure.RTROIObservationsSequence] == [1, 2]
    assert structure.Manufacturer == "ZeroTumor" and "Qurit" not in str(structure)


PROMPTS = [
    "tumor", 'a "quoted" <tag> & \\back\\slash', "two\nlines\r\tand \0 control", "опухоль печени", "肝肿瘤" * 70,
    "x" * 200, "x" * 200 + "y", "  ", "é" * 64,
]  # fmt: skip


@pytest.mark.parametrize("make", [dicom_seg, rtstruct])
def test_odd_prompts_survive_writing_and_reading(tmp_path, make):
    folder = write_dicom(tmp_path / "series", ct_values(), SpecificCharacterSet="ISO_IR 144", PatientName="Иванов^Пётр")
    scan = read_scan(folder)
    masks = np.repeat(some_masks(scan)[:1], len(PROMPTS), 0)
    write_dataset(make(folder, masks, scan.affine, [entry(p) for p in PROMPTS]), tmp_path / "out.dcm")
    read = pydicom.dcmread(tmp_path / "out.dcm")
    if make is dicom_seg:
        labels = [s.SegmentLabel for s in read.SegmentSequence]
    else:
        labels = [s.ROIName for s in read.StructureSetROISequence]
    assert len(set(labels)) == len(PROMPTS) and all(isinstance(x, str) and 0 < len(x) <= 64 for x in labels)
    assert labels[:4] == ["tumor", 'a "quoted" <tag> & /back/slash', "two lines and control", "опухоль печени"]
    assert str(read.PatientName) == "Иванов^Пётр" and read.SpecificCharacterSet == "ISO_IR 192"


def test_plain_text_is_one_line_and_never_empty():
    assert (
        plain_text("\n\\\n", 64) == "/" and plain_text("\0", 64) == "finding" and len(plain_text("a b " * 90, 64)) <= 64
    )


@pytest.mark.parametrize("format, name", [("dicom-seg", "seg.dcm"), ("rtstruct", "rt.dcm")])
def test_nothing_found_is_no_file_and_no_old_one(tmp_path, format, name):
    folder = write_dicom(tmp_path / "series", ct_values())
    scan = read_scan(folder)
    masks, path = torch.from_numpy(some_masks(scan)), tmp_path / name
    assert save_mask(masks, scan.affine, ENTRIES, path, format=format, source=folder) and path.is_file()
    assert not save_mask(masks * 0, scan.affine, ENTRIES, path, format=format, source=folder)
    assert not path.exists()
    masks[0] = 0
    assert save_mask(masks, scan.affine, ENTRIES, path, format=format, source=folder)
    read = pydicom.dcmread(path)
    found = read.SegmentSequence if format == "dicom-seg" else read.StructureSetROISequence
    assert len(found) == 1 and found[0].get("SegmentLabel", found[0].get("ROIName")) == "left kidney cyst"


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nrrd"])
def test_label_maps_come_back_on_the_scan(folder, tmp_path, name):
    scan = read_scan(folder)
    masks = torch.from_numpy(some_masks(scan))
    save_mask(masks, scan.affine, ENTRIES, tmp_path / name, format="nrrd" if name.endswith("nrrd") else "nifti")
    read = read_scan(tmp_path / name, labels=True)
    assert np.allclose(read.affine, scan.affine, atol=1e-4)
    assert (read[0] == torch.where(masks[0] > 0, 1, 2 * masks[1])).all()


def test_a_mask_of_noise_is_too_much_for_a_structure_set(tmp_path, monkeypatch):
    folder = write_dicom(tmp_path / "series", ct_values())
    scan = read_scan(folder)
    monkeypatch.setattr("zerotumor.rtstruct.MAX_OUTLINES", 50)
    with pytest.raises(ScanError, match='"left kidney cyst" falls into more than 50 outlines.*dicom-seg'):
        rtstruct(folder, some_masks(scan), scan.affine, ENTRIES)


def test_a_scan_that_is_no_dicom_is_refused_with_the_way_out(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", ct_values())
    with pytest.raises(ScanError, match="no DICOM series.*--format nifti"):
        source_headers(path)


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_slices_without_identifiers_are_refused(tmp_path, tag):
    folder = write_dicom(tmp_path / "series", ct_values(), **{tag: ""})
    with pytest.raises(ScanError, match=f"no {tag}.*export the series again"):
        source_headers(folder)


def test_headers_that_break_the_rules_are_no_obstacle(tmp_path):
    tags = {"LossyImageCompression": "01", "PatientBirthDate": "1.1.70", "StudyTime": "noon", "NumberOfFrames": 1}
    with pytest.warns(UserWarning):
        folder = write_dicom(tmp_path / "series", ct_values(), **tags)
    scan = read_scan(folder)
    for make in (dicom_seg, rtstruct):
        write_dataset(make(folder, some_masks(scan), scan.affine, ENTRIES), tmp_path / "out.dcm")
        read = pydicom.dcmread(tmp_path / "out.dcm")
        assert (read.PatientBirthDate, read.StudyTime) == ("", "")


def test_the_series_that_was_read_is_the_one_referred_to(tmp_path):
    folder = write_dicom(tmp_path / "series", ct_values(), series="1.2.3")
    for k, file in enumerate(sorted(write_dicom(tmp_path / "other", ct_values() * 0.5, series="1.2.4").iterdir())):
        shutil.copy(file, folder / f"x{k}.dcm")
    scan = read_scan(folder, series="1.2.4")
    seg = dicom_seg(folder, some_masks(scan), scan.affine, ENTRIES, series="1.2.4")
    assert [s.SeriesInstanceUID for s in seg.ReferencedSeriesSequence] == ["1.2.4"]
    with pytest.raises(ScanError, match="mixes 2 series"):
        dicom_seg(folder, some_masks(scan), scan.affine, ENTRIES)


def verified(path):
    """Errors that dciodvfy names in a DICOM file."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("needs dciodvfy of dicom3tools")
    done = subprocess.run([tool, "-new", str(path)], capture_output=True, text=True, errors="replace")
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("format", ["dicom-seg", "rtstruct"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_dciodvfy_finds_no_error(tmp_path, format, modality):
    empty = pydicom.Dataset()
    empty.CodeValue = ""  # as seen in a public collection
    tags = {"PatientName": "Test^A", "PatientSex": "female", "StudyDate": "", "ProcedureCodeSequence": [empty]}
    folder = write_dicom(tmp_path / "series", ct_values(), modality, **tags)
    scan = read_scan(folder)
    masks = torch.from_numpy(some_masks(scan))
    save_mask(masks, scan.affine, ENTRIES, tmp_path / "out.dcm", format=format, source=folder, weights="ab" * 32)
    assert verified(tmp_path / "out.dcm") == []


@pytest.mark.parametrize("name", ["crlm_ct/CRLM-CT-1004", "prostate_mr_seg/ADC"])
def test_real_series(data_dir, tmp_path, name):
    folder = data_dir / "dicom" / name
    if not folder.is_dir():
        pytest.skip(f"needs dicom/{name} among the real scans")
    scan = read_scan(folder)
    masks = np.zeros((2, *scan.shape[1:]), dtype=np.uint8)
    masks[0, 90:110, 80:120, 3:9] = 1
    masks[1, 60:70, 60:90, 11:15] = 1
    write_dataset(dicom_seg(folder, masks, scan.affine, ENTRIES), tmp_path / "seg.dcm")
    write_dataset(rtstruct(folder, masks, scan.affine, ENTRIES), tmp_path / "rt.dcm")
    result = pydicom_seg.SegmentReader().read(pydicom.dcmread(tmp_path / "seg.dcm"))
    structure, headers = pydicom.dcmread(tmp_path / "rt.dcm"), source_headers(folder)
    for number, mask in enumerate(masks, 1):
        assert near(places_of_image(result.segment_image(number)), places(mask, scan.affine))
        assert (rasterised(headers, structure, number).transpose(2, 1, 0) == mask).all()


def test_real_series_without_identifiers(data_dir):
    folder = data_dir / "dicom" / "ct_jpeg2000"
    if not folder.is_dir():
        pytest.skip("needs dicom/ct_jpeg2000 among the real scans")
    with pytest.raises(ScanError, match="no StudyInstanceUID"):
        source_headers(folder)
