"""What training the click network needs besides MONAI's engines: samples, spoiled masks to start from, simulated clicks."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import torch
from ignite.engine import Engine
from monai.transforms import MapTransform, Randomizable, Transform
from torch import Tensor

from .clicks import Click, balls, next_click
from .healthy import healthy_datalist
from .malenia.criterion import PRIOR_SCALES
from .phantom.datalist import phantom_datalist
from .phantom.world import SEEN_WEIGHTS
from .refine import ClickNet
from .segmenter import save_state
from .training import GeneratePhantom, about_training

FINEST, COARSEST = 1.4, 5.0
"""mm of the voxels that samples have."""
ERASE, SPILL = 0.35, 0.35
"""Chances that a spoiled mask loses a part, and that it gains a false one."""


def lesion_datalist(
    count: int,
    start: int = 0,
    difficulty: tuple[float, float] = (0.2, 1.0),
    masses: Mapping[str, int] | None = None,
    scans: int = 0,
) -> list[dict]:
    """One record a sample, nearly all with a lesion; voxel sizes run from 1.4 to 5 mm, as those of windows do.

    Args:
        count: phantoms with lesions of seen kinds. masses: more of them, see `phantom.datalist.phantom_datalist`. scans: and
            lesions in real anatomy, see `healthy.healthy_datalist`.
    """
    low, high = difficulty
    kinds = list(SEEN_WEIGHTS)
    records = [
        {
            "seed": s,
            "difficulty": low + (high - low) * (s * 0.618034 % 1),
            "category": kinds[(s * 7) % len(kinds)] if s % 2 else "abstract lesion",
        }
        for s in range(start, start + count)
    ]
    records += phantom_datalist(0, start + count, masses=masses) + healthy_datalist(scans)
    sick = [r for r in records if r.get("category") != "healthy"]
    return [{**r, "spacing": FINEST + (COARSEST - FINEST) * (r["seed"] * 0.754878 % 1)} for r in sick]


class GenerateLesion(Transform):
    """A record of `lesion_datalist` -> `image` (2, X, Y, Z) half, `lesions` (1, X, Y, Z) instance ids. Can be cached."""

    def __init__(self, edge: int = 48) -> None:
        self.edge = edge

    def __call__(self, data: Mapping[str, object]) -> dict[str, Tensor]:
        sample = GeneratePhantom((self.edge,) * 3, float(data["spacing"]))(data)
        return {name: sample[name] for name in ("image", "lesions")}


class RandClickTask(Randomizable, Transform):
    """A sample -> what the network sees before the first click, `image` (5, X, Y, Z), `label` (1, X, Y, Z), and `clicks`.

    The lesion to be segmented is one of the scan's, or all of them; the mask so far is empty, or the truth spoiled the way
    masks from text are: grown or shrunk, a part missing, a part too much, or somewhere else altogether.

    Args:
        empty: share of empty masks. clicks: fewest and most; each number is as likely as the next, so that the network
        learns from the first click as much as from the last.
    """

    def __init__(self, empty: float = 0.4, clicks: tuple[int, int] = (1, 5)) -> None:
        self.empty, self.clicks = empty, tuple(clicks)

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        image, lesions = data["image"].float(), data["lesions"].long()
        ids = lesions.unique()
        ids = ids[ids > 0]
        label = (lesions > 0).float()
        if len(ids) > 1 and self.R.random() < 0.5:
            label = (lesions == ids[int(self.R.randint(len(ids)))]).float()
        mask = torch.zeros_like(label) if self.R.random() < self.empty else self.spoil(label)
        clicks = torch.tensor(int(self.R.randint(self.clicks[0], self.clicks[1] + 1)))
        return {"image": torch.cat([image, mask, torch.zeros(2, *label.shape[1:])]), "label": label, "clicks": clicks}

    def spoil(self, label: Tensor) -> Tensor:
        """A mask (1, X, Y, Z) like `label`, with mistakes."""
        mask, size = label.clone(), int(self.R.randint(0, 3)) * 2 + 1
        grow = self.R.random() < 0.5
        pool = torch.nn.functional.max_pool3d
        mask = pool(mask, size, 1, size // 2) if grow else -pool(-mask, size, 1, size // 2)
        if self.R.random() < ERASE:
            mask = mask * (1 - self._blob(label))
        if self.R.random() < SPILL:
            mask = torch.maximum(mask, self._blob(label))
        if self.R.random() < 0.1:
            mask = mask.roll(tuple(int(s) for s in self.R.randint(-12, 13, 3)), (1, 2, 3))
        return mask

    def _blob(self, label: Tensor) -> Tensor:
        """A ball about a random voxel in or beside the lesion."""
        where = label[0].nonzero()
        if not len(where):
            return torch.zeros_like(label)
        center = where[int(self.R.randint(len(where)))] + torch.from_numpy(self.R.normal(0, 4, 3))
        radius = float(self.R.uniform(2, 1.5 + len(where) ** (1 / 3)))
        axes = [torch.arange(n) - float(c) for n, c in zip(label.shape[1:], center, strict=True)]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        return ((x * x + y * y + z * z).sqrt() < radius).float()[None]


class AddClickd(Randomizable, MapTransform):
    """One simulated click on the network's last answer, for MONAI's `Interaction`.

    Before the first click the mask so far is judged and not the answer. Half of the training clicks lie anywhere in the
    wrong region and not in its middle: nobody clicks exactly. A sample whose `clicks` are used up stays as it is.

    Args:
        loose: share of such clicks.
    """

    def __init__(self, loose: float = 0.5) -> None:
        MapTransform.__init__(self, ("image", "label", "pred", "clicks"))
        self.loose = loose

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        data = dict(data)
        left = int(data["clicks"])
        if left <= 0:
            return data
        image, label = data["image"].clone(), data["label"][0]
        # The answer is where the network is, and clicks are drawn where the samples are.
        mask = (data["pred"][0] > 0).float().to(label.device) if image[3:].any() else image[2]
        click = next_click(mask, label)
        if click is not None:
            click = self._loosened(click, mask, label) if self.R.random() < self.loose else click
            channel = 3 if click.inside else 4
            image[channel] = torch.maximum(image[channel], balls(label.shape, [click.index]))
        image[2] = mask
        data |= {"image": image, "clicks": data["clicks"] - 1}
        return data

    def _loosened(self, click: Click, mask: Tensor, label: Tensor) -> Click:
        wrong = ((label > 0.5) if click.inside else (label < 0.5)) & ((mask > 0.5) != (label > 0.5))
        near = wrong.nonzero()
        near = near[(near - torch.tensor(click.index)).abs().amax(1) <= 6]
        return Click(tuple(near[int(self.R.randint(len(near)))].tolist()), click.inside) if len(near) else click


def start_from(network: ClickNet, path: str | Path) -> None:
    """Take a click network's weights, or Malenia's: its backbone, blind for mask and clicks at first, and its lesion prior.

    Raises:
        ValueError: they are neither, or of another size.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    given, own = {k: v.float() for k, v in state.get("model", state).items()}, network.state_dict()
    state = given
    if not any(name.startswith("head.") for name in given):
        last = len(PRIOR_SCALES) - 1
        names = {n: n.replace("head.", f"decoder.prior.{last}.") for n in own}
        state = {n: _widened(given[there], own[n]) for n, there in names.items() if there in given}
    wrong = [n for n, value in own.items() if n not in state or state[n].shape != value.shape]
    wrong += [n for n in given if n.startswith("backbone.") and n not in own]
    if wrong:
        raise ValueError(f"{path} does not fit this click network ({', '.join(wrong[:3])}): give it the same channels")
    network.load_state_dict(state)


def _widened(weight: Tensor, like: Tensor) -> Tensor:
    """A convolution's weight for more channels, those that it does not know last; of another size otherwise, as it is."""
    if weight.ndim < 2 or weight.shape[1] >= like.shape[1] or weight[:, 0].shape != like[:, 0].shape:
        return weight
    wide = torch.zeros_like(like)
    wide[:, : weight.shape[1]] = weight
    return wide


def export(
    network: torch.nn.Module,
    folder: str,
    config: Mapping[str, object],
    trainer: Engine,
    pretrained: str | None = None,
    scans: Sequence[Mapping[str, object]] = (),
) -> Path:
    """Write the trained network and its record to `folder`/model.pt and .json; the rest as of `training.about_training`."""
    path = Path(folder) / "model.pt"
    trained = about_training(trainer, pretrained, scans)
    save_state(network, path, {"method": "refine", "config": dict(config), "trained": trained})
    logging.getLogger(__name__).info(f"wrote {path}: {json.dumps(trained)}")
    return path
