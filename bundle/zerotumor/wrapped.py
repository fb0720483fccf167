"""A method around another one: what it does not change is the inner one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from torch import Tensor

from .prompts import Prompt
from .segmenter import Segmentation, Segmenter

if TYPE_CHECKING:
    from .kept import VolumeFeatures

SAME = (
    "spacing", "patch", "zooms", "tight_zooms", "theta", "theta_peak", "edge_weight", "decides", "encoder", "maps", "images",
    "organ_names", "whole_scan", "qualities", "has_ungated", "records", "mirrored",
)  # fmt: skip
"""What it has of the inner one."""


class Wrapped(Segmenter):
    """Answers as the inner method does, but for its second look (`complete`) at whole scans.

    Args:
        base: the inner method.
    """

    second_look = True

    def __init__(self, base: Segmenter) -> None:
        super().__init__()
        self.base = base
        for name in SAME:
            setattr(self, name, getattr(base, name))

    @property
    def blended(self) -> tuple[str, ...]:
        """Maps of windows that `complete` needs."""
        return self.base.blended

    def at(self, quality: str) -> Self:
        twin = super().at(quality)
        twin.base = self.base.at(quality)
        return twin

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        return self.base.encode_image(image)

    def segment(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        return self.base.segment(features, prompts)

    def segment_window(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        return self.base.segment_window(features, prompts)

    def shared(self, windows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return self.base.shared(windows)

    def compact(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.base.compact(features)

    def place_features(self, image: Tensor) -> Tensor:
        return self.base.place_features(image)

    def lesion_network(self) -> Segmenter:
        return self.base.lesion_network()

    def organ_maps(self, features: dict[str, Tensor]) -> Tensor:
        return self.base.organ_maps(features)

    def complete(
        self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt], kept: VolumeFeatures | None = None
    ) -> Segmentation:
        """The inner method's second look, if it takes any."""
        return self.base.complete(image, answer, prompts, kept) if self.base.second_look else answer
