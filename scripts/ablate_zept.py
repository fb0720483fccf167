"""Train ZePT with each of its options at the paper's value, alike in all else, and write one table.

python scripts/ablate_zept.py --pretrained bundle/models/model.pt --out out/ablation

Every row starts from the same weights, sees the same phantoms in the same order, and is trained for the same number of
steps: first organs, then tumors. What an option does not touch is shared: rows that differ in the second stage alone start
it from the first stage of "ours", and options that act at inference alone use all of its weights. What is done is not done
again, so that the command can be stopped and started; the tables in bundle/docs grow row by row.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
sys.path[:0] = [str(BUNDLE), str(Path(__file__).resolve().parent)]

import monai.bundle
import typer
from evaluate import evaluate_case, prediction_of
from rich.console import Console

from zerotumor.cohorts import phantom_cases, spread
from zerotumor.devices import AUTO, device_of
from zerotumor.metrics import bootstrap
from zerotumor.organs import mean_dice, phantom_organs, score_organs
from zerotumor.precision import in_hardware
from zerotumor.segmenter import Segmenter, build, load_into, read_record
from zerotumor.volumes import write_atomically, write_json
from zerotumor.zept.options import PAPER

console = Console()
CONFIGS = [str(BUNDLE / "configs" / f"{name}.yaml") for name in ("train", "zept", "zept_train")]
EPOCH = 200
FIGURES = {
    "organ_dice": "organ Dice", "seen_auroc": "seen AUROC", "seen_dice": "seen Dice", "unseen_auroc": "unseen AUROC",
    "unseen_dice": "unseen Dice",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: what is changed, and which stages of training see the change."""

    name: str
    what: str
    network: dict = field(default_factory=dict)
    loss: dict = field(default_factory=dict)
    stages: tuple[int, ...] = ()


def option(name: str, what: str, *stages: int) -> Row:
    """A row with an option of `zept.options` at the paper's value."""
    return Row(f"{name}: {PAPER[name]}", what, network={name: PAPER[name]}, stages=stages)


ROWS = (
    Row("ours", "every option at our value", stages=(1, 2)),
    option("similarity", "dot product over a free temperature, not cosine over a clamped one", 2),
    option("targets", "one target matrix for both alignments", 2),
    option("anomaly_gate", "the anomaly map added to all tumors everywhere, not near their hosts"),
    option("anomaly_range", "minimum and maximum of each window, not of the whole scan"),
    option("background", "no query for what is no organ", 1, 2),
    option("offset", "no offset of a class's logits", 1, 2),
    Row("dice: patch", "a tumor drawn in a patch without one costs no Dice", loss={"dice": "patch"}, stages=(2,)),
    Row("grouping: untold", "which voxel goes to which query is not told", loss={"grouping": 0.0}, stages=(1, 2)),
)


@dataclass(frozen=True)
class Settings:
    """What all rows have in common."""

    organ_steps: int
    tumor_steps: int
    batch_size: int
    train_count: int
    pretrained: str | None
    network: dict
    cases: int | None


