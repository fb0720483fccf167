"""Healthy CTs with maps of their organs, and atlases, read so that bodies can be made from them (`phantom.scanned`)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import Tensor

from .atlas import read_atlas
from .cohorts import data_folder
from .datasets import EXTRA_ORGANS
from .errors import ScanError
from .grids import read_labels
from .organs import NAMES, label_names
from .phantom import HealthyScan, healthy_scan
from .transforms import decide_modality
from .vocabulary import ORGANS
from .volumes import read_scan

ALSO = (
    ("rib_|ribs?$|vertebrae|hip_|femur|sacrum|scapula|clavicula|sternum|humerus|skull|costal", "bone"),
    ("gluteus|autochthon|iliopsoas|muscle", "muscle"),
    ("iliac_artery|subclavian_artery|carotid_artery", "aorta"),
    ("iliac_vena|superior_vena|brachiocephalic_vein", "inferior vena cava"),
)
"""Names of TotalSegmentator's labels that are one organ's parts here; the first pattern that is found counts."""
FOLDERS = ("healthy/totalsegmentator", "atlas/spl_abdominal")
SOURCES = (
    ("example_ct", FOLDERS[0], "example_ct.nii.gz", "example_seg_fast_force_split.nii.gz"),
    ("example_ct", FOLDERS[0], "example_ct.nii.gz", "example_seg_fast_force_split.nii.gz"),
    ("spl_abdominal", FOLDERS[1], "seg.nrrd", "AbdominalAtlasColors.ctbl"),
)
"""What weights are trained on from the data folder: name, folder, scan, and map of its organs; or an atlas and its color
table. In turn, so a real scan twice as often as an atlas."""
FIRST_SEED = 20_000_000
FAINT_EVERY, HEALTHY_EVERY, MUSCLE_EVERY = 2, 5, 4


def organ_of(label: str) -> str | None:
    """The organ of the vocabulary that a label of TotalSegmentator's is or belongs to; None if there is none."""
    known = NAMES.get(label)
    known = EXTRA_ORGANS.get(known) or known
    if known in ORGANS:
        return known
    return next((organ for pattern, organ in ALSO if re.search(pattern, label)), None)


@lru_cache(maxsize=4)
def read_healthy(image: str, label: str) -> HealthyScan:
    """A scan and its map, or an atlas and its color table, from files.

    Args:
        image: a CT, or an atlas. label: the CT's map, with a table of its labels' names in the file (as TotalSegmentator
        writes it), or the atlas' table (.ctbl).

    Raises:
        ScanError: a file cannot be read, is no CT, or does not say what its labels are.
    """
    if Path(label).suffix == ".ctbl":
        return read_atlas(image, label)
    scan = read_scan(Path(image))
    if decide_modality(scan, scan.meta.get("modality")) != "CT":
        raise ScanError(f"{image} is no CT: bodies are made from Hounsfield units")
    labels = read_labels(label, scan)
    turn = Orientation(axcodes="RAS", labels=None)
    labels = turn(MetaTensor(labels[None].float(), affine=scan.affine))
    scan = turn(scan)
    names = {number: organ for number, text in label_names(Path(label)).items() if (organ := organ_of(text))}
    hu, labels = (torch.as_tensor(one[0]).as_subclass(Tensor) for one in (scan, labels))
    spacing = tuple(torch.as_tensor(scan.affine)[:3, :3].norm(dim=0).tolist())
    return healthy_scan(hu, labels.round().long(), names, spacing)


def healthy_files(folder: str | Path | None = None) -> list[dict[str, str]]:
    """`name`, `image` and `label` of those of SOURCES that are there.

    Args:
        folder: laid out as $ZEROTUMOR_DATA, which it is by default.
    """
    folder = Path(folder) if folder else data_folder()
    if folder is None:
        return []
    files = [
        {"name": name, "image": str(folder / inside / image), "label": str(folder / inside / label)}
        for name, inside, image, label in SOURCES
    ]
    return [f for f in files if Path(f["image"]).is_file() and Path(f["label"]).is_file()]


def healthy_datalist(count: int, folder: str | Path | None = None) -> list[dict]:
    """Records for `training.GeneratePhantom`: lesions, or none, drawn in what the data folder has of healthy people.

    Every second one's lesions may be as faint as `phantom.datalist.FAINT`, every fourth has them in muscle, which many
    masses resemble, and every fifth has none for sure.

    Args:
        count: how many; 0 needs no folder. folder: see `healthy_files`.

    Raises:
        ScanError: there is nothing to draw in.
    """
    files = healthy_files(folder) if count else []
    if count and not files:
        raise ScanError("there are no healthy scans to draw lesions in: set ZEROTUMOR_DATA, or train on phantoms alone")
    records = []
    for k in range(count):
        low, high = (0.6, 1.4) if k % FAINT_EVERY else (0.0, 0.75)
        record = {"seed": FIRST_SEED + k, "difficulty": low + (high - low) * (k * 0.618034 % 1)}
        if k % MUSCLE_EVERY == 1:
            record |= {"category": "abstract lesion", "organ": "muscle"}
        if k % HEALTHY_EVERY == 0:
            record["category"] = "healthy"
        records.append({**record, **files[k % len(files)]})
    return records
