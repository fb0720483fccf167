"""Choose theta, the probability from which a voxel is painted, on validation phantoms of seen kinds and healthy ones.

python scripts/calibrate.py --weights RUN/model.pt --peaks 0.5,0.6,0.7

With --peaks also theta_peak, the probability that each connected part of a mask must reach somewhere.

Only seeds of training's validation range are used, and no lesion of an unseen kind: what lies in their hosts is of no kind.
Of the thetas that leave nine tenths of the healthy scans under 5 ml of false positives, the one with the best Dice (lesions
asked for by name) is written to the record of the weights; of equals, the quietest. If no theta is quiet enough, the
quietest of all is. Real scans had one say: that far more is found on healthy ones than on healthy phantoms made the share
nine tenths and not a half. Weights that were trained on lesions drawn in real anatomy find as little on healthy scans of
another patient as on phantoms: --quiet 0.75.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import numpy as np
import torch
import typer
from monai.data import MetaTensor
from rich.console import Console
from rich.table import Table
from torch import Tensor

from zerotumor.inferer import VolumeFeatures, encode_volume, peaked, segment_volume
from zerotumor.metrics import dice, milliliters
from zerotumor.phantom import Phantom, generate
from zerotumor.prompts import Prompt, parse
from zerotumor.segmenter import Segmenter, WeightsError, load
from zerotumor.text import TextEncoderError
from zerotumor.transforms import prepare
from zerotumor.vocabulary import LESIONS, ORGANS, lesions
from zerotumor.volumes import write_json

SEED = 5_500_000
THETAS = "0.1,0.15,0.2,0.25,0.3,0.35,0.4,0.45,0.5,0.55,0.6,0.65,0.7,0.75,0.8,0.85,0.9,0.95,0.97,0.98,0.99,0.995"
QUIET = 0.9
"""Share of healthy phantoms that must stay quiet: more than the half of a median, since more is found on real scans."""
EXTENT = (240.0, 240.0, 208.0)
"""mm of a phantom; on every method's grid the same."""
EQUAL = 0.01
"""Of Dice: smaller differences are noise on so few phantoms."""
ANYTHING = "abstract lesion"
INSIDE = 0.3
"""Least share of lesions in the organ that a prompt names."""
KINDS = tuple(kind.name for kind in lesions(seen=True))
"""Seen kinds, each asked for by its name; every fourth lesion is of no kind and anywhere, and asked for as a "tumor"."""
PLACES = {
    "pancreatic tumor": "abdomen",
    "soft tissue sarcoma": "limb",
    "lung tumor": "chest",
    "brain tumor": "head",
    "bone tumor": "pelvis",
    "spleen tumor": "abdomen",
    "mediastinal mass": "chest",
    "colon tumor": "abdomen",
    "bladder tumor": "pelvis",
    "gastric tumor": "abdomen",
    "breast tumor": "chest",
}
"""Unseen kinds, by whose names lesions of no kind in their hosts are asked for: where the map of organs is in doubt, a
prompt that names a place gets lower scores than "tumor" does, and theta must suit both."""
HEALTHY = {
    "abdomen": "liver tumor; kidney tumor; kidney cyst; pancreatic tumor; colon tumor",
    "limb": "tumor; soft tissue sarcoma",
    "head": "tumor; brain tumor",
    "pelvis": "tumor; bladder tumor; bone tumor",
    "chest": "tumor; lung tumor; breast tumor",
}
CONFIGS = {
    "malenia": "configs/inference.yaml",
    "zept": "configs/zept.yaml",
    "diffugts": "configs/diffugts.yaml",
    "closed_set": "configs/closed_set_train.yaml",
}
Choice = tuple[float, float]
"""theta and theta_peak; 0 is none of the latter."""
console = Console(width=140)


def encoded(model: Segmenter, seed: int, **arguments) -> tuple:
    """A phantom, prepared and encoded, with its truth on the same grid."""
    shape = [round(mm / model.spacing) for mm in EXTENT]
    phantom = generate(seed, shape=shape, spacing=model.spacing, **arguments)
    scan = MetaTensor(phantom.image, affine=np.diag([model.spacing] * 3 + [1.0]))
    image = prepare(scan, phantom.modality, model.spacing).as_tensor()
    return image, encode_volume(model, image), phantom


def answers(
    model: Segmenter,
    image: Tensor,
    features: VolumeFeatures | None,
    prompts: Sequence[Prompt],
    choices: Sequence[Choice],
) -> Iterator[tuple[Choice, Tensor]]:
    """Each choice, and the masks (P, X, Y, Z) that it makes; the method answers once, from the lowest theta.

    Masks are not drawn along edges here: that moves their outlines, and would take a cut for every choice.
    """
    model.theta, model.theta_peak, model.edge_weight = min(theta for theta, _ in choices), 0.0, 0.0
    counted = segment_volume(model, image, prompts, features=features)
    scores, lowest = torch.tensor(counted.scores), torch.logit(torch.tensor(model.theta))
    for theta, peak in choices:
        low, high = (torch.logit(torch.tensor([theta, max(theta, peak)])) - lowest).sigmoid().tolist()
        masks = peaked(counted.probabilities, low, high) if high > low else counted.probabilities >= low
        yield (theta, peak), masks & (scores >= theta)[:, None, None, None]


