"""Training samples from folders of scans with label maps (MSD tasks, KiTS23, data of your own).

A datalist is JSON: {"training": [...], "validation": [...]} of records
{"image": path, "label": path, "labels": {"1": "kidney", "2": "kidney tumor"}, "modality": "CT", "attributes": {...}}.
Names are of lesions, and of organs of the vocabulary or of public sets (datasets.ORGAN_LABELS, PAIRS); words for a lesion
that the vocabulary does not know, as exports of annotated scans have them, make one of no kind. `label` may be a mask
a number, {"1": path, "2": path}. Paths are relative to the datalist. `attributes` (attribute -> value, for all lesions of
the scan) may be missing, as it is in public sets: what is unknown stays out of the alignment loss.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing, Transform
from scipy.ndimage import label as connected_components
from torch import Tensor

from . import phrases
from .datasets import ORGAN_LABELS
from .errors import ScanError
from .grids import read_labels
from .malenia.attributes import NAMES, value_index
from .phrases import GENERIC_WORDS
from .prompts import PromptError, parse
from .sides import body_middle, host_touched, right_part
from .transforms import decide_modality, prepare
from .vocabulary import ATTRIBUTES, LESIONS, PAIRS
from .volumes import read_scan

logger = logging.getLogger(__name__)
MIN_VOXELS = 3
KINDS = tuple(LESIONS)
NO_KIND = "abstract lesion"


def read_datalist(path: str | Path, section: str = "training", seen_only: bool = True) -> list[dict]:
    """Records of one section, paths made absolute; with `seen_only`, without lesions that are to stay unseen.

    Labels get the names of the vocabulary. A lesion that it does not know ("lesion", "odd mass") is one of no kind; a log
    line names those.

    Raises:
        ScanError: the file is missing or no datalist, a record lacks something or names what is neither an organ nor a
            lesion, or nothing is left.
    """
    path = Path(path)
    try:
        records = json.loads(path.read_text())[section]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ScanError(
            f"{path} is no datalist with a section {section!r}: see zerotumor/scans.py for its form"
        ) from error
    kept, unseen, strange = [], set(), set()
    for k, record in enumerate(records):
        known = _known(record, f"{path}: record {k + 1} of {section!r}")
        strange |= {given for number, given in record["labels"].items() if known[number] == NO_KIND != given}
        ours = {name for name in known.values() if seen_only and name in LESIONS and not LESIONS[name].seen}
        unseen |= ours
        if not ours:
            full = {key: _absolute(record[key], path.parent) for key in ("image", "label")}
            kept.append({**record, **full, "labels": known})
    if strange:
        logger.warning(f"{path}: learned as lesions of no kind: {', '.join(map(repr, sorted(strange)))}")
    if not records:
        raise ScanError(f"{path} has no scan under {section!r}: move some of its other records there")
    if not kept:
        raise ScanError(
            f"{path} has no scan under {section!r} that may be learned from, for {', '.join(sorted(unseen))} is to stay "
            "unseen: add scans of other kinds there, or read it with seen_only false"
        )
    return kept


def _known(record: object, where: str) -> dict[str, str]:
    """A record's labels, with names of the vocabulary.

    Raises:
        ScanError: something is missing, or a name is that of nothing.
    """
    missing = [key for key in ("image", "label", "labels") if not (isinstance(record, dict) and record.get(key))]
    if missing or not isinstance(record["labels"], dict):
        raise ScanError(
            f'{where} has no {" and no ".join(missing) or "names in its labels"}: write {{"image": path, "label": path, '
            '"labels": {"1": "liver", "2": "liver tumor"}}'
        )
    known = {number: known_name(str(name)) for number, name in record["labels"].items()}
    for number, name in known.items():
        if name is None:
            raise ScanError(
                f"{where} names {record['labels'][number]!r}, which is no organ or lesion of the vocabulary: correct the "
                'name; if it is a lesion, call it "lesion"'
            )
    return known


@lru_cache(maxsize=1024)
def known_name(name: str) -> str | None:
    """What the vocabulary calls an organ or a lesion of a label map; `NO_KIND` for a lesion of which it knows no kind.

    Text is understood as a prompt is, so "hepatic tumor" is the liver tumor. What has no word for a lesion in it may be an
    organ that is misspelt, and is None.
    """
    if name in LESIONS or name in ORGAN_LABELS or name in PAIRS:
        return name
    try:
        prompts = parse(name)
    except PromptError:
        return None
    kinds = {prompt.lesion for prompt in prompts}
    words = {*GENERIC_WORDS, *(kind for kind, _ in phrases.kinds())}
    if len(kinds) == 1 and None not in kinds:
        return kinds.pop()
    return NO_KIND if any(phrases.mentions(word, phrases.normalize(name)) for word in words) else None


def _absolute(files: str | Mapping[str, str], folder: Path) -> str | dict[str, str]:
    """A path, or the paths of several masks, that were relative to a folder."""
    if isinstance(files, Mapping):
        return {number: str(folder / file) for number, file in files.items()}
    return str(folder / files)


class LoadScan(Transform):
    """A record -> a sample on the network's grid: `image`, `lesions`, `organs`, `values` (see `training`), and `kinds`, the
    place in vocabulary.LESIONS of every lesion instance.

    Each connected component of a lesion label is an instance of its own. It lies in its category's only host, or in the one
    whose label it touches most, or, if it touches none, on its side of the body's middle. Where a narrow field of view does
    not tell left from right, the location stays unknown (-1), and so do the sides of a paired organ (no label).
    Deterministic, so that the result can be cached.

    Args:
        spacing: mm.
    """

    def __init__(self, spacing: float = 3.0) -> None:
        self.spacing = spacing

    def __call__(self, record: Mapping[str, object]) -> dict[str, Tensor]:
        return self.read(record)[0]

    def read(self, record: Mapping[str, object]) -> tuple[dict[str, Tensor], set[str]]:
        """The sample, and the organs that the record has a label of, but not one that tells left from right."""
        scan = read_scan(record["image"])
        labels = self._labels(record, scan)
        modality = decide_modality(scan, user=record.get("modality"))
        image = prepare(scan, modality, self.spacing)
        turn = Orientation(axcodes="RAS", labels=None)
        middle = body_middle(turn(scan))
        labels = Spacing(pixdim=(self.spacing,) * 3, mode="nearest")(turn(MetaTensor(labels, affine=scan.affine)))
        classes = torch.as_tensor(labels[0]).as_subclass(Tensor).round().long()
        middle = None if middle is None else middle * classes.shape[0]
        numbers: dict[str, list[int]] = {}
        for number, name in record["labels"].items():
            numbers.setdefault(name, []).append(int(number))
        organs, untold = torch.zeros(classes.shape, dtype=torch.uint8), set()
        for name in (n for n in numbers if n not in LESIONS):  # first: they tell where lesions lie
            untold |= {*self._organ(name, torch.isin(classes, torch.tensor(numbers[name])), organs, middle)}
        lesions, values, kinds = torch.zeros_like(organs), [], []
        for number, name in record["labels"].items():
            if name in LESIONS:
                where, known = classes == int(number), record.get("attributes") or {}
                self._lesions(name, where, lesions, organs, values, middle, known)
                kinds += [KINDS.index(name)] * (len(values) - len(kinds))
        sample = {
            "image": torch.as_tensor(image).as_subclass(Tensor).half(),
            "lesions": lesions[None],
            "organs": organs[None],
            "values": torch.tensor(values, dtype=torch.int16).reshape(-1, len(NAMES)),
            "kinds": torch.tensor(kinds, dtype=torch.int16),
        }
        return sample, untold

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

    def _organ(self, name: str, where: Tensor, organs: Tensor, middle: float | None) -> tuple[str, ...]:
        """Paint an organ's label; returns both sides of a pair that cannot be told apart."""
        hosts = PAIRS.get(name, (name,))
        if not _paired(hosts):
            organs[where] = ORGAN_LABELS[hosts[0]]
        elif where.any():
            right = right_part(where, middle, self.spacing)
            if right is None:
                return hosts
            for host in hosts:
                organs[where & (right if host.startswith("right") else ~right)] = ORGAN_LABELS[host]
        return ()

    @staticmethod
    def _lesions(
        name: str, where: Tensor, lesions: Tensor, organs: Tensor, values: list, middle: float | None,
        known: Mapping[str, str],
    ) -> None:  # fmt: skip
        components, count = connected_components(where.numpy(), np.ones((3, 3, 3)))
        for k in range(1, count + 1):
            part = torch.from_numpy(components == k)
            host = _host(name, part, organs, middle)
            if host:
                organs[part] = ORGAN_LABELS[host]
            if int(part.sum()) < MIN_VOXELS or len(values) == 250:
                continue
            row = {"location": host if host in LESIONS[name].hosts else None, **known}
            lesions[part] = len(values) + 1
            values.append([value_index(n, row[n]) if row.get(n) in ATTRIBUTES[n] else -1 for n in NAMES])


def _paired(hosts: Sequence[str]) -> bool:
    """Whether organs are the two sides of one."""
    return all(host.startswith(("left", "right")) for host in hosts) and len(hosts) == 2


def _host(name: str, part: Tensor, organs: Tensor, middle: float | None) -> str | None:
    """The organ that a lesion (X, Y, Z) bool of a category lies in; None if nothing tells."""
    hosts = LESIONS[name].hosts
    if name == NO_KIND:  # it may lie anywhere
        return host_touched(part, organs, tuple(ORGAN_LABELS))
    if len(hosts) == 1:
        return hosts[0]
    if host := host_touched(part, organs, hosts):
        return host
    if not _paired(hosts):
        return hosts[0]
    if middle is None:
        return None
    side = "right" if float(part.nonzero()[:, 0].float().mean()) >= middle else "left"
    return next(host for host in hosts if host.startswith(side))
