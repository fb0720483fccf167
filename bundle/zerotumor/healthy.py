"""Healthy CTs with maps of their organs, read so that bodies can be made from them (`phantom.scanned`)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import Tensor

from .cohorts import data_folder, read_labels
from .datasets import EXTRA_ORGANS
from .errors import ScanError
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
    ("lung_", "left lung"),
)
"""Names of TotalSegmentator's labels that are one organ's parts here; the first pattern that is found counts."""
HEALTHY = (("example_ct", "example_seg_fast_force_split"),)
"""Scan and map of the healthy scans of the data folder that weights are trained on."""
FIRST_SEED = 20_000_000
FAINT_EVERY, HEALTHY_EVERY = 2, 5


def organ_of(label: str) -> str | None:
    """The organ of the vocabulary that a label of TotalSegmentator's is or belongs to; None if there is none."""
    known = NAMES.get(label)
    known = EXTRA_ORGANS.get(known) or known
    if known in ORGANS:
        return known
    return next((organ for pattern, organ in ALSO if re.search(pattern, label)), None)


@lru_cache(maxsize=4)
def read_healthy(image: str, label: str) -> HealthyScan:
    """A scan and its map, from files.

    Args:
        image: a CT. label: its map, with a table of its labels' names in the file (as TotalSegmentator writes it).

    Raises:
        ScanError: a file cannot be read, is no CT, or does not say what its labels are.
    """
    scan = read_scan(Path(image))
    if decide_modality(scan, scan.meta.get("modality")) != "CT":
        raise ScanError(f"{image} is no CT: bodies are made from Hounsfield units")
    try:
        labels = read_labels(Path(label), scan)
    except ValueError as error:
        raise ScanError(f"{error}: give the map of {image}") from error
    turn = Orientation(axcodes="RAS", labels=None)
    labels = turn(MetaTensor(labels[None].float(), affine=scan.affine))
    scan = turn(scan)
    names = {number: organ for number, text in label_names(Path(label)).items() if (organ := organ_of(text))}
    hu, labels = (torch.as_tensor(one[0]).as_subclass(Tensor) for one in (scan, labels))
    spacing = tuple(torch.as_tensor(scan.affine)[:3, :3].norm(dim=0).tolist())
    return healthy_scan(hu, labels.round().long(), names, spacing)


def healthy_files(folder: str | Path | None = None) -> list[tuple[Path, Path]]:
    """Scan and map of the healthy scans that are there.

    Args:
        folder: laid out as $ZEROTUMOR_DATA, which it is by default.
    """
    folder = Path(folder) if folder else data_folder()
    root = folder / "healthy" / "totalsegmentator" if folder else Path()
    files = [(root / f"{image}.nii.gz", root / f"{label}.nii.gz") for image, label in HEALTHY]
    return [pair for pair in files if folder and all(f.is_file() for f in pair)]


def healthy_datalist(count: int, folder: str | Path | None = None) -> list[dict]:
    """Records for `training.GeneratePhantom`: lesions, or none, drawn in the healthy scans of the data folder.

    Every second scan's lesions may be as faint as `training.FAINT`, and every fifth scan has none for sure.

    Args:
        count: how many; 0 needs no folder. folder: see `healthy_files`.

    Raises:
        ScanError: the scans are not there.
    """
    files = healthy_files(folder) if count else []
    if count and not files:
        raise ScanError("there are no healthy scans to draw lesions in: set ZEROTUMOR_DATA, or train on phantoms alone")
    records = []
    for k in range(count):
        image, label = files[k % len(files)]
        low, high = (0.6, 1.4) if k % FAINT_EVERY else (0.0, 0.75)
        record = {"seed": FIRST_SEED + k, "difficulty": low + (high - low) * (k * 0.618034 % 1)}
        more = {} if k % HEALTHY_EVERY else {"category": "healthy"}
        records.append({**record, **more, "image": str(image), "label": str(label)})
    return records
