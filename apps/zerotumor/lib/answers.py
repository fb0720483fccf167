"""From masks to what a client gets: a file in the format it asked for, and what there is to say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from monailabel.transform.writer import Writer
from torch import Tensor

from .options import Options


def write(labels: Tensor, scan: MetaTensor, options: Options) -> str:
    """Write a label map (X, Y, Z) on the scan's grid to a temporary file; returns its path."""
    data = {
        "pred": MetaTensor(labels, affine=scan.affine),
        "image_path": "scan" + options.result_extension,
        "result_extension": options.result_extension,
        "result_dtype": options.result_dtype,
        "result_compress": options.result_compress,
    }
    return Writer(label="pred")(data)[0]


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
