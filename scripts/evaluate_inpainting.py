"""How well the diffusion prior draws what would be there without a lesion: phantoms, whose healthy twin is known.

python scripts/evaluate_inpainting.py --out out/inpainting.json --quality fast,standard,best
python scripts/evaluate_inpainting.py --prior bundle/models/diffugts/diffusion.pt --out out/inpainting.json   # a prior alone

The hole is the lesion, grown as DiffuGTS grows what it finds. Fills are compared inside it: the diffusion prior, the
autoencoder alone (which draws the lesion again), the organ's mean, and the smoothest continuation of the surroundings. The
prior begins with that, or with noise, see `diffugts.options`.
Errors are in HU for CT, and in per cent of the scan's brightest for MR; the twin has noise, which nobody can predict.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "bundle"), str(Path(__file__).resolve().parent)]

import torch
import typer
from matplotlib.figure import Figure
from model_card import replace_between
from result_tables import row
from rich.console import Console
from rich.progress import track
from rich.table import Table

from zerotumor.cohorts import SEEN, TEST_SEED, UNSEEN
from zerotumor.devices import AUTO, DEVICE_HELP, device_of
from zerotumor.diffugts import DiffuGTS
from zerotumor.diffugts.fills import neighbors, organ_mean, score_fill
from zerotumor.diffugts.holes import dilate
from zerotumor.diffugts.inpainting import QUALITIES
from zerotumor.diffugts.options import CHOICES
from zerotumor.metrics import bootstrap
from zerotumor.phantom import generate
from zerotumor.segmenter import WeightsError, load, read_record
from zerotumor.transforms import WIDE_HU, normalize
from zerotumor.vocabulary import LESIONS
from zerotumor.volumes import write_atomically, write_json

SEED = TEST_SEED + 500_000
SCALE = {"CT": WIDE_HU[1] - WIDE_HU[0], "MR": 100.0}
UNIT = {"CT": "HU", "MR": "%"}
WINDOW = {"CT": (0.6, 0.9), "MR": (0.0, 1.0)}
"""What is black and white in pictures, on the scale of 0..1; of CT -160 and 260 HU."""
ROWS = 7
MARKS = ("<!-- inpainting:begin -->", "<!-- inpainting:end -->")
console = Console(width=120)


def around(prior: Path, device: str) -> DiffuGTS:
    """A DiffuGTS that can draw and nothing else: its own weights are fresh.

    Raises:
        WeightsError: the prior's file is missing or altered.
    """
    model = DiffuGTS(prior=read_record(prior, "diffusion")["config"]).load_prior(prior)
    return model.to(device_of(device)).eval()


def case(model: DiffuGTS, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict] | None:
    """Image (2, X, Y, Z), twin, organs and hole (X, Y, Z) of the k-th phantom, and what it is; None if nothing was drawn."""
    kinds = [(name, split) for split, listed in (("seen", SEEN), ("unseen", UNSEEN)) for name, _ in listed]
    category, split = kinds[k % len(kinds)]
    modalities = LESIONS[category].modalities
    modality = modalities[k // len(kinds) % len(modalities)]
    phantom = generate(
        SEED + k, category=category, modality=modality, shape=(model.patch,) * 3, spacing=model.spacing, difficulty=0.75
    )
    if not phantom.records:
        return None
    twin = normalize(phantom.healthy, modality, like=phantom.image)[0]
    hole = dilate(phantom.lesions[None] > 0, model.steps)[0, 0]
    about = {"case": f"phantom-{SEED + k}", "category": category, "split": split, "modality": modality}
    return normalize(phantom.image, modality), twin, phantom.organs[0].long(), hole, about


def fills_of(model: DiffuGTS, drawn: tuple, qualities: list[str], begins: list[str]) -> dict[str, torch.Tensor]:
    """Each fill of a `case`, (X, Y, Z)."""
    image, _, organs, hole, _ = drawn
    scan = image[0]
    fills = {"organ mean": organ_mean(scan, organs, hole), "neighbors": neighbors(scan, hole)}
    padded, where = model.pad(image[None]), model.pad(hole[None, None].float()) > 0
    size = tuple(slice(0, n) for n in hole.shape)
    for begin, quality in product(begins, qualities):
        model.options = replace(model.options, begin=begin)
        healed = model.heal(padded, where, quality=quality)
        fills["autoencoder"] = torch.where(hole, healed.reconstruction[0, 0][size].cpu(), scan)
        fills[f"diffusion from {begin}, {quality}"] = torch.where(hole, healed.healthy[0, 0][size].cpu(), scan)
    return {**fills, "lesion left": scan}


def records_of(model: DiffuGTS, drawn: tuple, fills: dict[str, torch.Tensor]) -> list[dict]:
    """One record a fill."""
    _, twin, _, hole, about = drawn
    scale, out = SCALE[about["modality"]], []
    for name, filled in fills.items():
        figures = score_fill(filled, twin, hole)
        out.append(
            about | {"fill": name, "mae": figures["mae"] * scale, "rmse": figures["rmse"] * scale,
                     "ssim": figures["ssim"], "hole_ml": float(hole.sum()) * model.spacing**3 / 1000}
        )  # fmt: skip
    return out


def picture(rows: list[tuple[tuple, dict[str, torch.Tensor]]], path: Path) -> None:
    """A row a phantom: the slice with most of the hole, of the scan, of every fill and of the healthy twin."""
    names = [n for n in rows[0][1] if n not in ("autoencoder", "lesion left")]
    figure = Figure(figsize=(1.6 * (len(names) + 2), 1.75 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(names) + 2, squeeze=False)
    for line, (drawn, fills) in zip(axes, rows, strict=True):
        image, twin, _, hole, about = drawn
        z = int(hole.sum((0, 1)).argmax())
        shown = {
            f"{about['category']}, {about['modality']}": image[0],
            **{n: fills[n] for n in names},
            "healthy twin": twin,
        }
        low, high = WINDOW[about["modality"]]
        for axis, (title, volume) in zip(line, shown.items(), strict=True):
            axis.imshow(volume[..., z].T, cmap="gray", vmin=low, vmax=high, origin="lower")
            axis.contour(hole[..., z].T.float(), [0.5], colors="orange", linewidths=0.6)
            axis.set_title(title, fontsize=6)
            axis.axis("off")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def table(records: list[dict], modality: str) -> Table:
    """Means with 95 % bootstrap intervals over phantoms, for the console."""
    out = Table(*heading(modality), title=modality)
    for cells in lines(records, modality):
        out.add_row(*cells)
    return out


def heading(modality: str) -> list[str]:
    """Names of columns."""
    return ["fill", "n", f"MAE, {UNIT[modality]}", f"RMSE, {UNIT[modality]}", "SSIM"]


def lines(records: list[dict], modality: str) -> list[list[str]]:
    """Cells of a table, a line a fill."""
    out = []
    own = [r for r in records if r["modality"] == modality]
    for fill in dict.fromkeys(r["fill"] for r in own):
        rows = [r for r in own if r["fill"] == fill]
        cells = []
        for figure, digits in (("mae", 1), ("rmse", 1), ("ssim", 3)):
            mean, low, high = bootstrap([r[figure] for r in rows])
            cells.append(f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        out.append([fill, str(len(rows)), *cells])
    return out


def markdown(records: list[dict], prior: str) -> list[str]:
    """The same for a page."""
    out = [f"Written by `scripts/evaluate_inpainting.py`; prior sha256 `{prior}`.", ""]
    for modality in dict.fromkeys(r["modality"] for r in records):
        titles = heading(modality)
        rows = [titles, ["---"] * len(titles), *lines(records, modality)]
        out += [f"**{modality}**", "", *(row(cells) for cells in rows), ""]
    return out


def main(
    out: Annotated[Path, typer.Option(help="JSON file for the records")],
    weights: Annotated[Path | None, typer.Option(help="DiffuGTS weights; default: the starter weights")] = None,
    prior: Annotated[Path | None, typer.Option(help="a prior's weights alone, in place of DiffuGTS's")] = None,
    begin: Annotated[str, typer.Option(help=f"of {', '.join(CHOICES['begin'])}; several by commas")] = "neighbors",
    quality: Annotated[str, typer.Option(help=f"of {', '.join(QUALITIES)}; several by commas")] = "standard",
    count: Annotated[int, typer.Option(help="phantoms, in turns of every category and modality")] = 34,
    page: Annotated[Path | None, typer.Option(help="page whose block on this is replaced")] = None,
    picture_file: Annotated[Path | None, typer.Option("--picture", help=f"PNG of the first {ROWS} phantoms")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
) -> None:
    """Measure the inpainting."""
    qualities, begins = quality.split(","), begin.split(",")
    try:
        for what, given, known in (("quality", qualities, QUALITIES), ("beginning", begins, CHOICES["begin"])):
            if unknown := [one for one in given if one not in known]:
                raise ValueError(f"there is no {what} {unknown[0]!r}: choose from {', '.join(known)}")
        model = load("diffugts", weights, device=device) if prior is None else around(prior, device)
    except (ValueError, WeightsError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    records, shown = [], []
    for k in track(range(count), console=console, description="phantoms"):
        if (drawn := case(model, k)) is None:
            continue
        fills = fills_of(model, drawn, qualities, begins)
        records += records_of(model, drawn, fills)
        if len(shown) < ROWS:
            shown.append((drawn, fills))
    saved = {"prior_sha256": model.prior_sha256, "records": records}
    write_json(saved, out)
    for modality in dict.fromkeys(r["modality"] for r in records):
        console.print(table(records, modality))
    if page is not None:
        text = replace_between(page.read_text(), *MARKS, markdown(records, model.prior_sha256))
        write_atomically(page, lambda temporary: temporary.write_text(text))
    if picture_file is not None:
        picture(shown, picture_file)
    console.print(f"{len(records)} records in {out}")


if __name__ == "__main__":
    typer.run(main)
