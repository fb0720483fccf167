"""One phantom from one seed: body, scan, lesions, healthy twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..vocabulary import LESIONS, ORGANS, lesions
from .abdomen import Abdomen
from .abstract import Abstract
from .anatomy import CONTRASTS, TISSUES, Anatomy, Body, tissue_means
from .chest import Chest
from .geometry import Draw, distance_to, grid, pushed
from .head import Head
from .imaging import Scanner
from .lesions import MULTIPLE, NOT_TISSUE, LesionRecord, diameter_of, insert
from .limb import Limb
from .pelvis import Pelvis
from .scanned import REGION, HealthyScan, Scanned

BODIES: dict[str, type] = {b.region: b for b in (Limb, Abdomen, Chest, Head, Pelvis, Abstract)}
SEEN_WEIGHTS = {"liver tumor": 0.16, "kidney tumor": 0.11, "kidney cyst": 0.11, "abstract lesion": 0.62}
HEALTHY_REGIONS = {"limb": 0.2, "abdomen": 0.28, "chest": 0.16, "head": 0.14, "pelvis": 0.18, "abstract": 0.04}
ABSTRACT_REGIONS = {"abstract": 0.08, "limb": 0.24, "abdomen": 0.22, "chest": 0.18, "head": 0.16, "pelvis": 0.12}
"""Where abstract lesions lie: in imaginary bodies, and anywhere in a real one, whatever organs are there. Without the
latter a network learns that an organ of an unseen kind never holds anything unusual."""
P_HEALTHY = 0.25
BY_ORGAN = 0.55
"""How often a healthy scan, or a lesion that lies anywhere, is centered on an organ, each as likely as the next. Else any
voxel of the body will do, and most of a body is fat and muscle."""
P_PUSHED = 0.5
"""How often a lesion has pushed away what was there; the healthy twin has the same bulges."""
COARSE_MM = 12.0
WIDEST = 0.62
"""Largest diameter of a lesion as a share of the body's width: there is always a body around it."""


class PhantomError(ValueError):
    """What was asked for cannot be drawn."""


@dataclass
class Phantom:
    """A synthetic scan with everything that is known of it. Maps are (1, X, Y, Z)."""

    image: Tensor  # float32: HU, or arbitrary MR units >= 0
    organs: Tensor  # uint8: ORGANS index; under a lesion, its host
    lesions: Tensor  # uint8: instance 1..K
    healthy: Tensor  # float32: the same scan without lesions
    records: list[LesionRecord] = field(default_factory=list)
    modality: str = "CT"
    contrast: str | None = "portal"  # None: of a real scan that keeps its own, and does not tell which that is
    region: str = "abdomen"
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0)
    seed: int = 0


def generate(
    seed: int,
    *,
    shape: Sequence[int] = (64, 64, 64),
    spacing: float | Sequence[float] = 3.0,
    region: str | None = None,
    modality: str | None = None,
    category: str | None = None,
    difficulty: float = 1.0,
    device: torch.device | str = "cpu",
    scan: HealthyScan | None = None,
    organ: str | None = None,
    flatness: float = 1.0,
) -> Phantom:
    """A phantom as a pure function of its arguments.

    Args:
        shape: voxels. spacing: mm. region: limb, abdomen, chest, head, pelvis or abstract. modality: CT or MR.
        category: a name of LESIONS, "healthy", or None for what training draws: a seen category, or nothing.
        difficulty: 0 draws large and clear lesions, 1 the whole range, 1.4 the same sizes at under half the contrast.
        scan: a healthy scan to take the body from, of REGION.
        organ: where a lesion that may lie anywhere, or the center of a healthy scan, is to be, if the body has it.
        flatness: factor on a lesion's thickness, 0..1; the volume stays about the same.

    Raises:
        PhantomError: no such category, region or modality, or the region has no host organ for the category.
    """
    draw = Draw(seed, device)
    region = REGION if scan else region
    if category is None:
        category = _category(draw, region)
    if category != "healthy" and category not in LESIONS:
        raise PhantomError(f"there is no lesion category {category!r}: see vocabulary.LESIONS")
    modality = modality or _modality(draw, category)
    region = region or _region(draw, category)
    if region not in BODIES or modality not in CONTRASTS:
        raise PhantomError(f"no phantom of region {region!r} in {modality!r}: {', '.join(BODIES)}; CT or MR")
    spacing = (float(spacing),) * 3 if isinstance(spacing, int | float) else tuple(map(float, spacing))
    contrast = draw.choice(CONTRASTS[modality])
    make = scan.body if scan else BODIES[region]
    return _scan(draw, category, modality, contrast, make, organ, tuple(shape), spacing, difficulty, flatness, seed)


