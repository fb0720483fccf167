"""A montage: phantoms; lesions drawn in real anatomy, and real scans, where these are; three planes each, lesions outlined.

python scripts/render_phantoms.py --out montage.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import typer
from monai.transforms import Orientation, Spacing

from zerotumor.cohorts import real_cases
from zerotumor.healthy import healthy_files, read_healthy
from zerotumor.phantom import Phantom, generate
from zerotumor.report import focus, window

PHANTOMS = [
    ("limb", "CT", "soft tissue sarcoma"), ("limb", "MR", "soft tissue sarcoma"), ("abdomen", "CT", "liver tumor"),
    ("abdomen", "MR", "kidney tumor"), ("chest", "CT", "lung tumor"), ("head", "MR", "brain tumor"),
    ("pelvis", "CT", "healthy"), ("pelvis", "MR", "healthy"), ("abstract", "CT", "abstract lesion"),
    ("abstract", "MR", "abstract lesion"),
]  # fmt: skip
DRAWN = [(modality, category) for category in ("abstract lesion", "liver tumor", "abstract lesion", "kidney cyst",
         "healthy") for modality in ("CT", "MR")]  # fmt: skip
GRID = {"shape": (72, 72, 64), "spacing": 3.0}
REAL = ["STS_001-CT", "STS_001-MR", "STS_041-CT", "STS_041-MR", "4dlung_113", "brain1", "example_ct_sm", "example_mr_sm",
        "upenn_gbm", "breast1"]  # fmt: skip


def real_scans() -> list[tuple]:
    """(title, image, mask, modality) of real scans, in RAS at 3 mm; empty if there are none here."""
    found = []
    for case in real_cases():
        if case.name in REAL:
            scan, truths, _ = case.read()
            mask = scan.clone()
            mask[0] = next(iter(truths.values())).float()
            resample = [Orientation(axcodes="RAS", labels=None), Spacing(pixdim=(3.0,) * 3)]
            image, mask = (resample[1](resample[0](v)) for v in (scan, mask))
            found.append((case.name, np.asarray(image[0]), np.asarray(mask[0]) > 0.5, case.modality))
    return found


def draw(axes: list, title: str, image: np.ndarray, mask: np.ndarray, modality: str) -> None:
    """One column: three planes through the lesion, or the middle."""
    gray, center = window(image, modality), focus([mask.astype(float)], image.shape)
    for axis, k in zip(axes, (2, 1, 0), strict=True):
        axis.imshow(np.take(gray, center[k], k).T, cmap="gray", vmin=0, vmax=1, origin="lower")
        plane = np.take(mask, center[k], k).T
        if plane.any():
            axis.contour(plane, [0.5], colors="#ff4040", linewidths=0.8)
        axis.invert_xaxis()
        axis.axis("off")
    axes[0].set_title(title, fontsize=8)


def column(phantom: Phantom) -> tuple:
    """(title, image, mask, modality) of a phantom."""
    title = f"{phantom.records[0].category if phantom.records else 'healthy'} {phantom.contrast}"
    return title, phantom.image[0].numpy(), phantom.lesions[0].numpy() > 0, phantom.modality


def drawn_scans(seed: int) -> list[tuple]:
    """The same of lesions drawn in the healthy scans and atlases that are here."""
    bodies = [read_healthy(f["image"], f["label"]) for f in healthy_files()]
    return [
        column(
            generate(
                seed + k, scan=bodies[k % len(bodies)], modality=modality, category=category, difficulty=0.6, **GRID
            )
        )
        for k, (modality, category) in enumerate(DRAWN if bodies else ())
    ]


def main(
    out: Annotated[Path, typer.Option(help="PNG file")],
    seed: Annotated[int, typer.Option(help="of the first phantom")] = 9_300_000,
) -> None:
    """Render phantoms beside real scans."""
    phantoms = [
        column(generate(seed + k, region=region, modality=modality, category=category, difficulty=0.3, **GRID))
        for k, (region, modality, category) in enumerate(PHANTOMS)
    ]
    blocks = {"phantoms": phantoms, "lesions drawn in real anatomy": drawn_scans(seed), "real scans": real_scans()}
    blocks = {name: columns for name, columns in blocks.items() if columns}
    figure, axes = plt.subplots(
        3 * len(blocks), len(PHANTOMS), figsize=(2 * len(PHANTOMS), 6 * len(blocks)), facecolor="white"
    )
    for axis in axes.flat:
        axis.axis("off")
    for b, columns in enumerate(blocks.values()):
        for k, one in enumerate(columns):
            draw(list(axes[3 * b : 3 * b + 3, k]), *one)
    figure.suptitle("from above: " + "; ".join(blocks), fontsize=10, y=0.998)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=56)


if __name__ == "__main__":
    typer.run(main)
