"""Learning an adapter from corrected scans.

A handful of labels, and phantoms replayed beside them (experience replay, Rolnick et al., NeurIPS 2019): without a lesion of
the kind that is learned, nothing of it may be found in them. The loss is soft Dice and cross-entropy of each scan, and
the cross-entropy of phantoms, which are many and easy, at a lower weight.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, LrScheduleHandler
from monai.losses import DiceCELoss
from monai.transforms import Randomizable, SpatialResample, Transform
from torch import Tensor

from .adaptation import (
    ANSWER,
    STRIDE,
    Adapted,
    Adapter,
    Learned,
    feature_count,
    method_logits,
    voxel_features,
)
from .annotation import check_label
from .inferer import segment_volume
from .phantom import generate
from .pipeline import EncodedScan, encode_scan
from .prompts import Prompt
from .segmenter import Segmenter

logger = logging.getLogger(__name__)
REPLAY_SEED = 6_500_000
"""Seeds of replayed phantoms; neither the starter weights' training nor any test draws from there."""
REPLAY_WEIGHT = 0.3
STEPS, EPOCH = 80, 20
"""Steps of training, and steps between checkpoints."""
FEWEST = 2
"""Scans to learn from, at least: what one shows by chance cannot be told from what makes the lesion one."""
SAMPLES = 2048
"""Places of each scan in one step."""


@dataclass
class Example:
    """One scan for one prompt, on the adapter's grid."""

    features: Tensor  # (N, F) at the N places of the body
    said: Tensor  # (N,) the method's logits
    truth: Tensor  # (N,) share of each place that is lesion, 0..1
    name: str = ""


def method_maps(model: Segmenter, encoded: EncodedScan, prompt: Prompt) -> Tensor:
    """What a method says of an encoded scan, as logits (M, x, y, z) on its own grid: the answer, then its evidence."""
    reader = Adapted(model, [])  # asks for the evidence, and changes nothing
    reader.maps = (ANSWER, *model.evidence)
    image = torch.as_tensor(encoded.prepared).as_subclass(Tensor)
    extras = segment_volume(reader, image, [prompt], features=encoded.features).extras
    return method_logits(extras[ANSWER][0], [extras[name][0] for name in model.evidence])


def example(model: Segmenter, encoded: EncodedScan, prompt: Prompt, mask: Tensor, name: str = "") -> Example:
    """A corrected scan as an example.

    Args:
        mask: (X, Y, Z) or (1, X, Y, Z), non-zero inside, on the scan's grid.

    Raises:
        LabelError: see `annotation.check_label`.
    """
    check_label(mask, encoded.scan)
    return example_of(encoded, method_maps(model, encoded, prompt), mask, model.spacing, name)


