"""Draw the same scans with two methods side by side: scan, truth, each method's mask, and ZePT's anomaly map.

python scripts/compare_methods.py --out bundle/docs/images/malenia_zept.png

One line a case: the axial slice with most of the truth. The cases were chosen before any result was seen; --cases takes
others, by their names in the records of scripts/evaluate.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import matplotlib
import numpy as np
import typer
from monai.transforms import Orientation
from rich.console import Console
from torch import Tensor

from zerotumor.cohorts import Case, phantom_cases, real_cases
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.metrics import dice
from zerotumor.pipeline import ScanResult, segment_scan
from zerotumor.report import COLORS, draw_heat, in_ras, window
from zerotumor.segmenter import METHODS, Segmenter, WeightsError, load
from zerotumor.text import TextEncoderError
from zerotumor.volumes import write_atomically

console = Console()
CASES = "phantom-9000000,phantom-9000016,phantom-9000044,4dlung_113,STS_001-MR,upenn_gbm"
"""Two seen kinds and an unseen one in phantoms; lung, soft tissue and brain in real scans."""


def find(names: Sequence[str]) -> list[Case]:
    """Cases by name, in that order.

    Raises:
        ValueError: there is no case of a name.
    """
    known = {case.name: case for case in (*phantom_cases(), *real_cases())}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"there is no case {missing[0]!r}: real scans need ZEROTUMOR_DATA; names are in the records")
    return [known[name] for name in names]


def draw_line(axes: Sequence, case: Case, models: dict[str, Segmenter]) -> None:
    """One case: scan, truth, a mask a method, and a map a method that has any."""
    scan, truths, _ = case.read()
    prompt = next(iter(case.prompts))
    results = {
        name: segment_scan(model, scan, prompt, modality=case.modality, keep_probabilities=True)
        for name, model in models.items()
    }
    truth, image = in_ras(truths[prompt], scan.affine), Orientation(axcodes="RAS", labels=None)(scan)
    gray = window(np.asarray(image[0]), case.modality)
    spacing = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    k = int(truth.sum((0, 1)).argmax()) if truth.any() else truth.shape[2] // 2
    aspect = spacing[1] / spacing[0]
    panels = [(f"{prompt}\n{case.name}", None, None), ("truth", truth, None)]
    for name, result in results.items():
        panels.append((f"{name}: {describe(result, truths[prompt])}", in_ras(result.masks[0], scan.affine), None))
    for name, result in results.items():
        maps = {what: in_ras(volume[0], scan.affine) for what, volume in result.extras.items()}
        panels += [(f"{name}: {what}", None, heat) for what, heat in maps.items()]
    for axis, (title, mask, heat) in zip(axes, panels, strict=False):
        axis.imshow(gray[..., k].T, cmap="gray", vmin=0, vmax=1, origin="lower", aspect=aspect)
        if heat is not None:
            draw_heat(axis, heat[..., k].T, heat, aspect)
        if mask is not None and mask[..., k].any():
            color = "#40ff40" if title == "truth" else COLORS[0]
            axis.contour(mask[..., k].T, [0.5], colors=color, linewidths=1.4)
        axis.set_title(title, color="white", fontsize=9)
        axis.set_box_aspect(gray.shape[1] * spacing[1] / (gray.shape[0] * spacing[0]))
        axis.invert_xaxis()  # the patient's right on the left of the page


def describe(result: ScanResult, truth: Tensor) -> str:
    """Dice of a mask, or that nothing was found."""
    return f"Dice {dice(result.masks[0], truth):.2f}" if result.masks[0].any() else "nothing found"


def draw(cases: Sequence[Case], models: dict[str, Segmenter], path: Path) -> None:
    """All lines on one page."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 2 + len(models) + sum(len(m.maps) for m in models.values())
    size = (2.9 * columns, 3.1 * len(cases))
    figure, axes = plt.subplots(len(cases), columns, figsize=size, facecolor="black", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, case in zip(axes, cases, strict=True):
        draw_line(line, case, models)
        console.print(f"{case.name} drawn")
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=80, facecolor="black", format="png"))
    plt.close(figure)


def main(
    out: Annotated[Path, typer.Option(help="PNG file")],
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}; separated by commas")] = "malenia,zept",
    cases: Annotated[str, typer.Option(help="names of cases, separated by commas")] = CASES,
    weights: Annotated[Path | None, typer.Option(help="folder with weights of your own")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
) -> None:
    """Draw methods side by side."""
    try:
        models = {name: load(name, weights, device=device) for name in method.split(",")}
        chosen = find([name.strip() for name in cases.split(",") if name.strip()])
    except (ValueError, WeightsError, TextEncoderError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    draw(chosen, models, out)
    console.print(f"{len(chosen)} cases in {out}")


if __name__ == "__main__":
    typer.run(main)
