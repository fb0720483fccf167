"""Scans from files, masks and records to files: NIfTI, NRRD, DICOM folders; JSON.

A scan is a MetaTensor (1, X, Y, Z) in its own orientation with an affine from voxel index to RAS mm, as nibabel's. What
cannot be trusted (no affine, NaN, a missing slice) is refused with a sentence, never repaired in silence.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from .dicom import LPS_TO_RAS, from_sitk, looks_like_dicom, read_dicom_folder
from .errors import ScanError

NIFTI, NRRD = (".nii", ".nii.gz"), (".nrrd", ".nhdr")
MILLIMETERS = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1e3, "meter": 1e3, "metre": 1e3,
    "micron": 1e-3, "um": 1e-3, "µm": 1e-3, "unknown": 1.0, "": 1.0,
}  # fmt: skip
"""What a unit of length is in mm, as NIfTI and NRRD name it; a file that names none has mm, as every tool takes it."""
NRRD_SPACES = (
    "right-anterior-superior", "RAS", "left-anterior-superior", "LAS", "left-posterior-superior", "LPS",
)  # fmt: skip
VOXEL_EDGE = (0.05, 50.0)
"""Of what can be a voxel of a clinical scan, in mm: beyond it the unit or the geometry is wrong."""


def suffix_of(path: Path) -> str:
    """The part of the name that tells the format: ".nii.gz", ".nrrd", ... in lower case."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The name without the format's suffix; "." has that of its folder."""
    return path.name[: len(path.name) - len(suffix_of(path))] if path.is_file() else Path(os.path.abspath(path)).name


def read_scan(path: str | Path, *, series: str | None = None, labels: bool = False) -> MetaTensor:
    """Read a NIfTI or NRRD file or a DICOM folder.

    Args:
        series: SeriesInstanceUID, where a folder holds several. labels: the file is a label map and may be constant.

    Returns:
        (1, X, Y, Z) float32 with `.affine` (RAS mm); `.meta["path"]`, and `.meta["modality"]` if the file states it.

    Raises:
        ScanError: there is no such scan, it is damaged, or it cannot be trusted; one sentence with the remedy.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(f"{path} does not exist: check the name")
    if path.is_dir():
        values, affine, modality = read_dicom_folder(path, series)
    elif path.stat().st_size == 0:
        raise ScanError(f"{path} is empty: copy it again")
    elif suffix_of(path) in NIFTI:
        values, affine, modality = _read_nifti(path)
    elif suffix_of(path) in NRRD:
        values, affine, modality = _read_nrrd(path)
    else:
        raise ScanError(
            f"{path} is neither NIfTI (.nii, .nii.gz) nor NRRD (.nrrd) nor a DICOM folder: convert it first"
        )
    check_values(values, path, labels)
    check_affine(affine, path)
    meta = {"path": str(path), "filename_or_obj": str(path)}
    if modality:
        meta["modality"] = modality
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(values[None], dtype=np.float32)), affine=affine, meta=meta)


def _read_nifti(path: Path) -> tuple[np.ndarray, torch.Tensor, str | None]:
    try:
        image = nib.load(path)
        kind = image.get_data_dtype().kind
        values = np.asarray(image.dataobj, dtype=np.float32) if kind in "iuf" else None
    except (EOFError, zlib.error, OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise ScanError(f"{path} is damaged or no NIfTI file: copy or export it again ({_short(error)})") from error
    if values is None:
        what = "complex numbers: give their magnitude" if kind == "c" else "colors: give the gray image"
        raise ScanError(f"{path} holds {what}")
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise ScanError(
            f"{path} has no affine (sform and qform are unset), so millimeters and left and right are unknown: "
            "export it again with its geometry"
        )
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = f"number {int(header['xyzt_units'])}"
    return values, in_mm(torch.from_numpy(image.affine), {unit}, path), None


def _read_nrrd(path: Path) -> tuple[np.ndarray, torch.Tensor, str | None]:
    try:
        header = nrrd.read_header(str(path))
        _check_nrrd(header, path)
        image = sitk.ReadImage(str(path))
    except (RuntimeError, OSError, nrrd.NRRDError, ValueError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{path} is damaged or no NRRD file: copy or export it again ({_short(error)})") from error
    if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() != 3:
        raise ScanError(f"{path} is not a single 3-D volume (it is 4-D or colored): give one volume a file")
    values, affine = from_sitk(image)
    return values, in_mm(affine, set(header.get("space units") or [""]), path), None


def _check_nrrd(header: Mapping[str, object], path: Path) -> None:
    """Refuse a header whose geometry SimpleITK would make up."""
    if "space directions" not in header:
        raise ScanError(f"{path} has no space directions, so millimeters are unknown: export it with its geometry")
    if header.get("space") not in NRRD_SPACES:
        raise ScanError(
            f"{path} does not say where left and right are (its space is {header.get('space', 'unset')}): export it in "
            "the space left-posterior-superior"
        )
    numbers = np.array(header["space directions"], dtype=float)
    if header["dimension"] == 3 and not np.isfinite(np.append(numbers, header.get("space origin", 0.0))).all():
        raise ScanError(f"{path} has space directions or a space origin that are no numbers: export it again")


def in_mm(affine: torch.Tensor, units: set[str], path: Path) -> torch.Tensor:
    """An affine (4, 4) to a scan's units of length -> to mm.

    Raises:
        ScanError: the units are not known, or differ between axes.
    """
    if len(units) > 1 or not units <= set(MILLIMETERS):
        raise ScanError(f"{path} has lengths in {' and '.join(sorted(units))}: export it again in millimeters")
    scale = torch.ones(4, 1, dtype=affine.dtype)
    scale[:3] = MILLIMETERS[next(iter(units))]
    return affine * scale


def _short(error: Exception) -> str:
    """The last line of an error's message, for the end of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:120]


