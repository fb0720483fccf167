"""Training samples from folders of scans with label maps (MSD tasks, KiTS23, data of your own).

A datalist is JSON: {"training": [...], "validation": [...]} of records
{"image": path, "label": path, "labels": {"1": "kidney", "2": "kidney tumor"}, "modality": "CT", "attributes": {...}}.
Names are of lesions, and of organs of the vocabulary or of public sets (datasets.ORGAN_LABELS, PAIRS). `label` may be a mask
a number, {"1": path, "2": path}. Paths are relative to the datalist. `attributes` (attribute -> value, for all lesions of
the scan) may be missing, as it is in public sets: what is unknown stays out of the alignment loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing, Transform
from scipy.ndimage import label as connected_components
from torch import Tensor

from .datasets import ORGAN_LABELS
from .errors import ScanError
from .grids import read_labels
from .malenia.attributes import NAMES, value_index
from .transforms import decide_modality, prepare
from .vocabulary import ATTRIBUTES, LESIONS, PAIRS
from .volumes import read_scan

MIN_VOXELS = 3
KINDS = tuple(LESIONS)


def read_datalist(path: str | Path, section: str = "training", seen_only: bool = True) -> list[dict]:
    """Records of one section, paths made absolute; with `seen_only`, without lesions that are to stay unseen.

    Raises:
        ScanError: the file is missing or no datalist, or names something that the vocabulary does not know.
    """
    path = Path(path)
    try:
        records = json.loads(path.read_text())[section]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ScanError(
            f"{path} is no datalist with a section {section!r}: see zerotumor/scans.py for its form"
        ) from error
    kept = []
    for record in records:
        names = record["labels"].values()
        for name in names:
            if name not in LESIONS and name not in ORGAN_LABELS and name not in PAIRS:
                raise ScanError(
                    f"{path} names {name!r}, which is no organ or lesion of the vocabulary: correct the name"
                )
        if seen_only and any(name in LESIONS and not LESIONS[name].seen for name in names):
            continue
        full = {k: _absolute(record[k], path.parent) for k in ("image", "label")}
        kept.append({**record, **full})
    return kept


def _absolute(files: str | Mapping[str, str], folder: Path) -> str | dict[str, str]:
    """A path, or the paths of several masks, that were relative to a folder."""
    if isinstance(files, Mapping):
        return {number: str(folder / file) for number, file in files.items()}
    return str(folder / files)


class LoadScan(Transform):
    """A record -> a sample on the network's grid: `image`, `lesions`, `organs`, `values` (see `training`), and `kinds`, the
    place in vocabulary.LESIONS of every lesion instance.

    Each connected component of a lesion label is an instance of its own; it lies in the organ label that it touches, or
    in its category's only host. Deterministic, so that the result can be cached.

    Args:
        spacing: mm.
    """

    def __init__(self, spacing: float = 3.0) -> None:
        self.spacing = spacing

    def __call__(self, record: Mapping[str, object]) -> dict[str, Tensor]:
        scan = read_scan(record["image"])
        labels = self._labels(record, scan)
        modality = decide_modality(scan, user=record.get("modality"))
        image = prepare(scan, modality, self.spacing)
        labels = Orientation(axcodes="RAS", labels=None)(MetaTensor(labels, affine=scan.affine))
        labels = Spacing(pixdim=(self.spacing,) * 3, mode="nearest")(labels)
        classes = torch.as_tensor(labels[0]).as_subclass(Tensor).round().long()
        organs = torch.zeros(classes.shape, dtype=torch.uint8)
        lesions, values, kinds = torch.zeros_like(organs), [], []
        for number, name in record["labels"].items():
            where = classes == int(number)
            if name in LESIONS:
                self._lesions(name, where, lesions, values, record)
                kinds += [KINDS.index(name)] * (len(values) - len(kinds))
                self._paint_organ(organs, where, LESIONS[name].hosts)
            else:
                self._paint_organ(organs, where, PAIRS.get(name, (name,)))
        return {
            "image": torch.as_tensor(image).as_subclass(Tensor).half(),
            "lesions": lesions[None],
            "organs": organs[None],
            "values": torch.tensor(values, dtype=torch.int16).reshape(-1, len(NAMES)),
            "kinds": torch.tensor(kinds, dtype=torch.int16),
        }

    @staticmethod
    def _labels(record: Mapping[str, object], scan: MetaTensor) -> Tensor:
        """The label map (1, X, Y, Z); of one file, or of one mask a number, where a later mask paints over an earlier."""
        files = record["label"]
        files = {None: files} if isinstance(files, str | Path) else files
        labels = torch.zeros(scan.shape[1:], dtype=torch.long)
        for number, file in files.items():
            mask = read_labels(file, scan)
            labels = mask if number is None else torch.where(mask > 0, int(number), labels)
        return labels[None].float()

    @staticmethod
    def _paint_organ(organs: Tensor, where: Tensor, hosts: tuple[str, ...]) -> None:
        """Label an organ; a pair is told apart by the side of the scan's middle (RAS: the right side has larger x)."""
        middle = where.shape[0] / 2
        right = (torch.arange(where.shape[0]) >= middle)[:, None, None]
        for host in hosts:
            part = where & right if host.startswith("right") else where & ~right if host.startswith("left") else where
            organs[part] = ORGAN_LABELS[host]
            if not host.startswith(("left", "right")):
                break

    @staticmethod
    def _lesions(name: str, where: Tensor, lesions: Tensor, values: list, record: Mapping[str, object]) -> None:
        known = record.get("attributes") or {}
        hosts = LESIONS[name].hosts
        components, count = connected_components(where.numpy(), np.ones((3, 3, 3)))
        for k in range(1, count + 1):
            part = torch.from_numpy(components == k)
            if int(part.sum()) < MIN_VOXELS or len(values) == 250:
                continue
            side = "right" if float(part.nonzero()[:, 0].float().mean()) >= where.shape[0] / 2 else "left"
            host = next((h for h in hosts if h.startswith(side)), hosts[0])
            row = {"location": host, **known}
            lesions[part] = len(values) + 1
            values.append([value_index(n, row[n]) if row.get(n) in ATTRIBUTES[n] else -1 for n in NAMES])