def category_of(seed: int, region: str | None = None) -> str:
    """The category that `generate(seed, region=region)` draws when none is asked for: a lesion's name, or "healthy"."""
    return _category(Draw(seed), region)


def _category(draw: Draw, region: str | None) -> str:
    """What training draws: nothing, or a seen kind (one that occurs in the region, if that is given)."""
    weights = {
        c: w for c, w in SEEN_WEIGHTS.items() if region is None or region in (*LESIONS[c].regions, *_anywhere(c))
    }
    if draw.chance(P_HEALTHY) or not weights:
        return "healthy"
    return draw.choice(list(weights), list(weights.values()))


def _anywhere(category: str) -> tuple[str, ...]:
    """Regions that a category occurs in without a host organ there."""
    return tuple(ABSTRACT_REGIONS) if category == "abstract lesion" else ()


def _modality(draw: Draw, category: str) -> str:
    allowed = ("CT", "MR") if category == "healthy" else LESIONS[category].modalities
    return draw.choice(allowed)


def _region(draw: Draw, category: str) -> str:
    if category == "healthy":
        return draw.choice(list(HEALTHY_REGIONS), list(HEALTHY_REGIONS.values()))
    if category == "abstract lesion":
        return draw.choice(list(ABSTRACT_REGIONS), list(ABSTRACT_REGIONS.values()))
    hosts = LESIONS[category].hosts
    special = {("muscle", "fat"): "limb", ("bone",): draw.choice(("pelvis", "limb"))}
    return special.get(hosts, ORGANS[hosts[0]].region)


def _scan(
    draw: Draw, category: str, modality: str, contrast: str, make: Callable[[Draw], Body],
    organ: str | None, shape: tuple, spacing: tuple, difficulty: float, flatness: float, seed: int,
) -> Phantom:  # fmt: skip
    body, places, room = _subject(draw, make, category, organ)
    center = _center(draw, places[0], shape, spacing, healthy=category == "healthy")
    points = grid(shape, spacing, center, draw.device)
    sizes = [] if category == "healthy" else _sizes(draw, body, category, room, difficulty, len(places))
    bent = points
    if sizes and sizes[0] > 15 and draw.chance(P_PUSHED):
        bent = pushed(points, places[0], sizes[0] / 2, draw.uniform(0.3, 0.8))
    anatomy = body.evaluate(bent)
    if modality == "CT" and body.region != "head" and draw.chance(0.5):
        _table(draw, anatomy, points, body.extent[1])
    means = tissue_means(draw, modality, contrast).to(draw.device)
    scanner = Scanner(draw, modality, points, spacing, anatomy.tissue)
    if isinstance(body, Scanned):
        contrast = body.contrast(contrast, modality)
        means = body.means(means, modality)
        healthy = body.values(bent, anatomy.tissue, means, modality)
    else:
        healthy = anatomy.values(means)
    sick, instances, records = healthy, torch.zeros_like(anatomy.organs), []
    for place, size in zip(places[: len(sizes)], sizes, strict=True):
        host, host_index = _host(anatomy, points, place, category)
        changed, mask, attributes = insert(
            draw, points, sick, means, anatomy.tissue, anatomy.organs, host, host_index, category, place, size,
            modality, contrast, difficulty, flatness,
        )  # fmt: skip
        mask &= instances == 0
        if scanner.field_of_view is not None:
            mask &= scanner.field_of_view  # what is not in the picture is no truth
        if int(mask.sum()) >= 3:
            sick = changed  # a lesion too small to be labeled is not left in the image either
            instances[mask] = len(records) + 1
            ml = float(mask.sum()) * spacing[0] * spacing[1] * spacing[2] / 1000
            records.append(LesionRecord(len(records) + 1, category, attributes, ml, size, tuple(place)))
    return Phantom(
        image=scanner.scan(sick)[None],
        organs=anatomy.organs[None],
        lesions=instances[None],
        healthy=scanner.scan(healthy)[None],
        records=records,
        modality=modality,
        contrast=contrast,
        region=body.region,
        spacing=spacing,
        seed=seed,
    )


def _sizes(draw: Draw, body: Body, category: str, room: float, difficulty: float, count: int) -> list[float]:
    """Diameters in mm of a scan's lesions; the first is the largest in most."""
    widest = WIDEST * 2 * min(body.extent[:2])
    shares = [1.0] + [draw.uniform(0.35, 0.8) for _ in range(count - 1)]
    return [min(diameter_of(draw, category, room, difficulty) * s, widest) for s in shares]


def _subject(
    draw: Draw, make: Callable[[Draw], Body], category: str, organ: str | None
) -> tuple[Body, list[list[float]], float]:
    """A body that has the category's host (not everybody has a prostate), and what `_places` says of it."""
    for last in (*[False] * 9, True):
        body = make(draw)
        try:
            return body, *_places(draw, body, category, organ)
        except PhantomError:
            if last:
                raise
    raise AssertionError("unreachable")


