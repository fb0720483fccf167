"""A simulated annotator: propose, pick, correct, learn, and be measured on the scans that were not picked yet.

python scripts/simulate_annotation.py --on sarcoma-mr --out out/sarcoma-mr

Writes curve.csv (a row for every strategy, seed and round), summary.json and curve.png: Dice on the scans that nobody has
corrected yet, against scans corrected. --page puts them into a page, too (of an earlier run with --redraw).

A run that was stopped goes on when it is started again, and strategies and seeds may be added later: what curve.csv holds is
kept. Another set, method, weights or way of learning needs another folder.

Sets: sarcoma-ct and sarcoma-mr (real, $ZEROTUMOR_DATA; learned from and tested on different patients), phantom-sarcoma.
`--correct truth` takes the true mask, `--correct clicks` what a number of simulated clicks make of the proposal.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "bundle"), str(Path(__file__).resolve().parent)]

import typer
from annotation_curve import show, summary
from annotation_loop import PROMPT, SETS, Scan, Setting, pool, simulate
from annotation_picture import Learned, draw_examples
from rich.console import Console
from rich.progress import Progress

from zerotumor.adaptation import Adapted, Specialist
from zerotumor.cohorts import SEEN, measured_phantom, measured_phantoms, real_cases, spread
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.examples import REPLAYED, replay
from zerotumor.learning import FEWEST, STEPS
from zerotumor.metrics import dice, milliliters
from zerotumor.pipeline import encode_scan, segment_scan
from zerotumor.prompts import Prompt, parse
from zerotumor.refine import load_refiner
from zerotumor.segmenter import Segmenter, WeightsError, load
from zerotumor.selection import STRATEGIES
from zerotumor.text import TextEncoderError
from zerotumor.volumes import write_atomically, write_json

console = Console(width=140)


def write_rows(rows: list[dict], path: Path) -> None:
    """All that was simulated so far."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def read_rows(path: Path) -> list[dict]:
    """What was simulated before, if anything; only whole runs."""
    if not path.is_file():
        return []
    kinds = {"seed": int, "scans": int, "clicks": int, "dice": float, "zero_shot": float, "refused": int}
    with open(path, newline="") as file:
        return [{k: kinds.get(k, str)(v) for k, v in row.items()} for row in csv.DictReader(file)]


def other_settings(settings: dict, out: Path) -> list[str]:
    """Which settings of an earlier run in a folder were others; the present ones are kept if there was no such run."""
    path = out / "settings.json"
    if not path.is_file() and not (out / "curve.csv").is_file():
        write_json(settings, path)
        return []
    before = json.loads(path.read_text()) if path.is_file() else {}
    return [name for name, value in settings.items() if before.get(name) != value]


def learned(setting: Setting, scan: Scan, specialist: Specialist | None) -> Learned:
    """A scan for a picture."""
    own = scan.encoded.scan
    return Learned(
        scan.name, own[0], own.affine, scan.truth, setting.answer(scan, None), setting.answer(scan, specialist)
    )


def run_all(
    setting: Setting, on: str, asked: Sequence[tuple[str, int]], curve: Path, picture: Path | None
) -> tuple[list[dict], list[Specialist]]:
    """The strategies and seeds that the curve lacks: all rows, and what the new runs learned. The first is drawn."""
    rows, specialists = read_rows(curve), []
    known = {(row["strategy"], row["seed"]) for row in rows}
    runs = [run for run in asked if run not in known] or asked[-1:]  # one at least, to measure what it forgets
    rows = [row for row in rows if (row["strategy"], row["seed"]) not in runs]
    with Progress(console=console) as progress:
        for strategy, seed in progress.track(runs, description=on):
            made, specialist, rest = simulate(setting, strategy, seed)
            rows += made
            write_rows(rows, curve)
            specialists += [specialist] if specialist else []
            if picture is not None and (strategy, seed) == runs[0]:
                title = f"{on}: {setting.rounds} scans corrected, picked by {strategy}; none of these was"
                some = [learned(setting, scan, specialist) for scan in rest]
                draw_examples(some, setting.modality, title, picture)
    return rows, specialists


def forgetting(model: Segmenter, specialists: Sequence[Specialist], count: int) -> float | None:
    """Largest loss of mean Dice over the seen kinds, each asked for by its name, on so many test phantoms; None of none."""
    kinds = {name for name, _ in SEEN}
    asked = [case for case in measured_phantoms() if case[1]["category"] in kinds]
    change: dict[str, list[float]] = {}
    for seed, arguments, names in spread(asked, count):
        scan, phantom = measured_phantom(seed, arguments)
        truth, encoded = phantom.lesions[0] > 0, encode_scan(model, scan, modality=phantom.modality)
        prompts = parse(list(names), modality=phantom.modality, encoder=model.encoder)
        plain, adapted = (segment_scan(m, encoded, prompts).masks[0] > 0 for m in (model, Adapted(model, specialists)))
        change.setdefault(arguments["category"], []).append(dice(plain, truth) - dice(adapted, truth))
    return max((sum(v) / len(v) for v in change.values()), default=None)


