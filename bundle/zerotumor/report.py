"""What is said of a mask: numbers, a table for the terminal, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from monai.data import MetaTensor
from monai.transforms import Orientation
from rich.markup import escape
from rich.table import Table
from scipy.ndimage import label as connected_components
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from torch import Tensor

from .prompts import Prompt
from .stages import draw as draw_stages
from .stages import has_stages

MAX_COMPONENTS = 20
VIEWS = (("axial", 2), ("coronal", 1), ("sagittal", 0))
"""Name, and the axis that a slice of it lies across."""
COLORS = ("#ff4040", "#40c8ff", "#ffd040", "#60e060", "#ff60e0", "#ffffff")


def describe_prompt(prompt: Prompt, mask: Tensor, affine: Tensor, score: float, attributes: dict | None = None) -> dict:
    """Report of one prompt.

    Args:
        mask: (X, Y, Z), non-zero inside. affine: voxel to RAS mm. score: 0..1. attributes: what the method says.

    Returns:
        JSON-able: prompt, concept, nearest and similarity (text outside the vocabulary), found, score, volume_ml of the
        whole mask, largest_diameter_mm and centroid_mm (RAS) of the component of the largest volume, components (the
        MAX_COMPONENTS largest), component_count (of all), attributes.
    """
    mask, affine = np.asarray(mask.cpu()) > 0, np.asarray(affine, dtype=float)
    components, count = component_table(mask, affine)
    entry = {
        "prompt": prompt.text,
        "concept": prompt.name,
        "organs": list(prompt.organs),
        "found": bool(components),
        "score": round(float(score), 4),
        "volume_ml": round(float(mask.sum()) * voxel_ml(affine), 3),
        "largest_diameter_mm": components[0]["largest_diameter_mm"] if components else None,
        "centroid_mm": components[0]["centroid_mm"] if components else None,
        "components": components,
        "component_count": count,
    }
    if prompt.nearest is not None:
        entry |= {"nearest_concept": prompt.nearest, "similarity": prompt.similarity}
    if attributes and components:
        entry |= attributes
    return entry


def voxel_ml(affine: np.ndarray) -> float:
    """Volume in ml of a voxel, by its affine to mm (4, 4)."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000


