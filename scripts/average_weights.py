"""The mean of several trained weights of one method, as weights of their own.

python scripts/average_weights.py RUN1/model.pt RUN2/model.pt --out RUN3

Worth trying where one run started from the other's end: their mean may be better than either (model soups, Wortsman et al.,
ICML 2022). Theta is the last one's; choose it anew with scripts/calibrate.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import torch
import typer
from rich.console import Console

from zerotumor.segmenter import METHODS, WeightsError, load, read_record, save_state
from zerotumor.text import TextEncoderError
from zerotumor.trained_on import together

console = Console()
DEFAULT = next(iter(METHODS))
CALIBRATED = ("theta", "theta_peak", "edge_weight")


def described(record: dict) -> dict:
    """What must be the same in all weights."""
    config = {name: value for name, value in record["config"].items() if name not in CALIBRATED}
    return {"config": config, "text_encoder": record["text_encoder"]}


def average(method: str, paths: list[Path], out: Path) -> Path:
    """Write the mean of weights to `out`/model.pt and .json; returns the former.

    Raises:
        WeightsError: a file cannot be read, or is not of the same network as the others.
    """
    records = [read_record(path, method) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if described(record) != described(records[0]):
            raise WeightsError(f"{path} is not of the same network as {paths[0]}: give runs of one configuration")
    models = [load(method, path) for path in paths]
    states = [model.state_dict() for model in models]
    mean = {
        name: torch.stack([s[name] for s in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[-1].items()
    }
    models[-1].load_state_dict(mean)
    record = {name: value for name, value in records[-1].items() if name not in ("sha256", "calibrated")}
    seen = together([r.get("trained", {}) for r in records])
    record["trained"] = {**record.get("trained", {}), **seen, "mean_of": [r["sha256"] for r in records]}
    save_state(models[-1], out / "model.pt", record)
    return out / "model.pt"


def main(
    weights: Annotated[list[Path], typer.Argument(help="model.pt files with their records beside them")],
    out: Annotated[Path, typer.Option(help="folder for the mean")],
    method: Annotated[str, typer.Option(help="whose weights they are")] = DEFAULT,
) -> None:
    """Average weights."""
    if len(weights) < 2:
        console.print("[red]one file has no mean: give two or more")
        raise typer.Exit(2)
    try:
        console.print(
            f"{average(method, weights, out)} is the mean of {len(weights)}: choose its theta with calibrate.py"
        )
    except (WeightsError, TextEncoderError, ValueError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
