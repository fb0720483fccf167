"""The whole path: a scan as read and prompts in, masks on the scan's own grid and a report out.

The command line, the demo, the evaluation and the server all go through here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from torch import Tensor

from .inferer import OVERLAP, Progress, VolumeResult, encode_volume, segment_volume
from .kept import VolumeFeatures
from .prompts import Prompt, parse
from .report import describe_prompt
from .segmenter import Segmenter
from .transforms import decide_modality, prepare, to_scan_units


@dataclass
class ScanResult:
    """Answer for one scan and P prompts, on the scan's own grid."""

    masks: Tensor  # (P, X, Y, Z) uint8
    report: dict
    probabilities: Tensor | None = None  # (P, X, Y, Z) float32, when asked for
    ungated: Tensor | None = None  # the same before any decision of presence, for ranking voxels
    answer: VolumeResult | None = None  # what all this was made of, on the prepared grid
    affine: Tensor | None = None  # of that grid, voxel to RAS mm
    extras: dict[str, object] = field(default_factory=dict)  # the method's own maps (1, X, Y, Z), when asked for


def to_grid(maps: Tensor, affine: Tensor, scan: MetaTensor) -> Tensor:
    """Resample maps (P, x, y, z) with an affine onto a scan's grid -> (P, X, Y, Z); linear.

    The maps' grid may end up to half a voxel before the scan does; what lies beyond is like the last voxel. With zeros
    there, masks would fade on the last slices.
    """
    resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=torch.float32)
    shape, target = scan.shape[1:], torch.as_tensor(scan.affine)
    out = torch.zeros((len(maps), *shape))
    for one, whole in zip(maps, out, strict=True):
        if one.any():  # one by one: a clinical CT of 512^3 voxels has no room for the work on many at once
            whole.copy_(resample(MetaTensor(one[None], affine=affine), dst_affine=target, spatial_size=shape)[0])
    return out


def masks_on_grid(probabilities: Tensor, affine: Tensor, scan: MetaTensor) -> Tensor:
    """Masks (P, X, Y, Z) uint8 on a scan's grid of probabilities (P, x, y, z); no two prompts' maps in memory at once."""
    masks = torch.zeros((len(probabilities), *scan.shape[1:]), dtype=torch.uint8)
    for one, mask in zip(probabilities, masks, strict=True):
        mask.copy_(to_grid(one[None], affine, scan)[0] >= 0.5)
    return masks


@dataclass
class EncodedScan:
    """A scan, prepared for a model, and what the model keeps of it between prompts."""

    scan: MetaTensor  # (1, X, Y, Z) as read
    modality: str
    prepared: MetaTensor  # (2, x, y, z) in RAS at the model's spacing
    features: VolumeFeatures | None  # None: they do not fit in memory, and are computed again for every prompt

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        own = sum(t.numel() * t.element_size() for t in (self.scan, self.prepared))
        return own + (self.features.bytes if self.features is not None else 0)


def encode_scan(
    model: Segmenter, scan: MetaTensor, *, modality: str | None = None, progress: Progress | None = None
) -> EncodedScan:
    """Everything about a scan (1, X, Y, Z) that does not depend on a prompt.

    Raises:
        ModalityError: see `transforms.decide_modality`.
    """
    modality = decide_modality(scan, scan.meta.get("modality"), modality)
    prepared = prepare(scan, modality, model.spacing)
    return EncodedScan(scan, modality, prepared, encode_volume(model, prepared.as_tensor(), progress=progress))


def segment_scan(
    model: Segmenter,
    scan: MetaTensor | EncodedScan,
    prompts: str | Sequence[str] | Sequence[Prompt],
    *,
    modality: str | None = None,
    keep_probabilities: bool = False,
    keep: Sequence[str] = (),
    overlap: float = OVERLAP,
    progress: Progress | None = None,
) -> ScanResult:
    """Segment a scan for P prompts.

    Args:
        scan: (1, X, Y, Z) of `volumes.read_scan`, or an `encode_scan`ned one, to skip the image.
        prompts: text, or `prompts.parse`d. modality: CT or MR, if the file does not say. keep_probabilities: also the
        maps behind the masks, and the method's own (ZePT: "anomaly"). keep: names of only those of the method's own maps
        that are wanted; "pseudo_healthy" comes in the scan's units, and outside its hole is the scan.

    Raises:
        PromptError, ModalityError: see `prompts.parse` and `transforms.decide_modality`. DeviceError: the GPU has no room.
    """
    started = time.perf_counter()
    if isinstance(scan, EncodedScan):
        modality, prepared, features, scan = scan.modality, scan.prepared, scan.features, scan.scan
    else:
        modality = decide_modality(scan, scan.meta.get("modality"), modality)
        prepared, features = prepare(scan, modality, model.spacing), None
    if isinstance(prompts, str) or not all(isinstance(p, Prompt) for p in prompts):
        prompts = parse(prompts, modality=modality, encoder=model.encoder)
    values = torch.as_tensor(prepared).as_subclass(torch.Tensor)
    result = segment_volume(model, values, prompts, overlap=overlap, features=features, progress=progress)
    masks = masks_on_grid(result.probabilities, prepared.affine, scan)
    entries = [
        describe_prompt(prompt, mask, scan.affine, result.scores[p], result.attributes[p])
        for p, (prompt, mask) in enumerate(zip(prompts, masks, strict=True))
    ]
    report = {
        "scan": str(scan.meta.get("path", "")),
        "modality": modality,
        "shape": list(scan.shape[1:]),
        "weights_sha256": model.weights_sha256,
        "seconds": round(time.perf_counter() - started, 2),
        "prompts": entries,
    }
    out = ScanResult(masks, report, answer=result, affine=prepared.affine)
    if keep_probabilities:
        out.probabilities = to_grid(result.probabilities, prepared.affine, scan)
        out.ungated = to_grid(result.extras["ungated"], prepared.affine, scan)
    wanted = model.maps if keep_probabilities else keep
    needed = dict.fromkeys([*wanted, *(model.images[name] for name in wanted if name in model.images)])
    on_scan = {name: to_grid(result.extras[name], prepared.affine, scan) for name in needed}
    for name in set(wanted) & set(model.images):
        changed = on_scan[model.images[name]] >= 0.5
        own = torch.as_tensor(scan, dtype=torch.float32).as_subclass(torch.Tensor)
        on_scan[name] = torch.where(changed, to_scan_units(on_scan[name], scan, modality), own)
    out.extras = {name: on_scan[name] for name in wanted}
    return out
