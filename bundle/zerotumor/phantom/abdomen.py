"""The abdomen: liver with vessels, gallbladder, spleen, kidneys, adrenals, pancreas, stomach, bowel, great vessels."""

from __future__ import annotations

from torch import Tensor

from .anatomy import Anatomy
from .geometry import Draw, Noise, distance_to, ellipsoid, threads, tube, wander
from .trunk import Trunk, bowel, draw_loop, hollow, jitter, solid


class Abdomen:
    """From the domes of the diaphragm (z = 120) to the iliac crests (z = -120)."""

    region = "abdomen"

    def __init__(self, draw: Draw) -> None:
        self.trunk = t = Trunk(draw, ribs=True)
        self.extent = (t.rx, t.ry, 125.0)
        sx, sy = t.rx / 160, t.ry / 108
        self.fine, self.vessel_noise = Noise(draw, 18, 3), Noise(draw, 24, 4)
        self.vessel_width = draw.uniform(0.12, 0.2)
        grow = draw.uniform(0.88, 1.15)
        lz = draw.uniform(40, 62)
        self.liver = [
            (jitter(draw, [68 * sx, 5 * sy, lz], 4), [72 * sx * grow, 68 * sy * grow, 72 * grow]),
            (jitter(draw, [5 * sx, 38 * sy, lz + 14], 6), [72 * sx, 34 * sy, 36 * grow]),
            (jitter(draw, [85 * sx, 0 * sy, lz - 45], 6), [38 * sx, 45 * sy, 50 * grow]),
        ]
        self.gallbladder = (jitter(draw, [48 * sx, 42 * sy, lz - 45], 5), [14, 15, 26], draw.rotation(0.6))
        self.spleen = (jitter(draw, [-103 * sx, -38 * sy, 55], 6), [24 * grow, 38, 50], draw.rotation(0.5))
        self.kidneys = []
        for side in (1, -1):
            center = jitter(draw, [side * 66 * sx, t.spine_y + 4, -12 - 8 * side], 6)
            size = draw.uniform(0.85, 1.15)
            radii = [27 * size, 24 * size, 52 * size]
            sinus = draw.uniform(0.45, 1.15)
            stones = [jitter(draw, center, 12) for _ in range(draw.choice((0, 0, 0, 0, 1, 3)))]
            self.kidneys.append((side, center, radii, draw.rotation(0.3), sinus, stones))
        self.pancreas = [
            jitter(draw, p, 5)
            for p in ([34, 12 * sy, -18], [28, 18 * sy, 2], [0, 20 * sy, 12], [-40 * sx, 2, 26], [-80 * sx, -22, 40])
        ]
        self.pancreas_radii = [draw.uniform(11, 15), draw.uniform(10, 14), draw.uniform(7, 10), 8, draw.uniform(6, 10)]
        self.stomach = [
            (jitter(draw, [-62 * sx, 22 * sy, 72], 7), [36 * sx, 40 * sy, 42]),
            (jitter(draw, [-34 * sx, 46 * sy, 32], 7), [40 * sx, 25 * sy, 28]),
        ]
        self.stomach_level = draw.uniform(10, 80) * sy
        self.stomach_content = draw.choice(("bowel content", "urine", "stool"))
        self.adrenals = [(s, jitter(draw, [s * 42 * sx, t.spine_y + 14, 42], 4)) for s in (1, -1)]
        self.aorta = [[-10 + draw.normal(0, 4), t.spine_y + 28 + draw.normal(0, 2), z] for z in (-160, -60, 40, 160)]
        self.cava = [[20 + draw.normal(0, 4), t.spine_y + 27 + draw.normal(0, 2), z] for z in (-160, -60, 40, 160)]
        self.aorta_r, self.cava_r = draw.uniform(8, 13), draw.uniform(9, 14)
        self.portal = [[28, 22 * sy, 8], [44 * sx, 14 * sy, lz - 18], [72 * sx, 8 * sy, lz]]
        self.splenic = [[28, 22 * sy, 8], [-30, 2, 25], [-90 * sx, -25 * sy, 48]]
        self.loops = self._bowel(draw, sx, sy)
        self.colon = self._colon(draw, sx, sy)

    @staticmethod
    def _bowel(draw: Draw, sx: float, sy: float) -> list[dict]:
        loops = []
        for _ in range(draw.integer(12, 20)):
            start = [draw.uniform(-75, 75) * sx, draw.uniform(-5, 65) * sy, draw.uniform(-130, 5)]
            line = wander(draw, start, draw.vector(), draw.integer(2, 5), 26, 0.7)
            contents = ("bowel content", "bowel content", "bowel wall", "urine")
            loops.append(draw_loop(draw, line, draw.uniform(8, 15), contents, 0.35))
        return loops

    @staticmethod
    def _colon(draw: Draw, sx: float, sy: float) -> list[dict]:
        low = draw.uniform(-45, 0)
        right = [[105 * sx, -10 * sy, z] for z in (-130, -90, -50, low)]
        cross = [
            [100 * sx, 20 * sy, low],
            [45 * sx, 62 * sy, low - 15],
            [-40 * sx, 66 * sy, low],
            [-105 * sx, 10 * sy, 25],
        ]
        left = [[-110 * sx, -20 * sy, z] for z in (25, -30, -80, -130)]
        contents = ("stool", "stool", "bowel content", "gas")
        return [
            draw_loop(draw, [jitter(draw, p, 7) for p in line], draw.uniform(14, 25), contents, 0.7)
            for line in (right, cross, left)
        ]

    def evaluate(self, points: Tensor) -> Anatomy:
        """See `anatomy.Body`."""
        p = self.trunk.warp(points)
        fine = self.fine(points)
        anatomy, inner = self.trunk.evaluate(p, points)
        p = p + fine * 1.5
        cavity = inner < 0
        for side in (1, -1):  # psoas
            line = [[side * (24 + d), self.trunk.spine_y + 4 + d * 0.4, z] for d, z in ((0, 30), (10, -40), (26, -140))]
            anatomy.paint((tube(p, line, [4, 17, 22]) < 0) & cavity, "muscle", "muscle")
        bowel(anatomy, p, self.loops, "small bowel", cavity)
        bowel(anatomy, p, self.colon, "colon", cavity)
        stomach = solid(p, self.stomach)
        if (stomach < 0).any():
            hollow(anatomy, stomach + (~cavity) * 50, p, self.stomach_level, "stomach", self.stomach_content, 4)
        pancreas = tube(p, self.pancreas, self.pancreas_radii) + fine[0] * 2.2
        anatomy.paint((pancreas < 0) & cavity, "pancreas", "pancreas")
        anatomy.paint(tube(p, self.splenic, 4.5) < 0, "venous blood")
        self._liver(anatomy, p, points, cavity)
        spleen = ellipsoid(p, *self.spleen)
        anatomy.paint((spleen < 0) & cavity, "spleen", "spleen")
        for kidney in self.kidneys:
            self._kidney(anatomy, p, fine, kidney)
        for side, center in self.adrenals:
            limbs = [[center[0], center[1], center[2]], [center[0] + side * 7, center[1] - 12, center[2] - 8]]
            other = [[center[0], center[1], center[2]], [center[0] - side * 3, center[1] - 14, center[2] - 4]]
            name = ("right" if side > 0 else "left") + " adrenal gland"
            for line in (limbs, other):
                anatomy.paint(tube(p, line, 3.2) < 0, "adrenal", name)
        anatomy.paint(tube(p, self.cava, self.cava_r) < 0, "venous blood", "inferior vena cava")
        aorta = tube(p, self.aorta, self.aorta_r)
        anatomy.paint(aorta < 0, "arterial blood", "aorta")
        return anatomy

    def _liver(self, anatomy: Anatomy, p: Tensor, points: Tensor, cavity: Tensor) -> None:
        distance = solid(p, self.liver)
        liver = (distance < 0) & cavity
        if not liver.any():
            return
        anatomy.paint(liver, "liver", "liver")
        noise = self.vessel_noise(points)
        deep = liver & (distance < -6)
        anatomy.paint(deep & threads(noise[0], noise[1], self.vessel_width), "venous blood", "hepatic vessels")
        anatomy.paint(deep & threads(noise[2], noise[3], self.vessel_width * 0.6), "venous blood", "hepatic vessels")
        anatomy.paint(tube(p, self.portal, 6) < 0, "venous blood", "hepatic vessels")
        center, radii, rotation = self.gallbladder
        bladder = ellipsoid(p, center, radii, rotation)
        anatomy.paint(bladder < 2, "bowel wall", "gallbladder")
        anatomy.paint(bladder < 0, "bile", "gallbladder")

    def _kidney(self, anatomy: Anatomy, p: Tensor, fine: Tensor, kidney: tuple) -> None:
        side, center, radii, rotation, sinus, stones = kidney
        distance = ellipsoid(p, center, radii, rotation)
        name = "right kidney" if side > 0 else "left kidney"
        inside = distance < 0
        if not inside.any():
            return
        anatomy.paint(inside, "kidney cortex", name)
        deep = distance + fine[1] * 2.5
        anatomy.paint(inside & (deep < -6.5), "kidney medulla", name)
        # The sinus opens towards the midline: fat with the pelvis in it.
        hilum = (
            ellipsoid(p, [center[0] - side * 13, center[1] + 3, center[2]], [r * sinus for r in (15, 9, 22)])
            + fine[2] * 1.5
        )
        anatomy.paint((hilum < 0) & (distance < 3), "fat")
        pelvis = ellipsoid(p, [center[0] - side * 12, center[1] + 3, center[2]], [r * sinus for r in (9, 5, 12)])
        anatomy.paint((pelvis < 0) & (distance < 4), "urine")
        for stone in stones:
            anatomy.paint(inside & (distance_to(p, stone) < 3.5), "stone", name)
        line = [
            [center[0] - side * 10, center[1] + 6, center[2] + 4],
            [side * 16, self.trunk.spine_y + 26, center[2] + 10],
        ]
        anatomy.paint((tube(p, line, 4) < 0) & (distance > -14), "venous blood")
