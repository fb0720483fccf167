"""Choose theta, the probability from which a voxel is painted, on validation phantoms of seen kinds and healthy ones.

python scripts/calibrate.py --weights RUN/model.pt --peaks 0.5,0.6,0.7

With --peaks also theta_peak, the probability that each connected part of a mask must reach somewhere.

Only seeds of training's validation range are used, and no lesion of an unseen kind: what lies in their hosts is of no kind.
Of the thetas that leave nine tenths of the healthy scans under 5 ml of false positives, the one with the best Dice (lesions
asked for by name) is written to the record of the weights; of equals, the quietest. If no theta is quiet enough, the
quietest of all is. Real scans had one say: that far more is found on healthy ones than on healthy phantoms made the share
nine tenths and not a half. Weights that were trained on lesions drawn in real anatomy find as little on healthy scans of
another patient as on phantoms: --quiet 0.75.

python scripts/calibrate.py --weights bundle/models/zept/model.pt --after bundle/models/model.pt \\
    --quiet 0.97 --peaks 0.8,0.9,0.95,0.98,0.99,0.995,0.999,0.9995,0.9998

With --after, of a method that is asked where another finds nothing (`zerotumor.in_turn`), on those of the phantoms alone
where that is so: theta stays, the peak is chosen by the same rule, and is written beside what is there. Nearly all of the
healthy have to stay quiet then, since what is asked last adds to what the first has found wrongly.

python scripts/calibrate.py --weights bundle/models/zept/model.pt --beside bundle/models/model.pt \\
    --quiet 0.75 --peaks 0.55,0.6,0.65

With --beside, and before --after, of a method that has some say in another's finds (`zerotumor.placed`): that one's theta
stays, and the peak is chosen that their masks have to reach.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
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

from zerotumor.blending import resized
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.in_turn import JOINT, SECOND, InTurn, joint_peak
from zerotumor.inferer import encode_volume, peaked, segment_volume
from zerotumor.metrics import dice, milliliters
from zerotumor.phantom import Phantom, generate
from zerotumor.placed import Placed, Seen
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


def prepared(spacing: float, seed: int, **arguments) -> tuple[Tensor, Phantom]:
    """A phantom's image, prepared on a grid of so many mm, and its truth on the same grid."""
    phantom = generate(seed, shape=[round(mm / spacing) for mm in EXTENT], spacing=spacing, **arguments)
    scan = MetaTensor(phantom.image, affine=np.diag([spacing] * 3 + [1.0]))
    return prepare(scan, phantom.modality, spacing).as_tensor(), phantom


def answers(
    model: Segmenter, image: Tensor, prompts: Sequence[Prompt], choices: Sequence[Choice]
) -> Iterator[tuple[Choice, Tensor]]:
    """Each choice, and the masks (P, X, Y, Z) that it makes; the method answers once, from the lowest theta.

    Masks are not drawn along edges here: that moves their outlines, and would take a cut for every choice.
    """
    model.theta, model.theta_peak, model.edge_weight = min(theta for theta, _ in choices), 0.0, 0.0
    counted = segment_volume(model, image, prompts, features=encode_volume(model, image))
    scores, lowest = torch.tensor(counted.scores), torch.logit(torch.tensor(model.theta))
    for theta, peak in choices:
        low, high = (torch.logit(torch.tensor([theta, max(theta, peak)])) - lowest).sigmoid().tolist()
        masks = peaked(counted.probabilities, low, high) if high > low else counted.probabilities >= low
        yield (theta, peak), masks & (scores >= theta)[:, None, None, None]


def left_over(
    both: InTurn, image: Tensor, prompts: Sequence[Prompt], choices: Sequence[Choice]
) -> Iterator[tuple[Choice, Tensor]]:
    """Each choice, and the second method's masks (P, X, Y, Z) for those prompts for which the first finds nothing, on the
    grid of its image (2, X, Y, Z); the second answers once, from the lowest peak.
    """
    features = encode_volume(both, image)
    beside = Placed(both.base, both.second)
    beside.theta_peak = both.theta_peak
    found = segment_volume(beside, image, prompts, features=features).found
    missed = [prompt for prompt, one in zip(prompts, found, strict=True) if not one]
    if missed:
        said = both.ask_second(image, missed, Seen(both.second, image, both.spacing, features), features)
        scores, counted = torch.tensor(said.scores), torch.logit(torch.tensor(both.second.theta))
        for theta, peak in choices:
            masks = peaked(
                said.probabilities, 0.5, float((torch.logit(torch.tensor(max(theta, peak))) - counted).sigmoid())
            )
            masks &= (scores >= theta)[:, None, None, None]
            yield (theta, peak), resized(masks.float(), image.shape[1:]) >= 0.5


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
    """Choice -> mean Dice where there is a lesion, share of healthy scans and prompts with under 5 ml; of two methods that
    are asked in turn, what the second says where the first finds nothing.
    """
    dices: dict[Choice, list[float]] = {c: [] for c in choices}
    quiet: dict[Choice, list[bool]] = {c: [] for c in choices}
    asked = partial(left_over if isinstance(model, InTurn) else answers, model)
    spacing = model.spacing
    for k in range(count):
        arguments, text = lesion(k)
        modality, organ = arguments["modality"], arguments.get("organ")
        image, phantom = prepared(spacing, SEED + k, **arguments)
        region = list(HEALTHY)[k % len(HEALTHY)]
        blank, _ = prepared(spacing, SEED + 100_000 + k, category="healthy", region=region, modality=modality)
        if phantom.records and (organ is None or share_in(phantom, organ) >= INSIDE):
            for choice, masks in asked(image, parse(text, modality=modality), choices):
                dices[choice].append(dice(masks[0], phantom.lesions[0]))
        for choice, masks in asked(blank, parse(HEALTHY[region], modality=modality), choices):
            quiet[choice] += [milliliters(mask, spacing**3 / 1000) < 5 for mask in masks]
    return {c: (mean_of(dices[c]), mean_of(quiet[c])) for c in choices}


