"""From what a method says to what was observed: monotone maps, measured on phantoms, and how far off they are.

Isotonic regression (Zadrozny and Elkan, KDD 2002) on binned counts; expected calibration error as of Guo et al., ICML 2017.
`scripts/calibrate_uncertainty.py` measures, and writes what `read` reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from .segmenter import MODELS, Segmenter

FILE = "uncertainty.json"
BINS = 100


@dataclass(frozen=True)
class Curve:
    """A monotone, piecewise linear map of 0..1 to 0..1: what is said -> what was observed."""

    said: tuple[float, ...] = (0.0, 1.0)  # increasing
    observed: tuple[float, ...] = (0.0, 1.0)  # never decreasing

    def __call__(self, values: Tensor) -> Tensor:
        """The map, elementwise; constant beyond its ends."""
        flat = np.interp(values.detach().cpu().numpy(), self.said, self.observed)
        return torch.from_numpy(np.asarray(flat, dtype=np.float32))


@dataclass(frozen=True)
class Calibration:
    """Curves of one method's weights. `measured`: how, and how good; empty for weights that nobody measured."""

    voxel: Curve = Curve()  # probability of lesion -> share of such voxels that were lesion
    case: Curve = Curve()  # `uncertainty.case_uncertainty` -> mean of 1 - Dice
    measured: dict | None = None


def read(model: Segmenter, path: Path | None = None) -> Calibration:
    """The calibration of a model's weights; the identity for weights that nobody measured.

    Raises:
        ValueError: the file is damaged.
    """
    path = path or MODELS / FILE
    if not path.is_file():
        return Calibration()
    try:
        records = json.loads(path.read_text())["weights"]
        record = next((r for r in records if r["weights_sha256"] == model.weights_sha256), None)
        if record is None:
            return Calibration()
        curves = [Curve(tuple(record[k]["said"]), tuple(record[k]["observed"])) for k in ("voxel", "case")]
        return Calibration(*curves, measured=record["measured"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no calibration of uncertainties: restore it, or measure again with calibrate_uncertainty.py"
        ) from error


def record_of(calibration: Calibration, weights_sha256: str, file: str | None = None) -> dict:
    """What `read` reads of one model. `file`: its weights beside the file of records, None if they lie elsewhere."""
    curves = {k: {n: [round(x, 5) for x in v] for n, v in asdict(getattr(calibration, k)).items()}
              for k in ("voxel", "case")}  # fmt: skip
    place = {} if file is None else {"file": file}
    return {"weights_sha256": weights_sha256, **place, **curves, "measured": calibration.measured}


def replaced(records: Sequence[dict], new: Sequence[dict]) -> list[dict]:
    """Records, with new ones in place of those of the same weights, and of weights that lay where theirs lie now.

    Records of weights that lie elsewhere stay: they may be of a person's own.
    """
    hashes, files = {r["weights_sha256"] for r in new}, {r["file"] for r in new if "file" in r}
    return [*(r for r in records if r["weights_sha256"] not in hashes and r.get("file") not in files), *new]


@dataclass
class Counts:
    """Outcomes by what was said of them, in BINS equal bins of 0..1; counts of several scans add up."""

    number: np.ndarray
    said: np.ndarray  # sums of what was said
    observed: np.ndarray  # sums of what was observed, 0..1 each

    @classmethod
    def of(cls, said: Tensor, observed: Tensor) -> Counts:
        """Counts of what was said (0..1) and observed (0..1), tensors of one shape."""
        values, outcomes = said.flatten().double().numpy(), observed.flatten().double().numpy()
        which = np.minimum((values * BINS).astype(int), BINS - 1)
        return cls(*(np.bincount(which, weights=w, minlength=BINS) for w in (np.ones_like(values), values, outcomes)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.number + other.number, self.said + other.said, self.observed + other.observed)

    def fit(self) -> Curve:
        """The monotone map that is nearest to what was observed, each bin weighing as much as it holds."""
        full = self.number > 0
        if not full.any():
            return Curve()
        said = self.said[full] / self.number[full]
        observed = isotonic_regression(self.observed[full] / self.number[full], weights=self.number[full]).x
        return Curve(tuple(said.tolist()), tuple(np.clip(observed, 0, 1).tolist()))

    def above(self, floor: float) -> Counts:
        """Those of which more than `floor` was said."""
        keep = np.arange(BINS) >= round(floor * BINS)
        return Counts(self.number * keep, self.said * keep, self.observed * keep)

    def ece(self, curve: Curve | None = None) -> float:
        """Expected calibration error: mean of |said - observed| over ten bins, each weighing as much as it holds."""
        rows = self.diagram(curve)
        number = sum(n for _, _, n in rows)
        return sum(n * abs(s - o) for s, o, n in rows) / number if number else float("nan")

    def diagram(self, curve: Curve | None = None, bins: int = 10) -> list[tuple[float, float, int]]:
        """Rows of a reliability diagram, (said, observed, number), in equal bins of what is said (after a curve)."""
        full = self.number > 0
        said, observed, number = self.said[full] / self.number[full], self.observed[full], self.number[full]
        if curve is not None:
            said = curve(torch.from_numpy(said)).double().numpy()
        which = np.minimum((said * bins).astype(int), bins - 1)
        out = []
        for k in np.unique(which):
            inside = which == k
            n = float(number[inside].sum())
            out.append((float((said * number)[inside].sum() / n), float(observed[inside].sum() / n), int(n)))
        return out


def total(counts: Sequence[Counts]) -> Counts:
    """All counts together."""
    nothing = Counts(*(np.zeros(BINS) for _ in range(3)))
    return sum(counts, nothing)
