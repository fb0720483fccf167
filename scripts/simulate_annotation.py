"""A simulated annotator: propose, pick, correct, learn, and be measured on the scans that were not picked yet.

python scripts/simulate_annotation.py --on sarcoma-mr --out out/sarcoma-mr

Writes curve.csv (a row for every strategy, seed and round), summary.json and curve.png: Dice on the scans that nobody has
corrected yet, against scans corrected. --page puts them into a page, too (of an earlier run with --redraw).

Sets: sarcoma-ct and sarcoma-mr (real, $ZEROTUMOR_DATA; learned from and tested on different patients), phantom-sarcoma.
`--correct truth` takes the true mask, `--correct clicks` what a number of simulated clicks make of the proposal.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "bundle"), str(Path(__file__).resolve().parent)]

import torch
import typer
from annotation_curve import show, summary
from annotation_picture import Learned, draw_examples
from evaluate_clicks import clicked
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from zerotumor.adaptation import EVERYWHERE, Adapted, Adapter, believed
from zerotumor.annotation import LabelError, check_label
from zerotumor.cohorts import SEEN, measured_phantom, measured_phantoms, real_cases, spread
from zerotumor.edges import along_edges
from zerotumor.held_out import leave_one_out, scope
from zerotumor.learning import FEWEST, Example, example_of, learn, method_maps, replay
from zerotumor.metrics import dice
from zerotumor.pipeline import EncodedScan, encode_scan, segment_scan, to_grid
from zerotumor.prompts import Prompt, parse
from zerotumor.refine import Refiner, load_refiner
from zerotumor.segmenter import Segmenter, load
from zerotumor.selection import STRATEGIES, Candidate, descriptor, rank
from zerotumor.uncertainty import assess, case_uncertainty
from zerotumor.volumes import write_json

SETS = ("sarcoma-ct", "sarcoma-mr", "phantom-sarcoma")
PROMPT = "soft tissue sarcoma"
POOL_SEED = 7_500_000
"""Phantoms to annotate; neither training, nor calibration, nor any test draws from there."""
console = Console(width=140)


@dataclass
class Scan:
    """One scan of the pool, and all of it that stays the same while others are corrected."""

    name: str
    encoded: EncodedScan
    truth: Tensor  # (X, Y, Z) bool
    maps: Tensor  # (M, x, y, z)
    descriptor: Tensor  # (C,)
    disagreement_ml: float | None


def pool(name: str, model: Segmenter, committee: Sequence[Segmenter], count: int) -> tuple[Prompt, str, list[Scan]]:
    """The scans of a set, encoded; their prompt and modality.

    Raises:
        ValueError: there is no such set, or the real scans are not here.
    """
    modality = "CT" if name == "sarcoma-ct" else "MR"
    prompt = parse(PROMPT, modality=modality, encoder=model.encoder)[0]
    if name == "phantom-sarcoma":
        arguments = {"category": PROMPT, "modality": modality}
        cases = [(f"phantom-{POOL_SEED + k}", *_phantom(POOL_SEED + k, arguments)) for k in range(count)]
    elif name in SETS:
        listed = [c for c in real_cases() if c.modality == modality and PROMPT in c.prompts]
        sick = [c for c in listed if c.prompts[PROMPT][1] != "healthy"]
        cases = [(c.name, *c.read()[:2]) for c in sick]
    else:
        raise ValueError(f"there is no set {name!r}: choose one of {', '.join(SETS)}")
    if not cases:
        raise ValueError("no real scans here: set ZEROTUMOR_DATA to their folder, or take --on phantom-sarcoma")
    scans = []
    for case, scan, truths in cases:
        encoded = encode_scan(model, scan, modality=modality)
        votes = [segment_scan(m, scan, [prompt], modality=modality).masks for m in committee]
        split = assess(model, encoded, [prompt], others=votes, passes=0)[0].disagreement_ml if votes else None
        maps, place = method_maps(model, encoded, prompt), descriptor(model, encoded, [prompt])[0]
        scans.append(Scan(case, encoded, truths[PROMPT] > 0, maps, place, split))
    return prompt, modality, scans


def _phantom(seed: int, arguments: dict) -> tuple:
    scan, phantom = measured_phantom(seed, arguments)
    return scan, {PROMPT: phantom.lesions[0]}


def corrected(scan: Scan, proposal: Tensor, refiner: Refiner | None, modality: str, clicks: int) -> tuple[Tensor, int]:
    """The label that an annotator saves, (X, Y, Z) bool, and the clicks that it took: the truth is drawn by hand."""
    if refiner is None:
        return scan.truth, 0
    masks = [proposal, *clicked(refiner, scan.encoded.scan, modality, proposal, scan.truth, clicks)]
    return masks[-1], len(masks) - 1


@dataclass
class Setting:
    """What one simulation is made of."""

    model: Segmenter
    prompt: Prompt
    modality: str
    scans: list[Scan]
    replayed: list[Example]
    refiner: Refiner | None
    clicks: int
    rounds: int
    check: bool = True

    def learned(self, examples: Sequence[Example], seed: int) -> Adapter | None:
        """What the server would learn and keep of corrected scans, if anything."""
        given = (self.model, self.prompt, self.modality, examples, self.replayed)
        if len(examples) < FEWEST:
            return None
        where = scope(leave_one_out(*given, seed=seed)) if self.check else EVERYWHERE
        if where is None:
            return None
        adapter = learn(*given, seed=seed)
        adapter.learned = replace(adapter.learned, where=where)
        return adapter

    def probability(self, scan: Scan, adapter: Adapter | None) -> Tensor:
        """(x, y, z) on the method's grid. What the method says of a scan never changes, so it is asked once."""
        own = scan.maps[0]
        if adapter is None:
            return own.sigmoid()
        image = torch.as_tensor(scan.encoded.prepared).as_subclass(Tensor)
        with torch.inference_mode():
            new = adapter.correct(image, scan.maps, self.model.spacing)
        return (new if believed(own, new, adapter.learned.where) else own).sigmoid()

    def answer(self, scan: Scan, adapter: Adapter | None) -> Tensor:
        """(X, Y, Z) bool on the scan's grid."""
        image = torch.as_tensor(scan.encoded.prepared).as_subclass(Tensor)
        found = along_edges(image, self.probability(scan, adapter)[None], self.model.edge_weight)
        return to_grid(found, scan.encoded.prepared.affine, scan.encoded.scan)[0] >= 0.5

    def unsure(self, scan: Scan, adapter: Adapter | None) -> float:
        """Of the present model, in one look: rounds are many."""
        found = self.probability(scan, adapter)
        return case_uncertainty(found, float(found.amax()))


