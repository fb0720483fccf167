"""An atlas, a map of organs without its scan, as a body: what is missing between the organs is filled in.

The map says where organs, bones, muscles and vessels are. Between them is fat, and around them a rind of it; bones get a
cortex, bowel gets gas. From there on it is treated as the scan of a healthy person.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from .errors import ScanError
from .phantom import HealthyScan, healthy_scan
from .phantom.geometry import Draw, Noise, grid
from .vocabulary import ORGANS
from .volumes import read_scan

SPACING = 3.0
"""mm; an atlas is thinned to this."""
NAMES = (
    ("^(liver|spleen|pancreas|aorta|gallbladder)$", ""),
    ("^inferior_vena_cava$", ""),
    ("^(left|right)_(kidney|adrenal_gland)$", ""),
    ("^colon", "colon"),
    ("^stomach", "stomach"),
    ("hepatic_vein|portal_vein", "hepatic vessels"),
    ("vein", "inferior vena cava"),
    ("artery|trunk", "aorta"),
    ("muscle", "muscle"),
    ("disc$", ""),
    ("pelvis$|^lumbar|^thoracic|^cervical|^sacrum|^coccyx|^rib|bone", "bone"),
)
"""Names in the atlas' table -> organs of the vocabulary; the first pattern counts, and "" means the name itself."""
RENAL = "renal_pelvis"
RIND_MM, BRIDGE_MM = 12.0, 18.0
"""Thickness of the fat around all labels; widest half of a gap between labels that is still inside the body."""
HU = {
    "fat": -100.0, "bone": 180.0, "cortex": 700.0, "gas": -900.0, "liver": 60.0, "spleen": 50.0, "pancreas": 40.0,
    "left kidney": 34.0, "right kidney": 34.0, "gallbladder": 8.0, "stomach": 25.0, "colon": 25.0, "muscle": 55.0,
    "aorta": 42.0, "inferior vena cava": 42.0, "hepatic vessels": 42.0, "left adrenal gland": 25.0,
    "right adrenal gland": 25.0,
}  # fmt: skip
"""Those of a scan without contrast agent: an atlas has no phase of its own."""


def organ_of(label: str) -> str | None:
    """The organ of the vocabulary that a name of the atlas' table stands for; None if there is none."""
    label = label.lower()
    if RENAL in label:
        return None
    for pattern, organ in NAMES:
        if re.search(pattern, label):
            known = organ or label.replace("_", " ")
            return known if known in ORGANS else None
    return None


def read_table(path: str | Path) -> dict[int, str]:
    """A color table of 3D Slicer: number -> name.

    Raises:
        ScanError: it has no line "number name ...".
    """
    rows = (line.split() for line in Path(path).read_text().splitlines() if not line.startswith("#"))
    names = {int(row[0]): row[1] for row in rows if len(row) >= 2 and row[0].isdigit()}
    if not names:
        raise ScanError(f"{path} is no color table: give the .ctbl file beside the atlas")
    return names


def read_atlas(image: str, table: str) -> HealthyScan:
    """A body from an atlas' map and its color table."""
    labels = read_scan(Path(image), labels=True)
    labels = Orientation(axcodes="RAS", labels=None)(MetaTensor(labels.float(), affine=labels.affine))
    labels = Spacing(pixdim=(SPACING,) * 3, mode="nearest")(labels)
    values = torch.as_tensor(labels[0]).as_subclass(Tensor).round().long()
    names = {number: organ for number, text in read_table(table).items() if (organ := organ_of(text))}
    return atlas_scan(values, names, (SPACING,) * 3)


def atlas_scan(labels: Tensor, names: dict[int, str], spacing: tuple[float, float, float]) -> HealthyScan:
    """The scan that a map (X, Y, Z) in RAS could have come from.

    Args:
        names: label -> a name of ORGANS. spacing: mm.
    """
    margin = int(np.ceil((RIND_MM + 3) / min(spacing)))
    labels = torch.nn.functional.pad(labels, (0, 0, margin, margin, margin, margin))  # no rind above and below
    hu = torch.full(labels.shape, -1000.0)
    hu[torch.from_numpy(_body(labels.numpy() > 0, spacing))] = HU["fat"]
    for number, organ in names.items():
        hu[labels == number] = HU[organ]
    bone = torch.isin(labels, torch.tensor([n for n, organ in names.items() if organ == "bone"]))
    inner = torch.from_numpy(distance_transform_edt(bone.numpy(), sampling=spacing) > 1.2 * max(spacing))
    hu[bone & ~inner] = HU["cortex"]
    bowel = torch.isin(labels, torch.tensor([n for n, organ in names.items() if organ in ("colon", "stomach")]))
    bubbles = Noise(Draw(0), 25.0)(grid(labels.shape, spacing, (0.0,) * 3))[0] > 0.7
    hu[bowel & bubbles] = HU["gas"]
    return healthy_scan(hu, labels, names, spacing)


def _body(there: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Slice by slice: gaps between labels closed, and a rind around them (X, Y, Z)."""
    out = np.zeros_like(there)
    for k in range(there.shape[2]):
        if there[:, :, k].any():
            near = distance_transform_edt(~there[:, :, k], sampling=spacing[:2]) <= BRIDGE_MM
            closed = distance_transform_edt(near, sampling=spacing[:2]) > BRIDGE_MM
            closed |= there[:, :, k]
            out[:, :, k] = distance_transform_edt(~closed, sampling=spacing[:2]) <= RIND_MM
    return out
