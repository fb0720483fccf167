"""The frozen diffusion prior as DiffuGTS uses it: built, read from a file of its own, told what a scan is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ..diffusion.prior import Condition, DiffusionPrior
from ..segmenter import WeightsError, load_state, read_record, sha256

FILE = "diffusion.pt"
"""Name of the prior's weights beside those of DiffuGTS."""


def build(prior: nn.Module | Mapping[str, object] | None) -> DiffusionPrior:
    """A prior as it is given, or one with fresh weights from its arguments; frozen."""
    if not isinstance(prior, nn.Module):
        prior = DiffusionPrior(**(prior or {}))
    return prior.freeze()


def condition(ct: bool, spacing: float) -> Condition:
    """What the prior is told of a scan: modality and mm."""
    return Condition("CT" if ct else "MR", spacing)


def read(prior: DiffusionPrior, path: Path) -> str:
    """Load weights into a prior; returns their hash.

    Raises:
        segmenter.WeightsError: the file is missing, altered, or does not fit.
    """
    record = read_record(path, "diffusion")
    load_state(prior, path)
    prior.freeze()
    return record["sha256"]


def keep(path: Path, folder: Path) -> dict[str, str]:
    """Copy a prior's files beside weights that need it; what their record says of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in ((path, folder / FILE), (path.with_suffix(".json"), (folder / FILE).with_suffix(".json"))):
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)
    return {"file": FILE, "sha256": sha256(folder / FILE)}


def check(path: Path, expected: str) -> None:
    """Refuse a prior that the weights were not trained with.

    Raises:
        segmenter.WeightsError: the file is missing, or is another one.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing: DiffuGTS needs the diffusion prior that it was trained with beside it")
    if sha256(path) != expected:
        raise WeightsError(f"{path} is not the diffusion prior that these weights were trained with: restore it")
