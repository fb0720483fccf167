"""The pelvis: iliac bones, sacrum, hips, gluteal muscles, bladder, prostate or uterus and ovaries, rectum, bowel."""

from __future__ import annotations

import torch
from torch import Tensor

from .anatomy import Anatomy
from .geometry import Draw, Noise, ellipsoid, tube, voronoi, wander
from .trunk import Trunk, bowel, draw_loop, jitter


class Pelvis:
    """From the iliac crests (z = 110) to the upper thighs (z = -120)."""

    region = "pelvis"

    def __init__(self, draw: Draw) -> None:
        self.trunk = t = Trunk(draw, ribs=False)
        t.ry *= 0.95
        self.extent = (t.rx, t.ry, 120.0)
        sx = t.rx / 160
        self.female = draw.chance(0.5)
        self.fine = Noise(draw, 16, 2)
        full = draw.uniform(0.45, 1.7)
        self.bladder = (jitter(draw, [0, 30, -25], 4), [38 * full, 28 * min(full, 1.4), 26 * full])
        self.prostate = (
            jitter(draw, [0, 18, -62], 3),
            [draw.uniform(18, 28), draw.uniform(14, 20), draw.uniform(16, 24)],
        )
        self.uterus = (jitter(draw, [draw.normal(0, 8), 2, 8], 4), [26, 22, 34], draw.rotation(0.6))
        self.ovaries = [(jitter(draw, [s * 42 * sx, -2, 18], 6), [draw.uniform(10, 17)] * 3) for s in (1, -1)]
        self.rectum = draw_loop(
            draw,
            [[0, -42, 60], [4, -52, 10], [0, -46, -40], [0, -36, -100]],
            draw.uniform(14, 22),
            ("stool", "stool", "bowel content"),
            0.5,
        )
        self.loops = []
        for _ in range(draw.integer(6, 14)):
            start = [draw.uniform(-75, 75) * sx, draw.uniform(0, 60), draw.uniform(10, 120)]
            line = wander(draw, start, draw.vector(), draw.integer(2, 5), 26, 0.7)
            self.loops.append(draw_loop(draw, line, draw.uniform(8, 15), ("bowel content", "bowel wall", "urine"), 0.3))
        sigmoid = wander(draw, [-85 * sx, 0, 60], [0.6, 0.2, -0.8], 5, 30, 0.6)
        self.colon = [draw_loop(draw, sigmoid, draw.uniform(13, 20), ("stool", "bowel content", "gas"), 0.6)]
        self.hip = [s * draw.uniform(86, 96) * sx for s in (1, -1)]
        self.vessels = [
            (
                kind,
                [[s * 18, -18, 120], [s * 42 * sx, 12, 50], [s * 62 * sx, 62, -30], [s * 70 * sx, 66, -130]],
                radius,
                dy,
            )
            for s in (1, -1)
            for kind, radius, dy in (("arterial blood", 5.0, 0), ("venous blood", 6.5, -11))
        ]
        angle = torch.rand((16, 3), generator=draw.generator) * 2 - 1
        self.sites = (angle * torch.tensor([t.rx, t.ry, 60.0])).to(draw.device)
        self.septum = draw.uniform(0.8, 2.5)

    def evaluate(self, points: Tensor) -> Anatomy:
        """See `anatomy.Body`."""
        p = self.trunk.warp(points)
        anatomy, inner = self.trunk.evaluate(p, points)
        p = p + self.fine(points)[:1] * 1.2
        self._muscles(anatomy, p, inner)
        self._bones(anatomy, p)
        cavity = ellipsoid(p, [0, 0, 30], [self.trunk.rx * 0.58, self.trunk.ry * 0.62, 150]) < 0
        cavity &= anatomy.organs != 23
        anatomy.paint(cavity & (p[2] > -85), "fat", "fat")
        bowel(anatomy, p, self.loops, "small bowel", cavity & (p[2] > -20))
        bowel(anatomy, p, self.colon, "colon", cavity & (p[2] > -40))
        for kind, line, radius, dy in self.vessels:
            line = [[x, y + dy, z] for x, y, z in line]
            anatomy.paint(tube(p, line, radius) < 0, kind)
        bowel(anatomy, p, [self.rectum], "rectum", cavity)
        self._organs(anatomy, p)
        return anatomy

    def _organs(self, anatomy: Anatomy, p: Tensor) -> None:
        if self.female:
            center, radii, rotation = self.uterus
            womb = ellipsoid(p, center, radii, rotation)
            anatomy.paint(womb < 0, "uterus", "uterus")
            anatomy.paint(womb < -16, "mucosa", "uterus")
            for center, radii in self.ovaries:
                anatomy.paint(ellipsoid(p, center, radii) < 0, "ovary", "ovary")
        else:
            center, radii = self.prostate
            gland = ellipsoid(p, center, radii)
            anatomy.paint(gland < 0, "mucosa", "prostate")
            anatomy.paint(
                ellipsoid(p, [center[0], center[1] + 4, center[2] + 4], [r * 0.68 for r in radii]) < 0,
                "gland",
                "prostate",
            )
            for side in (1, -1):
                vesicle = tube(p, [[0, center[1] - 10, center[2] + 20], [side * 26, center[1] - 14, center[2] + 30]], 5)
                anatomy.paint(vesicle < 0, "ovary")
        bladder = ellipsoid(p, *self.bladder)
        anatomy.paint(bladder < 0, "bowel wall", "bladder")
        anatomy.paint(bladder < -3.5, "urine", "bladder")

    def _muscles(self, anatomy: Anatomy, p: Tensor, inner: Tensor) -> None:
        """Gluteal and thigh muscles behind and beside the bones."""
        outside = (inner < 0) & (ellipsoid(p, [0, 5, 30], [self.trunk.rx * 0.6, self.trunk.ry * 0.66, 160]) > 0)
        _, gap = voronoi(p, self.sites)
        anatomy.paint(outside, "fat", "fat")
        anatomy.paint(outside & (gap > self.septum), "muscle", "muscle")
        for side in (1, -1):
            psoas = tube(p, [[side * 34, -20, 130], [side * 55, 20, 20], [side * 78, 34, -70]], [22, 19, 12])
            anatomy.paint(psoas < 0, "muscle", "muscle")

    def _bones(self, anatomy: Anatomy, p: Tensor) -> None:
        for x in self.hip:
            side = 1 if x > 0 else -1
            wing = ellipsoid(p, [x * 0.98, -14, 62], [9, 62, 60])
            wing = torch.maximum(wing, -p[2])
            column = tube(p, [[x * 0.92, -20, 8], [x * 0.85, 4, -30], [side * 18, 46, -62]], [15, 17, 9])
            sit = tube(p, [[x * 0.85, -8, -30], [x * 0.6, -30, -85], [side * 18, 40, -68]], [15, 11, 7])
            femur = ellipsoid(p, [x, 4, -34], [23, 23, 23])
            shaft = tube(p, [[x, 4, -34], [x + side * 40, -2, -56], [x + side * 42, 0, -150]], [13, 17, 13])
            for distance in (torch.minimum(torch.minimum(wing, column), sit), torch.minimum(femur, shaft)):
                anatomy.paint(distance < 0, "cortical bone", "bone")
                anatomy.paint(distance < -2.2, "red marrow" if distance is not shaft else "yellow marrow", "bone")
            anatomy.paint((ellipsoid(p, [x, 4, -34], [25.5] * 3) < 0) & (anatomy.organs != 23), "cartilage")
        sacrum = ellipsoid(p, [0, self.trunk.spine_y - 2, 40], [44, 20, 52])
        anatomy.paint(sacrum < 0, "cortical bone", "bone")
        anatomy.paint(sacrum < -2.5, "red marrow", "bone")
