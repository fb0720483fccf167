"""A limb: skin, fat, muscles in compartments with fat septa, one or two bones, vessels and nerves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .anatomy import Anatomy
from .geometry import Draw, Noise, cylinder, sheet, threads, tube, voronoi, voxel_of


class Limb:
    """Thigh, calf or arm along z."""

    region = "limb"

    def __init__(self, draw: Draw) -> None:
        self.rx = draw.uniform(45, 105)
        self.ry = self.rx * draw.uniform(0.8, 1.2)
        self.extent = (self.rx, self.ry, 150.0)
        self.fat = draw.uniform(0.05, 0.32) * self.rx
        self.slant = [draw.uniform(-0.15, 0.15), draw.uniform(-0.15, 0.15)]
        self.taper = draw.uniform(-0.0012, 0.0012)
        self.warp = Noise(draw, 45, 3)
        self.fine = Noise(draw, 14, 3)
        self.lines = Noise(draw, 26, 2)
        self.warp_mm = draw.uniform(3, 9)
        self.septum = draw.log_uniform(0.4, 2.0)
        self.sites = self._sites(draw)
        self.bones = self._bones(draw)
        self.vessels = self._vessels(draw)
        self.gap = draw.uniform(1.5, 5) if draw.chance(0.25) else 0.0  # mm between muscles, of fat alone
        self.strands = draw.uniform(0.03, 0.1)
        self.streaks, self.marbling = Noise(draw, draw.uniform(4, 8)), draw.log_uniform(0.06, 0.5)
        count = len(self.sites)
        self.fibers = 0.3 * draw.field((count, 2))  # how far they lean from the limb's axis, a muscle
        self.fatness = self.marbling * (0.5 * draw.field((count,))).exp()
        other = draw.choice((-1, 0, 1))  # side on which the other limb is in the picture; 0: it is not
        self.middle = other * (self.rx + draw.uniform(3, 25))

    def _sites(self, draw: Draw) -> Tensor:
        """Centers of muscles: well apart in the section, drawn out along the limb."""
        count = draw.integer(7, 15)
        angle = torch.rand(count, generator=draw.generator) * 2 * math.pi
        radius = torch.rand(count, generator=draw.generator).sqrt() * 0.9
        z = (torch.rand(count, generator=draw.generator) - 0.5) * 60
        return torch.stack([angle.cos() * radius * self.rx, angle.sin() * radius * self.ry, z], 1).to(draw.device)

    def _bones(self, draw: Draw) -> list:
        bones = []
        for _ in range(draw.choice((1, 1, 1, 2))):
            x, y = draw.uniform(-0.35, 0.35) * self.rx, draw.uniform(-0.3, 0.4) * self.ry
            lean = [draw.uniform(-0.15, 0.15) for _ in range(2)]
            shaft = draw.uniform(0.14, 0.2) * self.rx + 3
            joint = draw.choice((None, -1, 1))
            line, radii = [], []
            for z in (-180, -100, -60, 0, 60, 100, 180):
                line.append([x + lean[0] * z, y + lean[1] * z, z])
                end = joint is not None and z * joint > 50
                radii.append(shaft * (1.9 if end else 1.0))
            bones.append((line, radii, draw.uniform(0.28, 0.5)))
        return bones

    def _vessels(self, draw: Draw) -> list:
        lines = []
        for kind in ("arterial blood", "venous blood", "venous blood", "fascia"):
            x, y = draw.uniform(-0.5, 0.5) * self.rx, draw.uniform(-0.5, 0.5) * self.ry
            line = [[x + draw.uniform(-6, 6), y + draw.uniform(-6, 6), z] for z in (-180, -90, -30, 30, 90, 180)]
            lines.append((kind, line, draw.uniform(1.8, 4.5)))
        return lines

    def evaluate(self, points: Tensor) -> Anatomy:
        """See `anatomy.Body`."""
        if self.middle:  # the other limb is this one, mirrored
            x = points[0]
            beyond = x > self.middle if self.middle > 0 else x < self.middle
            points = torch.stack([torch.where(beyond, 2 * self.middle - x, x), points[1], points[2]])
        wide, fine = self.warp(points), self.fine(points)
        p = points + wide * self.warp_mm + fine * 0.8
        p = torch.stack([p[0] - self.slant[0] * p[2], p[1] - self.slant[1] * p[2], p[2]])
        size = 1 + self.taper * p[2]
        q = torch.stack([p[0] / size, p[1] / size, p[2]])
        skin = cylinder(q, 0, 0, self.rx, self.ry, 2.2)
        anatomy = Anatomy.empty(points)
        anatomy.paint(skin < 0, "skin")
        anatomy.paint(skin < -2, "fat", "fat")
        web = self.lines(points)
        anatomy.paint((skin < -3) & threads(web[0], web[1], self.strands), "fascia", "fat")
        inside = skin + self.fat * (1 + 0.25 * wide[0])
        muscle_of, gap = voronoi(torch.stack([q[0], q[1], q[2] * 0.2]), self.sites)
        anatomy.paint((inside < 1.5) & (inside > 0), "fascia", "fat")
        anatomy.paint(inside < 0, "muscle", "muscle")
        anatomy.paint((inside < 0) & (gap < self.gap * (1 + 0.6 * fine[1])), "fat", "fat")
        anatomy.mixed["muscle", "fat"] = self._fat(points, muscle_of, gap)
        for kind, line, radius in self.vessels:
            distance = tube(p, line, radius)
            anatomy.paint((distance < 3) & (inside < 0), "fat", "fat")
            anatomy.paint((distance < 0) & (inside < 0), kind)
        for line, radii, cortex in self.bones:
            distance = tube(p, line, radii)
            anatomy.paint(distance < 0, "cortical bone", "bone")
            anatomy.paint(distance < -cortex * min(radii), "yellow marrow", "bone")
        return anatomy

    def _fat(self, points: Tensor, muscle_of: Tensor, gap: Tensor) -> Tensor:
        """Share of fat in a voxel of muscle (X, Y, Z): septa between muscles, and streaks along the fibers of each.

        Args:
            muscle_of: the muscle that a point belongs to. gap: by how many mm the next one is farther.
        """
        lean, along = self.fibers[muscle_of], points[2]
        across = [points[k] - lean[..., k] * along for k in range(2)]
        streaks = torch.exp(-(self.streaks(torch.stack([*across, along * 0.12]))[0] / 0.4).square())
        septa = sheet(gap / 2, self.septum / 2, voxel_of(points))
        return torch.maximum(self.fatness[muscle_of] * streaks, septa).clamp(0, 1)
