"""Lesions drawn from the eight attributes: shape, edge and brightness follow from words, so the words are true."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..vocabulary import LESIONS, Lesion
from .anatomy import ENHANCED, TISSUES
from .geometry import Draw, Noise, ellipsoid

NOT_TISSUE = tuple(TISSUES[n] for n in ("air", "gas", "table"))
AGAINST_MUSCLE = {  # hosts whose own brightness is no reference: their lesions are soft tissue (spreadsheet's rule for lung)
    "left lung", "right lung", "bone", "fat", "mediastinum", "lymph node", "breast", "esophagus", "stomach", "colon",
    "small bowel", "rectum", "bladder", "gallbladder", "heart", "muscle",
}  # fmt: skip
DIAMETERS = {  # mm, smallest and largest
    "soft tissue sarcoma": (28, 125), "lipoma": (20, 100), "abstract lesion": (9, 115), "brain tumor": (14, 70),
    "meningioma": (12, 50), "brain metastasis": (7, 35), "lung tumor": (14, 80), "lung nodule": (7, 28),
    "kidney tumor": (12, 90), "kidney cyst": (8, 70), "liver tumor": (9, 110), "lymph node metastasis": (10, 40),
    "ovarian tumor": (25, 110), "ovarian cyst": (20, 90), "uterine fibroid": (18, 90), "prostate tumor": (8, 32),
    "adrenal tumor": (16, 80), "adrenal adenoma": (10, 35), "thyroid nodule": (8, 35), "bone tumor": (14, 75),
}  # fmt: skip
STREAKED = ("muscle", "fat")
"""Hosts with planes of fat and fascia: a smooth mass of their own brightness shows where these are missing."""
MULTIPLE = (
    "liver tumor",
    "liver metastasis",
    "kidney cyst",
    "abstract lesion",
    "liver cyst",
    "lung nodule",
    "brain metastasis",
)
MR_DENSITY = {  # on MR the contrast decides what is bright: (solid, fluid)
    "T1": ({"hypodense": 5, "isodense": 2, "hyperdense": 2, "mixed": 1}, {"hypodense": 1}),
    "T2": ({"hyperdense": 7, "hypodense": 1, "mixed": 2}, {"hyperdense": 1}),
    "FLAIR": ({"hyperdense": 7, "hypodense": 1, "mixed": 2}, {"hypodense": 1}),
    "T1c": ({"hyperdense": 5, "hypodense": 3, "mixed": 2}, {"hypodense": 1}),
}


@dataclass
class LesionRecord:
    """The structured report of one lesion."""

    instance: int  # its value in the instance map
    category: str
    attributes: dict[str, str]
    """Attribute -> value. `location` is the host organ, absent if any place would have done; `enhancement` is absent if
    nobody knows whether the scan has contrast agent."""
    volume_ml: float = 0.0
    diameter_mm: float = 0.0
    center_mm: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))


def draw_attributes(draw: Draw, lesion: Lesion, host: str, modality: str, contrast: str | None) -> dict[str, str]:
    """One value for each attribute, from the category's distribution; the scan decides about enhancement.

    Of a scan whose `contrast` is not known nothing is said of it, and no rim is drawn, which is an enhancement too.
    """
    values = {}
    for name, shares in lesion.attributes.items():
        values[name] = draw.choice(list(shares), list(shares.values()))
    if modality == "MR":
        fluid = "cyst" in lesion.name
        shares = MR_DENSITY[contrast][fluid]
        if lesion.name != "abstract lesion":
            values["density"] = draw.choice(list(shares), list(shares.values()))
    if values["density"] == "isodense" and values["specific"] == "none" and not (host in STREAKED and draw.chance(0.7)):
        values["density_variation"] = "heterogeneous"  # a lesion that differs in nothing cannot be seen, nor learned
    values["enhancement"] = "contrast-enhanced" if contrast in ENHANCED else "non-contrast"
    if values["specific"] == "rim" and contrast not in ENHANCED and lesion.name != "abstract lesion":
        values["specific"] = "none"
    if contrast is None:
        del values["enhancement"]
    return {"location": host, **values}


class Shape:
    """Outline of a lesion as distance in mm, from its shape, surface and size."""

    def __init__(
        self, draw: Draw, center: list[float], diameter: float, attributes: dict[str, str], flatness: float = 1.0
    ) -> None:
        radius = diameter / 2
        round_ = attributes["shape"] == "round-like"
        spread = (0.86, 1.14) if round_ else (0.6, 1.35)
        self.center, self.radius = center, radius
        thin, wide = flatness, flatness**-0.5
        axes = [radius * f * draw.uniform(*spread) for f in (thin, wide, wide)]
        self.parts = [(center, axes, draw.rotation())]
        if not round_:
            for _ in range(draw.integer(1, 3)):
                shifted = [c + draw.normal(0, 0.45) * radius for c in center]
                radii = [radius * draw.uniform(0.35, 0.75) for _ in range(3)]
                radii[0] *= flatness
                self.parts.append((shifted, radii, draw.rotation() if flatness == 1 else self.parts[0][2]))
        self.rough = draw.uniform(0.02, 0.07) if round_ else draw.uniform(0.12, 0.28)
        self.coarse, self.fine = Noise(draw, max(6.0, radius * 0.8)), Noise(draw, max(3.5, radius * 0.3))
        ill = attributes["surface"] == "ill-defined"
        self.soft = min(draw.uniform(1.8, 4.5), radius * 0.3) if ill else draw.uniform(0.4, 0.9)

    def distance(self, points: Tensor) -> Tensor:
        """(3, X, Y, Z) -> (X, Y, Z) mm, negative inside."""
        best = None
        for center, radii, rotation in self.parts:
            one = ellipsoid(points, center, radii, rotation, reach=None)
            best = one if best is None else torch.minimum(best, one)
        noise = self.coarse(points)[0] + 0.5 * self.fine(points)[0]
        return best + self.rough * self.radius * noise


def reference(means: Tensor, tissue: Tensor, inside: Tensor, host: str) -> float:
    """The brightness that a lesion is compared with: its host's own, or muscle for hosts of gas, fat and bone."""
    if host in AGAINST_MUSCLE or not inside.any():
        return float(means[TISSUES["muscle"]])
    return float(means[tissue[inside].long()].median())