def example_of(encoded: EncodedScan, maps: Tensor, mask: Tensor, spacing: float, name: str = "") -> Example:
    """The same from the method's maps (M, x, y, z), and without looking at the mask: it may be empty."""
    plain = torch.as_tensor(mask).as_subclass(Tensor)
    plain = (plain if plain.ndim == 4 else plain[None]) > 0
    on_scan = MetaTensor(plain.float(), affine=encoded.scan.affine)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    prepared = encoded.prepared
    truth = torch.as_tensor(resample(on_scan, dst_affine=prepared.affine, spatial_size=prepared.shape[1:]))
    features, body = voxel_features(torch.as_tensor(prepared).as_subclass(Tensor), maps, spacing)
    size = [-(-n // STRIDE) for n in prepared.shape[1:]]
    small = F.adaptive_avg_pool3d(torch.cat([maps[:1].float(), truth.as_subclass(Tensor).float()]), size)
    return Example(features[:, body].T.contiguous(), small[0][body], small[1][body], name)


def replay(model: Segmenter, prompt: Prompt, modality: str, count: int, seed: int = 0) -> list[Example]:
    """Phantoms without a lesion of the prompt's kind: every other one healthy, the rest with lesions of seen kinds.

    For words that name no kind, and so may mean any, a lesion of whatever kind is one.
    """
    out = []
    for k in range(count):
        category = "healthy" if k % 2 == 0 else None
        phantom = generate(
            REPLAY_SEED + 1000 * seed + k,
            shape=(model.patch,) * 3, spacing=model.spacing, category=category, modality=modality,
        )  # fmt: skip
        affine = np.diag([*phantom.spacing, 1.0])
        scan = MetaTensor(phantom.image, affine=affine, meta={"modality": phantom.modality})
        kinds = {r.category for r in phantom.records}
        meant = (
            phantom.lesions if prompt.lesion is None or prompt.lesion in kinds else torch.zeros_like(phantom.lesions)
        )
        encoded = encode_scan(model, scan, modality=phantom.modality)
        out.append(
            example_of(encoded, method_maps(model, encoded, prompt), meant, model.spacing, f"phantom-{phantom.seed}")
        )
    return out


class RandPlaces(Randomizable, Transform):
    """`count` places of an example, drawn with replacement."""

    def __init__(self, count: int = SAMPLES) -> None:
        self.count = count

    def __call__(self, data: Example) -> dict[str, Tensor]:
        chosen = torch.from_numpy(self.R.randint(0, len(data.said), self.count))
        image = torch.cat([data.features[chosen], data.said[chosen, None]], 1)
        return {"image": image, "label": data.truth[chosen][None]}


class _Trained(torch.nn.Module):
    """An adapter as MONAI's engines call it: one tensor in (B, N, F + 1), logits (B, 1, N) out."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, inputs: Tensor) -> Tensor:
        return self.adapter(inputs[..., :-1], inputs[..., -1])[:, None]


def learn(
    model: Segmenter,
    prompt: Prompt,
    modality: str,
    examples: Sequence[Example],
    replayed: Sequence[Example] = (),
    *,
    steps: int = STEPS,
    learning_rate: float = 1e-2,
    seed: int = 0,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Adapter:
    """An adapter of a method for a prompt in a modality.

    Args:
        examples: corrected scans. replayed: phantoms. checkpoints: folder; a run that was stopped goes on from there.

    Raises:
        ValueError: there are fewer examples than FEWEST.
    """
    if len(examples) < FEWEST:
        raise ValueError(
            f"{len(examples)} scans are too few to learn {prompt.text!r} from: correct and save at least {FEWEST}"
        )
    return fit(
        model, prompt, modality, examples, replayed, steps=steps, learning_rate=learning_rate, seed=seed,
        checkpoints=checkpoints, progress=progress,
    )  # fmt: skip


def fit(
    model: Segmenter,
    prompt: Prompt,
    modality: str,
    examples: Sequence[Example],
    replayed: Sequence[Example] = (),
    *,
    steps: int = STEPS,
    learning_rate: float = 1e-2,
    seed: int = 0,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Adapter:
    """`learn` from however few examples."""
    with torch.random.fork_rng():
        trainer = None
        while trainer is None:  # again without a checkpoint that is damaged, which may have been loaded in part
            torch.manual_seed(seed)
            network = _Trained(fresh(model, prompt, modality))
            trainer = _trainer(network, examples, replayed, steps, learning_rate, checkpoints)
        if progress is not None:
            trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: progress(e.state.epoch, e.state.max_epochs))
        if trainer.state.epoch < trainer.state.max_epochs:  # else it had been learned to the end
            trainer.run()
    return network.adapter.eval()


def fresh(model: Segmenter, prompt: Prompt, modality: str) -> Adapter:
    """An adapter that changes nothing yet."""
    embedding = model.encoder.encode([prompt.text])[0] if model.encoder is not None else torch.zeros(1)
    about = Learned(prompt.text, prompt.lesion, modality)
    return Adapter(about, feature_count(1 + len(model.evidence)), embedding)


class _Loss:
    """Of a batch whose first `count` items are corrected scans, and the rest phantoms. Logits and truth are (B, 1, N)."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.scans = DiceCELoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        loss = self.scans(logits[: self.count], truth[: self.count])
        if len(logits) > self.count:
            rest = F.binary_cross_entropy_with_logits(logits[self.count :], truth[self.count :])
            loss = loss + REPLAY_WEIGHT * rest
        return loss


def _trainer(
    network: _Trained,
    examples: Sequence[Example],
    replayed: Sequence[Example],
    steps: int,
    learning_rate: float,
    checkpoints: Path | None,
) -> SupervisedTrainer | None:
    """Every step sees all scans, at other places; None if there was a damaged checkpoint, which is gone now."""
    groups = [{"params": network.adapter.head.parameters(), "weight_decay": 1e-2},
              {"params": [network.adapter.trust], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    seen = Dataset([*examples, *replayed], RandPlaces())
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=-(-steps // EPOCH),
        epoch_length=min(EPOCH, steps),
        train_data_loader=DataLoader(seen, batch_size=len(seen), num_workers=0),
        network=network,
        optimizer=optimizer,
        loss_function=_Loss(len(examples)),
        prepare_batch=lambda batch, device, non_blocking: (batch["image"], batch["label"]),
        train_handlers=[LrScheduleHandler(schedule, print_lr=False, epoch_level=False)],
        decollate=False,
    )
    if steps % EPOCH and steps > EPOCH:  # the last epoch is a shorter one
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=steps), SupervisedTrainer.terminate)
    if checkpoints is not None:
        kept = {"network": network, "optimizer": optimizer, "schedule": schedule, "trainer": trainer}
        newest = sorted(Path(checkpoints).glob("checkpoint_epoch=*.pt"), key=lambda f: f.stat().st_mtime)
        if newest and not _resumed(trainer, kept, newest[-1]):
            return None
        CheckpointSaver(str(checkpoints), kept, save_interval=1, n_saved=1).attach(trainer)
    return trainer


def _resumed(trainer: SupervisedTrainer, kept: dict, checkpoint: Path) -> bool:
    """Load a checkpoint; one that is damaged is deleted, since it would stop every run to come."""
    try:
        CheckpointLoader(str(checkpoint), kept, map_location="cpu")(trainer)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        logger.warning(f"{checkpoint} is damaged, so training starts anew ({error})")
        checkpoint.unlink()
        return False
    return True
