"""The frozen diffusion prior of DiffuGTS: built, moved and copied beside what is trained, kept in a file of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Self

from torch import nn

from ..diffusion.prior import DiffusionPrior
from ..segmenter import Segmenter, WeightsError, load_state, read_record, sha256

FILE = "diffusion.pt"
"""Name of the prior's weights beside those of DiffuGTS."""


class PriorSegmenter(Segmenter):
    """A method on a frozen autoencoder and diffusion model.

    The prior is no submodule: it is frozen, its weights are a file of their own, and neither optimizers, running means nor
    checkpoints are to see it.

    Args:
        prior: a `DiffusionPrior`, or the arguments to build one with fresh weights.
    """

    def __init__(self, prior: DiffusionPrior | Mapping[str, object] | None = None) -> None:
        super().__init__()
        prior = prior if isinstance(prior, nn.Module) else DiffusionPrior(**(prior or {}))
        self._prior = (prior.freeze(),)  # in a tuple, so that it is not registered
        self.prior_path: Path | None = None
        self.prior_sha256 = "untrained"
        self.prior_record: dict = {}

    @property
    def prior(self) -> DiffusionPrior:
        """The frozen autoencoder and diffusion model."""
        return self._prior[0]

    def _apply(self, fn, recurse: bool = True):
        self.prior._apply(fn)  # moves with the rest
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict) -> Self:
        """A copy of what is trained; the frozen prior is shared."""
        memo[id(self._prior)] = self._prior
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(deepcopy(self.__dict__, memo))
        return twin

    def load_prior(self, path: str | Path) -> Self:
        """Read the frozen prior's weights; returns itself.

        Raises:
            segmenter.WeightsError: the file is missing, altered, or does not fit the prior that was built.
        """
        path = Path(path)
        record = read_record(path, "diffusion")
        load_state(self.prior, path).freeze()
        self.prior_path, self.prior_sha256, self.prior_record = path, record["sha256"], record
        return self

    def keep_prior(self, folder: str | Path) -> dict[str, str]:
        """Copy the prior's files beside weights that are written to a folder; what their record is to say of it.

        Raises:
            ValueError: the prior was not read from a file.
        """
        if self.prior_path is None:
            raise ValueError("the prior has no file: read one with load_prior first")
        target = Path(folder) / FILE
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".pt", ".json"):
            source, copy = self.prior_path.with_suffix(suffix), target.with_suffix(suffix)
            if source.resolve() != copy.resolve():
                shutil.copyfile(source, copy)
        return {"file": FILE, "sha256": sha256(target)}

    def beside(self, path: Path, record: dict) -> tuple[dict, ...]:
        """Read the prior that the record names, from beside the weights; returns the prior's own record.

        Raises:
            segmenter.WeightsError: the file is missing, or is not the prior that the weights were trained with.
        """
        file = path.parent / record["prior"]["file"]
        if not file.is_file():
            raise WeightsError(
                f"{file} is missing: DiffuGTS needs the diffusion prior that it was trained with beside it"
            )
        if sha256(file) != record["prior"]["sha256"]:
            raise WeightsError(f"{file} is not the diffusion prior that these weights were trained with: restore it")
        return (self.load_prior(file).prior_record,)
