"""What is learned from: corrected scans, and phantoms replayed beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from torch import Tensor

from .annotation import check_label
from .inferer import undecided
from .phantom import generate
from .pipeline import EncodedScan
from .places import Places
from .prompts import Prompt
from .segmenter import Segmenter
from .transforms import normalize
from .vocabulary import LESIONS

REPLAY_SEED = 6_500_000
"""Seeds of replayed phantoms; neither the starter weights' training nor any test draws from there."""
REPLAYED = 12
"""Phantoms beside the corrected scans, unless one asks for another number."""
REPLAY_SPACING, REPLAY_EDGE = 4.0, 64
"""mm and voxels of a replayed phantom."""


@dataclass
class Example:
    """One scan for one prompt, on the method's grid."""

    image: Tensor  # (2, x, y, z) as prepared
    truth: Tensor  # (x, y, z): share of each voxel that is lesion
    spacing: float  # mm
    said: Tensor | None = None  # (x, y, z) the method's logits, counted from theta; None of a phantom
    place: Tensor | None = None  # (x, y, z) how well it fits the prompt (`Places.fits`); None: anywhere
    name: str = ""


def method_logits(model: Segmenter, encoded: EncodedScan, prompt: Prompt) -> Tensor:
    """What a method says of an encoded scan before it decides, as logits (x, y, z) on its own grid."""
    image = torch.as_tensor(encoded.prepared).as_subclass(Tensor)
    answer = undecided(model, image, [prompt], features=encoded.features)
    return torch.logit(answer.probabilities[0], eps=1e-6)


def example(model: Segmenter, encoded: EncodedScan, prompt: Prompt, mask: Tensor, name: str = "") -> Example:
    """A corrected scan as an example.

    Args:
        mask: (X, Y, Z) or (1, X, Y, Z), non-zero inside, on the scan's grid.

    Raises:
        LabelError: see `annotation.check_label`.
    """
    check_label(mask, encoded.scan)
    said, place = method_logits(model, encoded, prompt), place_of(model, encoded, prompt)
    return example_of(encoded, said, place, mask, model.spacing, name)


def place_of(model: Segmenter, encoded: EncodedScan, prompt: Prompt) -> Tensor | None:
    """How well each voxel's place fits a prompt, (x, y, z) on the method's grid: `Places.fits`."""
    return Places(model, torch.as_tensor(encoded.prepared).as_subclass(Tensor), encoded.features).fits(prompt)


def example_of(
    encoded: EncodedScan, said: Tensor, place: Tensor | None, mask: Tensor, spacing: float, name: str = ""
) -> Example:
    """The same from the method's logits and the place (x, y, z), and without looking at the mask: it may be empty."""
    plain = torch.as_tensor(mask).as_subclass(Tensor)
    plain = (plain if plain.ndim == 4 else plain[None]) > 0
    prepared = encoded.prepared
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    on_scan = MetaTensor(plain.float(), affine=encoded.scan.affine)
    truth = torch.as_tensor(resample(on_scan, dst_affine=prepared.affine, spatial_size=prepared.shape[1:]))[0]
    image = torch.as_tensor(prepared).as_subclass(Tensor)
    # half precision: a hospital's fifty whole bodies have to fit
    place = None if place is None else place.half()
    return Example(image.half(), truth.as_subclass(Tensor).half(), spacing, said.half(), place, name)


def replay(prompt: Prompt, modality: str, count: int, seed: int = 0) -> list[Example]:
    """Phantoms: every third one healthy, the rest with a lesion of no kind where the prompt's lie, or of a seen kind.

    Whatever lesion they have is one: they keep alive what the network knows of lesions, not of words.
    """
    about = LESIONS.get(prompt.lesion or "")
    out = []
    for k in range(count):
        category, region, organ = None, None, None
        if about is not None:
            category = "abstract lesion"
            region, organ = (names[k % len(names)] for names in (about.regions, about.hosts))
        if k % 3 == 2:
            category, organ = "healthy", None
        phantom = generate(
            REPLAY_SEED + 1000 * seed + k, shape=(REPLAY_EDGE,) * 3, spacing=REPLAY_SPACING,
            category=category, region=region, modality=modality, organ=organ,
        )  # fmt: skip
        image, truth = normalize(phantom.image, modality), phantom.lesions[0] > 0
        out.append(Example(image.half(), truth.half(), REPLAY_SPACING, name=f"phantom-{phantom.seed}"))
    return out
