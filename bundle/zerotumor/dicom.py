"""A folder of DICOM slices, or an enhanced object that has them all, as one volume, checked before it is believed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
import torch
from pydicom.filereader import read_partial
from pydicom.misc import is_dicom
from pydicom.pixel_data_handlers import apply_modality_lut
from pydicom.tag import Tag

from .errors import ScanError
from .multiframe import frames_of, is_multiframe, values_of

TAGS = (
    "SeriesInstanceUID", "SeriesDescription", "Modality", "ImagePositionPatient", "ImageOrientationPatient",
    "SOPClassUID", "PixelSpacing", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation",
    "RescaleSlope", "RescaleIntercept", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_NEEDED = ("Modality", "Rows", "Columns", "BitsAllocated")
_GEOMETRY = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
_COMMON = ("Modality", "Rows", "Columns", "PixelSpacing", "PhotometricInterpretation")
_PIXEL_DATA, _ENCAPSULATED = Tag("PixelData"), 0xFFFFFFFF
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Slice(NamedTuple):
    """A file of a series without its pixels, or a frame of an enhanced object (`multiframe.frames_of`)."""

    file: Path
    header: pydicom.Dataset
    pixel_bytes: int | None  # as the file says, of one slice; None: it has no pixels


def read_dicom_folder(folder: Path, series: str | None = None) -> tuple[np.ndarray, torch.Tensor, str]:
    """Values (X, Y, Z) in the modality's units (HU for CT), affine to RAS mm, and the modality.

    Args:
        series: SeriesInstanceUID, needed if the folder holds several.

    Raises:
        ScanError: no readable slice, several series, a missing slice, uneven or tilted slices, damaged headers or pixels.
    """
    slices, normal_gap, modality = series_slices(folder, series)
    files = [one.file for one in slices]
    try:
        if "ReferencedFrameNumber" in slices[0].header:
            return values_of([one[:2] for one in slices]), _affine([one.header for one in slices]), modality
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(f) for f in files])
        image = reader.Execute()
        inverted = _inverted_values(files)
    except (RuntimeError, NotImplementedError, AttributeError, ValueError, IndexError) as error:
        raise ScanError(f"{folder}: the pixels cannot be decoded: export the series again, uncompressed") from error
    if abs(image.GetSpacing()[2] - normal_gap) > 0.01 * normal_gap:
        image.SetSpacing((*image.GetSpacing()[:2], normal_gap))
    values, affine = from_sitk(image)
    return values if inverted is None else inverted, affine, modality


def _inverted_values(files: list[Path]) -> np.ndarray | None:
    """Values (X, Y, Z) of slices that are to be shown inverted (MONOCHROME1), as they are stored; None for all others.

    How slices are shown changes nothing about their Hounsfield units, but SimpleITK turns such pixels round.
    """
    if pydicom.dcmread(files[0], stop_before_pixels=True).get("PhotometricInterpretation") != "MONOCHROME1":
        return None
    slices = [pydicom.dcmread(file) for file in files]
    return np.stack([apply_modality_lut(s.pixel_array, s).T.astype(np.float32) for s in slices], axis=2)


def _affine(headers: list[pydicom.Dataset]) -> torch.Tensor:
    """Voxel to RAS mm (4, 4) of evenly spaced slices in their order."""
    origin, per_column, per_row = plane_of(headers[0])
    last = np.array(headers[-1].ImagePositionPatient, dtype=float)
    affine = np.eye(4)
    affine[:3] = np.stack([per_column, per_row, (last - origin) / (len(headers) - 1), origin], axis=1)
    return torch.from_numpy(LPS_TO_RAS @ affine)


def plane_of(header: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place of a slice in the patient (LPS, mm): center of the first pixel, step a column, step a row, each (3,)."""
    orientation = np.array(header.ImageOrientationPatient, dtype=float)
    between_rows, between_columns = (float(v) for v in header.PixelSpacing)
    origin = np.array(header.ImagePositionPatient, dtype=float)
    return origin, orientation[:3] * between_columns, orientation[3:] * between_rows