def component_table(mask: np.ndarray, affine: np.ndarray) -> tuple[list[dict], int]:
    """The MAX_COMPONENTS largest connected components (26 neighbors) of a mask, and how many there are in all.

    Largest volume first: volume in ml, largest diameter in mm, centroid in mm (RAS).
    """
    labels, count = connected_components(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    rows = []
    for k in np.argsort(-sizes, kind="stable")[:MAX_COMPONENTS]:
        where = np.argwhere(labels == k + 1)
        mm = where @ affine[:3, :3].T + affine[:3, 3]
        rows.append(
            {
                "volume_ml": round(len(where) * voxel_ml(affine), 3),
                "largest_diameter_mm": round(feret_diameter(mm), 1),
                "centroid_mm": [round(float(x), 1) for x in mm.mean(0)],
            }
        )
    return rows, count


def feret_diameter(points: np.ndarray) -> float:
    """Largest distance between any two of n points (n, 3), in their unit; on the convex hull, where it must lie."""
    if len(points) < 2:
        return 0.0
    if len(points) > 50:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # all points in one plane: their extremes along many directions are enough
            directions = np.random.default_rng(0).normal(size=(200, 3))
            points = points[np.unique(np.argmax(points @ directions.T, axis=0))]
    return float(pdist(points).max())


def table(reports: Sequence[dict]) -> Table:
    """Terminal table of one or several scans' reports."""
    many = len(reports) > 1
    out = Table(title=None)
    for name in (["scan"] if many else []) + ["prompt", "found", "score", "ml", "mm across", "centroid mm"]:
        out.add_column(name, overflow="fold")
    for report in reports:
        for e in report["prompts"]:
            hint = (
                f"\n(nearest concept: {e['nearest_concept']}, {e['similarity']:.2f})" if "nearest_concept" in e else ""
            )
            if "overlaps_with" in e:
                hint += f"\n(overlaps with {', '.join(e['overlaps_with'])})"
            row = [
                escape(e["prompt"] + hint),
                "yes" if e["found"] else "no",
                f"{e['score']:.2f}",
                f"{e['volume_ml']:.1f}" if e["found"] else "-",
                f"{e['largest_diameter_mm']:.0f}" if e["found"] else "-",
                " ".join(f"{x:.0f}" for x in e["centroid_mm"]) if e["found"] else "-",
            ]
            out.add_row(*([escape(Path(report["scan"]).name)] if many else []), *row)
    return out


def window(image: np.ndarray, modality: str) -> np.ndarray:
    """Gray values 0..1: soft tissue for CT (lung, where the scan is mostly air), percentiles for MR."""
    if modality == "CT":
        lung = np.median(image[image > -950]) < -300 if (image > -950).any() else False
        low, high = (-1000, 400) if lung else (-160, 240)
    else:
        inside = image[image > 0]
        low, high = (0.0, float(np.percentile(inside, 99.5))) if inside.size else (0.0, 1.0)
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def in_ras(volume: Tensor, affine: Tensor) -> np.ndarray:
    """A volume (X, Y, Z) that lies as `affine` says, turned to RAS."""
    turned = Orientation(axcodes="RAS", labels=None)(MetaTensor(volume[None].float(), affine=affine))
    return np.asarray(turned[0])


def overlay(
    scan: MetaTensor, masks: Tensor, report: dict, path: str | Path, truth: Tensor | None = None,
    maps: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """PNG with axial, coronal and sagittal slices through the largest lesion found (or the middle of the scan).

    Radiological convention: the patient's right is on the left. Outlines: one color a prompt; truth, if given, dashed. Each
    of the method's own `maps` (1, X, Y, Z) has a row of its own, where colors lie over the scan; those of a method that
    makes a pseudo-healthy volume share one: see `stages`.
    """
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    image = Orientation(axcodes="RAS", labels=None)(scan)
    values, spacing = np.asarray(image[0]), np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    drawn = [in_ras(mask, scan.affine) for mask in masks]
    true = in_ras(truth, scan.affine) if truth is not None else None
    turned = {name: in_ras(volume[0], scan.affine) for name, volume in (maps or {}).items()}
    gray = window(values, report["modality"])
    center = focus(drawn if any(d.any() for d in drawn) else ([true] if true is not None else []), gray.shape)
    heats = {} if has_stages(maps) else turned
    figure, axes, below = lay_out(1 + len(heats), stages=has_stages(maps))
    if below is not None:
        shown = window(np.stack([values, turned["pseudo_healthy"]]), report["modality"])
        draw_stages(below, *shown, turned, drawn, spacing, COLORS)
    for axis, (row, (name, k)) in zip(axes.flat, product((None, *heats), VIEWS), strict=True):
        draw_plane(axis, k, center[k], gray, spacing, drawn, true, heats.get(row))
        axis.set_title(name if row is None else f"{row}, {name}", color="white", fontsize=10)
    figure.suptitle(caption(report), color="white", fontsize=10, parse_math=False)  # a prompt may hold dollars
    if below is None:
        figure.tight_layout()
    figure.savefig(path, dpi=90, facecolor="black", format="png")
    plt.close(figure)


def lay_out(rows: int, stages: bool) -> tuple[Figure, np.ndarray, SubFigure | None]:
    """A black figure, its axes (rows, 3), and the part below them for `stages.draw`, if there is to be one."""
    import matplotlib.pyplot as plt

    if not stages:
        figure, axes = plt.subplots(rows, 3, figsize=(13, 5.2 * rows), facecolor="black", squeeze=False)
        return figure, axes, None
    figure = plt.figure(figsize=(13, 8.6), facecolor="black", layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(5.2, 3.4), facecolor="black")
    return figure, upper.subplots(rows, 3, squeeze=False), lower


def draw_plane(
    axis: Axes, k: int, at: int, gray: np.ndarray, spacing: np.ndarray, masks: Sequence[np.ndarray],
    truth: np.ndarray | None = None, heat: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Slice `at` of RAS volumes (X, Y, Z) across their axis k.

    Args:
        gray: values 0..1. spacing: mm. masks: outlined, one a prompt. truth: outlined, dashed. heat: a map, over the gray.
    """
    columns, rows = (other for other in range(3) if other != k)
    aspect = spacing[rows] / spacing[columns]

    def plane(volume: np.ndarray) -> np.ndarray:
        return np.take(volume, at, axis=k).T  # first axis up, second to the right of the page

    axis.imshow(plane(gray), cmap="gray", vmin=0, vmax=1, origin="lower", aspect=aspect)
    if heat is not None:
        draw_heat(axis, plane(heat), heat, aspect)
    for p, mask in enumerate(masks):
        if plane(mask).any():
            axis.contour(plane(mask), [0.5], colors=COLORS[p % len(COLORS)], linewidths=1.4)
    if truth is not None and plane(truth).any():
        axis.contour(plane(truth), [0.5], colors="#40ff40", linewidths=1.0, linestyles="dashed")
    axis.invert_xaxis()  # the patient's right on the left of the page; for the sagittal view, the front
    axis.axis("off")


def draw_heat(axis: Axes, heat: np.ndarray, volume: np.ndarray, aspect: float) -> None:
    """A slice of a map over what is drawn already, from clear to bright by the range of the whole volume."""
    low, high = float(volume.min()), float(volume.max())
    scaled = np.clip((heat - low) / max(high - low, 1e-6), 0, 1)
    axis.imshow(scaled, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * scaled, origin="lower", aspect=aspect)


def focus(masks: Sequence[np.ndarray], shape: Sequence[int]) -> list[int]:
    """Voxel that slices go through: the centroid of the largest component of any mask, else the middle."""
    best, size = [n // 2 for n in shape], 0
    for mask in masks:
        labels, count = connected_components(mask > 0.5)
        if count:
            sizes = np.bincount(labels.ravel())[1:]
            if sizes.max() > size:
                size = int(sizes.max())
                best = [int(round(x)) for x in np.argwhere(labels == sizes.argmax() + 1).mean(0)]
    return best


def caption(report: dict) -> str:
    """One line a prompt: what was asked and what was found."""
    lines = []
    for e in report["prompts"][:4]:
        if e["found"]:
            by = f", found by {e['found_by']}" if "found_by" in e else ""
            lines.append(
                f"{e['prompt']}: {e['volume_ml']:.1f} ml, {e['largest_diameter_mm']:.0f} mm, score {e['score']:.2f}{by}"
            )
        else:
            lines.append(f"{e['prompt']}: nothing found (score {e['score']:.2f})")
        if "doubts" in e:
            lines.append(f"uncertainty {e['uncertainty']:.2f}: {e['doubts']['reason']}")
    for name, m in report.get("maps", {}).items():
        lines.append(f"{name}: at most {m['peak']:.2f}, {m['above_ml']:.1f} ml above {m['threshold']}")
    return "\n".join(lines)


def as_mask(masks: Tensor, probabilities: Tensor | None = None) -> Tensor:
    """Masks of P prompts (P, X, Y, Z) -> one label map (X, Y, Z): p + 1 for prompt p.

    Where masks overlap, the most probable prompt wins by `probabilities` (P, X, Y, Z), as in the bundle's inferer; without
    them, the first.
    """
    labels, best = torch.zeros(masks.shape[1:], dtype=torch.uint8), torch.zeros(masks.shape[1:])
    for p, mask in enumerate(masks > 0):
        free = labels == 0
        wins = mask & (free if probabilities is None else free | (probabilities[p] > best))
        labels[wins] = p + 1
        if probabilities is not None:
            best[wins] = probabilities[p][wins]
    return labels


def overlaps(masks: Tensor) -> dict[int, list[int]]:
    """Of P masks (P, X, Y, Z): each that shares voxels with others -> these others."""
    inside = masks > 0
    pairs = [(p, q) for p, q in combinations(range(len(masks)), 2) if (inside[p] & inside[q]).any()]
    found = {p: [pair[1 - pair.index(p)] for pair in pairs if p in pair] for p in range(len(masks))}
    return {p: others for p, others in found.items() if others}
