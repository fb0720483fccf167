"""Small scans on disk for tests: NIfTI, NRRD and DICOM with known content."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from highdicom.legacy import LegacyConvertedEnhancedCTImage, LegacyConvertedEnhancedMRImage
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid


def ct_values(shape=(20, 18, 16)) -> np.ndarray:
    """HU: air, a body of fat and soft tissue, and one bright corner that tells the axes apart."""
    values = np.full(shape, -1000.0, dtype=np.float32)
    values[3:-3, 3:-3, 2:-2] = -100
    values[5:-5, 5:-5, 2:-2] = np.random.default_rng(0).normal(50, 8, values[5:-5, 5:-5, 2:-2].shape)
    values[6:9, 5:7, 3:5] = 300
    return values


def write_nifti(path: Path, values: np.ndarray, affine=None) -> Path:
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


def write_dicom(
    folder: Path, values: np.ndarray, modality="CT", series=None, spacing=(2.0, 2.0, 3.0), x=(1, 0, 0), y=(0, 1, 0),
    descending=False, **tags,
) -> Path:  # fmt: skip
    """A series of slices (X, Y), axial unless `x` and `y` say where columns and rows run (LPS); `values` (X, Y, Z).

    descending: later files lie further back along the slice normal, not further on. tags: more of every slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), series or generate_uid(), generate_uid()
    storage = MRImageStorage if modality == "MR" else CTImageStorage
    step = np.cross(x, y) * spacing[2] * (-1 if descending else 1)
    for k in range(values.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.PatientID, data.PatientName, data.InstanceNumber = modality, "T1", "Test", k + 1
        data.ImagePositionPatient = [f"{v:.10g}" for v in (-10.0, -20.0, 30.0) + k * step]
        data.ImageOrientationPatient = [f"{v:.10g}" for v in (*x, *y)]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        data.Rows, data.Columns = values.shape[1], values.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        for key, value in tags.items():
            setattr(data, key, value)
        data.PixelData = (values[:, :, k].T + 1024).round().astype(np.uint16).tobytes()
        data.is_little_endian, data.is_implicit_VR = True, False
        pydicom.dcmwrite(folder / f"{(k * 7) % values.shape[2]:03d}.dcm", data, write_like_original=False)
    return folder


def write_enhanced(folder: Path, values: np.ndarray, modality="CT", per_frame=False, **options) -> Path:
    """The same scan as `write_dicom`'s, which lies beside it, as one enhanced object; see `merge`."""
    single = write_dicom(folder.with_name(f"{folder.name}-single"), values, modality, **options)
    return merge(single, folder, per_frame)


def merge(single: Path, folder: Path, per_frame=False, **tags) -> Path:
    """The slices of a folder as one enhanced object, its frames in the order of the files' names.

    per_frame: every frame says its own geometry, and has a rescale of its own, as those of MR scanners do. tags: of every
    slice, before.
    """
    slices = [pydicom.dcmread(file) for file in sorted(single.glob("*"))]
    for one in slices:  # what the converter asks for
        one.ImageType, one.PatientOrientation = ["ORIGINAL", "PRIMARY", "AXIAL"], ["L", "P"]
        for key in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "PatientBirthDate", "PatientSex",
                    "ReferringPhysicianName", "Manufacturer"):  # fmt: skip
            setattr(one, key, one.get(key, ""))
        for key in ("AcquisitionDate", "AcquisitionTime"):  # which it takes for dates and not for text
            one.pop(key, None)
        for key, value in tags.items():
            setattr(one, key, value)
    mr = slices[0].Modality == "MR"
    convert = LegacyConvertedEnhancedMRImage if mr else LegacyConvertedEnhancedCTImage
    whole = convert(slices, slices[0].SeriesInstanceUID, 1, generate_uid(), 1)
    if per_frame:
        shared = whole.SharedFunctionalGroupsSequence[0]
        for k, frame in enumerate(whole.PerFrameFunctionalGroupsSequence):
            for group in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
                setattr(frame, group, shared[group].value)
            rescale = pydicom.Dataset()
            rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1 + k, 5 * k, "US"
            frame.PixelValueTransformationSequence = [rescale]
        for group in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence"):
            if group in shared:
                del shared[group]
    folder.mkdir(parents=True, exist_ok=True)
    whole.save_as(folder / "enhanced.dcm", write_like_original=False)
    return folder
