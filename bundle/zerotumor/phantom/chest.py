"""The chest: lungs with vessels and bronchi, heart, great vessels, trachea, esophagus, nodes, breasts, domes below."""

from __future__ import annotations

from torch import Tensor

from .anatomy import Anatomy
from .geometry import Draw, Noise, ellipsoid, threads, tube, wander
from .trunk import Trunk, jitter, solid


class Chest:
    """From the thyroid (z = 140) to the domes of the diaphragm (z = -120)."""

    region = "chest"

    def __init__(self, draw: Draw) -> None:
        self.trunk = t = Trunk(draw, ribs=True)
        self.extent = (t.rx, t.ry + 30, 140.0)
        sx, sy = t.rx / 160, t.ry / 108
        self.fine, self.web = Noise(draw, 16, 3), Noise(draw, 26, 4)
        self.vessels = draw.uniform(0.13, 0.24)
        self.lungs = []
        for side, name in ((1, "right lung"), (-1, "left lung")):
            center = jitter(draw, [side * 76 * sx, -4 * sy, 0], 4)
            self.lungs.append((name, center, [56 * sx, 78 * sy, draw.uniform(115, 140)]))
        self.middle = draw.uniform(20, 30)
        self.dome = (draw.uniform(-95, -60), draw.uniform(-105, -75))
        self.heart = (jitter(draw, [-22, 22 * sy, -55], 5), [50 * sx, 46 * sy, 50], draw.rotation(0.4))
        self.chambers = [
            (jitter(draw, [-22 + dx, 22 * sy + dy, -50 + dz], 4), [r, r * 0.9, r * 1.2])
            for dx, dy, dz, r in ((18, 10, 0, 21), (-20, 8, -12, 19), (14, -16, 16, 19), (-12, -18, 14, 18))
        ]
        arch = draw.uniform(28, 50)
        y = t.spine_y + 30
        self.aorta = [
            [-20, y, -180],
            [-22, y, arch - 12],
            [-16, y + 20, arch + 8],
            [2, y + 50, arch],
            [4, y + 56, arch - 50],
        ]
        self.aorta_r = draw.uniform(10, 15)
        self.artery = [[-40, y + 30, 0], [-10, y + 50, 4], [18, y + 26, 2], [50, y + 22, -4]]
        self.cava = [[26, y + 45, 150], [26, y + 45, 20], [28, y + 38, -20]]
        self.trachea = [[2, y + 24, 170], [4, y + 22, 60], [4, y + 18, 22]]
        self.bronchi = [[[4, y + 18, 22], [s * 30, y + 16, -4], [s * 62, y + 8, -26]] for s in (1, -1)]
        self.esophagus = [[-6, y + 4, 170], [-4, y + 6, 40], [-10, y + 10, -130]]
        self.nodes = [(jitter(draw, [draw.uniform(-32, 34), y + draw.uniform(10, 55), draw.uniform(-20, 70)], 3),
                       draw.uniform(2.5, 5)) for _ in range(draw.integer(3, 8))]  # fmt: skip
        self.thyroid = [([s * 20, y + 44, 132], [10, 9, 20]) for s in (1, -1)]
        self.breast = draw.uniform(18, 62) if draw.chance(0.5) else 0.0
        self.lines = [wander(draw, [s * 34, y + 22, -8], [s * 1.0, draw.normal(0, 0.6), draw.normal(0, 0.9)], 3, 26, 0.35)
                      for s in (1, -1) for _ in range(5)]  # fmt: skip

    def evaluate(self, points: Tensor) -> Anatomy:
        """See `anatomy.Body`."""
        p = self.trunk.warp(points)
        anatomy, inner = self.trunk.evaluate(p, points)
        fine = self.fine(points)
        self._outside(anatomy, p, fine)
        p = p + fine * 1.2
        cavity = inner < -1
        for organ, side in (("liver", 1), ("spleen", -1)):
            below = p[2] < self._floor(p, side)
            anatomy.paint(cavity & below & (p[0] * side > -10), organ, organ)
        anatomy.paint(cavity & (p[2] < self._floor(p, -1) - 4) & (p[0] < -5) & (p[1] > 10), "bowel content", "stomach")
        self._lungs(anatomy, p, points, cavity)
        self._mediastinum(anatomy, p)
        return anatomy

    def _floor(self, p: Tensor, side: int) -> Tensor:
        """Height of the diaphragm under one lung."""
        return self.dome[side < 0] + 25 - ((p[0] - side * 70).square() + p[1].square()) * 0.006

    def _outside(self, anatomy: Anatomy, p: Tensor, fine: Tensor) -> None:
        """Breasts on the outline; shoulder blades and collarbones in the wall."""
        if self.breast:
            for side in (1, -1):
                center = [side * 70, self.trunk.ry - 12, -30]
                breast = ellipsoid(p, center, [58, self.breast, 55])
                outside = anatomy.tissue == 0
                anatomy.paint((breast < 0) & outside, "skin", "breast")
                anatomy.paint((breast < -2) & outside, "fat", "breast")
                gland = ellipsoid(p, center, [40, self.breast * 0.75, 38]) + fine[0] * 5 + fine[1].abs() * 6 - 3
                anatomy.paint((gland < 0) & (breast < -3) & outside, "breast gland", "breast")
        for side in (1, -1):
            blade = ellipsoid(p, [side * 92, -self.trunk.ry + self.trunk.fat + 22, 60], [40, 4, 60])
            anatomy.paint((blade < 0) & (anatomy.tissue != 0), "cortical bone", "bone")
            collar = tube(p, [[side * 20, 62, 110], [side * 140, 20, 135]], 7)
            anatomy.paint(collar < 0, "cortical bone", "bone")
            anatomy.paint(collar < -3, "red marrow", "bone")

    def _lungs(self, anatomy: Anatomy, p: Tensor, points: Tensor, cavity: Tensor) -> None:
        noise = self.web(points)
        for (name, center, radii), side in zip(self.lungs, (1, -1), strict=True):
            distance = ellipsoid(p, center, radii)
            lung = (distance < 8) & cavity & (p[0] * side > self.middle * 0.75) & (p[2] > self._floor(p, side))
            lung &= p[2] < center[2] + radii[2]
            if not lung.any():
                continue
            anatomy.paint(lung, "lung", name)
            # Vessels: thick near the hilum, thin at the pleura.
            width = self.vessels * (1.25 - (p[0] * side - 30).abs() / 110).clamp(0.25, 1)
            vessel = (noise[0].square() + noise[1].square()) < width.square()
            vessel |= threads(noise[2], noise[3], 0.09)
            anatomy.tissue[lung & vessel] = 11
            for line in self.lines:
                anatomy.tissue[lung & (tube(p, line, [7, 5, 3.5, 2.5]) < 0)] = 11

    def _mediastinum(self, anatomy: Anatomy, p: Tensor) -> None:
        fat = (anatomy.tissue == 2) & (p[0].abs() < 60) & (anatomy.organs == 25) & (p[1] > self.trunk.spine_y + 15)
        anatomy.paint(fat, "fat", "mediastinum")
        center, radii, rotation = self.heart
        heart = ellipsoid(p, center, radii, rotation)
        anatomy.paint(heart < 3, "fat", "mediastinum")
        anatomy.paint(heart < 0, "heart muscle", "heart")
        anatomy.paint((solid(p, self.chambers) < 0) & (heart < -5), "venous blood", "heart")
        for node, radius in self.nodes:
            oval = ellipsoid(p, node, [radius, radius, radius * 1.8])
            anatomy.paint((oval < 0) & (anatomy.organs == 31), "node", "lymph node")
        anatomy.paint(tube(p, self.cava, 9) < 0, "venous blood")
        anatomy.paint(tube(p, self.artery, [8, 12, 11, 8]) < 0, "venous blood")
        anatomy.paint(tube(p, self.aorta, self.aorta_r) < 0, "arterial blood", "aorta")
        gullet = tube(p, self.esophagus, 8)
        anatomy.paint(gullet < 0, "esophagus", "esophagus")
        anatomy.paint(gullet < -6, "gas", "esophagus")
        for line in (self.trachea, *self.bronchi):
            pipe = tube(p, line, 9 if line is self.trachea else [8, 6.5, 4])
            anatomy.paint(pipe < 2, "bowel wall")
            anatomy.paint(pipe < 0, "gas")
        anatomy.paint((solid(p, self.thyroid) < 0) & (anatomy.tissue != 21), "thyroid", "thyroid")
