"""Bad input: one sentence that says what is wrong and what to do, and nothing half-written."""

import gzip
import shutil

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import torch
from make_files import ct_values, write_dicom, write_nifti
from monai.data import MetaTensor

from zerotumor.errors import ScanError
from zerotumor.prompts import parse
from zerotumor.transforms import ModalityError, decide_modality
from zerotumor.volumes import read_scan, write_atomically, write_mask


def refused(path, words, **arguments):
    """Reading fails with a ScanError that is one sentence and holds the words."""
    with pytest.raises(ScanError, match=words) as error:
        read_scan(path, **arguments)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_no_file(tmp_path):
    refused(tmp_path / "no.nii.gz", "does not exist")


def test_empty_file(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    refused(tmp_path / "a.nii.gz", "is empty")


def test_another_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    refused(tmp_path / "a.txt", "neither NIfTI")


def test_text_called_nifti(tmp_path):
    (tmp_path / "a.nii").write_text("hello" * 200)
    refused(tmp_path / "a.nii", "damaged or no NIfTI")


def test_truncated_gzip(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32)
    whole = write_nifti(tmp_path / "a.nii.gz", values).read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "a.nii.gz", "damaged")


def test_corrupt_gzip(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"not a scan" * 100))
    refused(tmp_path / "a.nii.gz", "damaged or no NIfTI")


def test_nifti_without_affine(tmp_path):
    image = nib.Nifti1Image(ct_values(), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "no affine")


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones((3, 3)) * 2])
def test_nifti_with_an_affine_that_is_none(tmp_path, bad):
    affine = np.eye(4)
    affine[:3, :3] = bad
    image = nib.Nifti1Image(ct_values(), np.eye(4))
    image.header["sform_code"] = 2
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    (tmp_path / "a.nii").write_bytes(header_and_values(image))
    refused(tmp_path / "a.nii", "damaged affine.*geometry")


def header_and_values(image) -> bytes:
    """A NIfTI file with its header as it is, where nibabel would mend it."""
    image.header["magic"], image.header["vox_offset"] = b"n+1", 352
    return image.header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes(order="F")


@pytest.mark.parametrize("edge", [0.01, 80.0])
def test_voxels_that_no_scanner_makes(tmp_path, edge):
    refused(write_nifti(tmp_path / "a.nii.gz", ct_values(), np.diag([1.0, edge, 1, 1])), f"1 x {edge:g} x 1 mm")


def test_unit_of_length_that_nobody_knows(tmp_path):
    image = nib.Nifti1Image(ct_values(), np.eye(4))
    image.header["xyzt_units"] = 7
    nib.save(image, tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "lengths in number 7.*millimeters")


@pytest.mark.parametrize("dtype, words", [(np.complex64, "complex numbers"), ([(c, "u1") for c in "RGB"], "colors")])
def test_voxels_that_are_no_gray_values(tmp_path, dtype, words):
    refused(write_nifti(tmp_path / "a.nii.gz", np.ones((9, 9, 9), dtype)), words)


def write_nrrd(path, **header):
    """A scan with a header of 1 x 2 x 3 mm in LPS, but for what is said."""
    usual = {
        "space": "LPS",
        "space directions": np.diag([1.0, 2, 3]),
        "space origin": np.zeros(3),
        "kinds": ["domain"] * 3,
    }
    header = {key.replace("_", " "): value for key, value in header.items()}
    nrrd.write(str(path), ct_values(), {k: v for k, v in (usual | header).items() if v is not None})
    return path


@pytest.mark.parametrize("header", [{"space": None, "space_dimension": 3}, {"space": "scanner-xyz"}])
def test_nrrd_without_left_and_right(tmp_path, header):
    refused(write_nrrd(tmp_path / "a.nrrd", **header), "where left and right are.*left-posterior-superior")


@pytest.mark.parametrize("key", ["space_directions", "space_origin"])
def test_nrrd_whose_geometry_is_no_number(tmp_path, key):
    bad = np.diag([1.0, np.nan, 3]) if key == "space_directions" else np.array([0, np.nan, 0])
    refused(write_nrrd(tmp_path / "a.nrrd", **{key: bad}), "no numbers")