def target_value(draw: Draw, density: str, level: float, modality: str, fluid: bool, clear: float) -> float:
    """Mean brightness of a lesion next to tissue of brightness `level`. `clear` scales the contrast."""
    if modality == "CT":
        if fluid:
            return draw.uniform(-5, 22)
        step = {"hypodense": -draw.uniform(12, 60), "hyperdense": draw.uniform(10, 65)}.get(
            density, draw.uniform(-5, 5)
        )
        return level + step * clear
    factor = {
        "hypodense": 1 / (1 + draw.uniform(0.25, 1.4) * clear),
        "hyperdense": 1 + draw.uniform(0.12, 1.1) * clear,
    }.get(density, draw.uniform(0.95, 1.05))
    return max(level, 0.12) * factor


def paint_values(
    draw: Draw, points: Tensor, distance: Tensor, shape: Shape, attributes: dict[str, str], value: float,
    modality: str, step: float,
) -> Tensor:  # fmt: skip
    """Brightness inside a lesion (X, Y, Z): texture, necrosis, calcification, rim. `step` is its contrast to the host."""
    ct, radius = modality == "CT", shape.radius
    coarse, fine = Noise(draw, max(5.0, radius * 0.45))(points)[0], Noise(draw, 4.5)(points)[0]
    floor = 6.0 if ct else 0.03
    heterogeneous = attributes["density_variation"] == "heterogeneous"
    amplitude = (
        max(floor * 1.6, abs(step) * draw.uniform(0.2, 0.45)) if heterogeneous else floor * draw.uniform(0, 0.35)
    )
    if attributes["density"] == "mixed":
        amplitude = max(amplitude, (26.0 if ct else 0.3 * value) * draw.uniform(0.8, 1.3))
    values = value + amplitude * (0.75 * coarse + 0.35 * fine)
    specific = attributes["specific"]
    if specific == "necrosis":
        core = torch.sigmoid(-(distance + draw.uniform(0.3, 0.5) * radius + 0.2 * radius * coarse) / 1.5)
        dead = draw.uniform(8, 24) if ct else value * draw.choice((draw.uniform(0.35, 0.7), draw.uniform(1.3, 1.8)))
        values = values * (1 - core) + dead * core
    elif specific == "rim":
        width = min(3.5, 0.3 * radius)
        ring = torch.exp(-(((distance + width) / width) ** 2))
        values = values + ring * (draw.uniform(25, 70) if ct else draw.uniform(0.4, 0.9) * value)
    elif specific == "calcification":
        specks = (fine > draw.uniform(1.1, 1.7)) & (distance < -1)
        values = torch.where(specks, torch.full_like(values, draw.uniform(180, 700) if ct else 0.25 * value), values)
    return values if ct else values.clamp_min(0)


