"""Left or right: what a label of a paired organ shows, and which organ a lesion lies in, as far as a scan tells.

A scan may be a crop, or a patient may lie beside the middle of it: half of an image is not half of a body. RAS: the right
side has larger x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_dilation, find_objects
from scipy.ndimage import label as connected_components
from torch import Tensor

from .annotation import body_of
from .datasets import ORGAN_LABELS

WIDE_MM = 300.0
"""From this width on, the middle of what is seen of a body is taken for its own, even if the scan ends inside the body."""
APART_MM = 20.0
"""Left and right of a pair are at least so far apart; parts of one organ are closer, or one lies above the other."""
SAME_SIZE, ONE_SIDE, PROFILE = 0.2, 0.75, 0.1
"""Least size of the smaller of a pair, of the larger; share of a part on one side from which it is wholly there; share of
the body's largest section that counts as body, which a table's is not."""
CUBE = np.ones((3, 3, 3))


def body_middle(scan: MetaTensor) -> float | None:
    """Where the middle of the body is along x, as a share of the scan's width; None if too little of the body is seen.

    Args:
        scan: (1, X, Y, Z) in RAS, HU or MR intensities.
    """
    body, steps = body_of(scan)
    profile = body.float().sum((1, 2))
    inside = (profile > PROFILE * profile.max()).nonzero().flatten().tolist()
    if not inside:
        return None
    first, last = inside[0], inside[-1]
    width = (last - first + 1) * steps[0] * float(torch.as_tensor(scan.affine)[:3, 0].norm())
    ends_inside = first == 0 or last == len(profile) - 1
    return None if ends_inside and width < WIDE_MM else (first + last + 1) / 2 / len(profile)


def right_part(where: Tensor, middle: float | None, spacing: float) -> Tensor | None:
    """Which voxels of a paired organ's label (X, Y, Z) are the right one's; None if nothing tells.

    Two parts of about one size beside each other are the two. Else the middle of the body counts: a part that lies mostly on
    one side of it is wholly that side's, and one that lies on both, as a horseshoe kidney does, is cut there.

    Args:
        middle: of the body, in voxels; None if it is not known. spacing: mm.
    """
    components, count = connected_components(where.numpy(), CUBE)
    boxes, sizes = find_objects(components), np.bincount(components.ravel(), minlength=count + 1)[1:]
    middle = _between(boxes, sizes, spacing) or middle
    if middle is None or not count:
        return None
    right = (np.arange(where.shape[0]) >= middle)[:, None, None] & where.numpy()
    for k, box in enumerate(boxes):
        own = components[box] == k + 1
        share = right[box][own].mean()
        if not 1 - ONE_SIDE < share < ONE_SIDE:
            right[box][own] = share > 0.5
    return torch.from_numpy(right)


def _between(boxes: Sequence[tuple[slice, ...]], sizes: np.ndarray, spacing: float) -> float | None:
    """The middle, in voxels, between the two largest parts of a label, if they are a pair."""
    if len(boxes) < 2:
        return None
    large, small = np.argsort(sizes)[::-1][:2]
    low, high = sorted((boxes[large], boxes[small]), key=lambda box: box[0].start)
    beside = low[2].start < high[2].stop and high[2].start < low[2].stop
    apart = (high[0].start - low[0].stop) * spacing >= APART_MM
    return (low[0].stop + high[0].start) / 2 if beside and apart and sizes[small] >= SAME_SIZE * sizes[large] else None


def host_touched(lesion: Tensor, organs: Tensor, hosts: Sequence[str]) -> str | None:
    """The one of some organs whose label a lesion (X, Y, Z) bool touches most; None if it touches none.

    Args:
        organs: (X, Y, Z), ORGAN_LABELS. hosts: names.
    """
    box = tuple(slice(max(0, int(i.min()) - 2), int(i.max()) + 3) for i in lesion.nonzero().T)
    inside = lesion[box].numpy()
    near = torch.from_numpy(binary_dilation(inside, CUBE) & ~inside)
    counts = torch.bincount(organs[box][near].long(), minlength=256)
    best = max(hosts, key=lambda host: int(counts[ORGAN_LABELS[host]]))
    return best if counts[ORGAN_LABELS[best]] else None
