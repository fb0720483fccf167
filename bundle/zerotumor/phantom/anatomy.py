"""Tissues and what they look like in CT and MR; the label maps that a body paints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..vocabulary import ORGANS
from .geometry import Draw

CONTRASTS = {"CT": ("non-contrast", "arterial", "portal"), "MR": ("T1", "T2", "FLAIR", "T1c")}
ENHANCED = ("arterial", "portal", "T1c")


@dataclass(frozen=True)
class Tissue:
    """Means: HU in the three CT phases; intensity relative to fat on T1 in the four MR contrasts; texture in per cent."""

    name: str
    hu: tuple[float, float, float]
    mr: tuple[float, float, float, float]
    texture: float = 4.0


def _t(name: str, hu: str, mr: str, texture: float = 4.0) -> Tissue:
    return Tissue(name, tuple(map(float, hu.split())), tuple(map(float, mr.split())), texture)


_TISSUES = [
    _t("air", "-1000 -1000 -1000", ".0 .0 .0 .0", 0),
    _t("lung", "-840 -820 -825", ".05 .05 .05 .06", 8),
    _t("fat", "-105 -103 -100", "1.0 .75 .7 1.0", 5),
    _t("muscle", "52 58 64", ".38 .22 .26 .44", 5),
    _t("skin", "30 35 40", ".4 .35 .35 .5", 3),
    _t("fascia", "10 15 15", ".3 .2 .22 .36", 4),
    _t("cortical bone", "1050 1050 1050", ".06 .05 .05 .07", 6),
    _t("yellow marrow", "-60 -55 -50", ".9 .65 .55 .92", 8),
    _t("red marrow", "190 200 205", ".5 .4 .38 .6", 14),
    _t("cartilage", "90 95 95", ".45 .45 .45 .5", 4),
    _t("arterial blood", "42 290 150", ".15 .12 .12 .95", 2),
    _t("venous blood", "42 110 155", ".22 .2 .18 .9", 2),
    _t("liver", "58 75 108", ".52 .3 .33 .68", 5),
    _t("kidney cortex", "34 165 175", ".45 .5 .48 .85", 4),
    _t("kidney medulla", "32 85 150", ".38 .58 .55 .7", 5),
    _t("urine", "6 8 12", ".2 1.1 .3 .25", 2),
    _t("spleen", "48 115 122", ".4 .5 .48 .7", 4),
    _t("pancreas", "40 95 92", ".55 .4 .42 .75", 9),
    _t("bowel wall", "38 70 85", ".4 .35 .35 .65", 5),
    _t("bowel content", "18 18 18", ".35 .7 .45 .35", 22),
    _t("stool", "30 30 30", ".45 .35 .35 .45", 45),
    _t("gas", "-950 -950 -950", ".02 .02 .02 .02", 2),
    _t("bile", "8 8 8", ".3 1.1 .45 .3", 3),
    _t("csf", "6 6 7", ".14 1.1 .16 .15", 3),
    _t("gray matter", "38 40 42", ".45 .6 .6 .47", 4),
    _t("white matter", "29 30 31", ".62 .42 .48 .63", 3),
    _t("mucosa", "35 45 55", ".35 .75 .7 .7", 6),
    _t("gland", "40 65 80", ".4 .65 .6 .7", 12),
    _t("uterus", "48 85 105", ".4 .5 .5 .75", 8),
    _t("ovary", "25 45 60", ".35 .75 .7 .55", 14),
    _t("breast gland", "30 45 55", ".38 .5 .5 .6", 16),
    _t("thyroid", "105 170 160", ".5 .55 .5 .8", 5),
    _t("node", "38 75 90", ".4 .5 .5 .65", 5),
    _t("heart muscle", "45 90 105", ".4 .32 .34 .7", 4),
    _t("esophagus", "38 60 70", ".4 .4 .4 .55", 6),
    _t("adrenal", "28 65 70", ".42 .42 .42 .6", 4),
    _t("stone", "600 600 600", ".06 .05 .05 .07", 15),
    _t("table", "-150 -150 -150", ".0 .0 .0 .0", 10),
] + [_t(f"abstract {k}", "0 0 0", "0 0 0 0", 6) for k in range(1, 13)]
TISSUES: dict[str, int] = {tissue.name: index for index, tissue in enumerate(_TISSUES)}


@dataclass
class Anatomy:
    """What is where, on one grid."""

    organs: Tensor  # (X, Y, Z) uint8: ORGANS index, 0 = none of them
    tissue: Tensor  # (X, Y, Z) uint8: TISSUES index
    mixed: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """(tissue, filler) -> share (X, Y, Z), 0..1: what is thinner than a voxel, as vessels in lung and fat in muscle."""

    @classmethod
    def empty(cls, points: Tensor) -> Anatomy:
        """Nothing but air."""
        zeros = torch.zeros(points.shape[1:], dtype=torch.uint8, device=points.device)
        return cls(zeros, zeros.clone())

    def part(self, box: tuple[slice, slice, slice]) -> Anatomy:
        """A box of it; painting there paints here."""
        return Anatomy(self.organs[box], self.tissue[box])

    def paint(self, where: Tensor, tissue: str, organ: str | None = None) -> None:
        """Fill a mask (X, Y, Z) with a tissue; the organ label becomes `organ`, or none."""
        self.tissue.masked_fill_(where, TISSUES[tissue])
        self.organs.masked_fill_(where, ORGANS[organ].index if organ else 0)

    def values(self, means: Tensor) -> Tensor:
        """What a scanner without blur or noise would see (X, Y, Z), from the means of all tissues (T,)."""
        seen = means[self.tissue.long()]
        for (host, filler), share in self.mixed.items():
            mixed = torch.lerp(seen, means[TISSUES[filler]].expand_as(seen), share)
            seen = torch.where(self.tissue == TISSUES[host], mixed, seen)
        return seen


class Body(Protocol):
    """A subject, drawn once from a generator and then evaluated anywhere."""

    region: str
    extent: tuple[float, float, float]  # half size of the box that holds it, mm

    def __init__(self, draw: Draw) -> None: ...

    def evaluate(self, points: Tensor) -> Anatomy:
        """Anatomy at points (3, X, Y, Z) in mm."""


def usual_hu(contrast: str) -> tuple[Tensor, Tensor]:
    """HU of every tissue in a contrast phase (T,), and by how much its mean differs from subject to subject (T,)."""
    means = torch.tensor([t.hu[CONTRASTS["CT"].index(contrast)] for t in _TISSUES])
    spread = 4 + 0.06 * means.abs()
    spread[TISSUES["air"]] = 0
    return means, spread


def tissue_means(draw: Draw, modality: str, contrast: str) -> Tensor:
    """Mean of every tissue in one subject and scan (T,): physical means, jittered; MR sometimes drawn freely."""
    if modality == "CT":
        means, spread = usual_hu(contrast)
        means = means + draw.field((len(means),)).cpu() * spread
        abstract = torch.tensor([draw.uniform(-120, 180) for _ in range(12)])
        if contrast == "portal" and draw.chance(0.15):  # already in the bladder
            means[TISSUES["urine"]] += draw.uniform(60, 400)
        means[TISSUES["bowel content"]] += draw.choice((0.0, 0.0, 150.0, 300.0))  # oral contrast in some
    else:
        means = torch.tensor([t.mr[CONTRASTS[modality].index(contrast)] for t in _TISSUES])
        means = means * (1 + 0.15 * draw.field((len(means),)).cpu())
        if draw.chance(0.3):  # fat suppression
            for name in ("fat", "yellow marrow"):
                means[TISSUES[name]] *= draw.uniform(0.1, 0.4)
        if draw.chance(0.15):  # a sequence that nobody thought of
            free = torch.tensor([draw.uniform(0.05, 1.0) for _ in means])
            free[[TISSUES[n] for n in ("air", "gas", "cortical bone", "table")]] = 0.03
            means = 0.4 * means + 0.6 * free
        abstract = torch.tensor([draw.uniform(0.05, 1.1) for _ in range(12)])
    means[TISSUES["abstract 1"] :] = abstract
    return means.clamp(-1024, 3000) if modality == "CT" else means.clamp_min(0)


def tissue_texture(modality: str) -> Tensor:
    """Standard deviation of each tissue's texture (T,): HU, or relative intensity."""
    per_cent = torch.tensor([t.texture for t in _TISSUES])
    return per_cent * (1.6 if modality == "CT" else 0.006)
