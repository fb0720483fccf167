"""What training needs besides MONAI's engines: samples from phantoms or from folders, and batches with lesion sets.

A sample is a dictionary: `image` (2, X, Y, Z) float, `lesions` (1, X, Y, Z) instance ids, `organs` (1, X, Y, Z) labels
of `vocabulary.ORGANS`, `values` (K, 8) bank index of each instance's attributes (-1 unknown).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from monai.networks.utils import copy_model_state
from monai.transforms import MapTransform, Randomizable, Transform
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .datasets import ORGAN_LABELS
from .healthy import read_healthy
from .malenia.attributes import NAMES, value_index
from .malenia.model import Targets
from .phantom import generate
from .phantom.scanned import REGION
from .phantom.world import category_of
from .scans import KINDS
from .segmenter import Segmenter, save
from .text import TextEncoder
from .trained_on import real_scans, together
from .transforms import normalize
from .vocabulary import ORGANS

MIRRORED = {
    name: name.replace("left", "right") if "left" in name else name.replace("right", "left")
    for name in ORGAN_LABELS
    if "left" in name or "right" in name
}


def kinds_of(record: Mapping[str, object], sample: Mapping[str, Tensor]) -> Tensor:
    """Place in vocabulary.LESIONS of each lesion (K,) that `GeneratePhantom` draws for a record, -1 if it has none."""
    region = REGION if "image" in record else None
    kind = record.get("category") or category_of(int(record["seed"]), region)
    return torch.full((len(sample["values"]),), KINDS.index(kind) if kind in KINDS else -1, dtype=torch.int16)


class GeneratePhantom(Transform):
    """A record of `phantom.datalist.phantom_datalist` or `healthy.healthy_datalist` -> a sample.

    A pure function of the record, so its result can be cached.

    Args:
        shape: voxels. spacing: mm. twin: whether `healthy`, the same scan without its lesions, is in the sample too.
    """

    def __init__(self, shape: Sequence[int] = (64, 64, 64), spacing: float = 3.0, twin: bool = False) -> None:
        self.shape, self.spacing, self.twin = tuple(shape), spacing, twin

    def __call__(self, data: Mapping[str, float]) -> dict[str, Tensor]:
        phantom = generate(
            int(data["seed"]),
            shape=self.shape,
            spacing=self.spacing,
            difficulty=float(data.get("difficulty", 1.0)),
            region=data.get("region"),
            modality=data.get("modality"),
            category=data.get("category"),
            scan=read_healthy(data["image"], data["label"]) if "image" in data else None,
            organ=data.get("organ"),
            flatness=float(data.get("flatness", 1.0)),
        )
        records = sorted(phantom.records, key=lambda r: r.instance)
        values = [[value_index(n, r.attributes[n]) if n in r.attributes else -1 for n in NAMES] for r in records]
        return {
            # half precision: what is cached is read many times, and noise hides the rounding
            "image": normalize(phantom.image, phantom.modality).half(),
            **({"healthy": normalize(phantom.healthy, phantom.modality).half()} if self.twin else {}),
            "lesions": phantom.lesions.to(torch.uint8),
            "organs": phantom.organs.to(torch.uint8),
            "values": torch.tensor(values, dtype=torch.int16).reshape(-1, len(NAMES)),
        }


class RandMirror(Randomizable, MapTransform):
    """Flip a sample along each axis at random; with left and right, the names of paired organs change sides.

    Args:
        prob: for each of the axes x, y, z.
    """

    def __init__(self, prob: Sequence[float] = (0.5, 0.1, 0.1)) -> None:
        MapTransform.__init__(self, ("image", "lesions", "organs"))
        self.prob = prob
        self.organ_map = torch.arange(256)
        self.value_map = torch.arange(-1, 1024)
        for name, other in MIRRORED.items():
            self.organ_map[ORGAN_LABELS[name]] = ORGAN_LABELS[other]
            if name not in ORGANS:
                continue
            self.value_map[1 + value_index("location", name)] = value_index("location", other)

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        data = dict(data)
        axes = [axis for axis in range(3) if self.R.random() < self.prob[axis]]
        if axes:
            for key in self.keys:
                data[key] = data[key].flip([a + 1 for a in axes])
        if 0 in axes:
            data["organs"] = self.organ_map[data["organs"].long()]
            data["values"] = self.value_map[data["values"].long() + 1]
        return data


class RandAppearance(Randomizable, Transform):
    """Gamma, brightness, contrast and noise on a normalized image: scanners and windows that phantoms did not have.

    Args:
        prob: of each change.
    """

    def __init__(self, prob: float = 0.4) -> None:
        self.prob = prob

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        data, draw = dict(data), self.R.uniform
        image = data["image"].float()
        if draw() < self.prob:
            image = image.clamp_min(0) ** float(draw(0.7, 1.4))
        if draw() < self.prob:
            image = image * float(draw(0.8, 1.25)) + float(draw(-0.08, 0.08))
        if draw() < self.prob:
            generator = torch.Generator().manual_seed(int(draw() * 2**31))
            image = image + torch.randn(image.shape, generator=generator) * float(draw(0, 0.05))
        data["image"] = image
        return data


def collate(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, object]:
    """Samples -> `image` (B, 2, X, Y, Z) float and `label`, a list of the samples' truths: lesion sets differ in size."""
    # MONAI's cropping transforms return lists of samples
    samples = [one for s in samples for one in (s if isinstance(s, list) else [s])]
    return {
        "image": torch.stack([torch.as_tensor(s["image"]).as_subclass(Tensor).float() for s in samples]),
        "label": [
            {k: torch.as_tensor(s[k]).as_subclass(Tensor) for k in ("lesions", "organs", "values")} for s in samples
        ],
    }


