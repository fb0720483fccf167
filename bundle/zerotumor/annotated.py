"""An annotated folder of MONAI Label, as training sets that others read: a MONAI datalist, or nnU-Net's raw folder.

The folder is MONAI Label's local datastore: scans, labels in `labels/TAG`, and `datastore_v2.json`, which says what is known
of each label. CT and MR become sets of their own, since no network normalizes both alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from .annotation import LabelError, check_label
from .errors import ScanError
from .exported import MAKER, ORIGINS, of_datalists, of_nnunet, spare
from .label_numbers import own_number
from .prompts import PromptError, parse
from .transforms import MODALITIES, ModalityError, decide_modality
from .volumes import read_scan, write_json, write_mask, write_scan

INDEX = "datastore_v2.json"
LESION = "lesion"
"""Name of a label of which nothing is known, and of all together."""


@dataclass(frozen=True)
class Annotation:
    """One label of a datastore, and where it and its scan lie."""

    id: str
    image: Path
    label: Path
    info: dict  # of the label: prompt, provenance, label_info, ...
    image_info: dict


@dataclass(frozen=True)
class Checked:
    """One label that may be learned from. Voxels are read again when they are written: a set may be larger than memory."""

    annotation: Annotation
    modality: str
    names: dict[int, str]  # label value -> name

    def scan(self) -> MetaTensor:
        """(1, X, Y, Z)."""
        return read_scan(self.annotation.image)

    def labels(self) -> Tensor:
        """(X, Y, Z) uint8."""
        return voxels_of(read_scan(self.annotation.label, labels=True))

    @property
    def case(self) -> str:
        """A name for files."""
        return re.sub(r"[^A-Za-z0-9.-]+", "-", self.annotation.id).strip("-.") or "case"


def annotations(studies: Path, tag: str = "final") -> list[Annotation]:
    """All labels with a tag in a folder of MONAI Label, by id.

    Raises:
        ScanError: it is no such folder, or there is no such label in it.
    """
    index = Path(studies) / INDEX
    if not index.is_file():
        raise ScanError(f"{studies} has no {INDEX}: give the folder that the MONAI Label server serves as --studies")
    try:
        stored = json.loads(index.read_text())
        objects = sorted(stored["objects"].items())
        images, labels = (index.parent / stored.get(k, d) for k, d in (("images_dir", "."), ("labels_dir", "labels")))
        found = [
            Annotation(
                name, images / f"{name}{entry['image']['ext']}", labels / tag / f"{name}{entry['labels'][tag]['ext']}",
                entry["labels"][tag].get("info") or {}, entry["image"].get("info") or {},
            )
            for name, entry in objects if tag in entry.get("labels", {})
        ]  # fmt: skip
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ScanError(f"{index} is damaged ({error}): restore it, or let the server write it again") from error
    if not found:
        raise ScanError(f"{studies} has no label with the tag {tag!r}: save some first, or name another --tag")
    return found


def checked(annotation: Annotation) -> Checked:
    """An annotation, read and checked.

    Raises:
        ScanError, LabelError, ModalityError: with a sentence.
    """
    scan, mask = read_scan(annotation.image), read_scan(annotation.label, labels=True)
    check_label(mask, scan)
    origin = annotation.info.get("provenance") or {}
    said = annotation.image_info.get("Modality") or origin.get("modality")
    modality = decide_modality(scan, scan.meta.get("modality"), said if said in MODALITIES else None)
    present = [int(v) for v in voxels_of(mask).unique().tolist() if v > 0]
    return Checked(annotation, modality, names_of(present, annotation.info))


def voxels_of(mask: MetaTensor) -> Tensor:
    """A label map (1, X, Y, Z) as read -> (X, Y, Z) uint8."""
    return torch.as_tensor(mask[0]).as_subclass(Tensor).round().to(torch.uint8)


def names_of(values: Sequence[int], info: dict) -> dict[int, str]:
    """Name of each label value: by the segments that the client named, else the prompt, else "lesion".

    Names that are words for a known kind become that kind's: "hepatic tumor" and "liver tumor" are one class.

    Raises:
        LabelError: several kinds were asked for at once, and nothing says which of them a value is.
    """
    given = info.get("label_info")
    items = [n for n in given if isinstance(n, dict)] if isinstance(given, list) else []
    said = {str(n.get("idx")): str(n.get("name") or "") for n in items}
    prompt = info.get("prompt") if isinstance(info.get("prompt"), str) else ""
    alone, out = len(values) == 1, {}
    for value in values:
        # The segment "Segment_1" says nothing: then the prompt is all that is known.
        name = said.get(str(value), "")
        known = not re.fullmatch(r"(segment|segmentation|label|mask|lesion)?[\s_-]*\d*", name, re.IGNORECASE)
        text = name if known else prompt
        # One of several values may be anything, unless the text names several things that have numbers.
        meant = _meant(text, value) if known or alone or len(kinds(text)) > 1 else ""
        out[value] = meant or (LESION if alone else f"{LESION} {value}")
    return out


def _meant(text: str, value: int) -> str:
    """The kind that a label value shows of those that a text names; empty if it names none.

    Of several kinds, the number tells which one the server painted. The free numbers tell nothing: 1 is what every client
    begins with.
    """
    named = kinds(text)
    if len(named) <= 1:
        return next(iter(named), "")
    name = next((kind for kind, number in named.items() if number == value), None)
    if name is None:
        raise LabelError(
            f"{text!r} names several lesions, and nothing says which of them label {value} is: save it with the names of "
            "its segments (label_info), or with a prompt for this one alone"
        )
    return name


def kinds(text: str) -> dict[str, int | None]:
    """The known kinds that a text names, each once, and their own numbers; what is no known kind is itself in lower case."""
    try:
        prompts = parse(text) if text.strip() else []
    except PromptError:
        return {_plain(text): None}
    return {prompt.lesion or _plain(prompt.text): own_number(prompt) for prompt in prompts}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def read_all(found: Sequence[Annotation]) -> Iterator[Checked | tuple[Annotation, str]]:
    """Each annotation checked, or with the sentence why it cannot be used."""
    for annotation in found:
        try:
            yield checked(annotation)
        except (ScanError, LabelError, ModalityError) as error:
            yield annotation, str(error)


def as_datalist(cases: Sequence[Checked], out: Path, validation: float = 0.0) -> list[Path]:
    """Write images, labels and one datalist a modality (`CT.json`, `MR.json`) into a folder; returns the datalists.

    They are read by `monai.data.load_decathlon_datalist`, and by this project's own training on scans. Paths are relative to
    them. An entry says what its values mean (`labels`), the `prompt`, and where the label comes from (`provenance`). An
    earlier export's datalists go, and the files that they list.

    Args:
        validation: share of the cases, every n-th.

    Raises:
        ScanError: a datalist there is not of an export, or a file of the annotated folder would be lost.
    """
    lists, every = [], list(named(cases))  # CT and MR lie in the same folders
    old = of_datalists(out)
    new = [out / part / f"{name}.nii.gz" for name, _ in every for part in ("images", "labels")]
    spare([*old, *new], [path for _, case in every for path in (case.annotation.image, case.annotation.label)])
    for file in old:
        file.unlink(missing_ok=True)
    for modality in by_modality(cases):
        rows = []
        for name, case in (one for one in every if one[1].modality == modality):
            image, label = f"images/{name}.nii.gz", f"labels/{name}.nii.gz"
            scan = case.scan()
            write_scan(scan, out / image)
            write_mask(case.labels(), scan.affine, out / label)
            info = case.annotation.info
            rows.append(
                {
                    "image": image, "label": label, "modality": modality,
                    "labels": {str(v): n for v, n in case.names.items()}, "prompt": str(info.get("prompt") or ""),
                    "provenance": info.get("provenance") or {},
                }
            )  # fmt: skip
        step = max(2, round(1 / validation)) if validation > 0 else len(rows) + 1
        split = {
            "training": [r for k, r in enumerate(rows) if (k + 1) % step],
            "validation": [r for k, r in enumerate(rows) if not (k + 1) % step],
        }
        about = {"name": MAKER, "modality": {"0": modality}, "tensorImageSize": "3D"}
        lists.append(out / f"{modality}.json")
        write_json({**about, "numTraining": len(split["training"]), **split}, lists[-1])
    return lists


def as_nnunet(cases: Sequence[Checked], out: Path, number: int, name: str, merge: bool = False) -> list[Path]:
    """Write nnU-Net v2 raw datasets, `DatasetNNN_NAME` for one modality; returns their folders.

    With two modalities they are NAMEct and NAMEmr, with numbers in a row. Names become the same integers in all cases.

    Args:
        merge: one class "lesion" for all names.

    Raises:
        ScanError: a folder holds cases that no export has written (those of an earlier export go), or another data set has
            the number.
    """
    sets = by_modality(cases)
    targets = [out / f"Dataset{number + k:03d}_{name}{m.lower() if len(sets) > 1 else ''}" for k, m in enumerate(sets)]
    for folder in targets:
        if others := sorted(set(out.glob(f"{folder.name[:10]}_*")) - {folder}):
            raise ScanError(
                f"{others[0]} has the number of {folder.name}, and nnU-Net refuses two data sets with one number: choose "
                "another --number, export with the --name that it has, or move it away"
            )
    for file in [file for folder in targets for file in of_nnunet(folder)]:
        file.unlink()
    for folder, (modality, some) in zip(targets, sets.items(), strict=True):
        classes = [LESION] if merge else sorted({n for case in some for n in case.names.values()})
        numbers, names = {n: i for i, n in enumerate(classes, 1)}, dict(named(some))
        origins = {n: {key: c.annotation.info.get(key) for key in ("prompt", "provenance")} for n, c in names.items()}
        write_json(origins, folder / ORIGINS)  # first: it says which files are ours, even if this is broken off
        for case_name, case in names.items():
            scan, given = case.scan(), case.labels()
            labels = torch.zeros_like(given)
            for value, said in case.names.items():
                labels[given == value] = numbers[LESION if merge else said]
            write_scan(scan, folder / "imagesTr" / f"{case_name}_0000.nii.gz")
            write_mask(labels, scan.affine, folder / "labelsTr" / f"{case_name}.nii.gz")
        about = {"channel_names": {"0": modality}, "labels": {"background": 0, **numbers}, "numTraining": len(some)}
        write_json({**about, "file_ending": ".nii.gz"}, folder / "dataset.json")
    return targets


def by_modality(cases: Sequence[Checked]) -> dict[str, list[Checked]]:
    """CT and MR apart; those that there are."""
    return {m: some for m in MODALITIES if (some := [c for c in cases if c.modality == m])}


def named(cases: Sequence[Checked]) -> Iterator[tuple[str, Checked]]:
    """Names for files, each once, and cases."""
    used: set[str] = set()
    for case in cases:
        name = case.case
        while name in used:
            name += "-b"
        used.add(name)
        yield name, case
