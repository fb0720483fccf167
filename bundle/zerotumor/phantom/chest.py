"""The chest: lungs round the mediastinum, heart, great vessels, trachea, esophagus, nodes, breasts, domes below."""

from __future__ import annotations

import torch
from torch import Tensor

from ..vocabulary import ORGANS
from .anatomy import Anatomy
from .geometry import Draw, Noise, cylinder, ellipsoid, tube
from .lungs import Lung
from .trunk import Trunk, jitter, solid

MEDIASTINUM = ORGANS["mediastinum"].index
SIDES = ((1, "right lung"), (-1, "left lung"))


class Chest:
    """From the thyroid (z = 140) to the domes of the diaphragm (z = -120)."""

    region = "chest"

    def __init__(self, draw: Draw) -> None:
        self.trunk = t = Trunk(draw, ribs=False)
        t.deepen(92 + t.fat)
        t.rx = max(t.rx, 122 + t.fat)
        self.extent = (t.rx, t.ry + 30, 140.0)
        self.fine = Noise(draw, 16, 4)
        self.front = t.ry - t.fat - t.wall  # inner side of the breastbone
        self.spine = t.spine_y + 15  # front of the vertebrae
        self.depth = depth = self.front - self.spine
        self.apex = draw.uniform(40, 65), draw.uniform(115, 140)  # z where the cage begins to narrow, and its top
        self.dome = (draw.uniform(-85, -50), draw.uniform(-95, -65))
        self.pedicle = draw.uniform(24, 36), draw.uniform(3, 12)  # half width of the mediastinum: middle, front
        self.lean = draw.uniform(-0.8, 1.2)  # how much of the mediastinum is fat
        self._draw_heart(draw, depth)
        self._draw_vessels(draw, depth)
        y = self.spine + 0.38 * depth
        self.lungs = [
            Lung(draw, [side * (self.pedicle[0] + 2), y, draw.uniform(-12, 4)], side, depth) for side, _ in SIDES
        ]
        self.nodes = [(jitter(draw, [draw.uniform(-32, 34), self.spine + draw.uniform(8, 50), draw.uniform(-20, 70)], 3),
                       draw.uniform(2.5, 5)) for _ in range(draw.integer(3, 8))]  # fmt: skip
        self.thyroid = [([s * 20, y + 28, 132], [10, 9, 20]) for s in (1, -1)]
        self.breast = draw.uniform(18, 62) if draw.chance(0.5) else 0.0
        self.muscles = [draw.uniform(0.6, 1.4) for _ in range(3)]
        self.planes = draw.uniform(0.3, 0.9)

    def _draw_heart(self, draw: Draw, depth: float) -> None:
        r = min(58.0, 0.46 * depth) * draw.uniform(0.9, 1.05)
        middle = jitter(draw, [-20, self.spine + 0.6 * depth, -50], 4)
        self.heart = (middle, [r * draw.uniform(1.15, 1.4), r, r * draw.uniform(0.95, 1.15)], draw.rotation(0.4))
        self.chambers = [
            (jitter(draw, [m + d * r / 46 for m, d in zip(middle, (dx, dy, dz), strict=True)], 4),
             [s * r / 46, s * 0.9 * r / 46, s * 1.2 * r / 46])
            for dx, dy, dz, s in ((20, 4, 5, 21), (-20, 0, -6, 19), (14, -20, 18, 19), (-12, -20, 20, 18))
        ]  # fmt: skip

    def _draw_vessels(self, draw: Draw, depth: float) -> None:
        arch = draw.uniform(28, 50)
        y = self.spine + 2
        self.aorta = [[-20, y, -180], [-23, y, arch - 12], [-17, y + 0.2 * depth, arch + 8],
                      [2, y + 0.5 * depth, arch], [4, y + 0.56 * depth, arch - 50]]  # fmt: skip
        self.aorta_r = draw.uniform(10, 15)
        y = self.spine + 0.38 * depth
        x = self.pedicle[0] + 4
        self.artery = [[-x, y, -2], [-12, y + 16, 10], [14, y + 4, 4], [x, y, -4]]
        self.trunk_artery = [[-12, y + 16, 10], [-14, y + 0.25 * depth, -20]]
        self.cava = [[24, y + 18, 150], [24, y + 18, 20], [26, y + 12, -20]]
        y = self.spine + 0.26 * depth
        self.trachea = [[2, y + 4, 170], [4, y + 2, 60], [4, y, 22]]
        self.bronchi = [[[4, y, 22], [s * 24, y, 2], [s * (x + 12), y - 2, -18]] for s in (1, -1)]
        y = self.spine + 8
        self.esophagus = [[-6, y, 170], [-4, y, 40], [-10, y + 6, -130]]

    def evaluate(self, points: Tensor) -> Anatomy:
        """See `anatomy.Body`."""
        p = self.trunk.warp(points)
        anatomy, inner = self.trunk.evaluate(p, points)
        fine = self.fine(points)
        tip, top = self.apex
        narrow = (
            55 * ((p[2] - tip).clamp_min(0) / (top - tip)).square()
        )  # mm by which the cage is narrower than the body
        self._wall(anatomy, p, inner, narrow, fine)
        self._outside(anatomy, p, fine)
        p = p + fine[:3] * 1.2
        column = cylinder(p, 0, self.trunk.spine_y - 24, 36, 40)
        cavity = torch.maximum(inner + narrow, 2 - column) < -1  # lungs reach back on both sides of the spine
        for organ, side in (("liver", 1), ("spleen", -1)):
            below = p[2] < self._floor(p, side) - 2
            anatomy.paint(cavity & below & (p[0] * side > -10), organ, organ)
        anatomy.paint(cavity & (p[2] < self._floor(p, -1) - 4) & (p[0] < -5) & (p[1] > 10), "bowel content", "stomach")
        middle = self._middle(p, fine)
        anatomy.paint(cavity & (middle < 0) & (p[2] > self._floor(p, 1) - 12), "fat", "mediastinum")
        anatomy.paint((anatomy.organs == MEDIASTINUM) & (fine[3] > self.lean), "fascia", "mediastinum")
        self._mediastinum(anatomy, p)
        self._lungs(anatomy, p, cavity & (middle > 1.5))
        self._airways(anatomy, p)
        return anatomy

    def _floor(self, p: Tensor, side: int) -> Tensor:
        """Height of the diaphragm under one lung."""
        return self.dome[side < 0] + 25 - ((p[0] - side * 65).square() + p[1].square()) * 0.007

    def _wall(self, anatomy: Anatomy, p: Tensor, inner: Tensor, narrow: Tensor, fine: Tensor) -> None:
        """Muscles on the ribs and of the shoulders with fat between them, ribs, shoulder blades."""
        t = self.trunk
        x = p[0].abs()
        wall = inner - t.wall
        pectoral = (
            17 * self.muscles[0] * torch.exp(-((x - 65) / 48).square() - ((p[2] - 60) / 60).square()) * (p[1] > 0)
        )
        side = 15 * self.muscles[1] * torch.exp(-((x / t.rx - 0.88) / 0.22).square()) * (p[1] < 35)
        back = 9 * self.muscles[2] * torch.exp(-(x / 80).square() - ((p[2] - 90) / 80).square()) * (p[1] < 0)
        thick = torch.maximum(torch.maximum(pectoral, side), back) + fine[0] * 1.5
        anatomy.paint((wall > 1.2) & (wall < thick) & (wall < t.fat - 4), "muscle", "muscle")
        shoulder = (inner < 0) & (inner + narrow > -2)
        anatomy.paint(shoulder, "muscle", "muscle")
        sheet = inner + narrow * 0.6 - t.wall * 0.8
        blade = ((x - 95) / 38).square() + ((p[2] - 70) / 62).square()
        blade = (blade < 1) & (p[1] < 10) & (wall < t.fat - 4)
        anatomy.paint(blade & (sheet.abs() < 9), "muscle", "muscle")
        anatomy.paint(blade & (sheet.abs() < 2.2), "cortical bone", "bone")
        # Planes of fat between muscles: near where a noise is zero, more of them in the shoulders.
        steep = torch.where(shoulder, 0.14, 0.07)
        anatomy.mixed["muscle", "fat"] = self.planes * torch.exp(-(fine[1] / steep).square())
        t.paint_ribs(anatomy, p, inner + narrow + t.wall * 0.45)

    def _outside(self, anatomy: Anatomy, p: Tensor, fine: Tensor) -> None:
        """Breasts on the outline; breastbone and collarbones in the wall."""
        if self.breast:
            for side, _ in SIDES:
                center = [side * 70, self.trunk.ry - 12, -30]
                breast = ellipsoid(p, center, [58, self.breast, 55])
                outside = anatomy.tissue == 0
                anatomy.paint((breast < 0) & outside, "skin", "breast")
                anatomy.paint((breast < -2) & outside, "fat", "breast")
                gland = ellipsoid(p, center, [40, self.breast * 0.75, 38]) + fine[0] * 5 + fine[1].abs() * 6 - 3
                anatomy.paint((gland < 0) & (breast < -3) & outside, "breast gland", "breast")
        plate = cylinder(p, 0, self.front + 7, 19, 6, 3)
        anatomy.paint((plate < 0) & (p[2] > -50) & (p[2] < 90), "cortical bone", "bone")
        anatomy.paint((plate < -2) & (p[2] > -50) & (p[2] < 90), "red marrow", "bone")
        for side, _ in SIDES:
            collar = tube(p, [[side * 20, self.front - 4, 100], [side * 140, self.front - 50, 130]], 7)
            anatomy.paint(collar < 0, "cortical bone", "bone")
            anatomy.paint(collar < -3, "red marrow", "bone")

    def _middle(self, p: Tensor, fine: Tensor) -> Tensor:
        """About the distance to the mediastinum: widest before the spine, narrow behind the breastbone, and the heart."""
        middle, front = self.pedicle
        share = (p[1] - self.spine) / self.depth
        width = middle * (0.75 + 0.7 * share).clamp(0.6, 1.0)
        width = torch.where(
            share > 0.36, middle + (front - middle) * ((share - 0.36) / 0.64).clamp(0, 1).pow(1.4), width
        )
        center, radii, rotation = self.heart
        best = torch.minimum(p[0].abs() - width + fine[0] * 1.5, ellipsoid(p, center, radii, rotation) - 4)
        return torch.minimum(best, tube(p, self.aorta, self.aorta_r + 2.5))

    def _lungs(self, anatomy: Anatomy, p: Tensor, where: Tensor) -> None:
        blood = torch.zeros_like(p[0])
        for (side, name), lung in zip(SIDES, self.lungs, strict=True):
            inside = where & (p[0] * side > 0) & (p[2] > self._floor(p, side)) & (p[2] < self.apex[1])
            if inside.any():
                anatomy.paint(inside, "lung", name)
                blood = torch.where(inside, lung.blood(p), blood)
        anatomy.mixed["lung", "venous blood"] = blood

    def _mediastinum(self, anatomy: Anatomy, p: Tensor) -> None:
        center, radii, rotation = self.heart
        heart = ellipsoid(p, center, radii, rotation)
        anatomy.paint((heart < 0) & (anatomy.organs == MEDIASTINUM), "heart muscle", "heart")
        anatomy.paint((solid(p, self.chambers) < 0) & (heart < -5), "venous blood", "heart")
        for node, radius in self.nodes:
            oval = ellipsoid(p, node, [radius, radius, radius * 1.8])
            anatomy.paint((oval < 0) & (anatomy.organs == MEDIASTINUM), "node", "lymph node")
        anatomy.paint(tube(p, self.cava, 9) < 0, "venous blood")
        anatomy.paint(tube(p, self.aorta, self.aorta_r) < 0, "arterial blood", "aorta")
        gullet = tube(p, self.esophagus, 8)
        anatomy.paint(gullet < 0, "esophagus", "esophagus")
        anatomy.paint(gullet < -6, "gas", "esophagus")
        anatomy.paint((solid(p, self.thyroid) < 0) & (p[2] > 110), "thyroid", "thyroid")

    def _airways(self, anatomy: Anatomy, p: Tensor) -> None:
        """What runs on into the lungs: pulmonary arteries, trachea and main bronchi."""
        anatomy.paint(tube(p, self.artery, [7, 10, 10, 7]) < 0, "venous blood")
        anatomy.paint(tube(p, self.trunk_artery, 12) < 0, "venous blood")
        for line in (self.trachea, *self.bronchi):
            pipe = tube(p, line, 9 if line is self.trachea else [8, 6, 4])
            anatomy.paint(pipe < 1.8, "bowel wall")
            anatomy.paint(pipe < 0, "gas")
