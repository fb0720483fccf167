"""Measure on phantoms what a method's probabilities and doubts are worth, and keep that beside the weights.

python scripts/calibrate_uncertainty.py --count 24 --page bundle/docs/active_learning.md

Phantoms of seen and unseen kinds and healthy ones, by turns, with seeds that neither training nor the test set draws. What
it writes to bundle/models/uncertainty.json, `zerotumor.uncertainty.assess` reads. Every method has a diagram and a block of
the page to itself. The diagram shows what was said against what was observed, before and after; "after" is measured on each
half of the phantoms with the curve of the other half.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import matplotlib
import numpy as np
import torch
import typer
from model_card import replace_between
from monai.data import MetaTensor
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr
from starter_plan import reliability_picture

from zerotumor.calibration import FILE, Calibration, Counts, Curve, record_of, replaced, total
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.in_turn import IN_TURN
from zerotumor.inferer import segment_volume
from zerotumor.metrics import dice
from zerotumor.phantom import generate
from zerotumor.pipeline import encode_scan
from zerotumor.prompts import parse
from zerotumor.segmenter import AND, METHODS, MODELS, Segmenter, WeightsError, asked_in_turn, entry, load
from zerotumor.text import TextEncoderError
from zerotumor.uncertainty import FLOOR, PASSES, assess
from zerotumor.volumes import write_atomically, write_json

SEED = 7_000_000
EXTENT = (240.0, 192.0, 192.0)
"""mm of a phantom; on every method's grid the same."""
ASKED = [  # category, prompt; a third has nothing to be found
    ("liver tumor", "liver tumor"), ("pancreatic tumor", "pancreatic tumor"), ("healthy", "liver tumor"),
    ("kidney cyst", "kidney cyst"), ("soft tissue sarcoma", "soft tissue sarcoma"), ("healthy", "soft tissue sarcoma"),
    ("kidney tumor", "kidney tumor"), ("brain tumor", "brain tumor"), ("healthy", "brain tumor"),
    ("abstract lesion", "tumor"), ("lung tumor", "lung tumor"), ("healthy", "kidney tumor"),
]  # fmt: skip
REGIONS = {"liver tumor": "abdomen", "soft tissue sarcoma": "limb", "brain tumor": "head", "kidney tumor": "abdomen"}
console = Console(width=120)


