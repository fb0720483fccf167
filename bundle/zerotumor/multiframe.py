"""Enhanced CT and MR: a volume in one DICOM object, its slices told apart by functional groups (DICOM PS3.3, C.7.6.16)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
)

from .errors import ScanError

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
"""What of the functional groups a header of a single slice has in its place."""
ENHANCED = (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
)
"""Objects that are scans; a DICOM SEG has functional groups, too."""


def is_multiframe(header: Dataset) -> bool:
    """Whether a header is that of an enhanced CT or MR."""
    return header.get("SOPClassUID") in ENHANCED and bool(header.get(PER_FRAME))


def frames_of(header: Dataset) -> list[Dataset]:
    """Headers of an enhanced object's frames, as if each was a slice with a file of its own.

    Each has its `ReferencedFrameNumber` (from 1), and the whole object's header as its attribute `multiframe`.
    """
    shared = (header.get(SHARED) or [Dataset()])[0]
    rest = Dataset()
    rest.update({element.tag: element for element in header if element.keyword not in (SHARED, PER_FRAME)})
    frames = []
    for number, own in enumerate(header[PER_FRAME].value, 1):
        frame = Dataset()
        frame.update(rest)
        for group, names in GROUPS.items():
            item = (own.get(group) or shared.get(group) or [Dataset()])[0]
            frame.update({item[name].tag: item[name] for name in names if name in item})
        frame.ReferencedFrameNumber, frame.multiframe = number, header
        frames.append(frame)
    return frames


def values_of(slices: Sequence[tuple[Path, Dataset]]) -> np.ndarray:
    """Values (X, Y, Z) of frames in their modality's units: files, and headers of `frames_of`.

    Every frame may have a rescale of its own, as those of MR do.
    """
    pixels = {file: _stored(file) for file in {file for file, _ in slices}}
    planes = []
    for file, header in slices:
        slope, offset = _rescale(header)
        planes.append(pixels[file][header.ReferencedFrameNumber - 1].T.astype(np.float32) * slope + offset)
    return np.stack(planes, axis=2)


def _rescale(header: Dataset) -> tuple[float, float]:
    """Slope and intercept of a frame."""
    return float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)


def _stored(file: Path) -> np.ndarray:
    """Pixels of an object as they are stored, (frames, rows, columns)."""
    whole = pydicom.dcmread(file)
    try:
        return whole.pixel_array.reshape(-1, whole.Rows, whole.Columns)
    except (RuntimeError, NotImplementedError, AttributeError):
        if whole.PhotometricInterpretation == "MONOCHROME1":  # SimpleITK turns such pixels round
            raise
    # A compression that pydicom cannot read. SimpleITK gives all frames the rescale of the first.
    slope, offset = _rescale(frames_of(whole)[0])
    return np.rint((sitk.GetArrayFromImage(sitk.ReadImage(str(file))) - offset) / slope)


def source_of(headers: Sequence[Dataset]) -> tuple[list[Dataset], list[int]]:
    """What a DICOM SEG is made from: the objects that slices belong to, and the place of each of their frames in `headers`.

    Args:
        headers: of slices, or of `frames_of`, in any order.

    Raises:
        ScanError: the frames are of several objects, or not all of one.
    """
    if "ReferencedFrameNumber" not in headers[0]:
        return list(headers), list(range(len(headers)))
    whole = deepcopy(headers[0].multiframe)
    uids = {str(header.SOPInstanceUID) for header in headers}
    numbers = [int(header.ReferencedFrameNumber) for header in headers]
    if len(uids) > 1 or sorted(numbers) != list(range(1, len(whole[PER_FRAME].value) + 1)):
        raise ScanError("the scan is a part of an enhanced DICOM object, or of several: use --format nifti or rtstruct")
    # All frames are of one grid, which libraries look for where all share it.
    if not whole.get(SHARED):
        setattr(whole, SHARED, [Dataset()])
    shared, own = whole[SHARED][0], whole[PER_FRAME][0]
    for group in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if not shared.get(group):
            shared[group] = own[group]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = headers[0].SpacingBetweenSlices
    whole.NumberOfFrames = len(numbers)
    return [whole], [numbers.index(n) for n in range(1, len(numbers) + 1)]
