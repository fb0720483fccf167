"""The head: scalp, skull, brain with gyri, ventricles and nuclei, cerebellum, eyes, sinuses; or a stripped brain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .anatomy import Anatomy
from .geometry import Draw, Noise, column, ellipsoid, length, tube, voxel_of
from .trunk import jitter


class Head:
    """From the jaw (z = -110) to the vertex (z = 100)."""

    region = "head"

    def __init__(self, draw: Draw) -> None:
        grow = draw.uniform(0.92, 1.08)
        self.brain = [draw.uniform(64, 72) * grow, draw.uniform(80, 90) * grow, draw.uniform(60, 68) * grow]
        self.center = [0.0, 0.0, 22.0]
        self.extent = (92.0, 112.0, 112.0)
        self.lattice, self.fine = Noise(draw, 48, 3), Noise(draw, 15, 2)
        self.fold = draw.uniform(8, 13)
        self.gyri = Noise(draw, self.fold, 2, cells=24)
        self.sulcus = draw.uniform(0.6, 2.0)  # half width in mm at the surface
        self.cortex = draw.uniform(3.0, 4.5)
        self.csf = draw.uniform(1.5, 6)
        self.skull = draw.uniform(5, 9)
        self.scalp = draw.uniform(3, 8)
        self.stripped = draw.chance(0.35)
        wide = draw.uniform(0.7, 1.7)
        self.ventricles = [
            (tube_line, radius * wide)
            for s in (1, -1)
            for tube_line, radius in (
                ([[s * 10, 34, 24], [s * 13, 5, 34], [s * 22, -30, 26], [s * 30, -8, 2]], 6.0),
                ([[s * 22, -30, 26], [s * 24, -52, 20]], 4.5),
            )
        ]
        self.third = 3 * wide
        self.nuclei = [
            (jitter(draw, [s * x, y, z], 1.5), r)
            for s in (1, -1)
            for x, y, z, r in ((13, -4, 16, [9, 13, 9]), (26, 10, 16, [7, 16, 12]), (14, 26, 24, [6, 9, 8]))
        ]
        self.cerebellum = (jitter(draw, [0, -52, -32], 3), [48, 30, 25])
        self.fissures = draw.uniform(0.05, 0.3)
        self.sinus = draw.uniform(0.6, 1.2)

    def evaluate(self, points: Tensor) -> Anatomy:
        """See `anatomy.Body`."""
        p = points + self.lattice(points) * 2.5
        anatomy = Anatomy.empty(points)
        brain = self._hull(p)
        if not self.stripped:
            self._outside(anatomy, p, brain)
        anatomy.paint(brain < 0, "csf", "brain")
        self._brain(anatomy, p, points, brain)
        if self.stripped:
            anatomy.tissue[brain >= 0] = 0
            anatomy.organs[brain >= 0] = 0
        return anatomy

    def _hull(self, p: Tensor) -> Tensor:
        """Distance to the inside of the skull: brain, posterior fossa."""
        x, y, z = self.brain
        upper = ellipsoid(p, self.center, [x + self.csf, y + self.csf, z + self.csf])
        upper = torch.maximum(upper, -22 - 0.25 * p[1] - p[2])  # the base of the skull slopes to the back
        lower = ellipsoid(p, self.cerebellum[0], [r + self.csf for r in self.cerebellum[1]])
        stem = tube(p, [[0, -28, -20], [0, -34, -120]], 12)
        return torch.minimum(torch.minimum(upper, lower), stem)

    def _outside(self, anatomy: Anatomy, p: Tensor, brain: Tensor) -> None:
        face = ellipsoid(p, [0, 42, -50], [58, 54, 75])
        neck = ellipsoid(p, [0, -25, -120], [56, 60, 90])
        hull = torch.minimum(torch.minimum(brain - self.skull - self.scalp, face), neck)
        anatomy.paint(hull < 0, "skin")
        anatomy.paint(hull < -2, "fat", "fat")
        muscle = (p[2] < 25) & (hull < -6) & (brain > self.skull)
        anatomy.paint(
            muscle & (self.lattice.lattice.mean() + (p[0] * 0.35 + p[2] * 0.2) % 13 > 2.2), "muscle", "muscle"
        )
        bone = brain < self.skull
        anatomy.paint(bone, "cortical bone", "bone")
        anatomy.paint((brain < self.skull - 2) & (brain > 2) & (p[2] > -10), "red marrow", "bone")
        jaw = ellipsoid(p, [0, 62, -84], [42, 34, 14])
        anatomy.paint((jaw < 0) & (jaw > -9) & (hull < -8), "cortical bone", "bone")
        for side in (1, -1):
            eye = ellipsoid(p, [side * 32, 80, -22], [13, 13, 13])
            orbit = ellipsoid(p, [side * 30, 66, -22], [18, 26, 17])
            anatomy.paint(orbit < 0, "fat")
            anatomy.paint(tube(p, [[side * 31, 70, -22], [side * 14, 30, -20]], 2.5) < 0, "muscle")
            anatomy.paint(eye < 0, "csf")
            cheek = ellipsoid(p, [side * 26, 58, -56], [16 * self.sinus, 18 * self.sinus, 17 * self.sinus])
            anatomy.paint(cheek < 2, "mucosa")
            anatomy.paint(cheek < -0.5, "gas")
            ear = ellipsoid(p, [side * 58, -22, -28], [12, 14, 12])
            anatomy.paint((ear < 0) & (self.fine.lattice.mean() + (p[1] + p[2]) % 6 > 2), "cortical bone", "bone")
            anatomy.paint((ear < 0) & ((p[1] + p[2]) % 6 > 4), "gas")
        nose = ellipsoid(p, [0, 62, -45], [13, 28, 24])
        anatomy.paint(nose < 0, "mucosa")
        anatomy.paint((nose < -1) & ((p[0].abs() % 7) > 4), "gas")
        frontal = ellipsoid(p, [0, 88, 4], [18, 7 * self.sinus, 11])
        anatomy.paint(frontal < 0, "gas")

    def _brain(self, anatomy: Anatomy, p: Tensor, points: Tensor, brain: Tensor) -> None:
        x, y, z = self.brain
        cerebrum = torch.maximum(ellipsoid(p, self.center, [x, y, z]), -20 - 0.25 * p[1] - p[2])
        noise, voxel = self.gyri(points), voxel_of(points)
        # Sulci: sheets where a noise is near zero, open at the surface and closing with depth.
        sulcus = (noise[0].abs() + 0.15 * noise[1].abs()) * self.fold * 0.6
        open_ = (cerebrum + 16).clamp_min(0) / 16
        depth = torch.minimum(-cerebrum, sulcus - self.sulcus * open_ + (-cerebrum - 16).clamp_min(0))
        anatomy.paint(cerebrum < 0, "gray matter", "brain")
        anatomy.paint((cerebrum < 0) & (depth > self.cortex + voxel / 2), "white matter", "brain")
        # The ribbon of the cortex is hardly thicker than a voxel, and a sulcus is thinner.
        white = (0.5 + (depth - self.cortex) / voxel).clamp(0, 1)
        water = (0.5 - depth / voxel).clamp(0, 1)
        for center, radii in self.nuclei:
            nucleus = ellipsoid(p, center, radii) < 0
            anatomy.paint(nucleus, "gray matter", "brain")
            white, water = white.masked_fill(nucleus, 0), water.masked_fill(nucleus, 0)
        for line, radius in self.ventricles:
            anatomy.paint(tube(p, line, radius) < 0, "csf", "brain")
        anatomy.paint((p[0].abs() < self.third * 0.6) & (ellipsoid(p, [0, 0, 10], [6, 16, 10]) < 0), "csf", "brain")
        falx = (p[0].abs() < 1.6) & (brain < 0) & (ellipsoid(p, self.center, [x, y * 0.72, z * 0.6]) > 0) & (p[2] > 0)
        anatomy.paint(falx, "csf", "brain")
        anatomy.paint(falx & (p[0].abs() < 0.8), "fascia", "brain")
        center, radii = self.cerebellum
        small = ellipsoid(p, center, radii)
        anatomy.paint(small < 0, "gray matter", "brain")
        folia = (0.5 + 0.5 * torch.sin(length(p - column([0, -30, -30], p)) * (2 * math.pi / 5))).clamp(0, 1)
        # Fissures between folia, 5 mm apart; what a voxel cannot resolve is their mean.
        fissures = self.fissures + (folia * 0.6 - 0.3) * max(0.0, 1 - voxel / 5)
        white, water = torch.where(small < 0, 0.15, white), torch.where(small < 0, fissures.clamp(0, 1), water)
        anatomy.mixed["gray matter", "white matter"], anatomy.mixed["gray matter", "csf"] = white, water
        anatomy.paint(small < -9, "white matter", "brain")
        anatomy.paint(tube(p, [[0, -6, 4], [0, -18, -20], [0, -34, -120]], [12, 13, 8]) < 0, "white matter", "brain")