def mean_of(values: Sequence[float]) -> float:
    """nan of nothing: so few phantoms that there was nothing to ask."""
    return float(np.nanmean(values)) if values else float("nan")


def chosen(measured: dict[Choice, tuple[float, float]], quiet: float) -> Choice:
    """Of the choices that are quiet enough the best, of equals the quietest; if none is, the highest theta."""
    enough = [c for c, (_, silent) in measured.items() if silent >= quiet]
    top = max((measured[c][0] for c in enough), default=0.0)
    equals = [c for c in enough if measured[c][0] > top - EQUAL]
    return max(equals, key=lambda c: (measured[c][1], c), default=max(measured))


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
    after: Annotated[Path | None, typer.Option(help="weights of the method in whose silence it is asked")] = None,
    beside: Annotated[Path | None, typer.Option(help="weights of the method in whose finds it has a say")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
) -> None:
    """Calibrate theta and write it to the record."""
    path, other = weights.with_suffix(".json"), after or beside
    if after is not None and beside is not None:
        console.print("[red]--after and --beside are two measurements: take one, first --beside")
        raise typer.Exit(2)
    try:
        model = load(method_of(weights), weights, device=device)
        model = model.at(quality) if quality else model
        model = model.ablate(answer) if answer else model
        first = None if other is None else load(method_of(other), other, device=device)
    except (WeightsError, TextEncoderError, ValueError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    if answer in ("pixel", "feature"):
        console.print(f"[red]{answer} has Otsu's threshold and no theta: choose attention or fusion")
        raise typer.Exit(2)
    choices = choices_of(thetas if first is None else str((model if beside is None else first).theta), peaks)
    if beside is not None:
        model = Placed(first, model)
    elif first is not None:
        model = in_turn((method_of(after), first), (method_of(weights), model), choices)
    measured = measure(model, count, choices)
    best, record = chosen(measured, quiet), json.loads(path.read_text())
    console.print(table(measured, best))
    about = {
        "phantoms": 2 * count,
        "first_seed": SEED,
        "dice": None if np.isnan(measured[best][0]) else round(measured[best][0], 3),
        "healthy_under_5_ml": None if np.isnan(measured[best][1]) else round(measured[best][1], 3),
        "at_least": quiet,
    }
    if first is None:
        said = keep(record, best, about)
    else:
        record.pop(SECOND, None)  # measured with another peak
        record[SECOND if beside is None else JOINT] = {
            "after": first.weights_sha256, "theta_peak": max(best), **about,
        }  # fmt: skip
        said = f"a peak of {max(best)} {'after' if beside is None else 'beside'} {other},"
    write_json(record, path, indent=2)
    console.print(f"{said} in {path}")


def in_turn(first: tuple[str, Segmenter], second: tuple[str, Segmenter], choices: Sequence[Choice]) -> InTurn:
    """Two methods, each by name, of which the second speaks from the lowest peak that it can be given."""
    least = min(peak or theta for theta, peak in choices)  # what none of the peaks reaches counts for no choice
    return InTurn(first, second, least, joint_peak(second[1].records[0], {"sha256": first[1].weights_sha256}))


def method_of(weights: Path) -> str:
    """The method that weights are of, as their record says; without one the first, so that `load` says what is missing."""
    record = weights.with_suffix(".json")
    return json.loads(record.read_text()).get("method", "malenia") if record.is_file() else "malenia"


def choices_of(thetas: str, peaks: str) -> list[Choice]:
    """Every theta alone and with each of the peaks above it; numbers with commas between them."""
    rising = [float(t) for t in thetas.split(",")]
    higher = [(t, peak) for peak in map(float, filter(None, peaks.split(","))) for t in rising if peak > t]
    return [(t, 0.0) for t in rising] + higher


def keep(record: dict, best: Choice, about: dict) -> str:
    """Put a choice and what it was measured on into a record; what to say of it."""
    record["config"]["theta"] = best[0]
    record["config"].pop("theta_peak", None)
    if best[1]:
        record["config"]["theta_peak"] = best[1]
    record["calibrated"] = about
    for key in (SECOND, JOINT):  # measured with other thresholds
        record.pop(key, None)
    said = f"theta {best[0]}" + (f" and theta_peak {best[1]}" if best[1] else "")
    return f"{said}, to be set in network_config of {CONFIGS[record['method']]}, too,"


if __name__ == "__main__":
    typer.run(main)
