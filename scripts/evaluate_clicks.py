"""Dice against number of clicks: a simulated annotator mends the largest mistake first.

python scripts/evaluate_clicks.py --out out/clicks.json --page bundle/docs/clicks.md

For every real scan with truth (and some phantoms of unseen kinds) the click network starts from the mask that the prompt
gave, and once more from nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import torch
import typer
from case_by_case import measure
from monai.data import MetaTensor
from rich.console import Console
from rich.table import Table

from zerotumor.clicks import next_click
from zerotumor.cohorts import Case, phantom_cases, real_cases, spread
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.metrics import bootstrap, dice
from zerotumor.pipeline import segment_scan
from zerotumor.refine import Refiner, load_refiner
from zerotumor.segmenter import MODELS, Segmenter, WeightsError, entry, load, sha256
from zerotumor.text import TextEncoderError
from zerotumor.volumes import write_atomically

AT = (0, 1, 3, 5, 10)
console = Console(width=140)


def clicked(
    refiner: Refiner, scan: MetaTensor, modality: str, mask: torch.Tensor, truth: torch.Tensor, clicks: int
) -> Iterator[torch.Tensor]:
    """The mask (X, Y, Z) after 1, 2, ... clicks into the largest mistake, until nothing is wrong any more."""
    spacing = torch.linalg.vector_norm(torch.as_tensor(scan.affine)[:3, :3], dim=0).tolist()
    made = []
    for _ in range(clicks):
        click = next_click(mask, truth, spacing)
        if click is None:
            return
        made.append(click)
        mask = refiner.update(scan, modality, mask, made)
        yield mask


def annotate(
    refiner: Refiner, scan, modality: str, mask: torch.Tensor, truth: torch.Tensor, clicks: int
) -> list[float]:
    """Dice after 0, 1, ... clicks; once nothing is wrong any more, it stays."""
    masks = [mask, *clicked(refiner, scan, modality, mask, truth, clicks)]
    values = [float(dice(m, truth)) for m in masks]
    return values + values[-1:] * (clicks + 1 - len(values))


def evaluate_case(case: Case, model: Segmenter, refiner: Refiner) -> list[dict]:
    """Records of one case: one a prompt with a lesion, from the mask by text and from an empty one."""
    scan, truths, _ = case.read()
    records = []
    for prompt, (category, split) in case.prompts.items():
        truth = torch.as_tensor(truths[prompt]) > 0
        if split == "healthy" or not truth.any():
            continue
        found = segment_scan(model, scan, prompt, modality=case.modality).masks[0] > 0
        for start, mask in (("text", found), ("empty", torch.zeros_like(found))):
            started = time.perf_counter()
            values = annotate(refiner, scan, case.modality, mask, truth, AT[-1])
            seconds = (time.perf_counter() - started) / AT[-1]
            records.append(
                {
                    "set": case.set, "case": case.name, "prompt": prompt, "category": category, "split": split,
                    "modality": case.modality, "start": start, "dice": [round(v, 4) for v in values],
                    "seconds_a_click": round(seconds, 3),
                }
            )  # fmt: skip
    return records


HEADINGS = ("set", "kind", "start", "n", *(f"{n} clicks" for n in AT), "seconds a click")


def rows(records: list[dict]) -> list[list[str]]:
    """Mean Dice with 95 % bootstrap intervals, by kind and start."""
    groups: dict[tuple, list[dict]] = {}
    for r in records:
        groups.setdefault((r["set"], f"{r['category']} {r['modality']}", r["start"]), []).append(r)
    made = []
    for key, members in groups.items():
        cells = []
        for n in AT:
            mean, low, high = bootstrap([r["dice"][n] for r in members])
            cells.append(f"{mean:.2f} ({low:.2f} to {high:.2f})")
        made.append([*key, str(len(members)), *cells, f"{median(r['seconds_a_click'] for r in members):.1f}"])
    return made


def shipped_hash(method: str) -> str | None:
    """Hash of the weights of a method in the bundle; None if there are none."""
    file = MODELS / entry(method).weights
    return sha256(file) if file.is_file() else None


def page(
    made: list[list[str]], refiner_hash: str, method_hash: str, method: str, ships: bool, left_out: Sequence[str] = ()
) -> str:
    """The rows as Markdown, with what they are.

    Args:
        ships: the method's weights are those in the bundle. left_out: names of cases that could not be read.
    """
    whose = ["These are the weights that ship."]
    if not ships:
        whose = [
            f"These are not the weights of {method} that ship: with those, rows from `text` would begin with other masks.",
            "Rows from `empty` do without them.",
        ]
    lines = [
        "# Dice against clicks",
        "",
        "Written by `scripts/evaluate_clicks.py`. A simulated annotator clicks into the largest mistake, again and again.",
        "`text` starts from the mask that the prompt gave, `empty` from nothing. No network was trained on these kinds, or",
        "on any of these scans. Mean and 95 % bootstrap interval. Click network sha256",
        f"`{refiner_hash}`, weights of {method} that read the prompt",
        f"`{method_hash}`.",
        *whose,
        "",
        *(f"| {' | '.join(cells)} |" for cells in (HEADINGS, ("---",) * len(HEADINGS), *made)),
        "",
        *([f"Not measured, since they could not be read: {', '.join(left_out)}.", ""] if left_out else []),
    ]
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="JSON file for the records")],
    weights: Annotated[Path | None, typer.Option(help="of the click network; default: the bundle's")] = None,
    method: Annotated[str, typer.Option(help="whose masks the clicks start from")] = "malenia",
    method_weights: Annotated[Path | None, typer.Option(help="of the method; default: the starter weights")] = None,
    phantoms: Annotated[int, typer.Option(help="phantoms of unseen kinds besides")] = 20,
    limit: Annotated[int | None, typer.Option(help="at most this many real scans, evenly spread")] = None,
    page_file: Annotated[Path | None, typer.Option("--page", help="Markdown file for the table")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
) -> None:
    """Measure the click network."""
    try:
        model, refiner = load(method, method_weights, device=device), load_refiner(weights, device)
    except (ValueError, WeightsError, TextEncoderError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    drawn = [c for c in phantom_cases() if any(split == "unseen" for _, split in c.prompts.values())][:phantoms]
    real = list(real_cases())
    if not real:
        console.print("[yellow]no real scans here: set ZEROTUMOR_DATA to their folder")
    saved = {"method_weights_sha256": model.weights_sha256, "left_out": {}, "records": []}
    cases = spread(real, limit) + drawn
    measure(cases, lambda case: evaluate_case(case, model, refiner), saved, out, console)
    records = saved["records"]
    made, shown = rows(records), Table(*HEADINGS)
    for cells in made:
        shown.add_row(*cells)
    console.print(shown)
    if page_file is not None:
        hashes = refiner.weights_sha256, model.weights_sha256
        text = page(made, *hashes, method, hashes[1] == shipped_hash(method), list(saved["left_out"]))
        write_atomically(page_file, lambda path: path.write_text(text))
    console.print(f"{len(records)} records in {out}")


if __name__ == "__main__":
    typer.run(main)