@pytest.mark.parametrize("units", [["mm", "mm", "um"], ["pixel"] * 3])
def test_nrrd_in_other_units(tmp_path, units):
    refused(write_nrrd(tmp_path / "a.nrrd", space_units=units), "lengths in .*millimeters")


def test_nrrd_without_geometry(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), ct_values())
    refused(tmp_path / "a.nrrd", "no space directions")


def test_damaged_nrrd(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\nfoo")
    refused(tmp_path / "a.nrrd", "damaged or no NRRD")


@pytest.mark.parametrize(
    "shape, words", [((9, 9, 9, 3), "4 dimensions"), ((9, 9), "2 dimensions"), ((9, 9, 1), "single slice")]
)
def test_wrong_shape(tmp_path, shape, words):
    refused(write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).random(shape, np.float32)), words)


def test_one_time_point_is_a_volume(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", ct_values()[..., None])
    assert read_scan(path).shape == (1, 20, 18, 16)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, bad):
    values = ct_values()
    values[4, 4, 4] = bad
    refused(write_nifti(tmp_path / "a.nii.gz", values), "NaN or infinite")


def test_constant_image(tmp_path):
    refused(write_nifti(tmp_path / "a.nii.gz", np.full((9, 9, 9), 7, np.float32)), "constant")


def test_a_label_map_is_no_scan(tmp_path):
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[5:9, 5:9, 5:9] = 2
    path = write_nifti(tmp_path / "a.nii.gz", labels)
    refused(path, "label map")
    assert read_scan(path, labels=True).max() == 2


def test_folder_without_images(tmp_path):
    refused(tmp_path, "no readable DICOM")


def test_corrupt_dicom(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values())
    (folder / "005.dcm").write_bytes(b"\0" * 400)
    refused(folder, "damaged DICOM")


def test_dicom_cut_short(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values())
    content = (folder / "005.dcm").read_bytes()
    (folder / "005.dcm").write_bytes(content[: len(content) - 300])
    refused(folder, "cannot be decoded|damaged")


def change(folder, number=None, **tags):
    """Set elements (None: take them out) of all files of a series, or of one by its number; returns the folder."""
    for file in sorted(folder.iterdir())[slice(None) if number is None else slice(number, number + 1)]:
        data = pydicom.dcmread(file)
        for key, value in tags.items():
            if value is None:
                delattr(data, key)
            else:
                setattr(data, key, value)
        data.save_as(file)
    return folder


def test_damaged_dicom_without_a_suffix(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values())
    content = (folder / "000.dcm").read_bytes()
    (folder / "000.dcm").unlink()
    (folder / "CT.1.2.3").write_bytes(content[:400])
    refused(folder, "damaged DICOM")


@pytest.mark.parametrize("pixels", [b"\0" * 200, None])
def test_dicom_slice_with_too_few_pixels(tmp_path, pixels):
    folder = change(write_dicom(tmp_path / "d", ct_values()), 5, PixelData=pixels)
    refused(folder, f"005.dcm is damaged .{len(pixels or '')} of 720 bytes")


@pytest.mark.parametrize(
    "tag, value",
    [("Modality", None), ("Modality", ""), ("PixelSpacing", None), ("Rows", 0), ("BitsAllocated", None)],
)
@pytest.mark.parametrize("number", [3, None])
def test_dicom_slice_without_a_needed_element(tmp_path, tag, value, number):
    refused(change(write_dicom(tmp_path / "d", ct_values()), number, **{tag: value}), f"no valid {tag}: export")


@pytest.mark.parametrize("value", [None, ""])
def test_a_series_without_its_uid_is_read(tmp_path, value):
    assert read_scan(change(write_dicom(tmp_path / "d", ct_values()), SeriesInstanceUID=value)).shape == (1, 20, 18, 16)


@pytest.mark.parametrize("number", [0, None])
@pytest.mark.parametrize(
    "tag, value",
    [
        ("ImageOrientationPatient", ["nan", "0", "0", "0", "1", "0"]),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]),
        ("ImageOrientationPatient", []),
        ("ImagePositionPatient", ["0", "0"]),
        ("ImagePositionPatient", []),
        ("PixelSpacing", ["0", "2"]),
        ("PixelSpacing", ["inf", "2"]),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_dicom_geometry_that_is_none(tmp_path, tag, value, number):
    refused(change(write_dicom(tmp_path / "d", ct_values()), number, **{tag: value}), f"no valid {tag}")


