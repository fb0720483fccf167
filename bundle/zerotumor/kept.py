"""What is kept of a scan between prompts: the features of its windows, and what was found out from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
from torch import Tensor


@dataclass
class Window:
    """Features of one window and where it lies in the zoomed and padded scan."""

    slices: tuple[slice, slice, slice]
    features: dict[str, Tensor]
    zoom: float = 1.0  # of the scan's grid: 2 has voxels of half the edge


class Kept(dict):
    """What was made once for a scan, by key; anyone may clear it at any time."""

    def once(self, key: object, make: Callable[[], object]) -> object:
        """The value of a key, made if it is not there."""
        try:
            return self[key]
        except KeyError:
            value = self[key] = make()
            return value


@dataclass
class VolumeFeatures:
    """All that is kept of a scan between prompts."""

    windows: list[Window]
    further: Kept = field(default_factory=Kept)  # what a second look has found out, see `Segmenter.complete`

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        tensors = [f for window in self.windows for f in window.features.values()]
        deeper = [value for value in list(self.further.values()) if value is not None]
        tensors += [value for value in deeper if isinstance(value, Tensor)]
        inner = sum(value.bytes for value in deeper if isinstance(value, VolumeFeatures))
        return inner + sum(t.numel() * t.element_size() for t in tensors)


class MemoryPlan:
    """Whether the features of all windows fit in the memory that is free now.

    Args:
        share: part of the free memory that features may take.
    """

    def __init__(self, share: float = 0.25) -> None:
        self.share = share

    def keeps(self, windows: int, per_window_bytes: int) -> bool:
        """True when all windows' features can be held at once."""
        return windows * per_window_bytes <= self.share * psutil.virtual_memory().available
