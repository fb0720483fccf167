"""What public data sets annotate: a class map and the layout of each, so that sets with different labels can be mixed.

A set annotates some classes only; a voxel without a label may still be an organ that nobody outlined. `datalist` lists
which names a set annotates, and training leaves all others alone. No torch here.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ScanError
from .vocabulary import ORGANS, PAIRS

EXTRA_ORGANS: dict[str, str] = {
    "duodenum": "small bowel",
    "portal and splenic vein": "hepatic vessels",
    "celiac trunk": "",
    "left femur": "bone",
    "right femur": "bone",
}
"""Organs of public sets that the vocabulary has only as part of a larger one, and that one."""

ORGAN_LABELS: dict[str, int] = {
    **{name: organ.index for name, organ in ORGANS.items()},
    **{name: 101 + k for k, name in enumerate(EXTRA_ORGANS)},
}
"""Number of every organ in label maps."""


def covering(names: Sequence[str], organs: Iterable[str]) -> tuple[int, ...]:
    """Places in a list of organs of those in which something in the vocabulary's `organs` may lie."""
    wanted = set(organs)
    return tuple(k for k, name in enumerate(names) if name in wanted or EXTRA_ORGANS.get(name) in wanted)


@dataclass(frozen=True)
class PublicSet:
    """A data set: number in its label maps -> name. A pair ("kidney") is told apart by its side of the body."""

    name: str
    labels: Mapping[int, str]
    images: str  # glob below the folder
    label_of: tuple[str, str | Callable[[re.Match], str]]  # of an image's path: a pattern, and its label map's glob


def _numbered(names: str) -> dict[int, str]:
    """ "a, b, -, c" -> {1: "a", 2: "b", 4: "c"}; what is "-" is of no use to us."""
    return {k: n for k, n in enumerate(map(str.strip, names.split(",")), 1) if n != "-"}


_MSD = {  # task -> names
    "liver": "liver, liver tumor",
    "lung": "lung tumor",
    "pancreas": "pancreas, pancreatic tumor",
    "hepaticvessel": "hepatic vessels, hepatic vessel tumor",
    "spleen": "spleen",
    "colon": "colon tumor",
}
_MSD_LAYOUT = ("imagesTr/*.nii.gz", (r"imagesTr/", "labelsTr/"))
PUBLIC_SETS: dict[str, PublicSet] = {
    **{f"msd-{k}": PublicSet(f"msd-{k}", _numbered(v), *_MSD_LAYOUT) for k, v in _MSD.items()},
    "kits": PublicSet(
        "kits", _numbered("kidney, kidney tumor, kidney cyst"), "case_*/imaging.nii.gz", (r"imaging", "segmentation")
    ),
    "btcv": PublicSet(
        "btcv",
        _numbered(
            "spleen, right kidney, left kidney, gallbladder, esophagus, liver, stomach, aorta, inferior vena cava, "
            "portal and splenic vein, pancreas, right adrenal gland, left adrenal gland"
        ),
        "im*/img*.nii.gz",  # as first published, or for training: imagesTs has no label maps
        (r"^im(?:g|ages(Tr))/img", lambda m: f"label{'sTr' if m[1] else ''}/label"),
    ),
    "amos": PublicSet(  # 15 is prostate or uterus, and does not say which
        "amos",
        _numbered(
            "spleen, right kidney, left kidney, gallbladder, esophagus, liver, stomach, aorta, inferior vena cava, "
            "pancreas, right adrenal gland, left adrenal gland, duodenum, bladder, -"
        ),
        "imagesTr/amos_*.nii.gz",
        (r"imagesTr/", "labelsTr/"),
    ),
    "word": PublicSet(
        "word",
        _numbered(
            "liver, spleen, left kidney, right kidney, stomach, gallbladder, esophagus, pancreas, duodenum, colon, "
            "small bowel, adrenal gland, rectum, bladder, left femur, right femur"
        ),
        "imagesTr/word_*.nii.gz",
        (r"imagesTr/", "labelsTr/"),
    ),
    "abdomenct-1k": PublicSet(
        "abdomenct-1k",
        _numbered("liver, kidney, spleen, pancreas"),
        "*Image*/Case_*_0000.nii.gz",  # AbdomenCT-1K-ImagePart1 to 3, and one folder of masks for all
        (r"^[^/]*Image[^/]*/(Case_\d+)_0000", r"*Mask*/\1"),
    ),
}

