"""A page for every real scan: what each method saw, drew and believed, and what a person has found out about it.

python scripts/failure_pages.py --out out/pages --quality fast       # pages, and out/pages/index.md
python scripts/failure_pages.py --out out/pages --merge              # nothing is drawn: new causes go into the index
python scripts/failure_pages.py --out out/pages --merge --notebook bundle/docs/lab_notebook.md

A picture a prompt: scan, truth, and each method's mask and probability, in three planes through the slices with the most
truth. Causes and mends are written by people, into bundle/docs/failures.csv (case, prompt, cause, mend).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(Path(__file__).resolve().parent)]

import matplotlib
import numpy as np
import typer
from compare_methods import find
from evaluate import NAMES, Predict, predictor
from matplotlib.axes import Axes
from model_card import replace_between
from monai.transforms import Orientation
from result_tables import row
from rich.console import Console
from rich.progress import Progress

from zerotumor.cohorts import Case, real_cases, spread
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.metrics import dice, milliliters
from zerotumor.pipeline import ScanResult
from zerotumor.prompts import parse
from zerotumor.report import VIEWS, draw_plane, in_ras, window
from zerotumor.segmenter import WeightsError, available
from zerotumor.text import TextEncoderError
from zerotumor.volumes import write_atomically, write_json

console = Console(width=140)
FAILURES = ROOT / "bundle" / "docs" / "failures.csv"
COLUMNS = ["case", "prompt", "cause", "mend"]
MARKS = ("<!-- failures:begin -->", "<!-- failures:end -->")
RECORDS = "pages.json"


class PagesError(ValueError):
    """A table or folder that pages are made from is not what it should be; one sentence with the remedy."""


# ---- pictures -------------------------------------------------------------------------------------------------------


def centers(truth: np.ndarray, masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> list[int]:
    """For each axis the slice with the most truth; without any, with the most of all masks, else with the highest map."""
    for volume in (truth > 0, sum((m > 0).astype(int) for m in masks)):
        if np.any(volume):
            return [int(np.argmax(volume.sum(tuple(a for a in range(3) if a != k)))) for k in range(3)]
    best = max(maps, key=np.max)
    return [int(i) for i in np.unravel_index(int(best.argmax()), best.shape)]


def draw_map(
    axis: Axes, k: int, at: int, gray: np.ndarray, heat: np.ndarray, spacing: np.ndarray, truth: np.ndarray
) -> None:
    """A slice of a probability map (X, Y, Z) over the dimmed scan, with the truth dashed on it.

    Clear at 0 and bright at 1 on every page, by the root: 0.04 can still be seen, and pages can be compared.
    """
    columns, rows = (other for other in range(3) if other != k)
    aspect = spacing[rows] / spacing[columns]
    axis.imshow(np.take(gray, at, axis=k).T, cmap="gray", vmin=0, vmax=2.5, origin="lower", aspect=aspect)
    shown = np.sqrt(np.take(heat, at, axis=k).T)
    axis.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=0.9 * shown, origin="lower", aspect=aspect)
    outline = np.take(truth, at, axis=k).T
    if outline.any():
        axis.contour(outline, [0.5], colors="#40ff40", linewidths=1.0, linestyles="dashed")
    axis.invert_xaxis()  # as in `report.draw_plane`
    axis.axis("off")


def said(figures: Mapping[str, object]) -> str:
    """Dice (where there is a lesion) and volume of one method's mask."""
    overlap = f"Dice {figures['dice']:.2f}, " if figures["dice"] is not None else ""
    return f"{overlap}{figures['ml']:.1f} ml" if figures["ml"] else f"{overlap}nothing found"


