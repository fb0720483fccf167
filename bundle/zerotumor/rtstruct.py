"""Masks as a DICOM RT Structure Set: one region a finding, outlined slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset
from rt_utils import ds_helper
from rt_utils.utils import ROIData

from . import __version__
from .codes import Concept
from .derived import MAKER, SERIES_DESCRIPTION, Finding, code, frames_on_slices, series_number
from .dicom import plane_of
from .errors import ScanError

FINER = 3  # sub-pixels a pixel and axis: outlines lie a third of a pixel outside the centers of the outermost pixels
MAX_OUTLINES = 20_000  # a region; a mask of noise would otherwise fill the memory


def structure_set(
    headers: Sequence[Dataset], masks: np.ndarray, affine: np.ndarray, found: Sequence[Finding], generation: str
) -> Dataset:
    """RTSTRUCT of the findings; see `export.rtstruct`. generation: AUTOMATIC or SEMIAUTOMATIC."""
    dataset = ds_helper.create_rtstruct_dataset(list(headers))
    _describe(dataset, headers[0])
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    for image, header in zip(study.RTReferencedSeriesSequence[0].ContourImageSequence, headers, strict=True):
        _name_frame(image, header)
    frame_of_reference = str(headers[0].FrameOfReferenceUID)
    for number, finding in enumerate(found, 1):
        frames = frames_on_slices(headers, masks[finding.index][None], affine)[0]
        region = ROIData(
            frames, list(finding.color), number, finding.label, frame_of_reference, finding.text,
            roi_generation_algorithm=generation,
        )  # fmt: skip
        contour = Dataset()
        contour.ROIDisplayColor, contour.ReferencedROINumber = list(finding.color), number
        contour.ContourSequence = []
        for header, frame in zip(headers, frames, strict=True):
            contour.ContourSequence.extend(_outlines(header, frame, region))
            if len(contour.ContourSequence) > MAX_OUTLINES:
                raise ScanError(
                    f'the mask of "{finding.label}" falls into more than {MAX_OUTLINES} outlines, too many for an '
                    "RTSTRUCT: use --format dicom-seg"
                )
        dataset.ROIContourSequence.append(contour)
        dataset.StructureSetROISequence.append(ds_helper.create_structure_set_roi(region))
        dataset.RTROIObservationsSequence.append(_observation(number, finding))
    return dataset


def _describe(dataset: Dataset, source: Dataset) -> None:
    """What rt-utils leaves out or says of itself: equipment, series, times, character set."""
    now = datetime.now()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for key in ("PatientName", "ReferringPhysicianName"):
        setattr(dataset, key, str(source.get(key) or ""))  # decoded: the source may use another character set
    dataset.AccessionNumber = source.AccessionNumber
    dataset.Manufacturer, dataset.ManufacturerModelName = MAKER, MAKER
    dataset.SoftwareVersions = __version__
    dataset.SeriesDescription, dataset.SeriesNumber = SERIES_DESCRIPTION, series_number(source, "RTSTRUCT")
    dataset.SeriesDate, dataset.SeriesTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.StructureSetLabel, dataset.StructureSetName = MAKER, SERIES_DESCRIPTION
    dataset.OperatorsName, dataset.InstanceNumber = "", 1
    dataset.FrameOfReferenceUID = source.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = source.get("PositionReferenceIndicator") or ""
    del dataset.InstitutionName
    for key in ("StudyDescription", "PatientAge", "PatientSize", "PatientWeight"):
        if not dataset.get(key):
            delattr(dataset, key)


def _outlines(header: Dataset, frame: np.ndarray, region: ROIData) -> list[Dataset]:
    """Closed contours of one slice's frame (rows, columns); holes are contours inside contours.

    rt-utils draws through the centers of the outermost pixels, which shrinks a region by half a pixel all round and
    leaves single pixels without area. Drawn on sub-pixels instead, every pixel's center is clearly in or out.
    """
    if not frame.any():
        return []
    rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
    part = frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    origin, per_column, per_row = plane_of(header)
    shift = (FINER - 1) / (2 * FINER)
    fine = Dataset()
    fine.ImagePositionPatient = list(origin + (columns[0] - shift) * per_column + (rows[0] - shift) * per_row)
    fine.ImageOrientationPatient = header.ImageOrientationPatient
    # rt-utils takes the first value for the step a column, DICOM means the step a row by it: so it gets them swapped.
    fine.PixelSpacing = [float(v) / FINER for v in reversed(header.PixelSpacing)]
    fine.SOPClassUID, fine.SOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    region.mask = np.kron(part, np.ones((FINER, FINER), dtype=bool))[..., None]
    contours = ds_helper.create_contour_sequence(region, [fine])
    for contour in contours:
        contour.NumberOfContourPoints = len(contour.ContourData) // 3
        contour.ContourData = [f"{float(v):.4f}" for v in contour.ContourData]  # 16 characters at most are allowed
        _name_frame(contour.ContourImageSequence[0], header)
    return list(contours)


def _name_frame(image: Dataset, header: Dataset) -> None:
    """Say which frame a reference to an image means, if it has several (`multiframe`)."""
    if "ReferencedFrameNumber" in header:
        image.ReferencedFrameNumber = header.ReferencedFrameNumber


def _observation(number: int, finding: Finding) -> Dataset:
    item = Dataset()
    item.ObservationNumber, item.ReferencedROINumber = number, number
    item.ROIObservationLabel, item.ROIObservationDescription = finding.label[:16].strip(), finding.text
    item.RTROIIdentificationCodeSequence = [coded(finding.kind)]
    item.RTROIInterpretedType, item.ROIInterpreter = "", ""
    return item


def coded(concept: Concept) -> Dataset:
    """A coded concept as an item of a code sequence."""
    item, value = Dataset(), code(concept)
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value.value, value.scheme_designator, value.meaning
    return item
