"""What chest, abdomen and pelvis have in common: outline, fat, body wall, spine, ribs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .anatomy import Anatomy
from .geometry import FAR, Draw, Noise, box_around, cylinder, ellipsoid, threads, tube


class Trunk:
    """Outline and skeleton of the trunk along z; the spine lies at the back (y < 0).

    Args:
        ribs: whether the wall holds ribs.
    """

    def __init__(self, draw: Draw, ribs: bool) -> None:
        self.rx, self.ry = draw.uniform(135, 190), draw.uniform(90, 128)
        self.fat = draw.uniform(6, 38)
        self.wall = draw.uniform(8, 16)
        self.spine_y = -self.ry + self.fat + draw.uniform(42, 52)
        self.lattice = Noise(draw, 60, 3)
        self.web = Noise(draw, 22, 2)
        self.ribs = ribs
        self.phase = draw.uniform(0, 28)
        self.tilt = draw.uniform(0.25, 0.5)
        self.disc = draw.uniform(28, 36)
        self.scoliosis = draw.uniform(-0.04, 0.04)

    def warp(self, points: Tensor, amplitude: float = 6.0) -> Tensor:
        """Subject-specific bending of everything."""
        return points + self.lattice(points) * amplitude

    def evaluate(self, p: Tensor, points: Tensor) -> tuple[Anatomy, Tensor]:
        """Anatomy without organs at warped points p, and the distance to the inner side of the wall."""
        anatomy = Anatomy.empty(p)
        skin = cylinder(p, 0, 0, self.rx, self.ry, 2.3)
        anatomy.paint(skin < 0, "skin")
        anatomy.paint(skin < -2, "fat", "fat")
        web = self.web(points)
        anatomy.paint((skin < -3) & threads(web[0], web[1], 0.05), "fascia", "fat")
        wall = skin + self.fat
        anatomy.paint(wall < 0, "muscle", "muscle")
        inner = wall + self.wall
        anatomy.paint(inner < 0, "fat", "fat")
        self._back(anatomy, p, wall)
        if self.ribs:
            self.paint_ribs(anatomy, p, inner + self.wall * 0.5)
        return anatomy, inner

    def _back(self, anatomy: Anatomy, p: Tensor, wall: Tensor) -> None:
        """Erector muscles, vertebra with canal and processes."""
        x0 = self.scoliosis * p[2]
        for side in (-1, 1):
            muscle = cylinder(p, side * 34, self.spine_y - 32, 30, 22)
            anatomy.paint((muscle < 0) & (wall < 0), "muscle", "muscle")
            anatomy.paint((muscle.abs() < 1.2) & (wall < 0), "fat", "fat")
        local = torch.stack([p[0] - x0, p[1] - self.spine_y, (p[2] + self.phase) % self.disc - self.disc / 2])
        body = cylinder(local, 0, 0, 22, 17)
        between = local[2].abs() > self.disc / 2 - 4
        anatomy.paint((body < 0) & between, "cartilage")
        anatomy.paint((body < 0) & ~between, "cortical bone", "bone")
        anatomy.paint((body < -2) & ~between & (local[2].abs() < self.disc / 2 - 5.5), "red marrow", "bone")
        arch = cylinder(local, 0, -25, 14, 13)
        spine = (local[0].abs() < 4) & (local[1] < -32) & (local[1] > -58) & (local[2].abs() < 9)
        wings = (local[1] + 26).abs() < 5
        wings &= (local[0].abs() < 36) & (local[2].abs() < 6)
        anatomy.paint(((arch < 0) | spine | wings) & (wall < 0), "cortical bone", "bone")
        anatomy.paint((arch < -3) | (spine & (local[0].abs() < 2)), "red marrow", "bone")
        anatomy.paint(cylinder(local, 0, -23, 9, 8) < 0, "csf")
        anatomy.paint(cylinder(local, 0, -23, 5, 4) < 0, "white matter")

    def deepen(self, least: float) -> None:
        """Make the body at least `least` mm deep from its middle to the back; the spine moves along."""
        more = max(0.0, least - self.ry)
        self.ry += more
        self.spine_y -= more

    def paint_ribs(self, anatomy: Anatomy, p: Tensor, middle: Tensor) -> None:
        """Oblique rings in the wall; cartilage in front.

        Args:
            middle: distance (X, Y, Z) in mm to the surface that they run in.
        """
        angle = torch.atan2(p[1], p[0].abs())
        height = (p[2] + self.phase - p[1] * self.tilt) % 27 - 13.5
        rib = (height / 6.5).square() + (middle / 4.5).square()
        behind = angle < 0.9 + 0.2 * math.sin(self.phase)
        anatomy.paint((rib < 1) & behind, "cortical bone", "bone")
        anatomy.paint((rib < 0.45) & behind, "red marrow", "bone")
        anatomy.paint((rib < 0.8) & ~behind, "cartilage")


def hollow(
    anatomy: Anatomy, distance: Tensor, p: Tensor, level: float, organ: str, content: str, wall_mm: float = 3.0
) -> None:
    """A hollow organ: wall, content, and gas above the fluid level (the patient lies on the back, so +y is up)."""
    anatomy.paint(distance < 0, "bowel wall", organ)
    lumen = distance < -wall_mm
    anatomy.paint(lumen, content, organ)
    anatomy.paint(lumen & (p[1] > level), "gas", organ)


def bowel(anatomy: Anatomy, p: Tensor, loops: list[dict], organ: str, where: Tensor) -> None:
    """Loops of bowel, each a polyline with radius, content and share of gas."""
    for loop in loops:
        axes = list(zip(*loop["line"], strict=True))
        box = box_around(p, [min(a) - loop["radius"] for a in axes], [max(a) + loop["radius"] for a in axes])
        if box is None:
            continue
        near, part = p[(slice(None), *box)], anatomy.part(box)
        distance = torch.where(where[box], tube(near, loop["line"], loop["radius"]), FAR)
        part.paint(distance < 0, "bowel wall", organ)
        lumen = distance < -loop["wall"]
        part.paint(lumen, loop["content"], organ)
        part.paint(lumen & (near[1] > loop["level"]), "gas", organ)


def draw_loop(draw: Draw, line: list, radius: float, contents: tuple[str, ...], gas: float) -> dict:
    """A random loop along a line; `gas` is the chance that it holds some."""
    middle = sum(point[1] for point in line) / len(line)
    level = middle + draw.uniform(-0.8, 0.8) * radius if draw.chance(gas) else 1e3
    return {
        "line": line,
        "radius": radius,
        "wall": draw.uniform(1.5, 4),
        "content": draw.choice(contents),
        "level": level,
    }


def solid(p: Tensor, parts: list[tuple]) -> Tensor:
    """Union of ellipsoids (center, radii)."""
    best = None
    for center, radii in parts:
        distance = ellipsoid(p, center, radii)
        best = distance if best is None else torch.minimum(best, distance)
    return best


def jitter(draw: Draw, values: list[float], sd: float) -> list[float]:
    """Numbers, each moved by a normal step."""
    return [v + draw.normal(0, sd) for v in values]