def series_slices(folder: Path, series: str | None = None) -> tuple[list[Slice], float, str]:
    """The one series that is read, in order along the slice normal; distance of slices in mm; modality.

    Raises:
        ScanError: as `read_dicom_folder`.
    """
    slices, broken = _slices(p for p in folder.iterdir() if p.is_file())
    by_uid = _by_series(slices)
    if not by_uid:
        why = f" ({len(broken)} files are damaged)" if broken else ""
        raise ScanError(f"{folder} holds no readable DICOM images{why}: give a folder of one series")
    chosen = _one_series(folder, by_uid, series)
    if broken:
        raise ScanError(f"{folder} holds {len(broken)} damaged DICOM files, such as {broken[0].name}: export it again")
    for one in chosen:
        _check(folder, one)
    _check_common(folder, chosen)
    return *_ordered(folder, chosen), str(chosen[0].header.Modality)


def looks_like_dicom(file: Path) -> bool:
    """Whether a file calls itself DICOM, by its suffix or in its first bytes; the index of a disc (DICOMDIR) is none."""
    if file.suffix.lower() == ".dcm":
        return True
    try:
        return file.name.upper() != "DICOMDIR" and is_dicom(file)
    except OSError:  # it cannot be opened, so nothing tells
        return False


def from_sitk(image: sitk.Image) -> tuple[np.ndarray, torch.Tensor]:
    """SimpleITK image -> values (X, Y, Z) float32, affine to RAS mm (4, 4)."""
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = direction * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)
    return values, torch.from_numpy(LPS_TO_RAS @ affine)


def _slices(files: Iterable[Path]) -> tuple[list[Slice], list[Path]]:
    """All images among the files, and files that call themselves DICOM but cannot be read."""
    slices, broken = [], []
    for file in sorted(files):
        try:
            one = _read_slice(file)
        except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, KeyError):
            if looks_like_dicom(file):
                broken.append(file)
            continue
        kind = one.header.get("SOPClassUID")
        if is_multiframe(one.header):
            slices += _frames(one)
        elif "Rows" in one.header:
            slices.append(one)
        elif looks_like_dicom(file) and (not kind or kind.name.endswith("Image Storage")):
            broken.append(file)
    return slices, broken


def _read_slice(file: Path) -> Slice:
    sizes: list[int] = []

    def at_pixels(tag: int, _: str | None, length: int) -> bool:
        if tag == _PIXEL_DATA:
            sizes.append(length)
        return tag == _PIXEL_DATA

    with open(file, "rb") as stream:
        header = read_partial(stream, at_pixels, specific_tags=[Tag(name) for name in TAGS])
    return Slice(file, header, sizes[-1] if sizes else None)


def _frames(one: Slice) -> list[Slice]:
    """The slices of an enhanced object."""
    headers, size = frames_of(one.header), one.pixel_bytes
    if size is not None and size != _ENCAPSULATED:
        size //= len(headers)
    return [Slice(one.file, header, size) for header in headers]


def _by_series(slices: list[Slice]) -> dict[str, list[Slice]]:
    """The slices of each series that lies in the patient; what has no place there (a screenshot, a SEG) is no slice.

    One that is of the same kind as its neighbors and has lost its place is kept, to be refused. Slices from which an
    anonymizer took the UID are a series.
    """
    by_uid: dict[str, list[Slice]] = {}
    for one in slices:
        by_uid.setdefault(str(one.header.get("SeriesInstanceUID") or ""), []).append(one)
    for uid, group in by_uid.items():
        kinds = {
            s.header.get("SOPClassUID")
            for s in group
            if "ImagePositionPatient" in s.header and "ImageOrientationPatient" in s.header
        }
        by_uid[uid] = [s for s in group if s.header.get("SOPClassUID") in kinds]
    return {uid: group for uid, group in by_uid.items() if group}


def _one_series(folder: Path, by_uid: dict[str, list[Slice]], series: str | None) -> list[Slice]:
    if series is not None:
        if series not in by_uid:
            raise ScanError(f"{folder} holds no series {series}: it holds {', '.join(by_uid)}")
        return by_uid[series]
    if len(by_uid) > 1:
        names = "; ".join(f"{u} ({g[0].header.get('Modality', '?')}, {len(g)} slices)" for u, g in by_uid.items())
        raise ScanError(f"{folder} mixes {len(by_uid)} series: choose one with --series, or sort them: {names}")
    return next(iter(by_uid.values()))


