"""Train every method from nothing to weights that can be shipped, in pieces, on a CPU or a GPU.

python scripts/train_starter.py --budget cpu --out runs/starter
python scripts/train_starter.py --budget gpu --minutes 10 --train-only     # again and again, until it says that all is done
python scripts/train_starter.py --list                                     # where every stage stands

A stage that is done is skipped, and one that was cut off goes on from its checkpoint. Its whole length, and with it the
schedule of its learning rate, is the budget's: pieces only interrupt. After training come thresholds, the calibration of
doubts, the measurement and the cards. Exit status 75: stopped in time, and there is more to do.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(Path(__file__).resolve().parent)]

import typer
from rich.console import Console
from rich.table import Table
from starter_plan import BUDGETS, CARDS, LAST, STAGES, TOOLS, Stage, Tool
from starter_run import Programme, ProgrammeError, copy_weights, hours, measuring, read_json, speed, whole

from zerotumor.baselines import BASELINES
from zerotumor.calibration import replaced
from zerotumor.in_turn import joint_sha256, usual
from zerotumor.pause import PAUSED
from zerotumor.segmenter import AND, OPPONENTS, asked_in_turn, available, load, sha256
from zerotumor.volumes import write_atomically, write_json

console = Console(width=140)
MODELS = ROOT / "bundle" / "models"
MEASURED_STEPS = 8
METHODS = tuple(dict.fromkeys(stage.method for stage in STAGES))


def choose(only: str | None) -> list[Stage]:
    """Stages of methods, or stages, by name; all of them without names.

    Raises:
        ProgrammeError: there is none of a name.
    """
    names = [name.strip() for name in (only or "").split(",") if name.strip()]
    known = {*METHODS, *(stage.name for stage in STAGES)}
    for name in names:
        if name not in known:
            raise ProgrammeError(
                f"there is no {name!r} to train: choose among {', '.join(METHODS)}, or a stage of --list"
            )
    return [stage for stage in STAGES if not names or stage.method in names or stage.name in names]


def plan(programme: Programme, stages: Sequence[Stage], speeds: dict) -> Table:
    """Every stage: what it is made of, where it stands, how long it still takes."""
    out = Table(title=f"--budget {programme.name}: {programme.budget.what}; {programme.out}")
    for name in ("stage", "configs", "starts from", "steps", "batch", "state", "hours left"):
        out.add_column(name, overflow="fold")
    total, measured = 0.0, True
    for stage in stages:
        length = programme.budget.stages[stage.name]
        left, known = hours(programme, stage, speeds)
        total, measured = total + left, measured and known
        out.add_row(
            stage.name, " + ".join(stage.configs), ", ".join(stage.needs.values()) or "nothing", str(length.steps),
            str(length.batch), programme.state(stage), f"{'' if known else '~'}{left:.2f}",
        )  # fmt: skip
    for tool in tools_of(stages):
        state = "done" if programme.tool_done(tool) else "not begun"
        out.add_row(tool.name, tool.script, tool.needs, "", "", state, "")
    written = sorted(path.stem for path in programme.cards.glob("model_card*.md"))
    out.add_row(CARDS, "model_card.py", "all that is there", "", "", ", ".join(written) or "not written", "")
    out.add_row("", "", "", "", "", "all training", f"{'' if measured else '~'}{total:.2f}")
    if not measured:
        out.caption = "~ guessed; --measure measures this machine"
    return out


def tools_of(stages: Sequence[Stage]) -> list[Tool]:
    """What is made of the weights of some stages."""
    names = {stage.name for stage in stages}
    return [tool for tool in TOOLS if tool.needs in names]


def train(programme: Programme, stages: Sequence[Stage], until: float | None, epochs: int | None) -> bool:
    """All stages that are not done, one after the other; whether all are."""
    for stage in stages:
        if programme.done(stage):
            console.print(f"{stage.name}: done already")
            continue
        before, began = programme.trained(stage), time.time()
        if (until is not None and began >= until) or (epochs is not None and epochs <= 0):
            return False
        console.print(f"{stage.name}: from epoch {before} of {programme.epochs(stage)}")
        ended = programme.train(stage, until, epochs)
        done = programme.trained(stage) - before
        console.print(f"{stage.name}: {programme.state(stage)}, {(time.time() - began) / 60:.1f} minutes")
        if not ended:
            return False
        epochs = None if epochs is None else epochs - done
    return True


def finish(programme: Programme, stages: Sequence[Stage], until: float | None) -> bool:
    """Thresholds, doubts and cards of what is trained; whether all is there."""
    for tool in tools_of(stages):
        if programme.tool_done(tool):
            continue
        console.print(f"{tool.name}: {tool.script}")
        if not programme.run_tool(tool, until):
            return False
    return not available(programme.models) or make_cards(programme, until)


def make_cards(programme: Programme, until: float | None) -> bool:
    """Measure all methods that have weights, as far as it is not done, and write their cards; whether it came to the end."""
    models, cards, cases = programme.models, programme.cards, programme.budget.cases
    names = available(models)
    limit = [] if cases is None else ["--limit", str(cases), "--set", "phantom"]
    organs = [name for name in names if load(name, models).organ_names]
    page = cards / "README.md"
    if not page.is_file():
        cards.mkdir(parents=True, exist_ok=True)
        page.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    opponents = [name for name, entry in OPPONENTS.items() if (models / entry.weights).is_file()]
    opponents += ["ensemble"] if len(names) > 1 else []
    opponents += [name for name in (usual(models),) if AND in name]
    asked = {"evaluate.py": [*names, *opponents, *BASELINES], "evaluate_organs.py": organs}
    files = {"evaluate.py": cards / "evaluation.json", "evaluate_organs.py": cards / "organs.json"}
    for script, methods in asked.items():
        if not methods or measured(files[script], models, methods):
            continue
        console.print(f"{CARDS}: {script} of {', '.join(methods)}")
        told = ["--method", ",".join(methods), "--weights", str(models), "--out", str(files[script]), *limit]
        if not programme.script(script, told, until):
            return False
    told = [str(files["evaluate.py"]), "--models", str(models), "--docs", str(cards), "--readme", str(page)]
    return programme.script("model_card.py", told + (["--organs", str(files["evaluate_organs.py"])] if organs else []))


def measured(file: Path, models: Path, methods: Sequence[str]) -> bool:
    """Whether a file has the records of these methods with the weights that are in a folder."""
    known = read_json(file).get("weights_sha256", {})
    hashes = {method: sha256(models / LAST[method][1]) for method in methods if method in LAST}
    several = {"ensemble": [name for name in hashes if name not in OPPONENTS]}
    several |= {method: asked_in_turn(method) for method in methods if AND in method}
    hashes |= {method: joint_sha256({name: hashes[name] for name in names}) for method, names in several.items()}
    return all(known.get(method) == hashes.get(method, "none") for method in methods)


def measure(programme: Programme, stages: Sequence[Stage]) -> dict:
    """Seconds of a step of every stage on this machine, from a few, kept in the folder of the runs."""
    trial = Programme(programme.out / "measure", programme.name, measuring(programme.budget, MEASURED_STEPS))
    shutil.rmtree(trial.out, ignore_errors=True)  # what is there already would not be timed
    speeds = read_json(programme.out / "speed.json")
    for stage in needed(stages):
        since = time.time()
        trial.train(stage)
        if stage in stages:
            speeds[stage.name] = {k: round(v, 5) for k, v in speed(trial, stage, since).items()}
            console.print(
                f"{stage.name}: {1 / speeds[stage.name]['step']:.2f} steps a second, "
                f"{speeds[stage.name]['phantom']:.2f} s a new phantom"
            )
            write_json(speeds, programme.out / "speed.json")
    shutil.rmtree(trial.out, ignore_errors=True)
    return speeds


def needed(stages: Sequence[Stage]) -> list[Stage]:
    """Some stages and all that they start from, in the plan's order."""
    names = {stage.name for stage in stages}
    for stage in reversed(STAGES):
        if stage.name in names:
            names |= {file.rpartition("/")[0] for file in stage.needs.values()}
    return [stage for stage in STAGES if stage.name in names]