def healthy_ml(model: Segmenter, specialists: Sequence[Specialist], prompt: Prompt, modality: str) -> dict[str, float]:
    """What is found in scans without a lesion, mean ml before and after: test phantoms, and real scans if they are here."""
    asked = [c for c in measured_phantoms() if c[1]["category"] == "healthy" and PROMPT in c[2]]
    scans = [measured_phantom(seed, arguments)[0] for seed, arguments, _ in asked if arguments["modality"] == modality]
    real = [c for c in real_cases() if c.modality == modality and c.prompts.get(PROMPT, ("", ""))[1] == "healthy"]
    scans += [c.read()[0] for c in real]
    before, after = [], []
    for scan in scans:
        encoded, voxel_ml = encode_scan(model, scan, modality=modality), abs(float(scan.affine.det())) / 1000
        for answering, values in ((model, before), (Adapted(model, specialists), after)):
            values.append(milliliters(segment_scan(answering, encoded, [prompt]).masks[0] > 0, voxel_ml))
    return {"scans": len(scans), "before": round(fmean(before), 2), "after": round(fmean(after), 2)}


def main(
    out: Annotated[Path, typer.Option(help="folder for curve.csv, summary.json and curve.png")],
    on: Annotated[str, typer.Option(help=f"what to annotate: {', '.join(SETS)}")] = "phantom-sarcoma",
    strategies: Annotated[str, typer.Option(help="several separated by commas")] = ",".join(STRATEGIES),
    seeds: Annotated[int, typer.Option(min=1, help="repetitions of every strategy")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="scans to correct")] = 5,
    correct: Annotated[str, typer.Option(help="truth or clicks")] = "truth",
    clicks: Annotated[int, typer.Option(min=1, help="clicks on each scan, with --correct clicks")] = 5,
    method: Annotated[str, typer.Option(help="the method that learns")] = "malenia",
    others: Annotated[str, typer.Option(help="methods that vote beside it, several separated by commas")] = "",
    phantoms: Annotated[int, typer.Option(min=4, help="size of a phantom pool")] = 12,
    replayed: Annotated[int, typer.Option(min=0, help="phantoms beside the labels")] = REPLAYED,
    steps: Annotated[int, typer.Option(min=1, help="steps of training")] = STEPS,
    learn_after: Annotated[list[int] | None, typer.Option(help="scans to learn after, again and again; all")] = None,
    check: Annotated[
        bool, typer.Option(help="use what is learned where scans that are left out say so, as the server does")
    ] = True,
    seen: Annotated[int, typer.Option(min=0, help="test phantoms of seen kinds to measure forgetting on")] = 24,
    page: Annotated[Path | None, typer.Option(help="page whose block on this set is replaced")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of the first run: before and after")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
    redraw: Annotated[bool, typer.Option(help="simulate nothing: show what lies in the folder")] = False,
) -> None:
    """Simulate the loop of annotation, and draw what it gains."""
    if redraw:
        if not (out / "summary.json").is_file():
            console.print(f"[red]there is no summary.json in {out}: leave --redraw out")
            raise typer.Exit(2)
        show(json.loads((out / "summary.json").read_text()), out, page, console)
        return
    unknown = [s for s in strategies.split(",") if s not in STRATEGIES]
    if unknown or correct not in ("truth", "clicks") or on not in SETS:
        console.print(
            f"[red]choose strategies of {', '.join(STRATEGIES)}, --correct truth or clicks, --on {', '.join(SETS)}"
        )
        raise typer.Exit(2)
    try:
        model = load(method, device=device)
        committee = [load(name, device=device).as_voter() for name in others.split(",") if name]
        prompt, modality, scans = pool(on, model, committee, phantoms)
    except (ValueError, WeightsError, TextEncoderError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    if rounds >= len(scans):
        console.print(f"[red]{len(scans)} scans are here: with {rounds} corrected none would be left to measure on")
        raise typer.Exit(2)
    after = learn_after or list(range(FEWEST, rounds + 1))
    settings = {
        "on": on, "method": method, "weights_sha256": model.weights_sha256, "others": others, "correct": correct,
        "clicks": clicks if correct == "clicks" else 0, "rounds": rounds, "learned_after": after, "steps": steps,
        "replayed": replayed, "checked": check, "scans": [s.name for s in scans],
    }  # fmt: skip
    different = other_settings(settings, out)
    if different:
        console.print(f"[red]the runs in {out} had other settings ({', '.join(different)}): give another folder")
        raise typer.Exit(2)
    refiner = load_refiner(device=device) if correct == "clicks" else None
    phantoms_beside = replay(prompt, modality, replayed)
    setting = Setting(
        model, prompt, modality, scans, phantoms_beside, refiner, clicks, rounds, after, steps, check
    )  # fmt: skip
    asked = [(s, seed) for s in strategies.split(",") for seed in range(seeds)]
    rows, specialists = run_all(setting, on, asked, out / "curve.csv", picture)
    lost = forgetting(model, specialists[-1:], seen)
    facts = {
        **settings, "scans": len(scans), "forgetting": None if lost is None else round(lost, 4),
        "healthy": healthy_ml(model, specialists[-1:], prompt, modality), "strategies": summary(rows, rounds),
    }  # fmt: skip
    write_json(facts, out / "summary.json")
    show(facts, out, page, console)


if __name__ == "__main__":
    typer.run(main)
