"""What DICOM SEG and RTSTRUCT share: the source slices, masks on exactly these slices, and the words for a finding."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM

from .codes import Concept, finding_of, region_of
from .dicom import LPS_TO_RAS, Slice, plane_of, series_slices
from .errors import ScanError
from .multiframe import frames_of, is_multiframe
from .report import COLORS

MAKER = "ZeroTumor"
SERIES_DESCRIPTION = "ZeroTumor, research only"
_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One prompt that found something, in DICOM's words."""

    index: int  # of the prompt and its mask
    label: str  # at most 64 characters, each label once
    text: str  # the whole prompt and its score
    kind: Concept
    region: tuple[Concept, Concept | None] | None
    color: tuple[int, int, int]  # RGB, as in the picture


def source_headers(source: str | Path | Sequence[Dataset], series: str | None = None) -> list[Dataset]:
    """Headers of the slices that a scan was read from, in order along the slice normal, without pixels.

    Args:
        source: DICOM folder as given to `volumes.read_scan`, or headers of an earlier call, which are passed through.
        series: SeriesInstanceUID, where the folder holds several.

    Raises:
        ScanError: there is no DICOM series, or its slices lack what a derived object must refer to.
    """
    if not isinstance(source, str | Path):
        return list(source)
    folder = Path(source)
    if not folder.is_dir():
        raise ScanError(
            f"{folder} is no DICOM series, so DICOM results have nothing to refer to: use --format nifti or nrrd, "
            "or give the DICOM folder that it was made from"
        )
    slices, gap, _ = series_slices(folder, series)
    headers = _whole_headers(slices, gap)
    for key in _REQUIRED:
        values = {str(header.get(key) or "") for header in headers}
        if "" in values or (len(values) > 1 and not key.startswith("SOP")):
            raise ScanError(
                f"{folder}: the slices have no {'common ' if len(values) > 1 else ''}{key}, which DICOM results must "
                "refer to: export the series again from its archive, or use --format nifti"
            )
    return headers


def _whole_headers(slices: Sequence[Slice], gap: float) -> list[Dataset]:
    """Everything that the files of slices say, but for the pixels, completed; gap: distance of slices in mm."""
    read = {one.file: pydicom.dcmread(one.file, stop_before_pixels=True) for one in slices}
    for header in read.values():
        _complete(header, gap)
    frames = {file: frames_of(whole) for file, whole in read.items() if is_multiframe(whole)}
    return [
        frames[one.file][one.header.ReferencedFrameNumber - 1] if one.file in frames else read[one.file]
        for one in slices
    ]


def _complete(header: Dataset, gap: float) -> None:
    """Attributes that the libraries copy unasked are made present and valid; what a source lacks stays empty."""
    for key in _MAY_BE_EMPTY:
        if header.get(key) is None:
            setattr(header, key, "")
    for key, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(header[key].value)
        except ValueError:
            setattr(header, key, "")
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    if header.get("LossyImageCompression") == "01":
        for key in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            setattr(header, key, header.get(key))
    if not header.get("SliceThickness"):
        header.SliceThickness = f"{gap:.6g}"
    # What readers of a SEG build their grid from: never the thickness, and not what a scanner wrote into this field.
    header.SpacingBetweenSlices = f"{gap:.10g}"
    header.pop("NumberOfFrames", None)
    if not all(item.get("CodeValue") for item in header.get("ProcedureCodeSequence") or ()):
        header.pop("ProcedureCodeSequence", None)  # optional, and an empty code is an error wherever it is copied to


def frames_on_slices(headers: Sequence[Dataset], masks: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Masks (P, X, Y, Z) with an affine to RAS mm -> frames (P, N, rows, columns), bool, of N source slices.

    Every pixel of every slice is looked up at its place in the patient, so neither the order of slices nor the
    orientation of the acquisition or of the masks matters.

    Raises:
        ScanError: the slices' pixels are not the masks' voxels.
    """
    masks = np.asarray(masks) > 0
    to_voxel = np.linalg.inv(LPS_TO_RAS @ np.asarray(affine, dtype=float))
    frames = np.zeros((len(masks), len(headers), int(headers[0].Rows), int(headers[0].Columns)), dtype=bool)
    for n, header in enumerate(headers):
        voxels = _voxels_of(header, to_voxel, masks.shape[1:])
        if voxels is None:
            break
        frames[:, n] = masks[:, voxels[0], voxels[1], voxels[2]]
    if voxels is None or (frames.sum((1, 2, 3)) != masks.sum((1, 2, 3))).any():
        raise ScanError("the masks are not on the grid of these DICOM slices: resample them to the scan first")
    return frames


def _voxels_of(header: Dataset, to_voxel: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """Voxel indices (3, rows, columns) of a slice's pixels; None if pixels and voxels are not the same."""
    rows, columns = int(header.Rows), int(header.Columns)
    origin, per_column, per_row = plane_of(header)
    start = to_voxel[:3, :3] @ origin + to_voxel[:3, 3]
    steps = np.stack([to_voxel[:3, :3] @ per_column, to_voxel[:3, :3] @ per_row], axis=1)
    first, whole = np.rint(start).astype(int), np.rint(steps).astype(int)
    far = np.array([[0, columns - 1, 0, columns - 1], [0, 0, rows - 1, rows - 1]])
    drift = np.abs((start - first)[:, None] + (steps - whole) @ far)
    voxels = first[:, None, None] + np.einsum("ij,jrc->irc", whole, np.mgrid[:rows, :columns][::-1])
    inside = (voxels.min((1, 2)) >= 0).all() and (voxels.max((1, 2)) < shape).all()
    return voxels if inside and drift.max() < 0.5 and (np.abs(whole).sum(0) == 1).all() else None


def findings(masks: np.ndarray, entries: Sequence[dict]) -> list[Finding]:
    """What to write of P prompts: those whose mask (P, X, Y, Z) is not empty, with the report's entries."""
    found: list[Finding] = []
    for p, (mask, entry) in enumerate(zip(masks, entries, strict=True)):
        if not np.asarray(mask).any():
            continue
        prompt, score = entry["prompt"], entry.get("score")
        label, taken = plain_text(prompt, 64), {f.label for f in found}
        if label in taken:  # readers look regions up by name
            label = f"{plain_text(prompt, 58)} ({p + 1})"
        text = plain_text(prompt, 400) + ("" if score is None else f" (score {score:.2f})")
        hexadecimal = COLORS[p % len(COLORS)]
        color = tuple(int(hexadecimal[k : k + 2], 16) for k in (1, 3, 5))
        kind, region = finding_of(entry.get("concept", "")), region_of(entry.get("organs", ()))
        found.append(Finding(p, label, text, kind, region, color))
    return found


def plain_text(text: str, length: int) -> str:
    """Text as a DICOM value: one line without control characters or backslashes (DICOM's separator), cut to length."""
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    return " ".join(kept.replace("\\", "/").split())[:length].strip() or "finding"


def code(concept: Concept) -> Code:
    """A coded concept as pydicom and highdicom take it."""
    return Code(concept.value, concept.scheme, concept.meaning)


def series_number(header: Dataset, modality: str) -> int:
    """A number for a derived series (SEG or RTSTRUCT) that sorts after the source's and is the other kind's nowhere."""
    return {"SEG": 1_000_000, "RTSTRUCT": 2_000_000}[modality] + abs(int(header.get("SeriesNumber") or 0)) % 1_000_000
