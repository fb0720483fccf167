"""How good a mask is: overlap, surface, ranking of voxels, lesions found, milliliters falsely found.

Rules for emptiness. Dice and NSD are scored only where there is a lesion (an empty prediction then scores 0). Where there
is none, false-positive milliliters say how wrong a method was. Averages are over cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_surface_dice
from scipy.ndimage import binary_dilation
from scipy.ndimage import label as connected_components
from scipy.stats import rankdata
from torch import Tensor

MAX_VOXELS = 1_000_000
FULL = np.ones((3, 3, 3))  # 26 neighbors


def dice(prediction: Tensor, truth: Tensor) -> float:
    """2 |P and G| / (|P| + |G|) of two masks (X, Y, Z); nan if there is no lesion in the truth."""
    p, g = prediction > 0, truth > 0
    if not g.any():
        return float("nan")
    return float(2 * (p & g).sum() / (p.sum() + g.sum()))


def surface_dice(prediction: Tensor, truth: Tensor, spacing: Sequence[float], tolerance_mm: float = 2.0) -> float:
    """Normalized surface Dice at a tolerance in mm, on the scan's true spacing; nan if there is no lesion.

    Both masks are cut to the box that holds them, with a margin: surfaces elsewhere do not exist.
    """
    p, g = prediction > 0, truth > 0
    if not g.any():
        return float("nan")
    if not p.any():
        return 0.0
    where = (p | g).nonzero()
    low, high = (where.amin(0) - 2).clamp_min(0), where.amax(0) + 3
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    pair = [torch.nn.functional.pad(m[box], (1,) * 6)[None, None].float() for m in (p, g)]
    value = compute_surface_dice(*pair, [tolerance_mm], include_background=True, spacing=[float(s) for s in spacing])
    return float(value)


def sample(scores: Tensor, truth: Tensor, region: Tensor | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truths of voxels (of a region): all of the tumor, and at most a million others, drawn with a seed.

    Both figures below compare the two kinds, so thinning one out leaves their expectation alone.
    """
    scores, truth = scores.flatten(), (truth > 0).flatten()
    if region is not None:
        keep = (region > 0).flatten()
        scores, truth = scores[keep], truth[keep]
    inside, outside = scores[truth], scores[~truth]
    if len(outside) > MAX_VOXELS:
        chosen = torch.randint(len(outside), (MAX_VOXELS,), generator=torch.Generator().manual_seed(seed))
        outside = outside[chosen]
    labels = np.r_[np.ones(len(inside), bool), np.zeros(len(outside), bool)]
    return torch.cat([inside, outside]).numpy().astype(np.float64), labels


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Probability that a tumor voxel scores higher than another, ties counting half; nan if one kind is missing."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def fpr95(scores: np.ndarray, truth: np.ndarray) -> float:
    """False-positive rate at the largest threshold that finds 95 % of tumor voxels; nan if one kind is missing."""
    if not truth.any() or truth.all():
        return float("nan")
    found = np.sort(scores[truth])[::-1]
    threshold = found[int(np.ceil(0.95 * len(found))) - 1]
    return float((scores[~truth] >= threshold).mean())


def lesion_f1(prediction: Tensor, truth: Tensor, minimum_iou: float = 0.1) -> float:
    """F1 over lesions: connected components that overlap one another by an IoU above `minimum_iou` are found.

    nan if there is neither a lesion nor a prediction.
    """
    predicted, n_predicted = connected_components(np.asarray(prediction) > 0, FULL)
    true, n_true = connected_components(np.asarray(truth) > 0, FULL)
    if n_predicted + n_true == 0:
        return float("nan")
    joint = np.bincount(
        true.ravel().astype(np.int64) * (n_predicted + 1) + predicted.ravel(),
        minlength=(n_true + 1) * (n_predicted + 1),
    ).reshape(n_true + 1, n_predicted + 1)
    union = joint.sum(1, keepdims=True) + joint.sum(0, keepdims=True) - joint
    hit = (joint / np.maximum(union, 1))[1:, 1:] > minimum_iou
    found, right = int(hit.any(1).sum()), int(hit.any(0).sum())
    recall = found / n_true if n_true else 0.0
    precision = right / n_predicted if n_predicted else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def milliliters(mask: Tensor, voxel_ml: float) -> float:
    """Volume of a mask."""
    return float((mask > 0).sum()) * voxel_ml


def near(region: Tensor, spacing: Sequence[float], margin_mm: float = 10.0) -> Tensor:
    """A region (X, Y, Z) and what lies within about `margin_mm` of it."""
    steps = [max(1, round(margin_mm / s)) for s in spacing]
    out = np.asarray(region) > 0
    for axis, n in enumerate(steps):
        line = np.zeros((3, 3, 3), bool)
        line[tuple(slice(None) if a == axis else 1 for a in range(3))] = True
        out = binary_dilation(out, line, iterations=n)
    return torch.from_numpy(out)


def score_case(
    mask: Tensor, truth: Tensor, ranking: Tensor, spacing: Sequence[float], region: Tensor | None = None
) -> dict[str, float]:
    """All figures of one case and prompt.

    Args:
        mask, truth: (X, Y, Z). ranking: (X, Y, Z) score of every voxel, before any decision of presence.
        spacing: mm. region: host organ, if it is known; "auroc" and
        "fpr95" are inside it and 10 mm around (else in the whole scan), "_all" in the whole scan.
    """
    voxel_ml = float(np.prod([float(s) for s in spacing])) / 1000
    everywhere = sample(ranking, truth)
    inside = everywhere if region is None else sample(ranking, truth, near(region, spacing) | (truth > 0))
    return {
        "dice": dice(mask, truth),
        "nsd2": surface_dice(mask, truth, spacing),
        "auroc": auroc(*inside),
        "fpr95": fpr95(*inside),
        "auroc_all": auroc(*everywhere),
        "fpr95_all": fpr95(*everywhere),
        "lesion_f1": lesion_f1(mask, truth),
        "truth_ml": milliliters(truth > 0, voxel_ml),
        "volume_ml": milliliters(mask, voxel_ml),
        "fp_ml": milliliters((mask > 0) & (truth == 0), voxel_ml),
    }


def bootstrap(
    values: Sequence[float | None], draws: int = 2000, seed: int = 0, patients: Sequence[str] | None = None
) -> tuple[float, float, float]:
    """Mean and 95 % percentile-bootstrap interval over cases; nan are left out, and no case at all gives nan.

    Args:
        patients: whose each value is. Whole patients are drawn then: two scans of one say less than two patients.
    """
    kept = [k for k, v in enumerate(values) if v is not None and np.isfinite(v)]
    if not kept:
        return (float("nan"),) * 3
    wholes = patients if patients is not None else range(len(values))
    _, which = np.unique([str(wholes[k]) for k in kept], return_inverse=True)
    own = np.array([values[k] for k in kept], dtype=float)
    sums, counts = np.bincount(which, own), np.bincount(which)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return float(own.mean()), float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))