def lesion(k: int) -> tuple[dict[str, str], str]:
    """Arguments of the k-th phantom, and what is asked for: in turn a seen kind or anything, and something in a place."""
    turn = k // 2
    if k % 2:
        text, region = list(PLACES.items())[turn % len(PLACES)]
        organ, modalities = LESIONS[text].hosts[0], LESIONS[text].modalities
        asked = {"category": ANYTHING, "organ": organ, "region": region}
        return asked | {"modality": modalities[turn % len(modalities)]}, text
    category = (*KINDS, ANYTHING)[turn % 4]
    return {"category": category, "modality": ("CT", "MR")[turn // 4 % 2]}, category if category in KINDS else "tumor"


def share_in(phantom: Phantom, organ: str) -> float:
    """Share of a phantom's lesions that lies in an organ; who lacks the organ has them elsewhere."""
    return float((phantom.organs[phantom.lesions > 0] == ORGANS[organ].index).float().mean())


def measure(model: Segmenter, count: int, choices: Sequence[Choice]) -> dict[Choice, tuple[float, float]]:
    """Choice -> mean Dice where there is a lesion, share of healthy scans and prompts with under 5 ml."""
    dices: dict[Choice, list[float]] = {c: [] for c in choices}
    quiet: dict[Choice, list[bool]] = {c: [] for c in choices}
    for k in range(count):
        arguments, text = lesion(k)
        modality, organ = arguments["modality"], arguments.get("organ")
        image, features, phantom = encoded(model, SEED + k, **arguments)
        region = list(HEALTHY)[k % len(HEALTHY)]
        blank, blank_features, _ = encoded(
            model, SEED + 100_000 + k, category="healthy", region=region, modality=modality
        )
        if phantom.records and (organ is None or share_in(phantom, organ) >= INSIDE):
            for choice, masks in answers(model, image, features, parse(text, modality=modality), choices):
                dices[choice].append(dice(masks[0], phantom.lesions[0]))
        prompts = parse(HEALTHY[region], modality=modality)
        for choice, masks in answers(model, blank, blank_features, prompts, choices):
            quiet[choice] += [milliliters(mask, model.spacing**3 / 1000) < 5 for mask in masks]
    return {c: (float(np.nanmean(dices[c])), float(np.mean(quiet[c]))) for c in choices}


def chosen(measured: dict[Choice, tuple[float, float]], quiet: float) -> Choice:
    """Of the choices that are quiet enough the best, of equals the quietest; if none is, the highest theta."""
    enough = [c for c, (_, silent) in measured.items() if silent >= quiet]
    top = max((measured[c][0] for c in enough), default=0.0)
    equals = [c for c in enough if measured[c][0] > top - EQUAL]
    return max(equals, key=lambda c: (measured[c][1], c), default=(max(theta for theta, _ in measured), 0.0))


def table(measured: dict[Choice, tuple[float, float]], best: Choice) -> Table:
    """A line a theta; Dice and quiet without a peak, and with each."""
    peaks = sorted({peak for _, peak in measured})
    out = Table("theta", *(f"Dice, quiet; peak {peak}" if peak else "Dice, quiet" for peak in peaks))
    for theta in dict.fromkeys(theta for theta, _ in measured):
        cells = []
        for choice in ((theta, peak) for peak in peaks):
            mark = " *" if choice == best else ""
            cells.append("{:.3f}, {:.2f}".format(*measured[choice]) + mark if choice in measured else "")
        out.add_row(str(theta), *cells)
    return out


def main(
    weights: Annotated[Path, typer.Option(help="model.pt with its model.json beside it")] = ROOT
    / "bundle"
    / "models"
    / "model.pt",
    count: Annotated[int, typer.Option(help="phantoms with a lesion, and as many without")] = 40,
    quality: Annotated[str | None, typer.Option(help="of methods that have one")] = None,
    answer: Annotated[str | None, typer.Option(help="attention or fusion, of a method that looks twice")] = None,
    quiet: Annotated[float, typer.Option(help="share of healthy phantoms that must have under 5 ml")] = QUIET,
    thetas: Annotated[str, typer.Option(help="what to choose from, rising")] = THETAS,
    peaks: Annotated[str, typer.Option(help="theta_peak to choose from, too, separated by commas; empty: none")] = "",
) -> None:
    """Calibrate theta and write it to the record."""
    rising = [float(t) for t in thetas.split(",")]
    higher = [(t, peak) for peak in map(float, filter(None, peaks.split(","))) for t in rising if peak > t]
    path = weights.with_suffix(".json")
    record = json.loads(path.read_text()) if path.is_file() else {}
    try:
        model = load(record.get("method", "malenia"), weights)
        model = model.at(quality) if quality else model
        model = model.ablate(answer) if answer else model
    except (WeightsError, TextEncoderError, ValueError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    if answer in ("pixel", "feature"):
        console.print(f"[red]{answer} has Otsu's threshold and no theta: choose attention or fusion")
        raise typer.Exit(2)
    measured = measure(model, count, [(t, 0.0) for t in rising] + higher)
    best = chosen(measured, quiet)
    console.print(table(measured, best))
    record["config"]["theta"] = best[0]
    record["config"].pop("theta_peak", None)
    if best[1]:
        record["config"]["theta_peak"] = best[1]
    record["calibrated"] = {
        "phantoms": 2 * count,
        "first_seed": SEED,
        "dice": round(measured[best][0], 3),
        "healthy_under_5_ml": round(measured[best][1], 3),
        "at_least": quiet,
    }
    write_json(record, path, indent=2)
    said = f"theta {best[0]}" + (f" and theta_peak {best[1]}" if best[1] else "")
    console.print(f"{said} in {path}; set the same in network_config of {CONFIGS[record['method']]}")


if __name__ == "__main__":
    typer.run(main)
