"""Masks to files: NIfTI, NRRD, DICOM SEG and RTSTRUCT, the last two for scans that came as DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from skimage.color import rgb2lab
from torch import Tensor

from . import __version__
from .codes import ABNORMAL, ARTIFICIAL_INTELLIGENCE
from .derived import MAKER, SERIES_DESCRIPTION, Finding, code, findings, frames_on_slices, series_number, source_headers
from .multiframe import source_of
from .report import as_mask, overlaps, voxel_ml
from .rtstruct import coded, structure_set
from .volumes import suffix_of, write_atomically, write_mask

FORMATS = {"nifti": "_mask.nii.gz", "nrrd": "_mask.nrrd", "dicom-seg": "_seg.dcm", "rtstruct": "_rtstruct.dcm"}
DICOM_FORMATS = ("dicom-seg", "rtstruct")
Source = str | Path | Sequence[Dataset]  # a DICOM folder, or `derived.source_headers` of one


def dicom_seg(
    source: Source,
    masks: np.ndarray | Tensor,
    affine: np.ndarray | Tensor,
    entries: Sequence[dict],
    *,
    series: str | None = None,
    method: str = "malenia",
    weights: str = "",
    semiautomatic: bool = False,
) -> hd.seg.Segmentation | None:
    """Masks of P prompts as a DICOM Segmentation: binary, one segment a prompt that found something.

    Args:
        source: the DICOM folder that the scan was read from, or its headers. masks: (P, X, Y, Z), non-zero inside.
        affine: voxel to RAS mm, of the masks. entries: the report's, one a prompt. series: SeriesInstanceUID, where the
        folder holds several. method, weights: what made the masks. semiautomatic: a person's clicks had a part in it.

    Returns:
        A new instance in a new series of the source's study; None if nothing was found.

    Raises:
        ScanError: no DICOM series, headers without identifiers, or masks that are not on its grid.
    """
    headers, masks = source_headers(source, series), np.asarray(masks)
    found = findings(masks, entries)
    if not found:
        return None
    frames = frames_on_slices(headers, masks[[f.index for f in found]], np.asarray(affine))
    kind = "SEMIAUTOMATIC" if semiautomatic else "AUTOMATIC"
    images, order = source_of(headers)
    dataset = hd.seg.Segmentation(
        source_images=images,
        pixel_array=np.moveaxis(frames[:, order], 0, -1).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_segment(n, f, method, weights, kind) for n, f in enumerate(found, 1)],
        series_instance_uid=hd.UID(),
        series_number=series_number(headers[0], "SEG"),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number=weights[:12] or "none",
        content_description=SERIES_DESCRIPTION,
        series_description=SERIES_DESCRIPTION,
    )
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset


def rtstruct(
    source: Source,
    masks: np.ndarray | Tensor,
    affine: np.ndarray | Tensor,
    entries: Sequence[dict],
    *,
    series: str | None = None,
    semiautomatic: bool = False,
) -> Dataset | None:
    """Masks of P prompts as a DICOM RT Structure Set: one region a prompt that found something.

    Outlines are closed planar contours on the source's slices, a third of a pixel outside the centers of the outermost
    pixels. A hole is a contour within a contour, which readers combine by exclusive or.

    Args, Returns, Raises: as `dicom_seg`.
    """
    headers, masks = source_headers(source, series), np.asarray(masks)
    found = findings(masks, entries)
    if not found:
        return None
    kind = "SEMIAUTOMATIC" if semiautomatic else "AUTOMATIC"
    return structure_set(headers, masks, np.asarray(affine), found, kind)


def _segment(number: int, finding: Finding, method: str, weights: str, kind: str) -> hd.seg.SegmentDescription:
    """What a SEG says of one segment."""
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f"{MAKER} {method}"[:64],
        family=code(ARTIFICIAL_INTELLIGENCE),
        version=__version__,
        source=MAKER,
        parameters={"prompt": finding.text, **({"weights": weights} if weights else {})},
    )
    item = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=finding.label,
        segmented_property_category=code(ABNORMAL),
        segmented_property_type=code(finding.kind),
        algorithm_type=kind,
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=finding.label,
    )
    item.SegmentDescription = finding.text
    if finding.region:
        region, side = finding.region
        item.AnatomicRegionSequence = [coded(region)]
        if side:
            item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [coded(side)]
    lightness, a, b = rgb2lab(np.array(finding.color, dtype=float).reshape(1, 1, 3) / 255)[0, 0]
    scaled = (lightness / 100, (a + 128) / 255, (b + 128) / 255)
    item.RecommendedDisplayCIELabValue = [int(round(np.clip(v, 0, 1) * 65535)) for v in scaled]
    return item


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Write a DICOM object with its file header, atomically.

    Raises:
        ScanError: the disk is full or the folder cannot be written.
    """
    write_atomically(path, lambda temporary: pydicom.dcmwrite(temporary, dataset, write_like_original=False))


def whole_mask(label_map: Path, p: int) -> Path:
    """Where the whole mask of prompt p lies, if others overlap it: beside the label map, by the prompt's number."""
    suffix = suffix_of(label_map)
    return label_map.with_name(f"{label_map.name.removesuffix(suffix)}_{p + 1}{suffix}")


def save_mask(
    masks: Tensor,
    affine: Tensor,
    entries: Sequence[dict],
    path: Path,
    *,
    format: str = "nifti",
    source: Source | None = None,
    method: str = "malenia",
    weights: str = "",
    probabilities: Tensor | None = None,
) -> bool:
    """Write the masks (P, X, Y, Z) of one scan in a format of `FORMATS`; False if there was nothing to write.

    NIfTI and NRRD hold one label map (1 is the first prompt) and are written even if it is empty. A voxel has one label: see
    `as_mask`; masks that overlap are therefore written whole, too, one file a prompt (`whole_mask`). DICOM has no empty
    segmentation: if nothing was found no file is left at `path`, not even one of an earlier run.

    Args:
        affine: voxel to RAS mm. entries: the report's, one a prompt; get "overlaps_with" and "mask" (the file of the whole
        mask) where masks overlap, and "volume_in_label_map_ml". source: for the DICOM formats, see `dicom_seg`.
        probabilities: (P, X, Y, Z), who wins overlaps.

    Raises:
        ScanError: as `dicom_seg`, or the file cannot be written.
    """
    shared = overlaps(masks)
    for p, others in shared.items():
        entries[p]["overlaps_with"] = [entries[q]["prompt"] for q in others]
    if format not in DICOM_FORMATS:
        labels = as_mask(masks, probabilities)
        write_mask(labels, affine, path)
        for p, entry in enumerate(entries):
            entry["volume_in_label_map_ml"] = round(int((labels == p + 1).sum()) * voxel_ml(np.asarray(affine)), 3)
        for p in shared:
            entries[p]["mask"] = whole_mask(path, p).name
            write_mask(masks[p] > 0, affine, whole_mask(path, p))
        return True
    if format == "dicom-seg":
        dataset = dicom_seg(source, masks, affine, entries, method=method, weights=weights)
    else:
        dataset = rtstruct(source, masks, affine, entries)
    if dataset is None:
        path.unlink(missing_ok=True)
        return False
    write_dataset(dataset, path)
    return True