def insert(
    draw: Draw,
    points: Tensor,
    means_map: Tensor,
    means: Tensor,
    tissue: Tensor,
    organs: Tensor,
    host: str,
    host_index: int,
    category: str,
    center: list[float],
    diameter: float,
    modality: str,
    contrast: str | None,
    difficulty: float,
    flatness: float = 1.0,
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Draw one lesion into a map of tissue means.

    Returns:
        the new map, the lesion's mask (X, Y, Z) bool, and its attributes.
    """
    lesion = LESIONS[category]
    attributes = draw_attributes(draw, lesion, host, modality, contrast)
    if host not in lesion.hosts:
        del attributes["location"]  # it lies anywhere: its place says nothing of it
    shape = Shape(draw, center, diameter, attributes, flatness)
    distance = shape.distance(points)
    # A logistic edge with its endless tails cut: a trace of a lesion would show against lung or fat far away.
    alpha = ((torch.sigmoid(-distance / shape.soft) - 0.08) / 0.84).clamp(0, 1)
    allowed = torch.ones_like(tissue, dtype=torch.bool)
    for index in NOT_TISSUE:
        allowed &= tissue != index
    inside = (distance < 0) & (organs == host_index)
    bounded = attributes["relation"] == "not-close" and host not in AGAINST_MUSCLE and category != "abstract lesion"
    if bounded:
        near = torch.nn.functional.max_pool3d((organs == host_index)[None, None].float(), 3, 1, 1)[0, 0] > 0
        allowed &= near
    alpha = alpha * allowed
    level = reference(means, tissue, inside, host)
    fluid = "cyst" in category and modality == "CT"
    clear = 1.9 - 1.1 * difficulty
    value = target_value(draw, attributes["density"], level, modality, fluid, clear)
    values = paint_values(draw, points, distance, shape, attributes, value, modality, value - level)
    if shape.radius > 8 and draw.chance(0.25):  # a capsule, or a rim of compressed fat, just outside
        shell = torch.exp(-(((distance - 0.8) / 1.2) ** 2)) * (distance < 3) * allowed
        rim = level + draw.choice((-60.0, -25.0)) if modality == "CT" else level * draw.choice((0.45, 0.7, 1.7))
        means_map = means_map * (1 - shell) + rim * shell
    return means_map * (1 - alpha) + values * alpha, alpha > 0.5, attributes


def diameter_of(draw: Draw, category: str, host_volume_mm3: float, difficulty: float) -> float:
    """Diameter in mm, log-uniform in the category's range and bounded by the host; easy lesions are large."""
    low, high = DIAMETERS.get(category, (9, 65))
    high = min(high, max(low * 1.3, 1.25 * host_volume_mm3 ** (1 / 3)))
    low = low + (high - low) * 0.35 * max(0.0, 1 - difficulty)
    return draw.log_uniform(low, max(high, low * 1.05))