def ship_weights(programme: Programme, stages: Sequence[Stage], models: Path) -> list[str]:
    """Copy finished weights, their records and the curves of their doubts to a folder of models; names of the files.

    Raises:
        ProgrammeError: nothing is finished, or these are weights of the smoke budget for the bundle itself.
    """
    if programme.name == "smoke" and models.resolve() == MODELS:
        raise ProgrammeError("weights of the smoke budget know nothing: give another folder as --models")
    open_ = {tool.needs for tool in tools_of(stages) if not programme.tool_done(tool)}
    shipped = []
    for stage in stages:
        if stage.ships and stage.name in open_:
            console.print(f"[yellow]{stage.name} is left out: its weights are not calibrated; run without --train-only")
            continue
        for name in stage.ships.values():
            if whole(programme.models / name):
                copy_weights(programme.models / name, models / name)
                # the same weights may have been calibrated anew
                record = (programme.models / name).with_suffix(".json").read_text()
                write_atomically((models / name).with_suffix(".json"), lambda path, text=record: path.write_text(text))
                shipped.append(name)
    if not shipped:
        raise ProgrammeError("nothing is finished: train first, and look at --list")
    own = read_json(programme.models / "uncertainty.json").get("weights", [])
    if own:
        known = read_json(models / "uncertainty.json").get("weights", [])
        write_json({"weights": replaced(known, own)}, models / "uncertainty.json")
    return shipped


