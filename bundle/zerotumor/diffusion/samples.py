"""What the prior learns from: healthy phantoms and healthy scans, as images and as cached latents.

A sample is `image` (1, X, Y, Z) in 0..1, `ct` (1 or 0) and `spacing` (3,) in mm; for the U-Net `latent` instead of `image`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import Randomizable, RandSpatialCrop, SpatialPad, Transform
from torch import Tensor, nn

from ..errors import ScanError
from ..phantom import generate
from ..phantom.datalist import phantom_datalist
from ..transforms import WIDE_HU, decide_modality, normalize, resample
from ..volumes import find_scans, read_scan

HELD_OUT = 5  # every fifth scan is for validation


def records(
    count: int, start: int = 0, scans: str | Path | None = None, crops: int = 16, section: str = "training"
) -> list[dict]:
    """Phantoms by seed, and crops of the scans in a folder (NIfTI, NRRD, DICOM). Nobody in them may have a tumor.

    Args:
        count, start: of the phantoms. crops: of each scan. section: "training", or "validation" for every fifth scan.

    Raises:
        ScanError: the folder holds too few scans for both sections.
    """
    found = phantom_datalist(count, start)
    if scans is None:
        return found
    files = find_scans([Path(scans)])
    if len(files) < 2:
        raise ScanError(f"{scans} holds {len(files)} scans, and two are needed: one to train on and one to validate on")
    held = files[::HELD_OUT]
    chosen = held if section == "validation" else [f for f in files if f not in held]
    return [*found, *({"image": str(f), "crop": k} for f in chosen for k in range(crops))]


class Healthy(Transform):
    """A record of `records` -> a sample. A pure function of the record, so its result can be cached.

    Of a phantom with a lesion, the healthy twin: the same body in the same scanner, without it.

    Args:
        shape: voxels. spacing: mm. ct_range: HU that become 0 and 1.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (48, 48, 48),
        spacing: float = 4.0,
        ct_range: Sequence[float] = WIDE_HU,
    ) -> None:
        self.shape, self.spacing = tuple(shape), float(spacing)
        self.low, self.high = map(float, ct_range)

    def __call__(self, record: Mapping[str, object]) -> dict[str, Tensor]:
        image, modality = self._scan(record) if "image" in record else self._phantom(record)
        return {
            "image": image.half(),
            "ct": torch.tensor(int(modality == "CT")),
            "spacing": torch.full((3,), self.spacing),
        }

    def _phantom(self, record: Mapping[str, object]) -> tuple[Tensor, str]:
        phantom = generate(
            int(record["seed"]),
            shape=self.shape,
            spacing=self.spacing,
            difficulty=float(record.get("difficulty", 1.0)),
            category=record.get("category"),
        )
        return self._normalized(phantom.healthy, phantom.modality), phantom.modality

    def _scan(self, record: Mapping[str, object]) -> tuple[Tensor, str]:
        scan = read_scan(record["image"])
        modality = decide_modality(scan, header=scan.meta.get("modality"))
        image = resample(self.spacing)(MetaTensor(self._normalized(scan, modality), affine=scan.affine)).as_subclass(
            Tensor
        )
        crop = RandSpatialCrop(self.shape, random_size=False)
        crop.set_random_state(seed=int(record["crop"]))
        return torch.as_tensor(crop(SpatialPad(self.shape)(image))).as_subclass(Tensor), modality

    def _normalized(self, image: Tensor, modality: str) -> Tensor:
        """Intensities of a scan (1, X, Y, Z) in 0..1."""
        if modality == "CT":
            values = torch.as_tensor(image, dtype=torch.float32).as_subclass(Tensor)
            return ((values - self.low) / (self.high - self.low)).clamp(0, 1)
        return normalize(image, modality)[:1].clamp(0, 1)


class Encode(Transform):
    """A sample -> `latent` (2, C, x, y, z), of the image and of its mirror image: the posterior's mean, not yet scaled.

    Args:
        autoencoder: frozen.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        self.autoencoder = autoencoder

    @torch.no_grad()
    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        data = dict(data)
        image = data.pop("image").float()
        device = next(self.autoencoder.parameters()).device
        both = torch.stack([image, image.flip(1)]).to(device)
        data["latent"] = self.autoencoder.encode(both)[0].half().cpu()
        return data


class RandLatent(Randomizable, Transform):
    """One of a sample's two latents, at random or always the first; full precision.

    Args:
        prob: of the mirror image.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        which = int(self.R.random() < self.prob)
        return {**data, "latent": torch.as_tensor(data["latent"])[which].float()}
