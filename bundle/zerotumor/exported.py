"""What an earlier export has left in a folder: the files that go before the next one, and no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .errors import ScanError
from .transforms import MODALITIES

ORIGINS = "provenance.json"
"""In a dataset of nnU-Net: where each of its cases comes from."""
MAKER = "annotated with ZeroTumor"
"""Name of a datalist: which ones are ours."""


def of_datalists(out: Path) -> list[Path]:
    """What an earlier export as datalists has left in a folder: the files that they list, and last the datalists.

    Files outside of the folder are not its own, whatever a datalist says.

    Raises:
        ScanError: a datalist was not exported from here.
    """
    lists = [path for modality in MODALITIES if (path := out / f"{modality}.json").exists()]
    found = []
    for path in lists:
        try:
            stored = json.loads(path.read_text())
            rows = [*stored["training"], *stored["validation"]] if stored["name"] == MAKER else None
            found += [out / row[key] for row in rows for key in ("image", "label")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScanError(f"{path} was not exported from here: choose another --out, or move it away") from error
    inside = out.resolve()
    return [*(file for file in found if file.is_file() and file.resolve().is_relative_to(inside)), *lists]


def of_nnunet(folder: Path) -> list[Path]:
    """Cases that an earlier export has left in a dataset of nnU-Net: of other labels, they would be learned as these.

    Raises:
        ScanError: there are others, too.
    """
    found = [f for part in ("imagesTr", "labelsTr") for f in sorted((folder / part).glob("[!.]*"))]
    try:
        ours = json.loads((folder / ORIGINS).read_text()) if (folder / ORIGINS).is_file() else {}
    except ValueError:
        ours = {}
    cases = ours if isinstance(ours, dict) else {}
    known = {name for case in cases for name in (f"{case}_0000.nii.gz", f"{case}.nii.gz")}
    others = [file for file in found if file.name not in known or not file.is_file()]
    if others:
        raise ScanError(f"{others[0]} was not exported from here: choose another --out or --number, or move it away")
    return found


def spare(files: Sequence[Path], sources: Sequence[Path]) -> None:
    """Refuse to delete or write over what is to be exported.

    Raises:
        ScanError: one of the files is one of the sources.
    """
    kept = {source.resolve() for source in sources}
    if lost := next((file for file in files if file.resolve() in kept), None):
        raise ScanError(f"{lost} belongs to the annotated folder, and would be written over: choose another --out")
