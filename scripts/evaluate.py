"""Measure methods: one command, one record a case and prompt, tables with intervals.

python scripts/evaluate.py --method malenia,outlier,everything --set all --out out/evaluation.json

A method's own ablation is asked for after a colon: diffugts:attention, diffugts:pixel (and the pixel residual),
diffugts:feature (and the feature residual), diffugts:fusion (all of it, fused by what was learned; the default).

malenia+zept asks the second for what the first has not found, as scripts/segment.py does unless told otherwise.

Baselines: outlier and everything need nothing; ensemble is the mean of all methods that have weights; closed_set is a U-Net
that cannot read, trained like the methods (configs/closed_set_train.yaml), with weights of its own.

Sets: `phantom` (fixed seeds that training never draws), `real` (every scan with truth in $ZEROTUMOR_DATA) and `words` (the
lesions of both, asked for as a tumor of another organ: what does not read the prompt finds them all the same).

Records so far are kept in evaluation.partial.json, which a run that is interrupted leaves; `left_out` in the file says which
cases were not measured, and why.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import torch
import typer
from case_by_case import measure
from monai.data import MetaTensor
from rich.console import Console
from rich.table import Table

from zerotumor.baselines import BASELINES, Ensemble
from zerotumor.cohorts import Case, missing_cases, phantom_cases, real_cases, spread, word_cases
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.metrics import bootstrap, score_case
from zerotumor.pipeline import EncodedScan, ScanResult, encode_scan, segment_scan
from zerotumor.prompts import Prompt, parse
from zerotumor.segmenter import AND, METHODS, OPPONENTS, Segmenter, WeightsError, asked_in_turn, load
from zerotumor.text import TextEncoderError
from zerotumor.volumes import write_mask

console = Console(width=140)
Predict = Callable[[MetaTensor, list[Prompt], str], ScanResult]
ENSEMBLE = "ensemble"
NAMES = (*METHODS, *BASELINES, *OPPONENTS, ENSEMBLE)
SETS = {"phantom": phantom_cases, "real": real_cases, "words": word_cases}
NO_LESION = ("healthy", "elsewhere")
"""Splits whose prompts ask for something that is not there."""
FIGURES = ("dice", "nsd2", "auroc", "fpr95", "lesion_f1", "fp_ml")


class Encodings:
    """What methods have made of the present scan: the rows of an ablation differ in what comes after."""

    def __init__(self) -> None:
        self.scan: MetaTensor | None = None
        self.kept: dict[str, EncodedScan] = {}
        self.drawn: dict[tuple[str, ...], object] = {}

    def of(self, model: Segmenter, method: str, scan: MetaTensor, modality: str) -> EncodedScan:
        if scan is not self.scan:
            self.scan, self.kept, self.drawn = scan, {}, {}
        if method not in self.kept:
            self.kept[method] = encode_scan(model, scan, modality=modality)
        return self.kept[method]

    def draw_once(self, model: Segmenter, method: str) -> Segmenter:
        """Have rows share what the method draws anew, too; returns the model."""
        if hasattr(model, "heal"):
            own = model.heal

            def heal(image: torch.Tensor, hole: torch.Tensor, *rest: object) -> object:
                parts = (hashlib.sha256(one.contiguous().cpu().numpy().tobytes()).hexdigest() for one in (image, hole))
                key = (method, *parts)
                if key not in self.drawn:
                    self.drawn[key] = own(image, hole, *rest)
                return self.drawn[key]

            model.heal = heal
        return model


def predictor(
    name: str, weights: Path | None, device: str, encodings: Encodings | None = None, quality: str = ""
) -> tuple[Predict, str]:
    """A method or baseline as a function of scan, prompts and modality; and the hash of its weights.

    Args:
        encodings: shared by the rows of an ablation, of which the first then takes the time of the encoding.
        quality: for methods that know any.

    Raises:
        ValueError: there is no such method. segmenter.WeightsError: it has no weights.
    """
    if name in BASELINES:
        return BASELINES[name], "none"
    folder = weights if weights is not None and weights.is_dir() else None
    if name == ENSEMBLE:
        several = Ensemble.of(folder, device)
        return several, several.weights_sha256
    method, _, answer = name.partition(":")
    if AND in method or method in OPPONENTS:  # a file of weights is that of the method it is measured against
        weights = folder
    if any(one not in NAMES for one in asked_in_turn(method)):
        raise ValueError(f"there is no method {name!r}: choose among {', '.join(NAMES)}")
    model = load(method, weights, device=device)
    if quality and model.qualities:
        model = model.at(quality)
    if answer:
        model.ablate(answer)
        model = model if encodings is None else encodings.draw_once(model, method)
        return prediction_of(model, method, encodings), model.weights_sha256
    return prediction_of(model), model.weights_sha256


def prediction_of(model: Segmenter, method: str = "", encodings: Encodings | None = None) -> Predict:
    """A method as a function of scan, prompts and modality."""

    def predict(scan: MetaTensor, prompts: list[Prompt], modality: str) -> ScanResult:
        given = scan if encodings is None else encodings.of(model, method, scan, modality)
        return segment_scan(model, given, prompts, modality=modality, keep_probabilities=True)

    return predict


def evaluate_case(case: Case, predictors: dict[str, Predict], masks: Path | None) -> list[dict]:
    """Records of one case for all methods."""
    scan, truths, regions = case.read()
    prompts = parse(list(case.prompts), modality=case.modality)
    spacing = torch.linalg.vector_norm(torch.as_tensor(scan.affine)[:3, :3], dim=0).tolist()
    records = []
    for method, predict in predictors.items():
        started = time.perf_counter()
        result = predict(scan, prompts, case.modality)
        seconds = time.perf_counter() - started
        for p, (prompt, (category, split)) in enumerate(case.prompts.items()):
            figures = score_case(result.masks[p], truths[prompt], result.ungated[p], spacing, regions.get(prompt))
            entry = result.report["prompts"][p]
            records.append(
                {
                    "method": method, "set": case.set, "split": split, "category": category, "modality": case.modality,
                    "case": case.name, "prompt": prompt, "found": entry["found"], "score": entry["score"],
                    **{k: None if v != v else round(v, 5) for k, v in figures.items()}, "seconds": round(seconds, 3),
                }
            )  # fmt: skip
            if masks is not None:
                name = f"{case.name}_{prompt.replace(' ', '-')}_{method}.nii.gz"
                write_mask(result.masks[p], scan.affine, masks / name)
    return records


def listed(set_: str, limit: int | None) -> list[Case]:
    """Cases of a set, or of all."""
    cases = []
    for name, cases_of in SETS.items():
        if set_ in (name, "all"):
            some = list(cases_of())
            if not some:
                console.print("[yellow]no real scans here: set ZEROTUMOR_DATA to their folder")
            cases += spread(some, limit)
    return cases


def groups(records: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """(set, group) -> records: by split, and those with a lesion by category and modality too."""
    out: dict[tuple[str, str], list[dict]] = {}
    for r in records:
        out.setdefault((r["set"], r["split"]), []).append(r)
    for r in records:
        if r["split"] not in NO_LESION:
            out.setdefault((r["set"], f"{r['category']} {r['modality']}"), []).append(r)
    return out


def median(values: list[float]) -> float:
    """Median, nan for nothing."""
    return statistics.median(values) if values else float("nan")


def over_patients(records: list[dict], figure: str) -> tuple[float, float, float]:
    """Mean of a figure and its 95 % bootstrap interval; CT and MR of a patient (NAME-CT, NAME-MR) are drawn together."""
    patients = [r["case"].removesuffix("-CT").removesuffix("-MR") for r in records]
    return bootstrap([r[figure] for r in records], patients=patients)


def table(records: list[dict], method: str) -> Table:
    """Means with 95 % bootstrap intervals over patients."""
    out = Table(title=method)
    for name in ("set", "group", "n", "Dice", "NSD 2 mm", "AUROC", "FPR95", "lesion F1", "FP ml (median)"):
        out.add_column(name)
    for (set_, group), rows in groups([r for r in records if r["method"] == method]).items():
        cells = []
        for figure in FIGURES[:-1]:
            mean, low, high = over_patients(rows, figure)
            cells.append("-" if mean != mean else f"{mean:.2f} [{low:.2f}, {high:.2f}]")
        out.add_row(set_, group, str(len(rows)), *cells, f"{median([r['fp_ml'] for r in rows]):.1f}")
    return out


def main(
    out: Annotated[Path, typer.Option(help="JSON file for the records")],
    method: Annotated[
        str, typer.Option(help=f"{', '.join(NAMES)}; several separated by commas; diffugts:attention")
    ] = "malenia",
    set_: Annotated[str, typer.Option("--set", help="phantom, real, words or all")] = "all",
    weights: Annotated[Path | None, typer.Option(help="weights of your own; default: the starter weights")] = None,
    masks: Annotated[Path | None, typer.Option(help="folder to keep the masks in, to look at them")] = None,
    limit: Annotated[int | None, typer.Option(help="every set cut to this many evenly spread cases")] = None,
    quality: Annotated[str, typer.Option(help="fast, standard or best, for methods that know these")] = "",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
) -> None:
    """Measure methods on phantoms and real scans."""
    if set_ not in (*SETS, "all"):
        console.print(f"[red]there is no set {set_!r}: choose {', '.join(SETS)} or all")
        raise typer.Exit(2)
    predictors, hashes, encodings = {}, {}, Encodings()
    try:
        for name in method.split(","):
            predictors[name], hashes[name] = predictor(name, weights, device, encodings, quality)
    except (ValueError, WeightsError, TextEncoderError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    left_out = missing_cases() if set_ != "phantom" else {}
    saved = {"weights_sha256": hashes, "sets": set_, "left_out": left_out, "records": []}
    measure(listed(set_, limit), lambda case: evaluate_case(case, predictors, masks), saved, out, console)
    for name in predictors:
        console.print(table(saved["records"], name))
    console.print(f"{len(saved['records'])} records in {out}, {len(left_out)} cases left out")


if __name__ == "__main__":
    typer.run(main)
