"""Measure how well methods know healthy organs: one record a case and organ, tables of mean Dice.

python scripts/evaluate_organs.py --method malenia,zept --out out/organs.json

Sets: `phantom` (the test phantoms of scripts/evaluate.py) and `real` (healthy scans with organ maps in $ZEROTUMOR_DATA).
ZePT answers with its organ queries, Malenia with its map of places.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import typer
from case_by_case import measure
from rich.console import Console
from rich.table import Table

from zerotumor.cohorts import spread
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.organs import OrganCase, mean_dice, phantom_organs, real_organs, score_organs
from zerotumor.segmenter import METHODS, Segmenter, WeightsError, load
from zerotumor.text import TextEncoderError

console = Console(width=140)
SETS = {"phantom": phantom_organs, "real": real_organs}


def load_all(names: str, weights: Path | None, device: str) -> dict[str, Segmenter]:
    """Methods by name.

    Raises:
        ValueError, WeightsError, TextEncoderError: one is not known, has no weights, or knows no organs.
    """
    models = {name: load(name, weights, device=device) for name in names.split(",")}
    for name, model in models.items():
        if not model.organ_names:
            raise ValueError(f"{name} knows no organs: leave it out")
    return models


def evaluate_case(case: OrganCase, models: Mapping[str, Segmenter]) -> list[dict]:
    """Records of every method for one case."""
    records = []
    for name, model in models.items():
        started = time.perf_counter()
        own = score_organs(model, case)
        seconds = round(time.perf_counter() - started, 3)
        records += [{"method": name, **r, "seconds": seconds} for r in own]
    return records


def table(records: list[dict]) -> Table:
    """Mean Dice of each organ, a column a set and method; the mean over organs last."""
    keys = list(dict.fromkeys((r["set"], r["method"]) for r in records))
    means = {k: mean_dice([r for r in records if (r["set"], r["method"]) == k]) for k in keys}
    out = Table("organ", *(f"{set_}: {method}" for set_, method in keys))
    for organ in dict.fromkeys(r["organ"] for r in records):
        out.add_row(organ, *(f"{m[organ]:.2f}" if organ in m else "-" for m in means.values()))
    out.add_row("mean", *(f"{sum(m.values()) / len(m):.2f}" for m in means.values()))
    return out


def main(
    out: Annotated[Path, typer.Option(help="JSON file for the records")],
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}; several separated by commas")] = "zept",
    set_: Annotated[str, typer.Option("--set", help="phantom, real or all")] = "all",
    weights: Annotated[Path | None, typer.Option(help="weights of your own, or a folder of them")] = None,
    limit: Annotated[int | None, typer.Option(help="every set cut to this many evenly spread cases")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
) -> None:
    """Measure methods on scans whose organs are known."""
    if set_ not in (*SETS, "all"):
        console.print(f"[red]there is no set {set_!r}: choose phantom, real or all")
        raise typer.Exit(2)
    try:
        models = load_all(method, weights, device)
    except (ValueError, WeightsError, TextEncoderError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    cases = []
    for name, listed in SETS.items():
        if set_ in (name, "all"):
            some = list(listed())
            if not some:
                console.print("[yellow]no scans with organ maps here: set ZEROTUMOR_DATA to their folder")
            cases += spread(some, limit)
    hashes = {n: m.weights_sha256 for n, m in models.items()}
    saved = {"weights_sha256": hashes, "sets": set_, "left_out": {}, "records": []}
    measure(cases, lambda case: evaluate_case(case, models), saved, out, console)
    records = saved["records"]
    if records:
        console.print(table(records))
    console.print(f"{len(records)} records in {out}")


if __name__ == "__main__":
    typer.run(main)
