"""Correct a mask by clicks: a small network looks at the scan, the mask so far and the clicks around the lesion.

An iterative click-conditioned network (Sofiiuk et al., "Reviving iterative training with mask guidance for interactive
segmentation", 2022; in 3-D as in Isensee et al., nnInteractive, 2025) on the backbone that the methods share, trained on
phantoms. It works in a window of fixed size whose voxels grow with the lesion, so that a 20 mm nodule and a 150 mm sarcoma
look alike to it. What the network says is then bound to what the annotator said: a click is always honoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from monai.transforms.utils import generate_spatial_bounding_box
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as connected_components
from torch import Tensor, nn

from .backbone import ResidualBackbone
from .clicks import Click, balls
from .devices import device_of, enough_memory
from .segmenter import MODELS, load_state, read_record
from .transforms import normalize

EDGE = 64
"""Voxels of the window's edge; more than a training sample has, since a sample does not leave so much room."""
SPACINGS = (1.5, 2.0, 3.0, 4.0)
"""mm of the window's voxels: the smallest that shows the lesion with room around it is taken."""
FIRST = SPACINGS[2:]
"""The same where there is no mask yet: a lone click does not tell how large the lesion is, and training's lesions are, in
the middle, twenty voxels wide."""
ROOM = 1.6
"""How much larger than the lesion a window has to be."""