def targets_of(labels: Sequence[Mapping[str, Tensor]], device: torch.device | str = "cpu") -> Targets:
    """Truths of `collate` -> Targets. Instances cut down to less than two voxels by the patch's edge are left out."""
    masks, values = [], []
    for label in labels:
        ids = label["lesions"][0].to(device)
        kept, rows = [], []
        for k, row in enumerate(label["values"]):
            mask = ids == k + 1
            if int(mask.sum()) >= 2:
                kept.append(mask.float())
                rows.append(row.long())
        masks.append(torch.stack(kept) if kept else torch.zeros((0, *ids.shape), device=device))
        values.append(
            torch.stack(rows).to(device) if rows else torch.zeros((0, len(NAMES)), dtype=torch.long, device=device)
        )
    organs = torch.stack([label["organs"][0] for label in labels]).to(device).long()
    return Targets(masks, values, organs)


def prepare_batch(
    batch: Mapping[str, object], device: torch.device | str, non_blocking: bool = False, dense: bool = False, **_
) -> tuple:
    """For MONAI's SupervisedTrainer: inputs, targets, and the targets again as the network's keyword argument.

    The network needs them too: matched tokens are fed their lesion's texts. `dense`: see `Malenia.forward`.
    """
    targets = targets_of(batch["label"], device)
    extra = {"targets": targets} | ({"dense": True} if dense else {})
    return batch["image"].to(device, non_blocking=non_blocking), targets, (), extra


def prepare_validation(
    batch: Mapping[str, Tensor], device: torch.device | str, non_blocking: bool = False, dense: bool = False, **_
) -> tuple:
    """The same for MONAI's SupervisedEvaluator and the samples of `LesionMask`."""
    image, label = (batch[k].to(device, non_blocking=non_blocking) for k in ("image", "label"))
    return image, label, (), {"dense": True} if dense else {}


class LesionMask(Transform):
    """A sample -> `image` and `label` (1, X, Y, Z): any lesion or none, for validation against the prompt "tumor"."""

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        image, lesions = (torch.as_tensor(data[k]).as_subclass(Tensor) for k in ("image", "lesions"))
        return {"image": image.float(), "label": (lesions > 0).float()}


