"""A folder of DICOM slices as one volume, checked before it is believed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
import torch
from pydicom.misc import is_dicom

from .errors import ScanError

TAGS = (
    "SeriesInstanceUID", "SeriesDescription", "Modality", "ImagePositionPatient", "ImageOrientationPatient",
    "SOPClassUID", "PixelSpacing", "Rows", "Columns",
)  # fmt: skip
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_dicom_folder(folder: Path, series: str | None = None) -> tuple[np.ndarray, torch.Tensor, str]:
    """Values (X, Y, Z) in the modality's units (HU for CT), affine to RAS mm, and the modality.

    Args:
        series: SeriesInstanceUID, needed if the folder holds several.

    Raises:
        ScanError: no readable slice, several series, a missing slice, uneven or tilted slices.
    """
    files, normal_gap, modality = series_files(folder, series)
    try:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(f) for f in files])
        image = reader.Execute()
    except RuntimeError as error:
        raise ScanError(f"{folder}: the pixels cannot be decoded; export the series uncompressed") from error
    if abs(image.GetSpacing()[2] - normal_gap) > 0.01 * normal_gap:
        image.SetSpacing((*image.GetSpacing()[:2], normal_gap))
    values, affine = from_sitk(image)
    return values, affine, modality


def series_files(folder: Path, series: str | None = None) -> tuple[list[Path], float, str]:
    """Files of the one series that is read, in order along the slice normal; distance of slices in mm; modality.

    Raises:
        ScanError: as `read_dicom_folder`.
    """
    headers, broken = _headers(p for p in folder.iterdir() if p.is_file())
    if not headers:
        why = f" ({len(broken)} files are damaged)" if broken else ""
        raise ScanError(f"{folder} holds no readable DICOM images{why}: give a folder of one series")
    chosen = _one_series(folder, headers, series)
    if broken:
        raise ScanError(f"{folder} holds {len(broken)} damaged DICOM files, such as {broken[0].name}: export it again")
    return *_ordered(folder, chosen), str(chosen[0][1].Modality)


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


def _headers(files: Iterable[Path]) -> tuple[list[tuple[Path, pydicom.Dataset]], list[Path]]:
    """Headers of all image slices among the files, and files that call themselves DICOM but cannot be read."""
    headers, broken = [], []
    for file in sorted(files):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
        except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, KeyError):
            if file.suffix.lower() == ".dcm":
                broken.append(file)
            continue
        if "ImagePositionPatient" in header and "ImageOrientationPatient" in header:
            headers.append((file, header))
        elif "SOPClassUID" not in header and file.suffix.lower() == ".dcm":
            broken.append(file)
    return headers, broken


def _one_series(folder: Path, headers: list, series: str | None) -> list:
    by_uid: dict[str, list] = {}
    for file, header in headers:
        by_uid.setdefault(str(header.SeriesInstanceUID), []).append((file, header))
    if series is not None:
        if series not in by_uid:
            raise ScanError(f"{folder} holds no series {series}: it holds {', '.join(by_uid)}")
        return by_uid[series]
    if len(by_uid) > 1:
        names = "; ".join(f"{u} ({h[0][1].get('Modality', '?')}, {len(h)} slices)" for u, h in by_uid.items())
        raise ScanError(f"{folder} mixes {len(by_uid)} series: choose one with --series, or sort them: {names}")
    return next(iter(by_uid.values()))


def _ordered(folder: Path, chosen: list) -> tuple[list[Path], float]:
    """Files in order along the slice normal, and the distance of slices in mm."""
    if len(chosen) < 2:
        raise ScanError(f"{folder} holds a single slice: give the whole series")
    orientation = np.array(chosen[0][1].ImageOrientationPatient, dtype=float)
    if any(np.abs(np.array(h.ImageOrientationPatient, dtype=float) - orientation).max() > 1e-3 for _, h in chosen):
        raise ScanError(
            f"{folder}: slices have different orientations (a localizer?): give one series of parallel slices"
        )
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([np.array(h.ImagePositionPatient, dtype=float) for _, h in chosen])
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
    return [chosen[i][0] for i in order], gap
