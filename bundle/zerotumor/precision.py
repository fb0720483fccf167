"""Mixed precision, on CPUs that have bfloat16 too: MONAI's engines mix precisions on GPUs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path

import torch
from monai.inferers import SimpleInferer
from torch import Tensor

CPU = Path("/proc/cpuinfo")


class Autocast(SimpleInferer):
    """SimpleInferer whose forward pass is in bfloat16 where torch thinks that safe; the loss gets full precision.

    Args:
        enabled: on a CPU; GPUs are left to the engine's `amp`. Worth it where `in_hardware`: there a step of the starter's
            diffusion U-Net took half the time, and elsewhere steps of some networks took twice as long.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(self, inputs: Tensor, network: Callable, *args: object, **kwargs: object) -> object:
        if not self.enabled or inputs.is_cuda:
            return super().__call__(inputs, network, *args, **kwargs)
        with torch.autocast("cpu", torch.bfloat16):
            return full(super().__call__(inputs, network, *args, **kwargs))


def mixed(device: torch.device) -> torch.autocast:
    """A context for forward passes: half precision on a GPU, bfloat16 on a CPU that has it in hardware."""
    return torch.autocast(device.type, enabled=device.type != "cpu" or in_hardware())


def mixed_on_gpu(device: torch.device) -> AbstractContextManager:
    """`mixed` for what has to be exact: half precision has three digits, bfloat16 two, which residuals would show.

    On a CPU nothing is changed: training may have chosen bfloat16.
    """
    return nullcontext() if device.type == "cpu" else mixed(device)


@cache
def in_hardware() -> bool:
    """Whether this CPU multiplies in bfloat16; False where that cannot be told."""
    try:
        flags = CPU.read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def full(value: object) -> object:
    """Every bfloat16 tensor of nested dictionaries, lists, tuples and data classes in full precision."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, Mapping):
        return {name: full(one) for name, one in value.items()}
    if is_dataclass(value):
        return replace(value, **{field.name: full(getattr(value, field.name)) for field in fields(value)})
    return type(value)(map(full, value)) if type(value) in (list, tuple) else value
