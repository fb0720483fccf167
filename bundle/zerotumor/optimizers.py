"""Muon for convolutions, in one optimizer with AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer


class ConvolutionMuon(Optimizer):
    """Muon (K. Jordan, 2024) for the kernels of convolutions, AdamW for whatever is no kernel.

    Muon steps along the nearest orthogonal matrix to the momentum, so that all directions in which a layer can change get
    their share, and not those alone whose gradients are large. torch's takes matrices only: a kernel (A, B, x, y, z) is
    shown to it as the matrix (A, B x y z), and its steps are scaled to the size of AdamW's.

    Args:
        params: groups, as of any optimizer, each with a rate `lr` of its own or that of AdamW.
        lr: of what is no kernel. kernels: what that is multiplied with, in each group, for kernels. weight_decay: of what is
        no kernel. kernel_decay: of kernels; their norms follow, so it holds the size of a step against them.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, object]],
        lr: float,
        kernels: float = 3.0,
        weight_decay: float = 1e-4,
        kernel_decay: float = 0.05,
    ) -> None:
        super().__init__(params, {"lr": lr})
        self.kernels = kernels
        self.views: list[tuple[nn.Parameter, nn.Parameter]] = []
        matrices, others = [], []
        for group in self.param_groups:
            views = [(p, nn.Parameter(p.detach().flatten(1))) for p in group["params"] if is_kernel(p)]
            self.views += views
            matrices.append({"params": [v for _, v in views]})
            others.append({"params": [p for p in group["params"] if not is_kernel(p)]})
        self.muon = Muon(matrices, lr, kernel_decay, adjust_lr_fn="match_rms_adamw")
        self.rest = AdamW(others, lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of both, at the rates that the groups have now."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, matrices, others in zip(
            self.param_groups, self.muon.param_groups, self.rest.param_groups, strict=True
        ):
            matrices["lr"], others["lr"] = group["lr"] * self.kernels, group["lr"]
        for kernel, view in self.views:
            if view.data_ptr() != kernel.data_ptr():  # the network has been moved or loaded into other memory
                view.data = kernel.detach().flatten(1)
            view.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        self.muon.step()
        for kernel, view in self.views:
            if view.data_ptr() != kernel.data_ptr():  # in another memory format, what is flattened is a copy
                kernel.copy_(view.view(kernel.shape))
        self.rest.step()
        return loss

    def state_dict(self) -> dict[str, object]:
        """That of the groups, and of both optimizers."""
        return {**super().state_dict(), "muon": self.muon.state_dict(), "rest": self.rest.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Go on where `state_dict` was asked for."""
        own = {k: state_dict[k] for k in ("state", "param_groups")}
        super().load_state_dict(own)
        self.muon.load_state_dict(state_dict["muon"])
        self.rest.load_state_dict(state_dict["rest"])


def is_kernel(parameter: Tensor) -> bool:
    """Whether this is a convolution's kernel in two or three dimensions, with more than one row to make orthogonal."""
    return parameter.ndim > 3 and len(parameter) > 1
