"""What a sceptic would try first: outliers of intensity, calling everything a tumor, asking all methods at once.

A network that cannot read is another, with weights of its own: `closed_set`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as connected_components
from torch import Tensor

from .in_turn import joint_sha256
from .pipeline import ScanResult, segment_scan
from .prompts import Prompt
from .segmenter import MODELS, Segmenter, WeightsError, available, load


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


class Ensemble:
    """The mean of several methods' probabilities, each counted from its own theta: 0.5 is where each begins to paint.

    Args:
        models: by name; a single one answers as it does alone.
    """

    def __init__(self, models: Mapping[str, Segmenter]) -> None:
        self.models = dict(models)
        self.weights_sha256 = joint_sha256({name: model.weights_sha256 for name, model in self.models.items()})

    @classmethod
    def of(cls, folder: Path | None = None, device: str | torch.device = "cpu") -> Ensemble:
        """All methods whose weights lie in a folder, by default that of the starter weights.

        Raises:
            segmenter.WeightsError: there are none, or they are damaged.
        """
        names = available(folder)
        if not names:
            raise WeightsError(f"no method has weights in {folder or MODELS}: train one (see bundle/docs/README.md)")
        return cls({name: load(name, folder, device=device) for name in names})

    def __call__(self, scan: MetaTensor, prompts: Sequence[Prompt], modality: str) -> ScanResult:
        """A scan (1, X, Y, Z) and P prompts, on the scan's grid. What a method has not found counts as 0 there."""
        answers = [
            segment_scan(model, scan, prompts, modality=modality, keep_probabilities=True)
            for model in self.models.values()
        ]
        mean, ungated = (
            torch.stack([getattr(answer, name) for answer in answers]).mean(0) for name in ("probabilities", "ungated")
        )
        masks = (mean >= 0.5).to(torch.uint8)
        scores = [np.mean([answer.report["prompts"][p]["score"] for answer in answers]) for p in range(len(prompts))]
        entries = [
            {"prompt": prompt.text, "found": bool(mask.any()), "score": float(score)}
            for prompt, mask, score in zip(prompts, masks, scores, strict=True)
        ]
        return ScanResult(masks, {"prompts": entries}, probabilities=mean, ungated=ungated)