def marks(method: str) -> tuple[str, str]:
    """Lines of a page between which a method's block stands."""
    name = Path(reliability_picture(method)).stem.replace("_", "-")
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def measure_one(model: Segmenter, k: int, passes: int) -> tuple[Counts, dict]:
    """Counts of the voxels of the k-th phantom inside the body, and what there is to say of the case."""
    category, text = ASKED[k % len(ASKED)]
    modality = "MR" if category == "brain tumor" else ("CT", "MR")[k // len(ASKED) % 2]
    region = REGIONS[text] if category == "healthy" else None
    if category == "lung tumor":
        modality = "CT"
    shape = [round(mm / model.spacing) for mm in EXTENT]
    phantom = generate(
        SEED + k, shape=shape, spacing=model.spacing, category=category, modality=modality, region=region
    )
    scan = MetaTensor(phantom.image, affine=np.diag([*phantom.spacing, 1.0]))
    encoded = encode_scan(model, scan, modality=modality)
    prompts = parse(text, modality=modality, encoder=model.encoder)
    image = torch.as_tensor(encoded.prepared).as_subclass(torch.Tensor)
    answer = segment_volume(model, image, prompts, features=encoded.features).probabilities[0] >= 0.5
    unsure = assess(model, encoded, prompts, passes=passes, calibration=Calibration())[0]
    # Phantoms are drawn in RAS on the model's grid, so what is prepared lies voxel by voxel on the truth.
    truth = phantom.lesions[0] > 0
    body = image.amax(0) > 0
    overlap = dice(answer, truth) if truth.any() else float(not answer.any())
    case = {
        "category": category, "prompt": text, "entropy": unsure.value, "novelty": unsure.novelty,
        "perturbation": unsure.perturbation, "error": 1 - overlap,
    }  # fmt: skip
    return Counts.of(unsure.probability[body], truth[body]), case


def case_counts(cases: list[dict]) -> Counts:
    """Counts of whole scans: what their entropy said, and 1 - Dice."""
    return Counts.of(*(torch.tensor([c[k] for c in cases], dtype=torch.float64) for k in ("entropy", "error")))


def crossed(parts: list[Counts]) -> list[tuple[Curve, Counts]]:
    """Curve of one half and counts of the other, both ways."""
    halves = [total(parts[0::2]), total(parts[1::2])]
    return [(halves[0].fit(), halves[1]), (halves[1].fit(), halves[0])]


def above(pairs: list[tuple[Curve, Counts]]) -> list[tuple[Curve, Counts]]:
    """The same for voxels that may be lesion."""
    return [(curve, counts.above(FLOOR)) for curve, counts in pairs]


def held_out_ece(pairs: list[tuple[Curve, Counts]]) -> float:
    """Expected calibration error of curves on halves that they were not fitted to; nan if both are empty."""
    full = [(float(c.number.sum()), c.ece(curve)) for curve, c in pairs if c.number.any()]
    return sum(w * ece for w, ece in full) / sum(w for w, _ in full) if full else float("nan")


def worth_it(curve: Curve, before: float, after: float) -> Curve:
    """A curve, or none where curves made what they were not fitted to no better."""
    return curve if after < before else Curve()


def correlation(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation; 0 where all values of one are the same."""
    return float(spearmanr(a, b).statistic) if len(set(a)) > 1 < len(set(b)) else 0.0


def draw(path: Path, before: Counts, after: list[tuple[Curve, Counts]], cases: list[dict], curve: Curve) -> None:
    """Reliability diagram of voxels, and error against uncertainty of scans."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (voxels, scans) = plt.subplots(1, 2, figsize=(11, 4.8))
    voxels.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle="dashed", label="as said")
    series = {"before": before.diagram()} | {
        f"after, half {k + 1}": counts.diagram(c) for k, (c, counts) in enumerate(after)
    }
    for (name, rows), color in zip(series.items(), ("#c03030", "#3060c0", "#30a060"), strict=True):
        voxels.plot([r[0] for r in rows], [r[1] for r in rows], marker="o", color=color, label=name)
    top = max([0.2, *(x for rows in series.values() for r in rows for x in r[:2])]) * 1.05
    voxels.set(xlim=(0, top), ylim=(0, top), xlabel="probability of lesion", ylabel="share that is lesion",
               title="voxels that may be lesion")  # fmt: skip
    voxels.legend(fontsize=8)
    for kind, marker in (("healthy", "x"), ("with a lesion", "o")):
        some = [c for c in cases if (c["category"] == "healthy") == (kind == "healthy")]
        scans.scatter([c["entropy"] for c in some], [c["error"] for c in some], marker=marker, label=kind)
    line = torch.linspace(0, 1, 101)
    scans.plot(line, curve(line), color="#3060c0", label="calibration")
    scans.set(xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="entropy, bits", ylabel="1 - Dice", title="scans")
    scans.legend(fontsize=8)
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100, format="png"))
    plt.close(figure)


def section(record: dict, picture: Path, page: Path) -> list[str]:
    """What the page on active learning says of a measurement."""
    f = record["measured"]
    rows = [
        ("voxels that may be lesion (p > 0.05)", "ece_before", "ece_after"),
        ("all voxels of the body", "ece_body_before", "ece_body_after"),
        ("scans", "case_ece_before", "case_ece_after"),
    ]
    healthy = sum(c["category"] == "healthy" for c in f["cases"])
    return [
        f"Measured on {f['phantoms']} phantoms, {healthy} of them healthy, with {f['passes']} looks besides the plain one;",
        f"weights {named(record['weights_sha256'])}. Expected calibration error, the mean distance of what was said",
        "from what was observed:",
        "", "| of | before | after |", "| --- | --- | --- |",
        *(f"| {name} | {f[before]:.3f} | {f[after]:.3f} |" for name, before, after in rows),
        "", "\"After\" is each half of the phantoms, with the curve of the other half. "
        "A curve that is no better so is not used.",
        "",
        f"![Reliability diagram]({os.path.relpath(picture, page.parent)})", "",
        "How well a part ranks scans by their error (Spearman's correlation with 1 - Dice): entropy "
        f"{f['error_by_entropy']:.2f}, perturbation {f['error_by_perturbation']:.2f}, novelty {f['error_by_novelty']:.2f}.",
    ]  # fmt: skip