TOTAL_SEGMENTATOR: dict[str, str] = {
    **{n: n.replace("_", " ") for n in (
        "spleen", "gallbladder", "esophagus", "liver", "stomach", "aorta", "pancreas", "colon", "heart", "brain",
        "prostate", "duodenum", "small_bowel", "inferior_vena_cava",
    )},
    **{f"{organ}_{side}": f"{side} {organ.replace('_', ' ')}" for organ in ("kidney", "adrenal_gland")
       for side in ("left", "right")},
    **{f"lung_{lobe}_lobe_{side}": f"{side} lung" for lobe, side in (
        ("upper", "left"), ("lower", "left"), ("upper", "right"), ("middle", "right"), ("lower", "right"),
    )},
    "urinary_bladder": "bladder",
    "thyroid_gland": "thyroid",
    "portal_vein_and_splenic_vein": "portal and splenic vein",
}  # fmt: skip
"""File in a TotalSegmentator subject's `segmentations` -> name. Bones and muscles are left out: it has some."""


def annotated(names: Sequence[str]) -> list[str]:
    """Classes that label names annotate: pairs as both sides."""
    return sorted({side for name in names for side in PAIRS.get(name, (name,))})


def datalist(kind: str, folder: str | Path) -> list[dict]:
    """Records of a data set's folder for `scans.LoadScan`: image, label, labels, annotated, modality.

    Args:
        kind: a key of PUBLIC_SETS, "totalsegmentator", or "msd" (the task is read from dataset.json or the folder's name).

    Raises:
        ScanError: the kind is not known, or the folder has no scans in its layout.
    """
    folder = Path(folder)
    if kind == "totalsegmentator":
        records = _total(folder)
    else:
        known = PUBLIC_SETS.get(f"msd-{_msd_task(folder)}" if kind == "msd" else kind)
        if known is None:
            choices = ", ".join(["msd", *PUBLIC_SETS, "totalsegmentator"])
            raise ScanError(f"there is no class map for {kind!r} ({folder.name}): choose one of {choices}")
        records = _flat(known, folder)
    if not records:
        raise ScanError(
            f"{folder} holds no scans with labels in the layout of {kind}: give the folder as it was unpacked"
        )
    return records


def _msd_task(folder: Path) -> str:
    """The task that a folder of MSD holds, by what came with it, else by the folder's name.

    scripts/make_datalist.py moves what came with it aside: then dataset.json is a datalist, which has no name.
    """
    for about in (folder / "dataset.msd.json", folder / "dataset.json"):
        try:
            said = json.loads(about.read_text()) if about.is_file() else {}
        except json.JSONDecodeError as error:
            raise ScanError(f"{about} is damaged: unpack the data set again") from error
        name = said.get("name") if isinstance(said, dict) else None
        if name:
            return str(name).lower().replace("_", "").replace(" ", "")
    return re.sub(r"^task\d+_", "", folder.name.lower())


def _flat(known: PublicSet, folder: Path) -> list[dict]:
    records = []
    for image in sorted(folder.glob(known.images)):
        if image.name.startswith(".") or (label := _label_of(known, folder, image)) is None:
            continue
        labels = {str(k): n for k, n in known.labels.items()}
        record = {
            "image": str(image),
            "label": str(label),
            "labels": labels,
            "annotated": annotated(list(labels.values())),
        }
        number = re.search(r"amos_(\d+)", image.name)
        records.append({**record, "modality": "MR" if number and int(number[1]) > 500 else "CT"})
    return records


def _label_of(known: PublicSet, folder: Path, image: Path) -> Path | None:
    """An image's label map; None if it has none, or lies where the set has no label maps."""
    pattern, instead = known.label_of
    inside, count = re.subn(pattern, instead, glob.escape(image.relative_to(folder).as_posix()))
    # a path in which nothing was replaced is that of the image itself
    return next((f for f in sorted(folder.glob(inside)) if f.is_file()), None) if count else None


def _total(folder: Path) -> list[dict]:
    """One record a subject; each class is a file of its own, and lobes of a lung are one class."""
    records = []
    for image in sorted([*folder.glob("*/ct.nii.gz"), *folder.glob("*/mri.nii.gz")]):
        files = {f: image.parent / "segmentations" / f"{f}.nii.gz" for f in TOTAL_SEGMENTATOR}
        there = {f: path for f, path in files.items() if path.is_file()}
        if not there:
            continue
        missing = {TOTAL_SEGMENTATOR[f] for f in files if f not in there}  # half a lung is not a lung
        names = sorted({TOTAL_SEGMENTATOR[f] for f in there} - missing)
        records.append({
            "image": str(image),
            "label": {str(k): str(path) for k, path in enumerate(there.values(), 1)},
            "labels": {str(k): TOTAL_SEGMENTATOR[f] for k, f in enumerate(there, 1)},
            "annotated": names,
            "modality": "CT" if image.name == "ct.nii.gz" else "MR",
        })  # fmt: skip
    return records