def simulate(setting: Setting, strategy: str, seed: int) -> tuple[list[dict], Adapter | None, list[Scan]]:
    """One loop over the pool: a row a round; what was learned in the end, and the scans that were never picked."""
    adapter, spent, refused = None, 0, 0
    waiting, done, examples, rows = list(setting.scans), [], [], []
    before = {s.name: dice(setting.answer(s, None), s.truth) for s in waiting}
    for k in range(setting.rounds + 1):
        values = [dice(setting.answer(s, adapter), s.truth) for s in waiting]
        rows.append(
            {
                "strategy": strategy,
                "seed": seed,
                "scans": k,
                "clicks": spent,
                "dice": sum(values) / len(values),
                "zero_shot": sum(before[s.name] for s in waiting) / len(waiting),
                "picked": done[-1].name if done else "",
                "refused": refused,
                "adapted": adapter.learned.where if adapter else "",
            }
        )
        if k == setting.rounds:
            break
        candidates = [Candidate(s.name, setting.unsure(s, adapter), s.disagreement_ml, s.descriptor) for s in waiting]
        # The first pick of all strategies but random depends on nothing random: seeds differ in how the adapter begins.
        choice = rank(strategy, candidates, [s.descriptor for s in done], 100 * seed + k)[0]
        picked = next(s for s in waiting if s.name == choice.id)
        label, clicks = corrected(
            picked, setting.answer(picked, adapter), setting.refiner, setting.modality, setting.clicks
        )
        spent += clicks
        try:
            check_label(label[None], picked.encoded.scan)
            examples.append(example_of(picked.encoded, picked.maps, label, setting.model.spacing, picked.name))
        except LabelError:
            refused += 1
        waiting = [s for s in waiting if s.name != picked.name]
        done.append(picked)
        adapter = setting.learned(examples, seed)
    return rows, adapter, waiting


