"""A body taken from a healthy CT with a map of its organs: real anatomy, in which lesions can be drawn.

Phantoms' bodies are built from shapes; what lies between the shapes is too tidy, and a network that has seen nothing else
calls untidy things lesions. Here the body is a real one, turned, stretched and bent anew for every seed. On CT it keeps its
own Hounsfield units, or is shifted organ by organ to another contrast phase; on MR its tissues get the brightness of a
phantom's, mixed by how much fat the CT says is in a voxel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.transforms import FillHoles, KeepLargestConnectedComponent
from torch import Tensor

from ..vocabulary import ORGANS
from .anatomy import CONTRASTS, TISSUES, Anatomy, tissue_means, usual_hu
from .geometry import Draw, Noise, rotate

ORGAN_TISSUES = {
    "liver": "liver", "left kidney": "kidney cortex", "right kidney": "kidney cortex", "spleen": "spleen",
    "pancreas": "pancreas", "stomach": "bowel content", "colon": "bowel content", "small bowel": "bowel content",
    "esophagus": "esophagus", "gallbladder": "bile", "left adrenal gland": "adrenal", "right adrenal gland": "adrenal",
    "left lung": "lung", "right lung": "lung", "heart": "heart muscle", "aorta": "arterial blood",
    "inferior vena cava": "venous blood", "hepatic vessels": "venous blood", "bladder": "urine", "prostate": "gland",
    "brain": "gray matter", "thyroid": "thyroid", "muscle": "muscle", "bone": "red marrow",
}  # fmt: skip
"""What an organ of the map is made of, where its Hounsfield units do not say otherwise."""
AIR, GAS_HU, FAT_HU, DENSE_HU, CORTEX_HU = -1000.0, -300.0, -30.0, 150.0, 450.0
AS_IT_IS = 0.6
"""How often a CT keeps its own contrast phase."""
REGION = "abdomen"
"""What a scan's body is asked for as, of the phantoms' regions; the scans that there are show one."""
MEASURED_FROM = 50
"""Voxels of a tissue from which its mean is measured rather than taken from the table."""


@dataclass(frozen=True)
class HealthyScan:
    """A healthy CT, ready to have bodies made from it; maps are (X, Y, Z) in RAS. See `healthy_scan`."""

    hu: Tensor  # float32, air around the body
    organs: Tensor  # uint8: ORGANS index
    tissue: Tensor  # uint8: TISSUES index
    spacing: tuple[float, float, float]  # mm
    means: Tensor  # (T,) HU of its own tissues
    phase: str | None = None  # of CONTRASTS["CT"], that it was taken in; None if it does not tell

    def body(self, draw: Draw) -> Scanned:
        """One body, posed at random."""
        return Scanned(draw, self)


def healthy_scan(
    hu: Tensor, labels: Tensor, names: Mapping[int, str], spacing: tuple[float, float, float]
) -> HealthyScan:
    """What a CT and its map say of every voxel.

    Args:
        hu, labels: (X, Y, Z) in RAS. names: label -> a name of ORGANS; labels without one count as not labeled.
        spacing: mm.

    Raises:
        ValueError: the map has another shape than the scan, or the scan shows no body.
    """
    if hu.shape != labels.shape:
        raise ValueError(
            f"the scan has the shape {tuple(hu.shape)}, its map {tuple(labels.shape)}: give those of one scan"
        )
    body = KeepLargestConnectedComponent()(hu[None] > GAS_HU)
    body = FillHoles()(body.float())[0] > 0
    if not body.any():
        raise ValueError("the scan shows no body: give a CT in Hounsfield units")
    body |= labels > 0
    hu = torch.where(body, hu.float(), AIR)
    organs = torch.zeros(hu.shape, dtype=torch.uint8)
    tissue = torch.full(hu.shape, TISSUES["muscle"], dtype=torch.uint8)
    for number, name in names.items():
        where = labels == number
        organs[where] = ORGANS[name].index
        tissue[where] = TISSUES[ORGAN_TISSUES.get(name, "muscle")]
    _by_density(hu, organs, tissue, body)
    means = tissue_means_of(hu, tissue)
    return HealthyScan(hu, organs, tissue, spacing, means, phase_of(means, tissue))


def _by_density(hu: Tensor, organs: Tensor, tissue: Tensor, body: Tensor) -> None:
    """Correct a tissue map where Hounsfield units leave no doubt, and tell the parts of bones apart."""
    lung = tissue == TISSUES["lung"]
    bone = organs == ORGANS["bone"].index
    fat = (hu < FAT_HU) & ~lung & ~bone
    tissue[fat] = TISSUES["fat"]
    organs[fat & (organs == 0)] = ORGANS["fat"].index
    tissue[bone & (hu < DENSE_HU)] = TISSUES["yellow marrow"]
    tissue[(organs == 0) & (hu > DENSE_HU)] = TISSUES["red marrow"]
    tissue[(bone | (organs == 0)) & (hu > CORTEX_HU)] = TISSUES["cortical bone"]
    tissue[(hu < GAS_HU) & ~lung] = TISSUES["gas"]
    tissue[~body], organs[~body] = TISSUES["air"], 0


def tissue_means_of(hu: Tensor, tissue: Tensor) -> Tensor:
    """Median HU of every tissue (T,); of those that are not there, the table's without contrast agent."""
    means = tissue_means(Draw(0), "CT", CONTRASTS["CT"][0])
    for index in tissue.unique().tolist():
        values = hu[tissue == index]
        if len(values) >= MEASURED_FROM:
            means[index] = values.median()
    return means