def train(row: Row, stage: int, start: str | None, folder: Path, settings: Settings, phantoms: Path) -> Path:
    """One stage of training by the configs of the bundle, unless it is done; the weights. Goes on where it was stopped."""
    weights = folder / "model.pt"
    if weights.is_file() and weights.with_suffix(".json").is_file():
        return weights
    steps = settings.organ_steps if stage == 1 else settings.tumor_steps
    epochs = math.ceil(steps / EPOCH)
    changes = {f"network_config#{k}": v for k, v in {**settings.network, **row.network}.items()}
    changes |= {f"loss#{k}": v for k, v in row.loss.items()}
    monai.bundle.run(
        config_file=CONFIGS, bundle_root=str(BUNDLE), output_dir=str(folder), stage=stage, pretrained=start,
        dataset_dir=str(phantoms), train_count=settings.train_count, batch_size=settings.batch_size, workers=0,
        max_epochs=epochs, epoch_length=math.ceil(steps / epochs), warmup_steps=max(1, min(100, steps // 4)),
        # The running mean of a short run must forget where it started from. Nothing is chosen by validation.
        val_interval=epochs + 1, val_count=1, bf16=in_hardware(device_of(AUTO)),
        **{"ema#momentum": min(0.5, max(0.005, 10 / steps))}, **changes,
    )  # fmt: skip
    return weights


def weights_of(row: Row, out: Path, settings: Settings, phantoms: Path) -> Path:
    """The weights of a row, trained as far as they are not there yet."""
    paths = []
    for stage in (1, 2):
        owner = row if stage in row.stages else ROWS[0]
        folder = out / "runs" / f"{slug(owner.name)}_{stage}"
        start = settings.pretrained if stage == 1 else str(paths[0])
        paths.append(train(owner, stage, start, folder, settings, phantoms))
    return paths[1]


def cache(out: Path, network: dict) -> Path:
    """Where phantoms are kept; those of other sizes or grids than the starter's are other phantoms."""
    return out / "_".join(
        ["phantoms", *(f"{name}-{network[name]:g}" for name in ("patch", "spacing") if name in network)]
    )


def slug(name: str) -> str:
    """A row's name as a file's."""
    return name.replace(": ", "_").replace(" ", "-")


def load_row(row: Row, weights: Path) -> Segmenter:
    """Weights in a network with the row's options, which may not be those that they were trained with."""
    record = read_record(weights, "zept")
    return load_into(build("zept", {**record["config"], **row.network}), "zept", weights).eval()


def measure(model: Segmenter, cases: int | None) -> dict[str, float]:
    """The figures of one row: organs on the test phantoms, seen and unseen lesions on theirs."""
    organs = [r for case in spread(phantom_organs(), cases) for r in score_organs(model, case)]
    means = mean_dice(organs)
    figures = {"organ_dice": sum(means.values()) / len(means) if means else float("nan")}
    predictors = {"zept": prediction_of(model)}
    for split in ("seen", "unseen"):
        listed = [c for c in phantom_cases() if any(s == split for _, s in c.prompts.values())]
        records = [r for case in spread(listed, cases) for r in evaluate_case(case, predictors, None)]
        for figure in ("auroc", "dice"):
            figures[f"{split}_{figure}"] = bootstrap([r[figure] for r in records])[0]
    return {k: round(v, 4) for k, v in figures.items()}


def markdown(rows: list[dict], settings: Settings) -> str:
    """The table, with differences to the first row."""
    lines = [
        "# ZePT: the paper's choices against ours", "",
        "Written by `scripts/ablate_zept.py`. Each line is our ZePT with one choice changed, trained on phantoms from the",
        f"same start for {settings.organ_steps} steps of organs and {settings.tumor_steps} of tumors, in batches of",
        f"{settings.batch_size}, and measured on {settings.cases or 'all'} test phantoms of each kind. In brackets: the",
        "difference to ours. A dash under *trained again*: the choice acts at inference alone.", "",
        f"| choice | what it means | trained again | {' | '.join(FIGURES.values())} |",
        f"| {' | '.join(['---'] * (3 + len(FIGURES)))} |",
    ]  # fmt: skip
    for row in rows:
        stages = " and ".join({1: "organs", 2: "tumors"}[s] for s in row["stages"]) or "-"
        cells = []
        for figure in FIGURES:
            value, ours = row["figures"][figure], rows[0]["figures"][figure]
            cells.append(f"{value:.3f}" + (f" ({value - ours:+.3f})" if row is not rows[0] else ""))
        lines.append(f"| {' | '.join([row['name'], row['what'], stages, *cells])} |")
    return "\n".join(lines) + "\n"


def do_row(row: Row, out: Path, settings: Settings, phantoms: Path) -> dict:
    """Train and measure a row, or read what an earlier run of the same settings has measured."""
    file = out / "rows" / f"{slug(row.name)}.json"
    if file.is_file():
        known = json.loads(file.read_text())
        if known["settings"] == asdict(settings):
            return known
    model = load_row(row, weights_of(row, out, settings, phantoms))
    done = {**asdict(row), "stages": list(row.stages), "settings": asdict(settings)}
    done["figures"] = measure(model, settings.cases)
    write_json(done, file)
    return done


def main(
    out: Annotated[Path, typer.Option(help="folder for the runs")],
    docs: Annotated[Path, typer.Option(help="folder for the tables")] = BUNDLE / "docs",
    only: Annotated[str | None, typer.Option(help="rows by number, 0 is ours: 0,2,3")] = None,
    organ_steps: Annotated[int, typer.Option(help="steps of the first stage")] = 600,
    tumor_steps: Annotated[int, typer.Option(help="steps of the second stage")] = 400,
    batch_size: Annotated[int, typer.Option(help="phantoms a step")] = 4,
    train_count: Annotated[int, typer.Option(help="phantoms to train on")] = 2400,
    phantoms: Annotated[Path | None, typer.Option(help="their cache; default: in --out")] = None,
    pretrained: Annotated[Path | None, typer.Option(help="weights that the first stage starts from")] = None,
    network: Annotated[str, typer.Option(help="other values for network_config, as JSON")] = "{}",
    cases: Annotated[int | None, typer.Option(help="test phantoms a kind; default: all")] = None,
) -> None:
    """Ablate the paper's choices."""
    wanted = sorted({0, *(range(len(ROWS)) if only is None else map(int, only.split(",")))})
    if wanted[-1] >= len(ROWS) or wanted[0] < 0:
        console.print(f"[red]there are rows 0 to {len(ROWS) - 1}: {', '.join(r.name for r in ROWS)}")
        raise typer.Exit(2)
    start = str(pretrained) if pretrained else None
    settings = Settings(organ_steps, tumor_steps, batch_size, train_count, start, json.loads(network), cases)
    # Runs of other settings are other runs.
    name = f"{organ_steps}_{tumor_steps}_{batch_size}_{train_count}"
    done = []
    for k in wanted:
        done.append(do_row(ROWS[k], out / name, settings, phantoms or cache(out, settings.network)))
        console.print(f"{ROWS[k].name}: {done[-1]['figures']}")
        write_json(done, docs / "ablation_zept.json")
        page = markdown(done, settings)
        write_atomically(docs / "ablation_zept.md", lambda path, page=page: path.write_text(page))
    console.print(f"{len(done)} rows in {docs / 'ablation_zept.md'}")


if __name__ == "__main__":
    typer.run(main)
