"""Where networks compute: the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import DeviceError

AUTO = "auto"
"""The first GPU, or the CPU where there is none."""
DEVICE_HELP = "cpu, cuda or cuda:1; auto takes a GPU if there is one"
"""Of the option `--device` of scripts."""


def device_of(name: str | torch.device) -> torch.device:
    """The device that is called so, or AUTO.

    Raises:
        ValueError: this machine, or its build of torch, does not have it; with what to use instead.
    """
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"there is no device {name!r} here: use cpu, or a torch that was built for it") from error


@contextmanager
def enough_memory() -> Iterator[None]:
    """What is done inside says so in a sentence where a GPU's memory does not suffice.

    Raises:
        DeviceError: it does not.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "the memory of the GPU does not suffice for this scan: end what else runs on it, or compute on the CPU "
            "(--device cpu; in the server --conf device cpu)"
        ) from error
