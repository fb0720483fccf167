"""Offsets of masks: what is learned a class and not read from the scan. An addition of ours.

A mask is the dot product of a normed query with the features, which says one half wherever it says nothing; but most organs
fill few voxels, and what is no organ most of them: so a number a class is added to its logits everywhere. And the organs'
queries are as narrow as the finest map, 16 numbers for 32 organs in the starter: so a vector an organ is added to its query.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .pyramid import LEVELS

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
