"""CT and MR in one pipeline: what a scan becomes before a network sees it.

Training and inference call the same `normalize`, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Orientation, Spacing
from torch import Tensor

WIDE_HU = (-1000.0, 400.0)
SOFT_HU = (-160.0, 240.0)
MODALITIES = ("CT", "MR")


class ModalityError(ValueError):
    """CT or MR cannot be told, or what was said contradicts the data."""


def normalize(image: Tensor, modality: str, like: Tensor | None = None) -> Tensor:
    """Intensities of a scan (1, X, Y, Z) -> network input (2, X, Y, Z) float32.

    CT: HU in a wide window (lung to bone) and in a soft-tissue window, both clipped to 0..1.
    MR: intensity by the 99.5th percentile of the foreground (clipped to 0..1.2), and between its 2nd and 98th (0..1).

    Args:
        like: the scan whose percentiles count; by default the image itself. A part of a scan must be seen as in the whole.

    Raises:
        ModalityError: modality is neither CT nor MR.
    """
    values = torch.as_tensor(image, dtype=torch.float32)
    values = values.as_tensor() if isinstance(values, MetaTensor) else values
    if modality == "CT":
        wide = (values - WIDE_HU[0]) / (WIDE_HU[1] - WIDE_HU[0])
        soft = (values - SOFT_HU[0]) / (SOFT_HU[1] - SOFT_HU[0])
        return torch.cat([wide.clamp(0, 1), soft.clamp(0, 1)])
    if modality == "MR":
        whole = values if like is None else torch.as_tensor(like, dtype=torch.float32).as_subclass(Tensor)
        low, high, top = foreground_percentiles(whole)
        return torch.cat([(values / top).clamp(0, 1.2), ((values - low) / max(high - low, 1e-6)).clamp(0, 1)])
    raise ModalityError(f"the modality {modality!r} is not known: say CT or MR")


def shows_ct(image: Tensor) -> bool:
    """Whether a network input (2, X, Y, Z) was made from CT: then each of its windows follows from the other."""
    wide, soft = image[0].flatten().float(), image[1].flatten().float()
    inside = (soft > 0.02) & (soft < 0.98)
    if not inside.any():
        return bool(image.amax() > 0) and bool((wide[soft <= 0.02] < 0.61).all())
    hounsfield = soft[inside] * (SOFT_HU[1] - SOFT_HU[0]) + SOFT_HU[0]
    expected = (hounsfield - WIDE_HU[0]) / (WIDE_HU[1] - WIDE_HU[0])
    return float((wide[inside] - expected).abs().median()) < 0.02


def to_scan_units(values: Tensor, scan: Tensor, modality: str) -> Tensor:
    """First channel of `normalize` -> HU, or the units of an MR scan that was normalized; the way back, where not clipped.

    Args:
        values: any shape. scan: the scan (1, X, Y, Z) as read.
    """
    if modality == "CT":
        return values * (WIDE_HU[1] - WIDE_HU[0]) + WIDE_HU[0]
    return values * foreground_percentiles(torch.as_tensor(scan, dtype=torch.float32).as_subclass(Tensor))[2]


def foreground_percentiles(values: Tensor) -> tuple[float, float, float]:
    """2nd, 98th and 99.5th percentile of an MR scan's foreground: voxels above a twentieth of its 99th percentile.

    At most a quarter of a million voxels are looked at, evenly spaced: percentiles of a scan need no more.
    """
    flat = _sample(values)
    flat = flat[flat > 0]
    if not flat.numel():
        return 0.0, 1.0, 1.0
    ordered = flat.sort().values
    ordered = ordered[ordered > 0.05 * float(ordered[int(0.99 * (len(ordered) - 1))])]
    low, high, top = (float(ordered[int(q * (len(ordered) - 1))]) for q in (0.02, 0.98, 0.995))
    return low, high, max(top, 1e-6)


def decide_modality(image: Tensor, header: str | None = None, user: str | None = None) -> str:
    """CT or MR from what the user says, what the header says, and the data; they must not contradict each other.

    Args:
        image: voxel values as read. header: the file's own statement (such as DICOM's Modality), if it has one.

    Raises:
        ModalityError: they contradict each other, the scan is of a third kind, or nothing tells.
    """
    seen = modality_of_data(image)
    said = user.upper() if user else None
    written = {"MRI": "MR"}.get(header.upper(), header.upper()) if header else None
    if said is not None and said not in MODALITIES:
        raise ModalityError(f"the modality {user!r} is not known: say CT or MR")
    if written is not None and written not in MODALITIES:
        raise ModalityError(
            f"the scan is of modality {written}, and only CT and MR can be segmented: give one of those"
        )
    if said and written and said != written:
        raise ModalityError(
            f"the scan's header says {written} and you say {said}: leave out --modality, or check the file"
        )
    claim = said or written
    if claim != "MR" and stored_with_offset(image):
        raise ModalityError(
            "the scan looks like a CT stored with an offset (soft tissue near 1000 and not near 0): subtract the offset "
            "(often 1000 or 1024), or say --modality MR if it is one"
        )
    if claim == "CT" and seen == "MR":
        raise ModalityError(
            "the scan is called CT but holds no Hounsfield units (no air near -1000): say --modality MR, or, if it is a "
            "CT stored with an offset (often 1000 or 1024), subtract the offset"
        )
    if claim == "MR" and seen == "CT":
        raise ModalityError("the scan is called MR but holds Hounsfield units (air near -1000): say --modality CT")
    if claim is None and seen is None:
        raise ModalityError("the scan could be CT or MR: say which with --modality CT or --modality MR")
    return claim or seen


def modality_of_data(image: Tensor) -> str | None:
    """CT if values look like Hounsfield units, MR if they cannot be, None if both are possible.

    Hounsfield units reach from air (-1000) through fat and soft tissue (-200..200). A scan without negative values is not
    CT: every CT has fat.
    """
    values = _sample(image)
    fat_and_air = float((values < -40).float().mean())
    soft = float(((values > -40) & (values < 150)).float().mean())
    if fat_and_air > 0.01 and float(values.min()) >= -32768 and soft > 0.01:
        return "CT" if float(values.min()) < -60 else None
    # Interpolation leaves a few negative values in MR; they are few and small.
    if float((values < 0).float().mean()) < 0.05 and float(values.min()) > -0.1 * float(values.max()):
        return "MR"
    return None


def stored_with_offset(image: Tensor) -> bool:
    """Whether whole numbers look like Hounsfield units to which 1000 or 1024 was added, so that air is near 0.

    Soft tissue and fat, most of a body in CT, then lie in a narrow band around 1000. MR spreads wider: it shows this at most
    if it is uniform and its gain happens to fit, and then has to be called MR.
    """
    values = _sample(image)
    body = values[values > 200]
    if len(body) < 0.05 * len(values) or not torch.equal(body, body.round()):
        return False
    tissue = float(((body > 824) & (body < 1224)).float().mean())
    return tissue > 0.7 and float((body <= 824).float().mean()) < 0.2


def _sample(image: Tensor) -> Tensor:
    """At most some quarter of a million values of a scan, evenly spaced."""
    values = torch.as_tensor(image).as_subclass(Tensor).flatten()
    return values[:: max(1, values.numel() // 250_000)].float()


def resample(spacing: float) -> Compose:
    """RAS and isotropic spacing in mm, for a channel-first MetaTensor; linear, with the affine kept up to date."""
    return Compose([Orientation(axcodes="RAS", labels=None), Spacing(pixdim=(spacing,) * 3, mode="bilinear")])


def prepare(image: MetaTensor, modality: str, spacing: float = 3.0) -> MetaTensor:
    """A scan (1, X, Y, Z) as read -> network input (2, x, y, z) in RAS at `spacing` mm, with its affine.

    Percentiles of MR are taken from the scan as it was read: resampling would smooth the brightest voxels away.
    """
    network_input = MetaTensor(normalize(image, modality), affine=image.affine)
    return resample(spacing)(network_input)


class Prepared(MapTransform):
    """`prepare` without the resampling, as a MONAI dictionary transform: decides the modality, normalizes intensities.

    Args:
        keys: of the scans. modality: CT, MR, or None (from the data).
    """

    def __init__(self, keys: KeysCollection, modality: str | None = None) -> None:
        super().__init__(keys)
        modality = modality[0] if isinstance(modality, list | tuple) else modality
        self.modality = None if modality in (None, "", "auto") else modality

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        data = dict(data)
        for key in self.key_iterator(data):
            image = data[key]
            values = normalize(image, decide_modality(image, image.meta.get("modality"), self.modality))
            data[key] = MetaTensor(
                values, affine=image.affine, meta=image.meta, applied_operations=image.applied_operations
            )
        return data
