"""From masks to what a client gets: a file in the format it asked for, and what there is to say."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from torch import Tensor

from zerotumor.errors import ScanError, ServerError
from zerotumor.export import dicom_seg, rtstruct, write_dataset
from zerotumor.volumes import write_volume

from .options import Options, refuse
from .shared import or_full


def write(labels: Tensor, scan: MetaTensor, options: Options) -> str:
    """Write a label map (X, Y, Z) on the scan's grid to a temporary file; returns its path.

    Raises:
        HTTPException: 507, if the disk is full.
    """
    # Not MONAI Label's Writer: its ITK takes seconds to load, for the first answer of a server.
    path = Path(tempfile.gettempdir()) / f"{uuid4()}{options.result_extension}"
    array = np.asarray(labels.cpu()).astype(options.result_dtype)
    with or_full("the answer was not written"):
        write_volume(array, scan.affine, path, compress=options.result_compress)
    return str(path)


def write_values(values: Tensor, scan: MetaTensor, options: Options) -> str:
    """Write a map (1, X, Y, Z) on the scan's grid as float32 to a temporary file; returns its path."""
    return write(values[0].float(), scan, options.model_copy(update={"result_dtype": "float32"}))


def write_dicom(
    masks: Tensor, scan: MetaTensor, entries: Sequence[dict], options: Options, push: Callable[[Dataset], None] | None,
    **made_by: object,
) -> str | None:  # fmt: skip
    """Write masks (P, X, Y, Z) as DICOM SEG or RTSTRUCT to a temporary file, and store it in the archive if asked to.

    Returns:
        the file's path; None if nothing was found.

    Raises:
        HTTPException: the scan did not come from a DICOM archive, or the archive refused the result.
    """
    if not options.dicom_folder:
        raise refuse(
            f"{options.format} needs a scan from a DICOM archive: this one is a file; ask for .nii.gz or .nrrd"
        )
    try:
        if options.format == "dicom-seg":
            dataset = dicom_seg(options.dicom_folder, masks, scan.affine, entries, **made_by)
        else:
            semiautomatic = bool(made_by.get("semiautomatic"))
            dataset = rtstruct(options.dicom_folder, masks, scan.affine, entries, semiautomatic=semiautomatic)
        if dataset is None:
            return None
        handle, path = tempfile.mkstemp(suffix=".dcm")
        os.close(handle)
        write_dataset(dataset, Path(path))
        if options.push and push is not None:
            push(dataset)
    except ScanError as error:
        raise refuse(str(error), 422) from None
    except ServerError as error:
        raise refuse(str(error), 502) from None
    return path


class NoFile:
    """In the place of a result's file where there is none: it is as good as None, until somebody opens it.

    MONAI Label's endpoint alone knows whether a client asked for the file, and opens whatever it was given.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __bool__(self) -> bool:
        return False

    def __fspath__(self) -> str:
        """Raises HTTPException: 422, always."""
        raise refuse(
            f"{self.reason}; DICOM has no empty result: ask for output=json, or for a mask without format", 422
        )


def label_map(masks: Tensor, numbers: Sequence[int]) -> Tensor:
    """Masks (P, X, Y, Z) -> one map (X, Y, Z) of label numbers; the first prompt wins overlaps."""
    labels = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for mask, number in reversed(list(zip(masks, numbers, strict=True))):
        labels[mask > 0] = number
    return labels


def names_present(labels: Tensor, texts: Sequence[str], numbers: Sequence[int]) -> dict[str, int]:
    """Names of the labels that occur in a map, by ascending number: viewers give segments these names in this order."""
    present = set(labels.unique().tolist())
    return {text: n for n, text in sorted(zip(numbers, texts, strict=True)) if n in present}
