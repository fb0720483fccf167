"""Implicit shapes and smooth noise as functions of coordinates, in mm.

Points are (3, X, Y, Z) in RAS: +x to the patient's right, +y to the front, +z to the head. Distances are negative inside
a shape. Nothing here is sampled on a grid of its own, so a body can be looked at coarsely, to find an organ, and then
finely, where the scan is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

REACH = 20.0
"""mm beyond which a distance need not be known: farther away, `ellipsoid` and `tube` answer FAR."""
FAR = 1e3
_EXTENTS = WeakIdKeyDictionary()


class Draw:
    """Seeded random numbers. They come from the CPU whatever the device, so that a seed means one phantom."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device = torch.device(device)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def normal(self, mean: float = 0.0, sd: float = 1.0) -> float:
        return mean + sd * float(torch.randn((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """low <= n <= high."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def choice(self, items: Sequence, weights: Sequence[float] | None = None):
        if weights is None:
            return items[self.integer(0, len(items) - 1)]
        return items[int(torch.multinomial(torch.tensor(weights, dtype=torch.float), 1, generator=self.generator))]

    def vector(self, sd: float = 1.0) -> list[float]:
        return [self.normal(0, sd) for _ in range(3)]

    def field(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers on the device."""
        return torch.randn(tuple(shape), generator=self.generator).to(self.device)

    def rotation(self, angle: float = math.pi) -> Tensor:
        """A random rotation (3, 3) by up to `angle` radians."""
        axis = torch.tensor(self.vector())
        axis = axis / axis.norm().clamp_min(1e-6) * self.uniform(-angle, angle)
        x, y, z = axis.tolist()
        skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return torch.linalg.matrix_exp(skew).to(self.device)


def grid(shape: Sequence[int], spacing: Sequence[float], center: Sequence[float], device="cpu") -> Tensor:
    """Coordinates in mm (3, X, Y, Z) of voxel centers of a scan around `center`."""
    axes = [
        (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * s + c
        for n, s, c in zip(shape, spacing, center, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


class Noise:
    """Smooth random fields of about unit variance, defined everywhere, periodic after `cells` cells.

    Args:
        scale: mm between lattice points. channels: independent fields.
    """

    def __init__(self, draw: Draw, scale: float, channels: int = 1, cells: int = 12) -> None:
        lattice = draw.field((channels, cells, cells, cells))
        lattice = F.pad(lattice[None], (0, 1, 0, 1, 0, 1), mode="circular")
        self.lattice = lattice * 1.6  # linear interpolation lowers the variance
        self.scale, self.cells = scale, cells
        self.offset = torch.tensor([draw.uniform(0, cells) for _ in range(3)], device=draw.device)

    def __call__(self, points: Tensor) -> Tensor:
        """(3, X, Y, Z) -> (channels, X, Y, Z)."""
        if is_straight(points):  # trilinear interpolation splits into three small matrix products
            weights = [self._weights(a, axis) for a, axis in enumerate(axes_of(points))]
            return torch.einsum("cijk,xi,yj,zk->cxyz", self.lattice[0, :, :-1, :-1, :-1], *weights)
        where = (points / self.scale + self.offset[:, None, None, None]) % self.cells
        where = (where / self.cells * 2 - 1).permute(1, 2, 3, 0).flip(-1)[None]
        return F.grid_sample(self.lattice, where, align_corners=True, padding_mode="border")[0]

    def _weights(self, axis: int, positions: Tensor) -> Tensor:
        """Linear interpolation from the lattice to n positions along an axis, (n, cells)."""
        u = (positions / self.scale + self.offset[axis]) % self.cells
        low = u.floor().long() % self.cells
        share = (u - u.floor())[:, None]
        rows = torch.eye(self.cells, device=positions.device)
        return rows[low] * (1 - share) + rows[(low + 1) % self.cells] * share


def axes_of(points: Tensor) -> list[Tensor]:
    """Coordinates along the three edges of (3, X, Y, Z)."""
    return [points[0, :, 0, 0], points[1, 0, :, 0], points[2, 0, 0, :]]


def voxel_of(points: Tensor) -> float:
    """Edge in mm of a cube as large as a voxel of (3, X, Y, Z)."""
    return math.prod(float((a[1:] - a[:-1]).abs().mean()) if len(a) > 1 else 1.0 for a in axes_of(points)) ** (1 / 3)


def sheet(distance: Tensor, half: float, voxel: float) -> Tensor:
    """Share of each voxel that a sheet of 2 * `half` mm fills whose middle is at a `distance` of (X, Y, Z) mm."""
    outer, inner = max(1.0, half / voxel + 0.5), max(0.0, half / voxel - 0.5)  # from all to nothing is one voxel
    covered = ((outer - distance.abs() / voxel) / (outer - inner)).clamp(0, 1)
    return covered * min(1.0, 2 * half / voxel)


def is_straight(points: Tensor) -> bool:
    """Whether points are a grid along the axes, as `grid` makes them, and not bent or turned."""
    straight = torch.stack(torch.meshgrid(*axes_of(points), indexing="ij"))
    return torch.equal(points, straight)


def box_around(points: Tensor, low: Sequence[float], high: Sequence[float]) -> tuple[slice, slice, slice] | None:
    """The part of (3, X, Y, Z) that can hold a point of the box from `low` to `high`, however bent; None if nothing can."""
    if points not in _EXTENTS:  # smallest and largest coordinate of every slice across each axis
        others = ((1, 2), (0, 2), (0, 1))
        _EXTENTS[points] = [(points[a].amin(others[a]), points[a].amax(others[a])) for a in range(3)]
    box = []
    for (least, most), lo, hi in zip(_EXTENTS[points], low, high, strict=True):
        hit = ((least <= hi) & (most >= lo)).nonzero()
        if not len(hit):
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def pushed(points: Tensor, center: Sequence[float], radius: float, strength: float) -> Tensor:
    """Where what lies at points (3, X, Y, Z) lay before a mass of `radius` mm grew at `center` and pushed it away.

    Every point comes from nearer the center, by a share that is `strength` (0 to 1) there and fades around the mass, so that
    planes of fat and contours of organs bulge around it and nothing folds over.
    """
    offset = points - column(center, points)
    share = strength * torch.exp(-0.6 * (length(offset) / radius).square())
    return points - share * offset


def rotate(points: Tensor, rotation: Tensor) -> Tensor:
    return torch.einsum("ij,jxyz->ixyz", rotation, points)


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Three numbers as (3, 1, 1, 1)."""
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None, None]


def length(vectors: Tensor) -> Tensor:
    """Euclidean length of (3, X, Y, Z) -> (X, Y, Z); torch's own norm over the first axis is ten times slower on CPU."""
    x, y, z = vectors
    return (x * x + y * y + z * z).sqrt()


def distance_to(points: Tensor, center: Sequence[float]) -> Tensor:
    """Euclidean distance in mm to a point (X, Y, Z)."""
    return length(points - column(center, points))


def ellipsoid(
    points: Tensor,
    center: Sequence[float],
    radii: Sequence[float],
    rotation: Tensor | None = None,
    reach: float | None = REACH,
) -> Tensor:
    """Approximate distance to an ellipsoid in mm (X, Y, Z); FAR where it is more than `reach` (None: nowhere)."""
    if reach is not None:
        sizes = radii if rotation is None else [max(radii)] * 3
        sizes = [r * (1 + reach / min(radii)) for r in sizes]
        box = box_around(points, [c - r for c, r in zip(center, sizes, strict=True)],
                         [c + r for c, r in zip(center, sizes, strict=True)])  # fmt: skip
        far = torch.full(points.shape[1:], FAR, device=points.device)
        if box is not None:
            far[box] = ellipsoid(points[(slice(None), *box)], center, radii, rotation, None)
        return far
    local = points - column(center, points)
    if rotation is not None:
        local = rotate(local, rotation)
    return (length(local / column(radii, points)) - 1) * min(radii)


def cylinder(points: Tensor, x: float, y: float, rx: float, ry: float, power: float = 2.0) -> Tensor:
    """Distance to an endless column along z with a superelliptic section."""
    u, v = (points[0] - x).abs() / rx, (points[1] - y).abs() / ry
    return ((u**power + v**power) ** (1 / power) - 1) * min(rx, ry)


def tube(points: Tensor, line: Sequence[Sequence[float]], radius: float | Sequence[float]) -> Tensor:
    """Distance to a polyline through K points, with one radius or one a point; FAR beyond REACH of a segment."""
    radii = [radius] * len(line) if isinstance(radius, int | float) else radius
    best = torch.full(points.shape[1:], FAR, device=points.device)
    for (a, b), (ra, rb) in zip(zip(line, line[1:], strict=False), zip(radii, radii[1:], strict=False), strict=True):
        margin = max(ra, rb) + REACH
        ends = list(zip(a, b, strict=True))
        box = box_around(points, [min(e) - margin for e in ends], [max(e) + margin for e in ends])
        if box is not None:
            best[box] = torch.minimum(best[box], _segment(points[(slice(None), *box)], a, b, ra, rb))
    return best


def _segment(points: Tensor, a: Sequence[float], b: Sequence[float], ra: float, rb: float) -> Tensor:
    """Distance to a cone along the segment from a (radius ra) to b (radius rb)."""
    along = [q - p for p, q in zip(a, b, strict=True)]
    local = points - column(a, points)
    squared = max(sum(v * v for v in along), 1e-6)
    x, y, z = (v / squared for v in along)
    t = (local[0] * x).add_(local[1], alpha=y).add_(local[2], alpha=z).clamp_(0, 1)
    return length(local - t * column(along, points)) - (ra + (rb - ra) * t)


def threads(first: Tensor, second: Tensor, radius: float) -> Tensor:
    """Where the zero surfaces of two noise fields cross: a web of thin curves, such as small vessels (X, Y, Z) bool."""
    return (first.square() + second.square()) < radius * radius


def voronoi(points: Tensor, sites: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest of K sites (K, 3) for every point, and by how many mm the second is farther (small at borders)."""
    first = torch.full(points.shape[1:], float("inf"), device=points.device)
    second, index = first.clone(), torch.zeros(points.shape[1:], dtype=torch.long, device=points.device)
    x, y, z = points
    square = x * x + y * y + z * z
    for k, (a, b, c) in enumerate(sites.tolist()):
        distance = (square - 2 * a * x).sub_(y, alpha=2 * b).sub_(z, alpha=2 * c).add_(a * a + b * b + c * c)
        index.masked_fill_(distance < first, k)
        second = torch.minimum(second, torch.maximum(first, distance))
        first = torch.minimum(first, distance)
    return index, second.clamp_min(0).sqrt() - first.clamp_min(0).sqrt()


def wander(
    draw: Draw, start: Sequence[float], direction: Sequence[float], steps: int, length: float, bend: float
) -> list:
    """A polyline that bends at random, for vessels and bowel."""
    line, heading = [list(start)], torch.tensor(direction, dtype=torch.float)
    for _ in range(steps):
        heading = heading / heading.norm().clamp_min(1e-6) + torch.tensor(draw.vector(bend))
        step = heading / heading.norm().clamp_min(1e-6) * length
        line.append([p + s for p, s in zip(line[-1], step.tolist(), strict=True)])
    return line
