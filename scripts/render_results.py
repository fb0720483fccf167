"""Pictures of results for looking at: every scan and prompt with its mask and its truth.

python scripts/render_results.py --set real --out out/pages

One PNG a case and prompt (axial, coronal, sagittal; truth dashed in green), and contact sheets of them all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from zerotumor.cohorts import Case, phantom_cases, real_cases, spread
from zerotumor.metrics import dice
from zerotumor.pipeline import segment_scan
from zerotumor.report import overlay
from zerotumor.segmenter import METHODS, Segmenter, load

console = Console()
SHEET = (3, 6)
"""Columns and rows of a contact sheet."""


def draw_case(case: Case, model: Segmenter, out: Path) -> list[Path]:
    """Pictures of one case; the file's name holds the Dice, so that a folder listing is a table."""
    scan, truths, _ = case.read()
    drawn = []
    for prompt in case.prompts:
        result = segment_scan(model, scan, prompt, modality=case.modality)
        truth = truths[prompt] > 0
        overlap = f"dice{float(dice(result.masks[0], truth)):.2f}" if truth.any() else "healthy"
        path = out / f"{case.name}_{prompt.replace(' ', '-')}_{overlap}.png"
        overlay(scan, result.masks, result.report, path, truth=truth)
        drawn.append(path)
    return drawn


def contact_sheets(pictures: list[Path], out: Path, width: int = 640) -> list[Path]:
    """The pictures, small, on as few pages as they need."""
    columns, rows = SHEET
    sheets = []
    for first in range(0, len(pictures), columns * rows):
        tiles = []
        for path in pictures[first : first + columns * rows]:
            image = Image.open(path).convert("RGB")
            tiles.append(image.resize((width, round(image.height * width / image.width))))
        height = max(t.height for t in tiles)
        sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
        for k, tile in enumerate(tiles):
            sheet.paste(tile, ((k % columns) * width, (k // columns) * height))
        sheets.append(out / f"sheet{len(sheets) + 1}.png")
        sheet.save(sheets[-1])
    return sheets


def main(
    out: Annotated[Path, typer.Option(help="folder for the pictures")],
    set_: Annotated[str, typer.Option("--set", help="phantom, real or all")] = "real",
    method: Annotated[str, typer.Option(help=f"one of: {', '.join(METHODS)}")] = "malenia",
    weights: Annotated[Path | None, typer.Option(help="weights of your own; default: the starter weights")] = None,
    limit: Annotated[int | None, typer.Option(help="every set cut to this many evenly spread cases")] = None,
) -> None:
    """Draw results."""
    if set_ not in ("phantom", "real", "all"):
        console.print(f"[red]there is no set {set_!r}: choose phantom, real or all")
        raise typer.Exit(2)
    model = load(method, weights)
    cases = []
    for name, listed in (("phantom", phantom_cases), ("real", real_cases)):
        if set_ in (name, "all"):
            cases += spread(listed(), limit)
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    with Progress(console=console) as progress:
        for case in progress.track(cases, description="cases"):
            pictures += draw_case(case, model, out)
    sheets = contact_sheets(pictures, out)
    console.print(f"{len(pictures)} pictures and {len(sheets)} contact sheets in {out}")


if __name__ == "__main__":
    typer.run(main)
