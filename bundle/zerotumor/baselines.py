"""What a sceptic would try first: outliers of intensity, and calling everything a tumor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as connected_components
from torch import Tensor

from .pipeline import ScanResult
from .prompts import Prompt


def body(image: Tensor, modality: str) -> Tensor:
    """Voxels inside the patient (X, Y, Z): above -300 HU, or above a twentieth of the 99th percentile on MR."""
    if modality == "CT":
        return image > -300
    positive = image[image > 0]
    if not positive.numel():
        return torch.zeros_like(image, dtype=torch.bool)
    return image > 0.05 * float(np.percentile(positive.numpy(), 99))


def everything(scan: MetaTensor, prompts: Sequence[Prompt], modality: str) -> ScanResult:
    """Every voxel of the body is tumor, for every prompt."""
    image = torch.as_tensor(scan[0]).as_subclass(Tensor)
    mask = body(image, modality)
    return _result(mask, mask.float(), prompts)


def outlier(
    scan: MetaTensor, prompts: Sequence[Prompt], modality: str, limit: float = 2.5, smooth_mm: float = 4.0
) -> ScanResult:
    """Voxels whose smoothed intensity is more than `limit` robust deviations from the body's soft tissue.

    On CT only soft tissue (-150 to 250 HU) is looked at, or bone and gas would be the outliers. The largest connected
    component is the answer; the prompt plays no part.
    """
    image = torch.as_tensor(scan[0]).as_subclass(Tensor)
    inside = body(image, modality)
    if modality == "CT":
        inside &= (image > -150) & (image < 250)
    spacing = np.linalg.norm(np.asarray(scan.affine)[:3, :3], axis=0)
    smooth = torch.from_numpy(
        gaussian_filter(image.numpy().clip(-200, 300) if modality == "CT" else image.numpy(), smooth_mm / spacing)
    )
    values = smooth[inside]
    if not values.numel():
        return _result(inside, inside.float(), prompts)
    median = values.median()
    deviation = (values - median).abs().median().clamp_min(1e-6) * 1.4826
    score = torch.where(inside, (smooth - median).abs() / deviation, torch.zeros_like(smooth))
    labels, count = connected_components(np.asarray(score > limit))
    mask = torch.zeros_like(inside)
    if count:
        mask = torch.from_numpy(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
    return _result(mask, score, prompts)


def _result(mask: Tensor, score: Tensor, prompts: Sequence[Prompt]) -> ScanResult:
    maps = torch.stack([score] * len(prompts))
    entries = [{"prompt": p.text, "found": bool(mask.any()), "score": float(score.max() > 0)} for p in prompts]
    masks = torch.stack([mask.to(torch.uint8)] * len(prompts))
    return ScanResult(masks, {"prompts": entries}, probabilities=maps, ungated=maps)


BASELINES = {"outlier": outlier, "everything": everything}