def keep(record: dict, path: Path) -> None:
    """Put a record in place of earlier ones: of the same weights, and of those that they took the place of."""
    known = json.loads(path.read_text())["weights"] if path.is_file() else []
    write_json({"weights": replaced(known, [record])}, path)


def place_of(method: str, weights: Path | None, out: Path) -> str | None:
    """Where the weights lie beside the file of records, as `load` finds them; None if they lie elsewhere.

    Of methods that are asked in turn, where those of each lie, with a plus between.
    """
    path, folder = weights or MODELS, out.resolve().parent
    files = [(path / entry(one).weights if path.is_dir() else path).resolve() for one in asked_in_turn(method)]
    inside = all(file.is_relative_to(folder) for file in files)
    return AND.join(file.relative_to(folder).as_posix() for file in files) if inside else None


def named(weights_sha256: str) -> str:
    """Hashes of weights as a page names them, a dozen digits each."""
    shas = [one.rpartition(":")[2] for one in weights_sha256.split(",")]
    return " and ".join(f"`{sha[:12]}`" for sha in shas)


def main(
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}, or two asked in turn: {IN_TURN}")] = "malenia",
    weights: Annotated[Path | None, typer.Option(help="weights of your own; default: the starter weights")] = None,
    count: Annotated[int, typer.Option(help="phantoms", min=4)] = 24,
    passes: Annotated[int, typer.Option(help="looks at each besides the plain one", min=0)] = PASSES,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
    out: Annotated[Path, typer.Option(help="JSON file with the curves of all weights")] = MODELS / FILE,
    picture: Annotated[
        Path | None, typer.Option(help="reliability diagram; default: that of the method in bundle/docs/images")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="page whose block on the method is replaced", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Calibrate uncertainties."""
    picture = picture or ROOT / "bundle" / "docs" / "images" / reliability_picture(method)
    try:
        model = load(method, weights, device=device)
    except (ValueError, WeightsError, TextEncoderError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    if page is not None:
        replace_between(page.read_text(), *marks(method), [])  # a page without the marks is refused before any work
    measured = [measure_one(model, k, passes) for k in track(range(count), "phantoms", console=console)]
    voxels, cases = ([m[i] for m in measured] for i in range(2))
    pairs, whole = crossed(voxels), total(voxels)
    case_parts = [case_counts([c]) for c in cases]
    errors = [c["error"] for c in cases]
    figures = {
        "phantoms": count, "first_seed": SEED, "passes": passes, "cases": cases,
        "ece_before": whole.above(FLOOR).ece(), "ece_after": held_out_ece(above(pairs)),
        "ece_body_before": whole.ece(), "ece_body_after": held_out_ece(pairs),
        "case_ece_before": total(case_parts).ece(), "case_ece_after": held_out_ece(crossed(case_parts)),
        "error_by_entropy": correlation([c["entropy"] for c in cases], errors),
        "error_by_perturbation": correlation([c["perturbation"] for c in cases], errors),
        "error_by_novelty": correlation([c["novelty"] or 0.0 for c in cases], errors),
    }  # fmt: skip
    figures = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    figures["cases"] = [{k: round(v, 4) if isinstance(v, float) else v for k, v in c.items()} for c in cases]
    calibration = Calibration(
        worth_it(whole.fit(), figures["ece_before"], figures["ece_after"]),
        worth_it(total(case_parts).fit(), figures["case_ece_before"], figures["case_ece_after"]),
        figures,
    )
    record = record_of(calibration, model.weights_sha256, place_of(method, weights, out))
    keep(record, out)
    draw(picture, whole.above(FLOOR), above(pairs), cases, calibration.case)
    shown = Table("figure", "value")
    for name, value in figures.items():
        if name != "cases":
            shown.add_row(name, str(value))
    console.print(shown)
    if page is not None:
        text = replace_between(page.read_text(), *marks(method), section(record, picture, page))
        write_atomically(page, lambda temporary: temporary.write_text(text))
    console.print(f"curves in {out}, diagram in {picture}")


if __name__ == "__main__":
    typer.run(main)
