"""Organs: those that a method sees in a scan, and scans whose organs are known, to measure it on.

Two sets: the test phantoms of `cohorts`, and the healthy scans of $ZEROTUMOR_DATA, whose label maps carry the names of
their labels in the file (the table of labels in the NIfTI extension, as TotalSegmentator writes it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from .cohorts import data_folder, measured_phantom, measured_phantoms
from .datasets import EXTRA_ORGANS, ORGAN_LABELS, TOTAL_SEGMENTATOR
from .errors import ScanError
from .grids import read_labels
from .inferer import organ_volume
from .metrics import dice, milliliters
from .pipeline import to_grid
from .segmenter import Segmenter
from .transforms import decide_modality, prepare
from .volumes import read_scan

LEAST_ML = 0.5
"""A scan shows an organ if it has at least so much of it; a rim at the edge says nothing."""
NAMES = {**TOTAL_SEGMENTATOR, "lung_left": "left lung", "lung_right": "right lung"}
SEGMENTED = (("example_ct", "example_seg_fast_force_split"), ("example_ct_sm", "example_seg"),
             ("example_mr_sm", "example_seg_mr"))  # fmt: skip
"""Scan and label map of the healthy scans."""


@dataclass
class OrganCase:
    """One scan whose organs are known."""

    name: str
    set: str  # phantom or real
    modality: str
    read: Callable[[], tuple[MetaTensor, dict[str, Tensor]]]  # scan; organ -> truth (X, Y, Z), for those it shows


def organ_labels(model: Segmenter, scan: MetaTensor, modality: str | None = None) -> Tensor:
    """Organs of a scan (1, X, Y, Z) on its own grid -> (X, Y, Z): 0 none, 1 + n for `model.organ_names[n]`.

    Raises:
        ValueError: the method knows no organs. ModalityError: see `transforms.decide_modality`.
    """
    prepared = prepare(scan, decide_modality(scan, scan.meta.get("modality"), modality), model.spacing)
    maps = organ_volume(model, torch.as_tensor(prepared).as_subclass(Tensor))
    best = torch.full(scan.shape[1:], -1.0)
    labels = torch.zeros(scan.shape[1:], dtype=torch.uint8)
    for n in range(len(maps)):  # one after the other: all on the scan's grid would not fit in memory
        here = to_grid(maps[n : n + 1], prepared.affine, scan)[0]
        more = here > best
        best[more], labels[more] = here[more], n
    return labels


def score_organs(model: Segmenter, case: OrganCase) -> list[dict]:
    """Records of one case: Dice of every organ that the scan shows and the method knows."""
    scan, truths = case.read()
    labels = organ_labels(model, scan, case.modality)
    return [
        {
            "set": case.set, "case": case.name, "modality": case.modality, "organ": organ,
            "dice": round(dice(labels == 1 + model.organ_names.index(organ), truth), 5),
        }
        for organ, truth in truths.items() if organ in model.organ_names
    ]  # fmt: skip


def shown(truths: Mapping[str, Tensor], scan: MetaTensor) -> dict[str, Tensor]:
    """Those masks (X, Y, Z) of which the scan shows enough."""
    voxel_ml = abs(float(torch.linalg.det(torch.as_tensor(scan.affine)[:3, :3]))) / 1000
    return {organ: mask for organ, mask in truths.items() if milliliters(mask, voxel_ml) >= LEAST_ML}


def phantom_organs() -> Iterator[OrganCase]:
    """The test phantoms of `cohorts`, with their organs."""
    for seed, arguments, _ in measured_phantoms():

        def read(seed: int = seed, arguments: dict = arguments) -> tuple[MetaTensor, dict[str, Tensor]]:
            scan, phantom = measured_phantom(seed, arguments)
            organs = phantom.organs[0]
            there = set(organs.unique().tolist())
            return scan, shown({n: organs == k for n, k in ORGAN_LABELS.items() if k in there}, scan)

        yield OrganCase(f"phantom-{seed}", "phantom", arguments["modality"], read)


def real_organs(folder: Path | None = None) -> Iterator[OrganCase]:
    """The healthy scans of the data folder that have label maps; none if there is no folder."""
    folder = folder or data_folder()
    if folder is None:
        return
    healthy = folder / "healthy" / "totalsegmentator"
    for image, labels in SEGMENTED:
        files = healthy / f"{image}.nii.gz", healthy / f"{labels}.nii.gz"
        if all(f.is_file() for f in files):
            yield _labeled(image, *files)


def _labeled(name: str, image: Path, labels: Path) -> OrganCase:
    def read() -> tuple[MetaTensor, dict[str, Tensor]]:
        scan = read_scan(image)
        values = read_labels(labels, scan)
        numbers: dict[str, list[int]] = {}
        for number, label in label_names(labels).items():
            organ = NAMES.get(label)
            organ = EXTRA_ORGANS[organ] if EXTRA_ORGANS.get(organ) == "small bowel" else organ
            if organ in ORGAN_LABELS:  # all parts of an organ make it up
                numbers.setdefault(organ, []).append(number)
        return scan, shown({o: torch.isin(values, torch.tensor(n)) for o, n in numbers.items()}, scan)

    return OrganCase(name, "real", "MR" if "_mr" in name else "CT", read)


def label_names(path: Path) -> dict[int, str]:
    """Number -> name of a label map's labels, from the table in the file itself.

    Raises:
        ScanError: the file has no such table.
    """
    for extension in nib.load(path).header.extensions:
        try:
            tree = ElementTree.fromstring(extension.get_content().decode().strip("\0"))
        except (ElementTree.ParseError, UnicodeDecodeError, AttributeError):
            continue
        found = {int(e.get("Key")): (e.text or "").strip() for e in tree.iter("Label")}
        if found:
            return found
    raise ScanError(f"{path} does not say what its labels are: give a map with a table of labels (TotalSegmentator's)")


def mean_dice(records: list[dict]) -> dict[str, float]:
    """Organ -> mean Dice over cases."""
    organs = dict.fromkeys(r["organ"] for r in records)
    return {o: float(np.mean([r["dice"] for r in records if r["organ"] == o])) for o in organs}
