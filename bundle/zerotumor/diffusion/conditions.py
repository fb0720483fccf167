"""What the diffusion model is told of a scan: modality, spacing, and which part of the body it covers.

Numbers as the published MAISI models expect them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..transforms import MODALITIES, ModalityError

MODALITY_IDS = {"CT": 1, "MR": 8}
"""Class of each modality; 0 is "unknown", what guidance compares with."""
SCALE = 100.0  # of spacing and region inputs
REGIONS = ("head", "chest", "abdomen", "lower body")
OneHot = tuple[float, float, float, float]


def region(top: str, bottom: str) -> tuple[OneHot, OneHot]:
    """One-hots of the topmost and the bottommost body region that a scan covers, of REGIONS.

    Raises:
        ValueError: there is no such region.
    """
    for name in (top, bottom):
        if name not in REGIONS:
            raise ValueError(f"there is no body region {name!r}: choose one of {', '.join(REGIONS)}")
    return tuple(tuple(float(r == name) for r in REGIONS) for name in (top, bottom))


TRUNK = region("chest", "abdomen")
"""Assumed where a network asks for a region and nobody says: it is what more than half of MAISI's scans show."""


@dataclass(frozen=True)
class Condition:
    """One scan.

    Raises:
        transforms.ModalityError: the modality is neither CT nor MR.
    """

    modality: str = "CT"
    spacing: float | Sequence[float] = (1.0, 1.0, 1.0)  # mm, of the image (not of the latent); a number for all axes
    region: tuple[OneHot, OneHot] | None = None  # topmost and bottommost; only DDPM-CT asks for it

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ModalityError(f"the modality {self.modality!r} is not known: say CT or MR")
        s = self.spacing
        spacing = (float(s),) * 3 if isinstance(s, int | float) else tuple(float(x) for x in s)
        object.__setattr__(self, "spacing", spacing)


@dataclass(frozen=True)
class ConditionTensors:
    """A batch of conditions as the network takes them."""

    modality: Tensor  # (B,) class
    spacing: Tensor  # (B, 3)
    top: Tensor  # (B, 4)
    bottom: Tensor  # (B, 4)


def tensors_of(condition: Condition | Sequence[Condition], batch: int, like: Tensor) -> ConditionTensors:
    """One condition for a whole batch, or one for each of its scans.

    Raises:
        ValueError: as many conditions as scans are needed, or one.
    """
    each = [condition] * batch if isinstance(condition, Condition) else list(condition)
    if len(each) != batch:
        raise ValueError(f"{batch} scans have {len(each)} conditions: give one for all, or one each")
    return ConditionTensors(
        torch.tensor([MODALITY_IDS[c.modality] for c in each], device=like.device),
        SCALE * like.new_tensor([c.spacing for c in each]),
        *(SCALE * like.new_tensor([(c.region or TRUNK)[end] for c in each]) for end in (0, 1)),
    )