def learned(setting: Setting, scan: Scan, adapter: Adapter | None) -> Learned:
    """A scan for a picture."""
    own = scan.encoded.scan
    return Learned(scan.name, own[0], own.affine, scan.truth, setting.answer(scan, None), setting.answer(scan, adapter))


def forgetting(model: Segmenter, adapters: Sequence[Adapter], count: int) -> float | None:
    """Largest loss of mean Dice over the seen kinds, each asked for by its name, on so many test phantoms; None of none."""
    kinds = {name for name, _ in SEEN}
    asked = [case for case in measured_phantoms() if case[1]["category"] in kinds]
    change: dict[str, list[float]] = {}
    for seed, arguments, names in spread(asked, count):
        scan, phantom = measured_phantom(seed, arguments)
        truth, encoded = phantom.lesions[0] > 0, encode_scan(model, scan, modality=phantom.modality)
        prompts = parse(list(names), modality=phantom.modality, encoder=model.encoder)
        plain, adapted = (segment_scan(m, encoded, prompts).masks[0] > 0 for m in (model, Adapted(model, adapters)))
        change.setdefault(arguments["category"], []).append(dice(plain, truth) - dice(adapted, truth))
    return max((sum(v) / len(v) for v in change.values()), default=None)


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
    replayed: Annotated[int, typer.Option(min=0, help="phantoms beside the labels")] = 8,
    check: Annotated[
        bool, typer.Option(help="use what is learned where scans that are left out say so, as the server does")
    ] = True,
    seen: Annotated[int, typer.Option(min=0, help="test phantoms of seen kinds to measure forgetting on")] = 24,
    page: Annotated[Path | None, typer.Option(help="page whose block on this set is replaced")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of the first run: before and after")] = None,
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
    model = load(method)
    committee = [load(name).as_voter() for name in others.split(",") if name]
    try:
        prompt, modality, scans = pool(on, model, committee, phantoms)
    except ValueError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    if rounds >= len(scans):
        console.print(f"[red]{len(scans)} scans are here: with {rounds} corrected none would be left to measure on")
        raise typer.Exit(2)
    refiner = load_refiner() if correct == "clicks" else None
    setting = Setting(
        model, prompt, modality, scans, replay(model, prompt, modality, replayed), refiner, clicks, rounds, check
    )
    rows, adapters = [], []
    with Progress(console=console) as progress:
        runs = [(s, seed) for s in strategies.split(",") for seed in range(seeds)]
        for strategy, seed in progress.track(runs, description=on):
            made, adapter, rest = simulate(setting, strategy, seed)
            rows += made
            adapters += [adapter] if adapter else []
            if picture is not None and (strategy, seed) == runs[0]:
                title = f"{on}: {rounds} scans corrected, picked by {strategy}; none of these was"
                draw_examples([learned(setting, scan, adapter) for scan in rest], modality, title, picture)
    lost = forgetting(model, adapters[-1:], seen)
    facts = {
        "on": on, "method": method, "weights_sha256": model.weights_sha256, "correct": correct, "seeds": seeds,
        "others": others, "checked": check, "scans": len(scans), "forgetting": None if lost is None else round(lost, 4),
        "strategies": summary(rows, rounds),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "curve.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    write_json(facts, out / "summary.json")
    show(facts, out, page, console)


if __name__ == "__main__":
    typer.run(main)