def draw_page(case: Case, prompt: str, scan, truth, answers: Mapping[str, tuple], record: dict, path: Path) -> None:
    """One picture: a row a plane; scan, truth, and mask and probability (both (X, Y, Z)) of each method in `answers`."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    image = Orientation(axcodes="RAS", labels=None)(scan)
    gray = window(np.asarray(image[0]), case.modality)
    spacing = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    true = in_ras(truth, scan.affine)
    turned = {name: [in_ras(volume, scan.affine) for volume in pair] for name, pair in answers.items()}
    center = centers(true, [m for m, _ in turned.values()], [p for _, p in turned.values()])
    columns = 2 + 2 * len(turned)
    figure, axes = plt.subplots(3, columns, figsize=(2.8 * columns, 9), facecolor="black", layout="constrained")
    for line, (view, k) in zip(axes, VIEWS, strict=True):
        draw_plane(line[0], k, center[k], gray, spacing, [])
        draw_plane(line[1], k, center[k], gray, spacing, [], true)
        for (mask, heat), pair in zip(turned.values(), line[2:].reshape(-1, 2), strict=True):
            draw_plane(pair[0], k, center[k], gray, spacing, [mask], true)
            draw_map(pair[1], k, center[k], gray, heat, spacing, true)
        line[0].text(-0.06, 0.5, view, transform=line[0].transAxes, color="white", rotation=90, va="center", ha="right")
    titles = ["scan", f"truth: {record['truth_ml']:.1f} ml" if record["truth_ml"] else "no lesion"]
    for name, figures in record["methods"].items():
        titles += [f"{name}\n{said(figures)}", f"{name}, probability\nat most {figures['peak']:.2f}"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color="white", fontsize=10)
    figure.suptitle(f"{case.name} ({case.modality}): {prompt}", color="white", fontsize=12)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100, facecolor="black", format="png"))
    plt.close(figure)


def draw_case(case: Case, predictors: Mapping[str, Predict], out: Path) -> list[dict]:
    """All pictures of a scan, and what the index says of them."""
    scan, truths, _ = case.read()
    prompts = parse(list(case.prompts), modality=case.modality)
    results: dict[str, ScanResult] = {name: run(scan, prompts, case.modality) for name, run in predictors.items()}
    voxel_ml = abs(float(np.linalg.det(np.asarray(scan.affine)[:3, :3]))) / 1000
    records = []
    for p, (prompt, (category, split)) in enumerate(case.prompts.items()):
        methods = {}
        for name, result in results.items():
            overlap = dice(result.masks[p], truths[prompt])
            methods[name] = {
                "dice": None if overlap != overlap else round(overlap, 4),
                "ml": round(milliliters(result.masks[p], voxel_ml), 3),
                "peak": round(min(1.0, float(result.ungated[p].max())), 4),
            }
        picture = f"{case.name}_{prompt.replace(' ', '-')}.png"
        record = {
            "case": case.name, "modality": case.modality, "prompt": prompt, "category": category, "split": split,
            "truth_ml": round(milliliters(truths[prompt], voxel_ml), 3), "picture": picture, "methods": methods,
        }  # fmt: skip
        answers = {name: (result.masks[p], result.ungated[p].clamp(0, 1)) for name, result in results.items()}
        draw_page(case, prompt, scan, truths[prompt], answers, record, out / picture)
        records.append(record)
    return records


# ---- the index, and what people have found out ----------------------------------------------------------------------


def read_failures(path: Path) -> list[dict]:
    """The rows of the table of causes.

    Raises:
        PagesError: it is missing, has other columns, names no case, or has two rows for one picture.
    """
    if not path.is_file():
        raise PagesError(f"{path} is missing: restore it, or write the line {','.join(COLUMNS)} into it")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if reader.fieldnames != COLUMNS:
        raise PagesError(f"{path} has other columns: its first line must be {','.join(COLUMNS)}")
    keys = set()
    for number, one in enumerate(rows, 2):
        if None in one or None in one.values() or not one["case"] or not one["prompt"]:
            raise PagesError(f"line {number} of {path} must have a case, a prompt, a cause and a mend: quote commas")
        if (key := (one["case"], one["prompt"])) in keys:
            raise PagesError(f"{path} speaks of {key[0]}, {key[1]} twice: make one line of both")
        keys.add(key)
    return rows


def index_page(records: Sequence[dict], failures: Sequence[dict]) -> str:
    """The Markdown page: a table of all pictures, and each scan with its pictures and an entry of what is known."""
    known = {(one["case"], one["prompt"]): one for one in failures}
    methods = list(dict.fromkeys(name for r in records for name in r["methods"]))
    lines = ["# Real scans, one by one", "", "Written by `scripts/failure_pages.py`; causes are from its table.", "",
             row(["case", "prompt", "truth ml", *methods, "cause"]), row(["---"] * (4 + len(methods)))]  # fmt: skip
    for r in records:
        cells = [said(r["methods"][name]) if name in r["methods"] else "-" for name in methods]
        cause = known.get((r["case"], r["prompt"]), {}).get("cause", "")
        lines.append(row([r["case"], r["prompt"], f"{r['truth_ml']:.1f}", *cells, escaped(cause)]))
    for name in dict.fromkeys(r["case"] for r in records):
        lines += ["", f"## {name}"]
        for r in (r for r in records if r["case"] == name):
            one = known.get((name, r["prompt"]), {})
            lines += ["", f"### {r['prompt']} ({r['modality']})", "", f"![{name}: {r['prompt']}]({r['picture']})", "",
                      f"- cause: {one.get('cause', '')}".rstrip(), f"- mend: {one.get('mend', '')}".rstrip()]  # fmt: skip
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.replace("|", "\\|").split())


def notebook_page(text: str, failures: Sequence[dict]) -> str:
    """The notebook with its table of failures made anew; a notebook without one gets it at its end."""
    table = [row(COLUMNS), row(["---"] * len(COLUMNS)), *(row([escaped(one[c]) for c in COLUMNS]) for one in failures)]
    if not all(mark in text for mark in MARKS):
        text = "\n\n".join([text.rstrip() or "# Lab notebook", "## Failures on real scans", "\n".join(MARKS)]) + "\n"
    return replace_between(text, *MARKS, table)


def strangers(records: Sequence[dict], failures: Sequence[dict]) -> list[str]:
    """What the table speaks of and no page shows: a name that was mistyped, or a scan that was left out."""
    shown = {(r["case"], r["prompt"]) for r in records}
    return [f"{f['case']}, {f['prompt']}" for f in failures if (f["case"], f["prompt"]) not in shown]


def draw_pages(
    method: str | None, weights: Path | None, cases: str | None, limit: int | None, out: Path, quality: str = "",
    device: str = AUTO,
) -> list[dict]:  # fmt: skip
    """Run the methods on the scans and draw.

    Raises:
        ValueError, segmenter.WeightsError: there are no such methods, weights or scans.
    """
    names = method.split(",") if method else available(weights)
    if not names:
        raise PagesError("no method has weights there: train one (see bundle/docs/README.md), or give --method")
    predictors = {name: predictor(name, weights, device, quality=quality)[0] for name in names}
    chosen = find([c.strip() for c in cases.split(",")]) if cases else spread(real_cases(), limit)
    if not chosen:
        raise PagesError("no real scans here: set ZEROTUMOR_DATA to their folder")
    records = []
    with Progress(console=console) as progress:
        for case in progress.track(chosen, description="scans"):
            records += draw_case(case, predictors, out)
    return records


def main(
    out: Annotated[Path, typer.Option(help="folder for pictures and index.md")] = Path("out/pages"),
    method: Annotated[
        str | None, typer.Option(help=f"{', '.join(NAMES)}; separated by commas; default: all that have weights")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="folder with weights of your own")] = None,
    cases: Annotated[str | None, typer.Option(help="names of scans, separated by commas; default: all")] = None,
    limit: Annotated[int | None, typer.Option(help="this many evenly spread scans")] = None,
    quality: Annotated[str, typer.Option(help="fast, standard or best, for methods that know these")] = "",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
    failures: Annotated[Path, typer.Option(help="table of causes: case, prompt, cause, mend")] = FAILURES,
    merge: Annotated[bool, typer.Option(help="draw nothing, take the pictures that are there")] = False,
    notebook: Annotated[Path | None, typer.Option(help="page whose table of failures is made from the causes")] = None,
) -> None:
    """Draw a page for every real scan."""
    try:
        rows = read_failures(failures)
        if merge and not (out / RECORDS).is_file():
            raise PagesError(f"{out} holds no pages to merge causes into: run without --merge first")
        asked = (method, weights, cases, limit, out, quality, device)
        records = json.loads((out / RECORDS).read_text()) if merge else draw_pages(*asked)
    except (ValueError, WeightsError, TextEncoderError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    write_json(records, out / RECORDS)
    pages = {out / "index.md": index_page(records, rows)}
    if notebook is not None:
        pages[notebook] = notebook_page(notebook.read_text() if notebook.is_file() else "", rows)
    for path, text in pages.items():
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text))
    for name in strangers(records, rows):
        console.print(f"[yellow]no page shows {name} of {failures}: look at the names in {out / 'index.md'}")
    console.print(f"{len(records)} pictures, {', '.join(str(path) for path in pages)}")


if __name__ == "__main__":
    typer.run(main)