def test_a_slice_that_lost_its_place(tmp_path):
    folder = change(write_dicom(tmp_path / "d", ct_values()), 0, ImagePositionPatient=None)
    refused(folder, "000.dcm has no valid ImagePositionPatient")


def test_slices_of_several_fields_of_view(tmp_path):
    folder = change(write_dicom(tmp_path / "d", ct_values()), 4, PixelSpacing=["2.2", "2"])
    refused(folder, "different PixelSpacing.*one field of view")


def test_slices_of_several_sizes(tmp_path):
    folder = change(write_dicom(tmp_path / "d", ct_values()), 4, Rows=20, PixelData=b"\0" * 800)
    refused(folder, "different Rows")


def test_dicom_in_color(tmp_path):
    tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    refused(change(write_dicom(tmp_path / "d", ct_values()), **tags), "in color")
    refused(change(write_dicom(tmp_path / "e", ct_values()), PhotometricInterpretation="PALETTE COLOR"), "in color")


def test_inverted_mr_is_not_guessed_at(tmp_path):
    refused(write_dicom(tmp_path / "d", ct_values(), "MR", PhotometricInterpretation="MONOCHROME1"), "MONOCHROME2")


def test_missing_slice(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values())
    by_place = {pydicom.dcmread(f).ImagePositionPatient[2]: f for f in folder.iterdir()}
    by_place[sorted(by_place)[5]].unlink()
    refused(folder, "a slice is missing near")


def test_mixed_series_and_the_way_out(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values(), series="1.2.3")
    other = write_dicom(tmp_path / "e", ct_values() * 0.5, series="1.2.4")
    for k, file in enumerate(sorted(other.iterdir())):
        shutil.copy(file, folder / f"x{k}.dcm")
    refused(folder, "mixes 2 series")
    refused(folder, "holds no series", series="9.9")
    assert float(read_scan(folder, series="1.2.4").max()) == 150


def test_two_time_points_in_one_series(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values())
    for k, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, folder / f"x{k}.dcm")
    refused(folder, "same place")


def test_tilted_gantry(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values())
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.ImagePositionPatient[1] += 0.3 * float(data.ImagePositionPatient[2])
        data.save_as(file)
    refused(folder, "gantry tilt")


def test_uneven_slices(tmp_path):
    folder = write_dicom(tmp_path / "d", ct_values())
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        if float(data.ImagePositionPatient[2]) > 50:
            data.ImagePositionPatient[2] = float(data.ImagePositionPatient[2]) + 1
            data.save_as(file)
    refused(folder, "unevenly spaced")


def test_pet_is_neither_ct_nor_mr(tmp_path):
    scan = read_scan(write_dicom(tmp_path / "d", ct_values(), modality="PT"))
    with pytest.raises(ModalityError, match="modality PT"):
        decide_modality(scan, scan.meta["modality"])


@pytest.mark.parametrize("header, user", [("MR", None), (None, "MR"), ("MR", "CT"), ("CT", "MR")])
def test_modality_that_contradicts_data_or_header(header, user):
    with pytest.raises(ModalityError):
        decide_modality(torch.from_numpy(ct_values()), header, user)


def test_undecidable_modality_asks():
    with pytest.raises(ModalityError, match="--modality CT or --modality MR"):
        decide_modality(torch.randn(1, 9, 9, 9))


def test_prompt_in_another_script_is_no_error():
    assert parse("肝肿瘤; опухоль печени")[0].lesion is None


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(ScanError, match="No space left.*free some space"):
        write_mask(torch.zeros(3, 3, 3), torch.eye(4), tmp_path / "out" / "m.nii.gz")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_older_result_survives_a_failed_write(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def broken(p):
        p.write_text("new")
        raise OSError("no")

    with pytest.raises(ScanError):
        write_atomically(path, broken)
    assert path.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ScanError, match="could not be written"):
        write_atomically(tmp_path / "file" / "a.txt", lambda p: p.write_text("x"))


def test_meta_tensor_is_what_reading_gives(tmp_path):
    scan = read_scan(write_nifti(tmp_path / "a.nii.gz", ct_values()))
    assert isinstance(scan, MetaTensor) and scan.dtype == torch.float32 and scan.shape == (1, 20, 18, 16)