def check_values(values: np.ndarray, path: Path, labels: bool = False) -> None:
    """Refuse what is no scan: wrong dimensions, one slice, NaN, one single value.

    Raises:
        ScanError: with the remedy.
    """
    if values.ndim != 3:
        raise ScanError(f"{path} has {values.ndim} dimensions, {tuple(values.shape)}: give one 3-D volume a file")
    if values.size == 0:
        raise ScanError(f"{path} holds no voxels: export it again")
    if min(values.shape) < 2:
        raise ScanError(f"{path} is a single slice, {tuple(values.shape)}: give the whole volume")
    if not np.isfinite(values).all():
        raise ScanError(f"{path} holds NaN or infinite voxels: replace them (by air, if they lie outside the scan)")
    if labels:
        return
    if values.min() == values.max():
        raise ScanError(f"{path} is constant (every voxel is {values.min():g}): check the export")
    if np.unique(values.reshape(-1)[:: max(1, values.size // 100_000)]).size <= 8 and values.size > 5_000:
        raise ScanError(f"{path} has next to no gray values, so it is a label map and no scan: give the image")


def check_affine(affine: torch.Tensor, path: Path) -> None:
    """Refuse what is no geometry of a scan: NaN, axes that fall together, voxels that no scanner makes.

    Raises:
        ScanError: with the remedy.
    """
    axes = torch.as_tensor(affine)[:3, :3].double()
    edges = axes.norm(dim=0)
    if not torch.isfinite(affine).all() or not (edges > 0).all() or float((axes / edges).det().abs()) < 1e-3:
        raise ScanError(f"{path} has a damaged affine (NaN, or axes that fall together): export it with its geometry")
    if float(edges.min()) < VOXEL_EDGE[0] or float(edges.max()) > VOXEL_EDGE[1]:
        shown = " x ".join(f"{edge:.3g}" for edge in edges.tolist())
        raise ScanError(
            f"{path} has voxels of {shown} mm, as no scan has: correct its unit of length, or export it again"
        )


def find_scans(inputs: Iterable[str | Path]) -> list[Path]:
    """All scans in files and folders: NIfTI and NRRD files, and folders that hold DICOM files, in order of name.

    DICOM files are known by what they hold, since archives name them as they like. A folder that holds no scan is returned
    itself, so that reading it says what is wrong.
    """
    found: list[Path] = []
    for item in map(Path, inputs):
        if not item.is_dir():
            found.append(item)
            continue
        inside = [f for f in sorted(item.rglob("*")) if f.is_file() and not f.name.startswith(".")]
        files = [f for f in inside if suffix_of(f) in NIFTI + NRRD]
        folders = dict.fromkeys(f.parent for f in inside if suffix_of(f) not in NIFTI + NRRD and looks_like_dicom(f))
        found.extend([*files, *folders] or [item])
    return list(dict.fromkeys(found))


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary)` and rename the result to `path`: a full disk or a crash leaves nothing half-written.

    Raises:
        ScanError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=suffix_of(path))
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise ScanError(
            f"{path} could not be written ({_short(error)}): free some space or choose another --out"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(value: object, path: Path, indent: int = 1) -> None:
    """Write a value as JSON, atomically.

    Raises:
        ScanError: see `write_atomically`.
    """
    text = json.dumps(value, indent=indent) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def write_mask(mask: torch.Tensor, affine: torch.Tensor, path: Path) -> None:
    """Write a mask (X, Y, Z) of small integers atomically: NRRD if the name says so, else NIfTI; affine to RAS mm."""
    write_volume(np.asarray(mask.cpu(), dtype=np.uint8), affine, path)


def write_volume(array: np.ndarray, affine: torch.Tensor, path: Path, compress: bool = True) -> None:
    """Write values (X, Y, Z), in the type that they have, atomically; affine to RAS mm.

    NRRD if the name says so, compressed or not; else NIfTI, whose name says whether it is compressed.
    """
    if suffix_of(Path(path)) not in NRRD:
        return write_nifti(array, affine, path)
    to_lps = LPS_TO_RAS @ np.asarray(affine, dtype=np.float64)
    header = {
        "space": "left-posterior-superior", "space directions": to_lps[:3, :3].T, "space origin": to_lps[:3, 3],
        "kinds": ["domain"] * 3, "encoding": "gzip" if compress else "raw",
    }  # fmt: skip
    write_atomically(Path(path), lambda temporary: nrrd.write(str(temporary), array, header))


def write_nifti(array: np.ndarray, affine: torch.Tensor, path: Path) -> None:
    """Write values (X, Y, Z), in the type that they have, as NIfTI, atomically; affine to RAS mm."""
    image = nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    write_atomically(Path(path), lambda temporary: nib.save(image, temporary))


def write_scan(scan: MetaTensor, path: Path) -> None:
    """Write a scan (1, X, Y, Z) as NIfTI atomically, in whole numbers if it has no others."""
    values = np.asarray(scan.as_tensor()[0])
    if np.abs(values).max() < 32768 and np.array_equal(values, values.round()):
        values = values.astype(np.int16)
    write_nifti(values, scan.affine, path)