def main(
    budget: Annotated[str, typer.Option(help=f"one of: {', '.join(BUDGETS)}")] = "cpu",
    out: Annotated[Path, typer.Option(help="folder for all runs")] = Path("runs/starter"),
    only: Annotated[str | None, typer.Option(help=f"{', '.join(METHODS)}, or stages; separated by commas")] = None,
    minutes: Annotated[float | None, typer.Option(help="stop after so many, with checkpoints", min=0)] = None,
    epochs: Annotated[int | None, typer.Option(help="stop after so many epochs, with checkpoints", min=0)] = None,
    train_only: Annotated[bool, typer.Option(help="no thresholds, no cards: they need no GPU")] = False,
    list_: Annotated[bool, typer.Option("--list", help="print the plan and where it stands")] = False,
    measure_: Annotated[bool, typer.Option("--measure", help="time a few steps of every stage")] = False,
    ship: Annotated[bool, typer.Option(help="copy what is finished to --models")] = False,
    models: Annotated[Path, typer.Option(help="folder that --ship copies to")] = MODELS,
) -> None:
    """Train the starter weights."""
    try:
        programme, stages = Programme(out, budget), choose(only)
        if list_ or measure_:
            speeds = measure(programme, stages) if measure_ else read_json(programme.out / "speed.json")
            console.print(plan(programme, stages, speeds))
            return
        if ship:
            programme.collect(stages)
            console.print(f"{', '.join(ship_weights(programme, stages, models))} in {models}")
            return
        programme.begin()
        until = None if minutes is None else time.time() + 60 * minutes
        ended = train(programme, stages, until, epochs)
        programme.collect(stages)
        ended = ended and (train_only or finish(programme, stages, until))
    except ProgrammeError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    if not ended:
        console.print("stopped in time: the same command goes on from here")
        raise typer.Exit(PAUSED)
    console.print(
        f"all is done: weights in {programme.models}" + ("" if train_only else f", cards in {programme.cards}")
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(PAUSED))  # the stage that runs is ended too
    typer.run(main)
