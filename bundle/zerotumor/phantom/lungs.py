"""What a lung holds: vessels that branch from the hilum to the pleura, a fissure, and denser tissue at the back.

Most of these vessels are thinner than a voxel, so they are not painted but mixed in: every voxel of lung says what share
of it is blood.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .geometry import Draw, Noise, length, sheet, voxel_of

LOBES = ((0.5, 0.5, 0.9), (0.5, -0.6, 0.7), (1.0, 0.3, 0.1), (0.9, -0.4, -0.2), (0.5, 0.6, -0.7), (0.6, -0.5, -0.9),
         (0.2, -0.2, -1.0))  # fmt: skip
"""Where the first branches of a right lung head for."""
GENERATIONS = 6
SHRINKS = 0.77
"""Radius of a branch as a share of its parent's: Murray's law for two equal branches has 0.79."""
COARSE = 8.0
"""mm of a voxel from which a scan is only a look for organs, and vessels are left out."""


class Lung:
    """The inside of one lung.

    Args:
        hilum: where vessels enter, mm. side: 1 for the right one, -1 for the left one. depth: mm from back to front.
    """

    def __init__(self, draw: Draw, hilum: list[float], side: int, depth: float) -> None:
        self.hilum, self.depth = hilum, depth
        self.branches = self._tree(draw, side)
        self.fissure = torch.tensor([0.15 * side, 0.75, 0.65]) + torch.tensor(draw.vector(0.08))
        self.fissure_at = draw.normal(-8, 8)
        self.dependent = draw.uniform(0.0, 0.16)
        self.mottle = draw.uniform(0.005, 0.03)
        self.bend = Noise(draw, 40, 2)

    def _tree(self, draw: Draw, side: int) -> Tensor:
        """Arteries and veins, cones in rows of start (3 numbers, mm), way to the end (3), radius there and there (N, 8)."""
        lobes = torch.tensor(LOBES).repeat(2, 1) * torch.tensor([side, 1.0, 1.0])
        heading = lobes + 0.25 * draw.field((len(lobes), 3)).cpu()
        start = torch.tensor(self.hilum).expand(len(lobes), 3)
        radius = draw.uniform(4.5, 6.5) * torch.tensor([1.0, 0.75]).repeat_interleave(len(LOBES))
        step = torch.full((len(lobes),), draw.uniform(20, 25))
        rows = []
        for _ in range(GENERATIONS):
            heading = heading / heading.norm(dim=1, keepdim=True).clamp_min(1e-6)
            way = heading * step[:, None]
            rows.append(torch.cat([start, way, radius[:, None], radius[:, None] * SHRINKS], 1))
            random = draw.field((len(start), 6)).cpu()
            aside = torch.linalg.cross(heading, random[:, :3])
            aside = aside / aside.norm(dim=1, keepdim=True).clamp_min(1e-6) * (0.55 + 0.15 * random[:, 3:4])
            heading = torch.cat([heading + aside, heading - aside])
            start = (start + way).repeat(2, 1)
            radius = radius.repeat(2) * SHRINKS
            step = step.repeat(2) * torch.cat([0.87 + 0.08 * random[:, 4], 0.87 + 0.08 * random[:, 5]])
        return torch.cat(rows)

    def blood(self, points: Tensor) -> Tensor:
        """Share of each voxel (X, Y, Z), 0..1, that is blood or other soft tissue rather than air-filled lung."""
        a, b = self.bend(points)
        back = ((self.hilum[1] - points[1]) / (0.5 * self.depth)).clamp(0, 1)
        share = (back * self.dependent * (1 + 0.3 * a) + b * self.mottle).clamp_min(0)
        voxel = voxel_of(points)
        if voxel >= COARSE:
            return share
        x, y, z = (float(f) for f in self.fissure)
        plane = (points[0] - self.hilum[0]) * x + (points[1] - self.hilum[1]) * y + (points[2] - self.hilum[2]) * z
        plane = plane - self.fissure_at + a * 6
        share = torch.maximum(share, sheet(plane, 0.6, voxel))
        for row, box in zip(*self._near(points, voxel), strict=True):
            part = (slice(None), *(slice(lo, hi) for lo, hi in box))
            mix(share[part[1:]], points[part], row, voxel)
        return share.clamp_max(1)

    def _near(self, points: Tensor, voxel: float) -> tuple[Tensor, list[list[tuple[int, int]]]]:
        """The branches that can touch a scan, and for each the first and the one after the last voxel along every axis."""
        start, end = self.branches[:, :3], self.branches[:, :3] + self.branches[:, 3:6]
        margin = self.branches[:, 6:7] + voxel
        low, high = torch.minimum(start, end) - margin, torch.maximum(start, end) + margin
        boxes, hit = [], torch.ones(len(start), dtype=torch.bool)
        for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
            least, most = points[axis].amin(others).cpu(), points[axis].amax(others).cpu()
            inside = (least[None] <= high[:, axis, None]) & (most[None] >= low[:, axis, None])
            hit &= inside.any(1)
            first = inside.int().argmax(1)
            last = inside.shape[1] - inside.flip(1).int().argmax(1)
            boxes.append(torch.stack([first, last], 1))
        return self.branches[hit].to(points), torch.stack(boxes, 1)[hit].tolist()


def mix(share: Tensor, points: Tensor, branch: Tensor, voxel: float) -> None:
    """Raise the share (X, Y, Z) of the voxels at points (3, X, Y, Z) that a cone fills.

    What is thinner than a voxel fills a part of those that it runs through, in all about its own volume.

    Args:
        branch: start (3), way to its end (3), radius at the start and at the end, mm (8,). voxel: its width, mm.
    """
    start, way = branch[:3].view(3, 1, 1, 1), branch[3:6].view(3, 1, 1, 1)
    local = points - start
    t = (local * (way / way.square().sum().clamp_min(1e-6))).sum(0).clamp_(0, 1)
    local -= t * way
    radius = (branch[6] + (branch[7] - branch[6]) * t) / voxel
    outer, inner = (radius + 0.5).clamp_min(1), (radius - 0.5).clamp_min(0)  # from all to nothing is one voxel
    covered = ((outer - length(local) / voxel) / (outer - inner)).clamp_(0, 1)
    torch.maximum(share, covered * (math.pi * radius.square()).clamp_max(1), out=share)
