"""Offsets of masks: what is learned a class and not read from the scan. An addition of ours.

A mask is the dot product of a normed query with the features, which says one half wherever it says nothing; but most organs
fill few voxels, and what is no organ most of them: so a number a class is added to its logits everywhere. And the organs'
queries are as narrow as the finest map, 16 numbers for 32 organs in the starter: so a vector an organ is added to its query.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..vocabulary import ORGANS
from .pyramid import LEVELS

if TYPE_CHECKING:
    from .model import ZePT

RARE = -3.0
"""Logit that an organ starts from."""


class Offsets(nn.Module):
    """Offsets of organs, anomaly, tumors and the organs' responses on the coarse levels.

    Args:
        organs: N. claimed: N, and one more if there is a background query. tumors: K. masks: M, width of the finest map.
    """

    def __init__(self, organs: int, claimed: int, tumors: int, masks: int) -> None:
        super().__init__()
        start = torch.full((claimed,), RARE)
        start[organs:] = -RARE  # the background is everywhere, unless something else is
        self.organ, self.anomaly = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        self.levels = nn.ParameterList(start.clone() for _ in range(LEVELS))
        self.tumor = nn.Parameter(torch.zeros(tumors))  # they start rare by the anomaly, which does
        self.vectors = nn.Parameter(torch.zeros(claimed, masks))  # of the organs, on the finest map

    @staticmethod
    def behind(weights: Tensor, offset: Tensor) -> Tensor:
        """Weights (B, N, C) with offsets (N,) behind them, as `attention.masks_of` takes them: (B, N, C + 1)."""
        return torch.cat([weights, offset.expand(len(weights), -1)[..., None].to(weights)], -1)


@torch.no_grad()
def start_from(network: ZePT, path: str | Path) -> None:
    """Let a network's organs begin as a linear layer on the finest map, such as `malenia.dense` has trained.

    What the queries add to the organs' vectors is the same everywhere at first: the head that reads it from them is emptied.

    Args:
        path: a checkpoint of such a run, whose backbone the network has.

    Raises:
        ValueError: there is no such layer in the file, or the network has no place for it.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("model", state)
    if "organs.f4.weight" not in state:
        raise ValueError(f"{path} has no organ layer: give a best.pt of configs/dense_train.yaml")
    weight, bias = state["organs.f4.weight"].float().flatten(1), state["organs.f4.bias"].float()
    offsets = network.offsets
    if offsets is None or network.organ_names != tuple(ORGANS) or offsets.vectors.shape[1] != weight.shape[1]:
        raise ValueError(
            f"the organ layer in {path} is for the starter's classes, learned offsets and {weight.shape[1]} mask channels: "
            "leave out organ_layer, or train with those"
        )
    network.organ_head.weight.zero_()
    order = [*range(1, len(bias)), 0][: len(offsets.vectors)]  # a background query comes last here
    offsets.vectors.copy_(weight[order] - network.mask_norm(network.organ_head.bias))
    offsets.organ.copy_(bias[order])
