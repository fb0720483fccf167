"""Mixed precision, the same on CPUs and GPUs.

MONAI's engines mix precisions on GPUs alone, in half precision and with the loss inside: there what is nearly certain rounds
to 1, whose logit is infinite, and a loss has to be scaled. bfloat16 has the range of full precision.
"""

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
        enabled: worth it where `in_hardware`: there a step of the starter's diffusion U-Net took a CPU half the time, and
            elsewhere steps of some networks took twice as long.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(self, inputs: Tensor, network: Callable, *args: object, **kwargs: object) -> object:
        if not self.enabled:
            return super().__call__(inputs, network, *args, **kwargs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return full(super().__call__(inputs, network, *args, **kwargs))


def mixed(device: torch.device) -> torch.autocast:
    """A context for forward passes: half precision on a GPU, bfloat16 on a CPU that has it in hardware."""
    return torch.autocast(device.type, enabled=device.type != "cpu" or in_hardware())


def mixed_on_gpu(device: torch.device) -> AbstractContextManager:
    """`mixed` for what has to be exact: half precision has three digits, bfloat16 two, which residuals would show.

    On a CPU nothing is changed, nor where gradients are wanted: training has chosen, or not, bfloat16.
    """
    return nullcontext() if device.type == "cpu" or torch.is_grad_enabled() else mixed(device)


def in_hardware(device: str | torch.device = "cpu") -> bool:
    """Whether this CPU or GPU multiplies in bfloat16; False where that cannot be told."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _cpu_has_bfloat16()


def logit_of(probability: Tensor) -> Tensor:
    """The logit of a probability, finite in mixed precision, too: what is nearly certain is 1 in half of the digits."""
    return torch.logit(probability.float(), eps=1e-6)


@cache
def _cpu_has_bfloat16() -> bool:
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