def _check(folder: Path, one: Slice) -> None:
    """Refuse a slice that lacks what its voxels and their places are made from."""
    file, header, pixel_bytes = one
    bad = [tag for tag in _NEEDED if not header.get(tag)]
    bad += [tag for tag, count in _GEOMETRY.items() if _numbers(header, tag, count) is None]
    if not bad and _numbers(header, "PixelSpacing", 2).min() <= 0:
        bad = ["PixelSpacing"]
    if not bad:
        axes = _numbers(header, "ImageOrientationPatient", 6).reshape(2, 3)
        bad = ["ImageOrientationPatient"] if np.abs(axes @ axes.T - np.eye(2)).max() > 0.01 else []
    if bad:
        raise ScanError(f"{folder}: {file.name} has no valid {bad[0]}: export the series again from its archive")
    colors = int(header.get("SamplesPerPixel") or 1)
    if colors != 1 or not str(header.get("PhotometricInterpretation") or "MONOCHROME2").startswith("MONOCHROME"):
        raise ScanError(
            f"{folder}: the slices are in color (a screenshot?): give the gray series that it was made from"
        )
    if header.get("PhotometricInterpretation") == "MONOCHROME1" and header.Modality != "CT":
        raise ScanError(
            f"{folder}: the slices are to be shown inverted (MONOCHROME1), so whether bright is much or little is "
            "unknown: export the series as MONOCHROME2"
        )
    wanted = header.Rows * header.Columns * header.BitsAllocated // 8
    if pixel_bytes is None or (pixel_bytes != _ENCAPSULATED and pixel_bytes < wanted):
        raise ScanError(
            f"{folder}: {file.name} is damaged ({pixel_bytes or 0} of {wanted} bytes of pixels are there): copy or "
            "export it again"
        )


def _numbers(header: pydicom.Dataset, tag: str, count: int) -> np.ndarray | None:
    """The finite numbers of an element; None if it is missing, or others are there."""
    try:
        values = np.array(header.get(tag), dtype=float)
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None


def _check_common(folder: Path, chosen: list[Slice]) -> None:
    """Refuse slices that do not belong to one volume."""
    for tag in _COMMON:
        first = chosen[0].header.get(tag)
        same = (
            np.allclose(s.header.PixelSpacing, first, rtol=1e-3)
            if tag == "PixelSpacing"
            else s.header.get(tag) == first
            for s in chosen
        )
        if not all(same):
            raise ScanError(
                f"{folder}: slices have different {tag}, so they are no single volume: give one series of one field of view"
            )


def _ordered(folder: Path, chosen: list[Slice]) -> tuple[list[Slice], float]:
    """Slices in order along the slice normal, and the distance of slices in mm."""
    if len(chosen) < 2:
        raise ScanError(f"{folder} holds a single slice: give the whole series")
    orientation = np.array(chosen[0].header.ImageOrientationPatient, dtype=float)
    others = [np.array(s.header.ImageOrientationPatient, dtype=float) for s in chosen]
    if np.abs(np.array(others) - orientation).max() > 1e-3:
        raise ScanError(
            f"{folder}: slices have different orientations (a localizer?): give one series of parallel slices"
        )
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([np.array(s.header.ImagePositionPatient, dtype=float) for s in chosen])
    order = np.argsort(positions @ normal)
    along = (positions @ normal)[order]
    gaps = np.diff(along)
    gap = float(np.median(gaps))
    if gap <= 1e-3:
        raise ScanError(
            f"{folder}: several slices lie at the same place (time points or echoes): give one volume a folder"
        )
    if gaps.max() > 1.5 * gap:
        where = along[int(gaps.argmax())]
        raise ScanError(f"{folder}: a slice is missing near {where:.1f} mm (gap {gaps.max():.1f}, else {gap:.1f} mm)")
    if np.abs(gaps - gap).max() > 0.1 * gap:
        raise ScanError(
            f"{folder}: slices are unevenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm): resample it first"
        )
    steps = np.diff(positions[order], axis=0)
    if np.linalg.norm(steps - np.outer(gaps, normal), axis=1).max() > 0.05 * gap + 0.1:
        raise ScanError(
            f"{folder}: slices are sheared (gantry tilt): correct the tilt first, for example with dcm2niix"
        )
    return [chosen[i] for i in order], gap
