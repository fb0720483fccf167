"""Count the published lesion attributes and print the table that the vocabulary keeps.

python scripts/lesion_attributes.py [SPREADSHEET or data folder]

The spreadsheet (MIT licence, English reports) has a sheet for each of seven kinds of lesion and a row for each lesion,
with a code for each attribute. It is typed by hand: a cell that is empty or holds something that is no code of its
column ("1、2", "12", 4 where there are two) counts as not known and is listed, and the rest of its row counts. Rows
without a single code are no lesions. Without an argument the spreadsheet is looked for under $ZEROTUMOR_DATA, then in
../shared/data.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import openpyxl
import typer
from openpyxl.utils.exceptions import InvalidFileException
from rich.console import Console
from rich.table import Table

from zerotumor.lesion_table import COUNTS
from zerotumor.vocabulary import ATTRIBUTES

FILE = Path("attributes") / "lesion_attributes_en.xlsx"
_KIDNEY = ("left kidney", "right kidney")
_PANCREAS = ("head", "body", "tail")
_COLON = ("ascending", "transverse", "descending", "sigmoid", "rectum")
_LUNG = ("left upper lobe", "left lower lobe", "right upper lobe", "right middle lobe", "right lower lobe")
SHEETS = {  # title of the sheet -> kind, places in the order of their codes
    "肾癌": ("renal cancer", _KIDNEY),
    "肾囊肿": ("renal cyst", _KIDNEY),
    "肝癌": ("liver cancer", ("left lobe", "right lobe")),
    "胰腺癌": ("pancreatic cancer", _PANCREAS),
    "胰腺囊肿": ("pancreatic cyst", _PANCREAS),
    "结肠癌": ("colorectal cancer", _COLON),
    "肺癌": ("lung cancer", _LUNG),
}
COLUMNS = ("enhancement", "location", "shape", "density", "density_variation", "surface", "relation")  # after the ID
TABLE = ("shape", "density", "density_variation", "enhancement", "surface", "relation")  # order in lesion_table.COUNTS

app = typer.Typer(add_completion=False)
console = Console()


class SpreadsheetError(ValueError):
    """The file is missing or is not the published spreadsheet."""


@dataclass
class Kind:
    """What one sheet says: for each lesion, attribute -> value (None if not known)."""

    name: str
    lesions: list[dict[str, str | None]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # entries that are no code of their column
    blank_rows: int = 0

    def counts(self, attribute: str) -> Counter[str]:
        """How many lesions have each value; lesions whose value is not known are left out."""
        return Counter(value for lesion in self.lesions if (value := lesion[attribute]) is not None)


def find_spreadsheet(path: Path | None) -> Path:
    """The spreadsheet: as given, in a data folder that is given, or in the usual data folders.

    Raises:
        SpreadsheetError: it is in none of these.
    """
    places = [path] if path is not None else [os.environ.get("ZEROTUMOR_DATA"), ROOT.parent / "shared" / "data"]
    for place in (Path(p) for p in places if p):
        file = place / FILE if place.is_dir() else place
        if file.is_file():
            return file
    raise SpreadsheetError(
        f"there is no spreadsheet at {path or 'the usual places'}: give its path, or set ZEROTUMOR_DATA to the folder "
        f"that holds {FILE}"
    )


def code(cell: object, values: Sequence[str]) -> str | None:
    """The value that a cell's code (1, 2, ...) stands for, or None if it is no such code."""
    text = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
    if len(text) == 1 and text in "123456789"[: len(values)]:
        return values[int(text) - 1]
    return None


def read(path: Path) -> list[Kind]:
    """All kinds of the spreadsheet, in the order of `SHEETS`.

    Raises:
        SpreadsheetError: the file cannot be read, or a sheet or column is not where it was published.
    """
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, BadZipFile, InvalidFileException, KeyError, ValueError) as error:
        raise SpreadsheetError(f"{path} cannot be read as a spreadsheet ({error}): give the published .xlsx") from error
    try:
        missing = [title for title in SHEETS if title not in book.sheetnames]
        if missing:
            raise SpreadsheetError(f"{path} has no sheet {', '.join(missing)}: give the published .xlsx")
        return [_read_sheet(book[title], *SHEETS[title]) for title in SHEETS]
    finally:
        book.close()


def _read_sheet(sheet, name: str, places: Sequence[str]) -> Kind:
    rows = list(sheet.iter_rows(values_only=True, max_col=len(COLUMNS) + 1))
    header = rows[0] if rows else ()
    if [str(cell).strip()[:2] for cell in header[1:]] != [f"{i})" for i in range(1, len(COLUMNS) + 1)]:
        raise SpreadsheetError(
            f"the sheet of {name} does not begin with the columns 1) to {len(COLUMNS)}): give the published .xlsx"
        )
    values = {**ATTRIBUTES, "location": places}
    if name != "lung cancer":  # only there a fourth density exists, part ground glass and part solid
        values["density"] = ATTRIBUTES["density"][:3]
    kind = Kind(name)
    for number, row in enumerate(rows[1:], 2):
        lesion = {}
        wrong = []
        for attribute, cell in zip(COLUMNS, row[1:], strict=True):
            lesion[attribute] = code(cell, values[attribute])
            if lesion[attribute] is None:
                wrong.append(f"{name}, row {number} ({row[0]}): {attribute} = {cell!r}")
        if not any(lesion.values()):
            kind.blank_rows += 1
            continue
        kind.lesions.append(lesion)
        kind.refused += wrong
    return kind


def as_counts(kinds: Sequence[Kind]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The rows of `lesion_table.COUNTS`: for each kind, the counts of each attribute's values in their order."""
    return {k.name: tuple(tuple(k.counts(a)[v] for v in ATTRIBUTES[a]) for a in TABLE) for k in kinds}


def show(kinds: Sequence[Kind]) -> None:
    """Print row counts and distributions of every kind, what was refused, and the table for the vocabulary."""
    for kind in kinds:
        table = Table("attribute", "value", "lesions", "share", title=f"{kind.name}: {len(kind.lesions)} lesions")
        for attribute in COLUMNS:
            counts = kind.counts(attribute)
            for i, (value, n) in enumerate(counts.most_common()):
                table.add_row("" if i else attribute, value, str(n), f"{n / counts.total():.3f}")
        console.print(table)
    blank = sum(kind.blank_rows for kind in kinds)
    console.print(f"{sum(len(kind.lesions) for kind in kinds)} lesions; blank rows: {blank}; entries that are no code:")
    for entry in (entry for kind in kinds for entry in kind.refused):
        console.print(f"  {entry}", markup=False, highlight=False)
    console.print(f"\nfor lesion_table.py ({' | '.join(TABLE)}):\nCOUNTS = {{", markup=False, highlight=False)
    for name, row in as_counts(kinds).items():
        typer.echo(f'    "{name}": {row},')
    typer.echo("}")
    same = as_counts(kinds) == COUNTS
    console.print(
        "The vocabulary holds these counts." if same else "The vocabulary holds OTHER counts: bring it up to date."
    )


@app.command()
def main(
    spreadsheet: Annotated[Path | None, typer.Argument(help="the .xlsx, or a data folder that holds it")] = None,
) -> None:
    """Count the published lesion attributes and print the table that the vocabulary keeps."""
    try:
        show(read(find_spreadsheet(spreadsheet)))
    except SpreadsheetError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