class ClickNet(nn.Module):
    """(B, 5, X, Y, Z): scan in two windows of gray, mask so far, clicks inside, clicks outside -> logits (B, 1, X, Y, Z).

    Args:
        channels, mask_channels, gain: of `backbone.ResidualBackbone`.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        mask_channels: int = 8,
        gain: float | None = None,
    ) -> None:
        super().__init__()
        self.backbone = ResidualBackbone(5, channels, mask_channels, gain)
        self.head = nn.Conv3d(mask_channels, 1, kernel_size=1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs)["f4"])


def load_refiner(weights: str | Path | None = None, device: str | torch.device = "cpu") -> Refiner:
    """The click network with trained weights (by default the bundle's), on a device of `devices.device_of`.

    Raises:
        ValueError: there is no such device. segmenter.WeightsError: the file is missing, altered, or of another network.
    """
    path = Path(weights) if weights is not None else MODELS / "refine" / "model.pt"
    record = read_record(path, "refine")
    refiner = Refiner(load_state(ClickNet(**record["config"]), path).to(device_of(device)))
    refiner.weights_sha256 = record["sha256"]
    return refiner


class Refiner:
    """Updates masks on a scan's own grid.

    Args:
        network: trained. threshold: probability from which a voxel is inside.
    """

    weights_sha256: str = "untrained"

    def __init__(self, network: ClickNet, threshold: float = 0.5) -> None:
        self.network, self.threshold = network.eval(), threshold
        self.device = next((p.device for p in network.parameters()), torch.device("cpu"))

    @torch.inference_mode()
    @enough_memory()
    def update(
        self,
        scan: MetaTensor,
        modality: str,
        mask: Tensor,
        clicks: Sequence[Click],
        roi: Sequence[int] | None = None,
    ) -> Tensor:
        """The mask after clicks.

        Args:
            scan: (1, X, Y, Z) as read. mask: (X, Y, Z), the mask so far, possibly empty. clicks: all of this lesion, oldest
            first; the last ones are new. roi: x1, x2, y1, y2, z1, z2 in voxels; nothing outside it changes.

        Returns:
            (X, Y, Z) bool.

        Raises:
            ValueError: no click, or one outside the scan. DeviceError: the GPU has no room for it.
        """
        check_clicks(clicks, scan.shape[1:])
        mask = torch.as_tensor(mask).as_subclass(Tensor) > 0
        near = touched(mask, clicks)
        for spacing in SPACINGS if near.any() else FIRST:
            affine, fits = window_affine(scan.affine, near, clicks, spacing)
            if not fits and spacing != SPACINGS[-1]:
                continue
            probability = self._look(scan, modality, mask, clicks, affine)
            rim = probability.clone()
            rim[2:-2, 2:-2, 2:-2] = 0
            if spacing == SPACINGS[-1] or float(rim.max()) < self.threshold:
                break  # else the lesion runs out of the window: look again from farther away
        new = paste(mask, probability, affine, scan, self.threshold)
        if len(clicks) > 1:  # the first click asks for a lesion, later ones for a change where they are
            new = asked_for(new, mask, clicks)
        if roi is not None:
            new = within(roi, new, mask)
        return honour(new, clicks, scan.affine)

    def _look(self, scan: MetaTensor, modality: str, mask: Tensor, clicks: Sequence[Click], affine: Tensor) -> Tensor:
        """Probability of lesion in the window (EDGE, EDGE, EDGE)."""
        resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
        part, corner = window_part(affine, (EDGE,) * 3, scan.affine, mask.shape)
        gray = normalize(scan[(slice(None), *part)], modality, like=scan)
        both = MetaTensor(torch.cat([gray, mask[part][None].float()]), affine=corner)
        seen = resample(both, dst_affine=affine, spatial_size=(EDGE,) * 3).as_tensor()
        points = to_voxels(clicks, scan.affine, affine)
        inside = [p for p, c in zip(points, clicks, strict=True) if c.inside]
        outside = [p for p, c in zip(points, clicks, strict=True) if not c.inside]
        guides = torch.stack([balls((EDGE,) * 3, inside), balls((EDGE,) * 3, outside)])
        return self.network(torch.cat([seen, guides])[None].to(self.device))[0, 0].sigmoid().cpu()


def check_clicks(clicks: Sequence[Click], shape: Sequence[int]) -> None:
    """Raises ValueError: there is no click, or one lies outside the scan of `shape` voxels."""
    if not clicks:
        raise ValueError("there is no click: give at least one voxel inside or outside the lesion")
    for click in clicks:
        if any(not 0 <= i < n for i, n in zip(click.index, shape, strict=True)):
            raise ValueError(f"the click {click.index} lies outside the scan of {tuple(shape)} voxels")


def touched(mask: Tensor, clicks: Sequence[Click], reach: int = 2, connectivity: int = 3) -> Tensor:
    """Components of a mask (X, Y, Z) that a click lies in or beside, as a mask of that shape.

    Args:
        reach: voxels that count as beside. connectivity: what hangs together: 1 over faces (6 neighbors), 3 over faces,
        edges and corners (26).
    """
    out = torch.zeros_like(mask, dtype=torch.bool)
    if not mask.any():
        return out
    start, end = generate_spatial_bounding_box(mask[None], select_fn=lambda m: m > 0)
    box = tuple(slice(a, b) for a, b in zip(start, end, strict=True))  # a mask is small, and its scan is not
    labels, count = connected_components(np.asarray(mask[box]), structure=generate_binary_structure(3, connectivity))
    chosen = np.zeros(count + 1, dtype=bool)
    for click in clicks:
        around = (
            slice(max(0, i - a - reach), max(0, i - a + reach + 1)) for i, a in zip(click.index, start, strict=True)
        )
        chosen[labels[tuple(around)]] = True
    chosen[0] = False
    out[box] = torch.from_numpy(chosen[labels])
    return out


def window_affine(affine: Tensor, near: Tensor, clicks: Sequence[Click], spacing: float) -> tuple[Tensor, bool]:
    """Affine of a RAS window of EDGE voxels of `spacing` mm around clicks and the mask near them; whether all fit in."""
    affine = torch.as_tensor(affine, dtype=torch.float64)
    points = torch.cat([near.nonzero()[:: max(1, int(near.sum()) // 5000)],
                        torch.tensor([c.index for c in clicks])]).double()  # fmt: skip
    mm = points @ affine[:3, :3].T + affine[:3, 3]
    low, high = mm.amin(0), mm.amax(0)
    out = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    out[:3, 3] = (low + high) / 2 - spacing * (EDGE - 1) / 2
    return out, float((high - low).max()) * ROOM <= spacing * EDGE


def to_voxels(clicks: Sequence[Click], affine: Tensor, window: Tensor) -> list[list[float]]:
    """Clicks as voxels (fractions allowed) of a window with another affine."""
    change = torch.linalg.inv(window.double()) @ torch.as_tensor(affine, dtype=torch.float64)
    points = torch.tensor([[*c.index, 1] for c in clicks], dtype=torch.float64) @ change.T
    return points[:, :3].tolist()


def paste(mask: Tensor, probability: Tensor, affine: Tensor, scan: MetaTensor, threshold: float) -> Tensor:
    """The mask with what a window says in its place, and untouched outside; (X, Y, Z) bool."""
    box, corner = window_part(affine, probability.shape, scan.affine, mask.shape)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    maps = MetaTensor(torch.stack([probability, torch.ones_like(probability)]), affine=affine)
    back = resample(maps, dst_affine=corner, spatial_size=mask[box].shape).as_tensor()
    out = mask.clone()
    out[box] = torch.where(back[1] > 0.99, back[0] >= threshold, mask[box])
    return out


def window_part(
    affine: Tensor, size: Sequence[int], target: Tensor, shape: Sequence[int]
) -> tuple[tuple[slice, slice, slice], Tensor]:
    """The part of a scan that a window reaches into, and that part's own affine: what a click need not touch stays aside.

    Args:
        affine, size: of the window. target, shape: of the scan.
    """
    target = torch.as_tensor(target, dtype=torch.float64)
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in size))
    change = torch.linalg.inv(target) @ torch.as_tensor(affine, dtype=torch.float64)
    reached = corners @ change[:3, :3].T + change[:3, 3]
    ends = zip(reached.amin(0).floor().int().tolist(), reached.amax(0).ceil().int().tolist(), shape, strict=True)
    part = tuple(slice(min(max(0, low), n - 1), min(max(low, high) + 1, n)) for low, high, n in ends)
    start = torch.eye(4, dtype=torch.float64)
    start[:3, 3] = torch.tensor([p.start for p in part])
    return part, target @ start


def asked_for(new: Tensor, old: Tensor, clicks: Sequence[Click]) -> Tensor:
    """`old` with what `new` adds at a click inside, and without what it removes at a click outside; (X, Y, Z) bool.

    The clicks that count are those that `old` contradicts; where none does, the last one. What nobody complained of stays:
    a mask does not lose in one place what a click gained in another.
    """
    asking = [c for c in clicks if bool(old[c.index]) != c.inside] or clicks[-1:]
    added = touched(new & ~old, [c for c in asking if c.inside], reach=1, connectivity=1)
    removed = touched(old & ~new, [c for c in asking if not c.inside], reach=1, connectivity=1)
    return (old | added) & ~removed


def within(roi: Sequence[int], new: Tensor, old: Tensor) -> Tensor:
    """`new` inside a box x1, x2, y1, y2, z1, z2 of voxels (ends included), `old` outside; the box may leave the scan."""
    box = tuple(slice(max(0, min(a, b)), max(0, max(a, b) + 1)) for a, b in zip(roi[::2], roi[1::2], strict=True))
    out = old.clone()
    out[box] = new[box]
    return out


def honour(mask: Tensor, clicks: Sequence[Click], affine: Tensor, radius_mm: float = 4.0) -> Tensor:
    """Make a mask (X, Y, Z) agree with every click, a small ball around each that it contradicts; later clicks win."""
    spacing = torch.linalg.vector_norm(torch.as_tensor(affine)[:3, :3].double(), dim=0)
    out = mask.clone()
    for click in clicks:
        if bool(out[click.index]) == click.inside:
            continue
        reach = [int(radius_mm / s) for s in spacing.tolist()]
        part = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(click.index, reach, strict=True))
        axes = [
            (torch.arange(p.start, min(p.stop, n)) - i) * s
            for p, i, n, s in zip(part, click.index, out.shape, spacing.tolist(), strict=True)
        ]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        out[part] = torch.where((x * x + y * y + z * z).sqrt() <= radius_mm, click.inside, out[part])
    for click in clicks:  # balls of neighbouring clicks may overlap: the voxels themselves come last
        out[click.index] = click.inside
    return out