class ClipGradients:
    """Handler that bounds the norm of all gradients: a single odd batch must not undo an hour.

    Args:
        network: whose parameters. max_norm: bound.
    """

    def __init__(self, network: torch.nn.Module, max_norm: float = 5.0) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Run after every backward pass."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class LossParts:
    """Handler that writes the parts of the loss to TensorBoard, and their means to the log once an epoch.

    Args:
        loss: has `last`, a dictionary of numbers. log_dir: of TensorBoard.
    """

    def __init__(self, loss: torch.nn.Module, log_dir: str, interval: int = 10) -> None:
        self.loss, self.log_dir, self.interval = loss, log_dir, interval
        self.sums: dict[str, float] = {}
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Run after every iteration and epoch."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)

    def iteration(self, engine: Engine) -> None:
        """Collect, and write every `interval` iterations."""
        for name, value in self.loss.last.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if engine.state.iteration % self.interval == 0:
            self.writer = self.writer or SummaryWriter(self.log_dir)
            self.writer.add_scalars("loss", self.loss.last, engine.state.iteration)

    def epoch(self, engine: Engine) -> None:
        """Log the epoch's means and start again."""
        steps = engine.state.epoch_length
        logging.getLogger(__name__).info(
            "loss parts: " + ", ".join(f"{n} {v / steps:.3f}" for n, v in self.sums.items())
        )
        self.sums = {}


def export(
    network: Segmenter,
    method: str,
    folder: str,
    config: Mapping[str, object],
    encoder: TextEncoder,
    trainer: Engine,
    pretrained: str | Path | None = None,
    scans: Sequence[Mapping[str, object]] = (),
    frozen: Sequence[str | Path] = (),
    **more: object,
) -> Path:
    """Write the trained weights and their record (with `more`) to `folder`/model.pt and .json; returns the weights' path.

    Args:
        pretrained, scans, frozen: see `about_training`.
    """
    path = Path(folder) / "model.pt"
    trained = about_training(trainer, pretrained, scans, frozen)
    save(network, method, path, config=dict(config), encoder=encoder, trained=trained, **more)
    return path


def about_training(
    trainer: Engine,
    pretrained: str | Path | None = None,
    scans: Sequence[Mapping[str, object]] = (),
    frozen: Sequence[str | Path] = (),
) -> dict[str, object]:
    """What a record says of a run: epochs, steps, the machine, the steps of the runs that it went on from, real scans.

    Args:
        pretrained: what the run started from; its steps are kept as `earlier_steps`. scans: records that were trained on;
            the names of the real scans among them are kept, too, so that nobody takes them for unseen ones. frozen: other
            weights that the network holds, whose scans count as its own.
    """
    state = trainer.state
    before = {} if pretrained is None else trained_before(pretrained)
    earlier = int(before.get("steps", 0)) + int(before.get("earlier_steps", 0))
    phantoms = not scans or any("image" not in record for record in scans) or bool(before.get("phantoms", before))
    return {
        "epochs": state.epoch,
        "steps": state.iteration,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        **({"earlier_steps": earlier} if earlier else {}),
        **({} if phantoms else {"phantoms": False}),
        **together([real_scans(scans), before, *map(trained_before, frozen)]),
    }


def trained_before(weights: str | Path) -> dict[str, object]:
    """What the record of weights, or of a checkpoint's folder, says of their training; nothing where there is none."""
    path = Path(weights)
    for record in (path.with_suffix(".json"), path.with_name("model.json")):
        if record.is_file():
            return json.loads(record.read_text()).get("trained", {})
    return {}


def warm_start(
    network: torch.nn.Module, path: str | Path, renamed: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Copy from a weights file or checkpoint whatever fits in name and shape; returns the names that stay fresh.

    Args:
        renamed: beginning of names in the file -> what the network calls that.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("model", state)
    for there, here in renamed.items():
        state = {k.replace(there, here, 1) if k.startswith(there) else k: v for k, v in state.items()}
    _, copied, fresh = copy_model_state(network, state)
    logging.getLogger(__name__).info(
        f"started from {path}: {len(copied)} tensors copied, fresh: {', '.join(fresh) or 'none'}"
    )
    return fresh
