"""An imaginary body: shapes of random contrast that are nobody's anatomy.

Lesions in it teach what a lesion is (one thing that is unlike its surroundings) without showing any organ whose lesions
are to stay unseen. So it varies without restraint: number, size and brightness of compartments, septa, tubes, shells,
gas, and things that look like lesions but come in numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .anatomy import Anatomy
from .geometry import Draw, Noise, cylinder, ellipsoid, threads, tube, voronoi, wander


class Abstract:
    """A random body of warped compartments."""

    region = "abstract"

    def __init__(self, draw: Draw) -> None:
        self.rx, self.ry = draw.uniform(45, 170), draw.uniform(45, 130)
        self.extent = (self.rx, self.ry, 140.0)
        self.endless = draw.chance(0.25)  # the scan lies wholly inside the body
        self.power = draw.uniform(1.7, 3.5)
        self.warp, self.fine, self.web = Noise(draw, 40, 3), Noise(draw, draw.uniform(9, 20), 3), Noise(draw, 24, 2)
        self.warp_mm = draw.uniform(2, 14)
        self.fine_mm = draw.uniform(0, 2.5)
        self.rim = draw.uniform(0, 22)
        self.septum = draw.choice((0.0, draw.uniform(0.8, 4.0)))
        self.strands = draw.choice((0.0, draw.uniform(0.04, 0.15)))
        self.stretch = torch.tensor([draw.uniform(0.25, 1.0) for _ in range(3)], device=draw.device)
        self.colors = [draw.integer(1, 12) for _ in range(16)]
        spread = torch.tensor([self.rx, self.ry, 120.0])
        self.sites = ((torch.rand((draw.integer(2, 14), 3), generator=draw.generator) * 2 - 1) * spread).to(draw.device)
        self.same = draw.chance(0.5)  # all compartments of one brightness, as muscles are
        self.blobs = [self._blob(draw) for _ in range(draw.integer(0, 5))]
        self.tubes = [self._tube(draw) for _ in range(draw.integer(0, 6))]
        self.repeats = self._repeats(draw)

    def _place(self, draw: Draw) -> list[float]:
        return [draw.uniform(-0.8, 0.8) * self.rx, draw.uniform(-0.8, 0.8) * self.ry, draw.uniform(-110, 110)]

    def _blob(self, draw: Draw) -> tuple:
        radii = [draw.uniform(15, 75) for _ in range(3)]
        shell = draw.choice((0.0, 0.0, draw.uniform(2, 8)))
        return self._place(draw), radii, draw.rotation(), draw.integer(1, 12), shell, draw.integer(1, 12)

    def _tube(self, draw: Draw) -> tuple:
        line = wander(draw, self._place(draw), draw.vector(), draw.integer(3, 7), 35, draw.uniform(0.2, 0.7))
        kind = draw.choice(("abstract 1", "abstract 2", "abstract 3", "arterial blood", "cortical bone", "gas", "fat"))
        return line, draw.uniform(2, 14), kind, draw.choice((0.0, draw.uniform(1, 4)))

    def _repeats(self, draw: Draw) -> tuple | None:
        """Many small things alike: normal because they are many."""
        if not draw.chance(0.3):
            return None
        color, size = draw.integer(1, 12), draw.uniform(4, 11)
        centers = [self._place(draw) for _ in range(draw.integer(12, 40))]
        return centers, size, color

    def evaluate(self, points: Tensor) -> Anatomy:
        """See `anatomy.Body`."""
        fine = self.fine(points)
        p = points + self.warp(points) * self.warp_mm + fine * self.fine_mm
        skin = cylinder(p, 0, 0, self.rx, self.ry, self.power)
        if self.endless:
            skin = torch.full_like(skin, -100.0)
        anatomy = Anatomy.empty(points)
        anatomy.paint(skin < 0, f"abstract {self.colors[14]}", "abstract")
        inside = skin < -self.rim
        index, gap = voronoi(p * self.stretch[:, None, None, None], self.sites * self.stretch)
        for k in range(len(self.sites)):
            color = self.colors[0] if self.same else self.colors[k]
            anatomy.paint(inside & (index == k), f"abstract {color}", "abstract")
        if self.septum:
            anatomy.paint(inside & (gap < self.septum), f"abstract {self.colors[15]}", "abstract")
        for center, radii, rotation, color, shell, inner in self.blobs:
            distance = ellipsoid(p, center, radii, rotation)
            anatomy.paint(inside & (distance < 0), f"abstract {color}", "abstract")
            if shell:
                anatomy.paint(inside & (distance < -shell), f"abstract {inner}", "abstract")
        if self.repeats:
            centers, size, color = self.repeats
            low, high = points.flatten(1).amin(1).tolist(), points.flatten(1).amax(1).tolist()
            for center in centers:
                if all(lo - 15 < c < hi + 15 for c, lo, hi in zip(center, low, high, strict=True)):
                    anatomy.paint(inside & (ellipsoid(p, center, [size] * 3) < 0), f"abstract {color}")
        if self.strands:
            web = self.web(points)
            anatomy.paint(inside & threads(web[0], web[1], self.strands), f"abstract {self.colors[13]}")
        for line, radius, kind, wall in self.tubes:
            distance = tube(p, line, radius)
            if wall:
                anatomy.paint(inside & (distance < wall), f"abstract {self.colors[12]}")
            anatomy.paint(inside & (distance < 0), kind)
        return anatomy