def phase_of(means: Tensor, tissue: Tensor) -> str | None:
    """The contrast phase whose aorta and liver are most like a scan's; None where a scan does not show both.

    The aorta tells whether there is contrast agent; a liver alone may be dark with fat.

    Args:
        means: (T,) HU of the scan's tissues. tissue: (X, Y, Z) of TISSUES.
    """
    told = [TISSUES["arterial blood"], TISSUES["liver"]]
    if any(int((tissue == index).sum()) < MEASURED_FROM for index in told):
        return None
    unlike = {}
    for phase in CONTRASTS["CT"]:
        usual, spread = usual_hu(phase)
        unlike[phase] = float(((means - usual)[told] / spread[told]).square().sum())
    return min(unlike, key=unlike.get)


class Scanned:
    """A healthy scan's body in one pose. See `anatomy.Body`."""

    def __init__(self, draw: Draw, scan: HealthyScan) -> None:
        self.scan, self.region = scan, REGION
        self.turn = draw.rotation(0.35)
        self.size = torch.tensor([draw.uniform(0.75, 1.2)] * 3) * torch.tensor(
            [draw.uniform(0.9, 1.1) for _ in range(3)]
        )
        self.warp, self.warp_mm = Noise(draw, draw.uniform(60, 110), 3), draw.uniform(0, 9)
        half = torch.tensor([n * s / 2 for n, s in zip(scan.hu.shape, scan.spacing, strict=True)])
        self.half = half
        self.extent = tuple((half * self.size).tolist())
        self.own_phase = draw.chance(AS_IT_IS)

    def evaluate(self, points: Tensor) -> Anatomy:
        """See `anatomy.Body`."""
        where = self._where(points)
        maps = torch.stack([self.scan.organs, self.scan.tissue]).float()
        organs, tissue = self._sample(maps, where, "nearest").round().to(torch.uint8)
        outside = (where.abs() > 1).any(0)
        organs[outside], tissue[outside] = 0, TISSUES["air"]
        return Anatomy(organs, tissue)

    def contrast(self, drawn: str, modality: str) -> str | None:
        """The contrast that this scan is in: the one drawn for it, or its own phase, None if that is not known."""
        return self.scan.phase if modality == "CT" and self.own_phase else drawn

    def means(self, means: Tensor, modality: str) -> Tensor:
        """Means of tissues (T,) in this scan, from those that were drawn for it."""
        return self.scan.means.clone() if modality == "CT" and self.own_phase else means

    def values(self, points: Tensor, tissue: Tensor, means: Tensor, modality: str) -> Tensor:
        """The scan without lesions (X, Y, Z), as a map of means would be: HU, or relative intensity."""
        own = self.scan.means.to(means)
        hu = self._sample(self.scan.hu[None], self._where(points), "bilinear")[0]
        hu = torch.where(tissue == TISSUES["air"], own[TISSUES["air"]], hu)
        index = tissue.long()
        if modality == "CT":
            shift = means - own
            shift[[TISSUES[n] for n in ("air", "gas", "lung", "cortical bone")]] = 0
            return hu + shift[index]
        beside = ((hu - own[index]) / 40).clamp(-1, 1)
        values = means[index] * (1 + 0.12 * beside)
        fat, muscle = TISSUES["fat"], TISSUES["muscle"]
        share = ((hu - own[fat]) / (own[muscle] - own[fat])).clamp(0, 1)
        mixed = means[fat] * (1 - share) + means[muscle] * share
        return torch.where((index == fat) | (index == muscle), mixed, values).clamp_min(0)

    def _where(self, points: Tensor) -> Tensor:
        """Points (3, X, Y, Z) in mm -> places in the scan, -1 to 1 along its edges."""
        bent = rotate(points + self.warp(points) * self.warp_mm, self.turn)
        return bent / (self.half * self.size)[:, None, None, None].to(points)

    @staticmethod
    def _sample(maps: Tensor, where: Tensor, mode: str) -> Tensor:
        """(C, X, Y, Z) at places -> (C, ...)."""
        places = where.permute(1, 2, 3, 0).flip(-1)[None]
        return F.grid_sample(maps[None], places, mode=mode, padding_mode="border", align_corners=False)[0]