def _places(draw: Draw, body: Body, category: str, organ: str | None = None) -> tuple[list[list[float]], float]:
    """Centers for lesions (or for the scan of a healthy body), and the volume of the hosts in mm^3.

    Found by a coarse look at the whole body.
    """
    size = [max(2, int(2 * e / COARSE_MM)) for e in body.extent]
    points = grid(size, (COARSE_MM,) * 3, [draw.uniform(-4, 4) for _ in range(3)], draw.device)
    anatomy = body.evaluate(points)
    if category == "healthy":
        possible = anatomy.tissue != TISSUES["air"]
    elif body.region in _anywhere(category):
        hollow = torch.tensor(NOT_TISSUE, dtype=torch.uint8, device=draw.device)
        possible = ~torch.isin(anatomy.tissue, hollow)
    else:
        indices = [ORGANS[h].index for h in LESIONS[category].hosts]
        possible = torch.isin(anatomy.organs, torch.tensor(indices, dtype=torch.uint8, device=draw.device))
        if not possible.any() and category in ("lymph node metastasis", "mediastinal mass"):
            possible = anatomy.organs == ORGANS["fat"].index
    if (category == "healthy" or body.region in _anywhere(category)) and (draw.chance(BY_ORGAN) or organ):
        present = anatomy.organs[possible].unique()
        present = present[present > 0].tolist()
        wanted = ORGANS[organ].index if organ else 0
        if present:
            possible &= anatomy.organs == (wanted if wanted in present else draw.choice(present))
    candidates = possible.nonzero()
    if not len(candidates):
        if category == "healthy":
            return [[0.0, 0.0, 0.0]], 0.0
        return _closer(draw, body, category)
    count = draw.choice((1, 1, 2, 3, 4)) if category in MULTIPLE else 1
    chosen = [candidates[draw.integer(0, len(candidates) - 1)] for _ in range(count)]
    centers = [points[(slice(None), *c.tolist())].tolist() for c in chosen]
    return [[x + draw.uniform(-5, 5) for x in c] for c in centers], len(candidates) * COARSE_MM**3


def _closer(draw: Draw, body: Body, category: str) -> tuple[list[list[float]], float]:
    """A second look at 5 mm, for hosts that slip through the coarse grid."""
    size = [max(2, int(2 * e / 5)) for e in body.extent]
    points = grid(size, (5.0,) * 3, (0.0, 0.0, 0.0), draw.device)
    organs = body.evaluate(points).organs
    indices = [ORGANS[h].index for h in LESIONS[category].hosts]
    candidates = torch.isin(organs, torch.tensor(indices, dtype=torch.uint8, device=draw.device)).nonzero()
    if not len(candidates):
        raise PhantomError(f"a {body.region} has no {' or '.join(LESIONS[category].hosts)} for a {category}")
    chosen = candidates[draw.integer(0, len(candidates) - 1)].tolist()
    return [points[(slice(None), *chosen)].tolist()], len(candidates) * 125.0


def _center(draw: Draw, place: list[float], shape: tuple, spacing: tuple, healthy: bool) -> list[float]:
    """Center of the scan: the place, somewhere in the middle two thirds."""
    reach = 0.15 if healthy else 0.3
    return [p + draw.uniform(-reach, reach) * n * s for p, n, s in zip(place, shape, spacing, strict=True)]


def _host(anatomy: Anatomy, points: Tensor, place: list[float], category: str) -> tuple[str, int]:
    """The host organ nearest to a lesion's center, and its label; for a lesion anywhere, what its center lies in."""
    hosts = LESIONS[category].hosts
    distance = distance_to(points, place)
    if category == "abstract lesion":
        hosts = tuple(o.name for o in ORGANS.values() if (anatomy.organs == o.index).any()) or ("muscle",)
    best = min(
        hosts,
        key=lambda h: float(
            torch.where(anatomy.organs == ORGANS[h].index, distance, torch.full_like(distance, 1e6)).min()
        ),
    )
    return best, ORGANS[best].index


def _table(draw: Draw, anatomy: Anatomy, points: Tensor, half_depth: float) -> None:
    """The couch below the patient."""
    top = -half_depth - draw.uniform(2, 14) + points[0].square() * draw.uniform(0, 0.0008)
    thick = draw.uniform(5, 14)
    slab = (points[1] < top) & (points[1] > top - thick) & (anatomy.tissue == TISSUES["air"])
    anatomy.tissue[slab] = TISSUES["table"]


def seen_categories() -> list[str]:
    """Names of the categories that training draws."""
    return [*(lesion.name for lesion in lesions(seen=True)), "abstract lesion"]
