"""Export what was annotated in MONAI Label, for training elsewhere.

python scripts/export_labels.py STUDIES --format monai --out DIR
python scripts/export_labels.py STUDIES --format nnunet --out $nnUNet_raw --number 501 --name Liver

STUDIES is the folder that the server serves (`--studies`), or its cache of a DICOM archive. monai: images, labels, and one
datalist a modality, CT.json and MR.json, for load_decathlon_datalist. nnunet: raw datasets of nnU-Net v2. Prompts and the
origin of each label go along. A label that cannot be learned from is named with the reason and left out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from zerotumor.annotated import Checked, annotations, as_datalist, as_nnunet, by_modality, read_all
from zerotumor.errors import ScanError

FORMATS = ("monai", "nnunet")
console = Console(width=120)


def check_options(format: str, number: int, name: str, out: Path, force: bool) -> None:
    """Refuse what would write nonsense, before any work.

    Raises:
        ValueError: with what to write instead.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}: use one of {', '.join(FORMATS)}")
    if not name.replace("_", "").isalnum():
        raise ValueError(f"the name {name!r} is to become part of a folder's: use letters, digits and _")
    taken = [*out.glob("*.json")] if format == "monai" else [*out.glob(f"Dataset{number:03d}_*")]
    taken += [*out.glob(f"Dataset{number + 1:03d}_*")] if format == "nnunet" else []
    if taken and not force:
        raise ValueError(f"{taken[0]} is there already: choose another --out or --number, or add --force")


def table(cases: list[Checked]) -> Table:
    """What is exported."""
    out = Table("modality", "scans", "classes")
    for modality, some in by_modality(cases).items():
        out.add_row(modality, str(len(some)), ", ".join(sorted({n for c in some for n in c.names.values()})))
    return out


def main(
    studies: Annotated[Path, typer.Argument(help="folder of the MONAI Label server")],
    out: Annotated[Path, typer.Option(help="folder to write to")],
    format: Annotated[str, typer.Option(help=f"one of: {', '.join(FORMATS)}")] = "monai",
    tag: Annotated[str, typer.Option(help="of the labels: final, or original for what was proposed")] = "final",
    validation: Annotated[float, typer.Option(help="monai: share of the cases, every n-th", min=0, max=0.5)] = 0.0,
    number: Annotated[int, typer.Option(help="nnunet: of the dataset", min=1, max=998)] = 501,
    name: Annotated[str, typer.Option(help="nnunet: of the dataset")] = "ZeroTumor",
    merge: Annotated[bool, typer.Option(help="nnunet: one class, lesion, for all names")] = False,
    force: Annotated[bool, typer.Option(help="write over an earlier export; its cases go, other files stay")] = False,
) -> None:
    """Export labels."""
    try:
        check_options(format, number, name, out, force)
        found = annotations(studies, tag)
        cases = []
        for one in track(read_all(found), "labels", total=len(found), console=console):
            if isinstance(one, Checked):
                cases.append(one)
            else:
                console.print(f"[yellow]{escape(f'{one[0].id} is left out: {one[1]}')}")
        if not cases:
            raise ScanError("no label can be used: correct what is named above")
        written = (
            as_datalist(cases, out, validation) if format == "monai" else as_nnunet(cases, out, number, name, merge)
        )
    except (ScanError, ValueError) as error:
        console.print(f"[red]{escape(str(error))}")
        raise typer.Exit(2) from None
    console.print(table(cases))
    console.print(f"{len(cases)} of {len(found)} labels in {', '.join(map(str, written))}")
    if len(cases) < len(found):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
