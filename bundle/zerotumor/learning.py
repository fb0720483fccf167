"""Learning from corrected scans: what marks any lesion at all is trained further on a handful of them (`adaptation`).

Patches are drawn around the lesions and elsewhere, turned, mirrored, zoomed, cut and shaded anew each time: five scans are
few, and what they share has to be told from what each shows by chance. A patch of every batch is of a phantom
(experience replay, Rolnick et al., NeurIPS 2019), so that the network does not forget what the rest of the body looks like.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, LrScheduleHandler
from monai.networks.layers import AffineTransform
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, RandCoarseDropoutd, RandFlipd, Randomizable, Transform
from monai.transforms.utils import create_rotate, create_scale
from torch import Tensor

from .adaptation import Learned, Specialist
from .examples import Example
from .lesion_network import LesionNetwork
from .malenia.criterion import PRIOR_SCALES, any_lesion_loss
from .precision import Autocast, in_hardware
from .prompts import Prompt
from .segmenter import Segmenter
from .training import ClipGradients, RandAppearance
from .uncertainty import mirror_axes

logger = logging.getLogger(__name__)
STEPS, EPOCH = 120, 20
"""Steps of training, and steps between checkpoints."""
FEWEST = 2
"""Scans to learn from, at least: what one shows by chance cannot be told from what makes the lesion one."""
BATCH = 4
"""Patches a step; one of them is of a phantom, if any are replayed."""
RATE = 3e-4
VOXEL_MM = (2.2, 5.2)
"""Voxels that patches are drawn with: scans are looked at on several grids, and bodies differ in size."""
ON_LESION = 0.7
"""Share of the patches of a scan that are drawn around a voxel of its lesion."""
MIRRORED = (0.5, 0.3, 0.5)
"""How often a patch is mirrored along x, y and z; never left to right where the prompt names a side."""
KEPT = 0.5
"""Share of what training changed that is kept: between old and new weights lie some that have learned nearly as much, and
find less where there is nothing (WiSE-FT, Wortsman et al., CVPR 2022)."""
TURN, TILT, STRETCH = 0.35, 0.15, 0.1
"""Radians about the body's long axis and across it, and share of an axis's length, that patches are changed by at most."""


class RandPatch(Randomizable, Transform):
    """A cube of an example, seen anew: somewhere else, turned, and with voxels of another size; outside is air.

    Args:
        edge: of the patch, in voxels.
    """

    def __init__(self, edge: int) -> None:
        self.edge = edge
        self.resample = AffineTransform((edge,) * 3, zero_centered=True)

    def __call__(self, data: Example) -> dict[str, Tensor]:
        draw, shape = self.R.uniform, np.array(data.truth.shape)
        step = float(np.exp(draw(*np.log(VOXEL_MM)))) / data.spacing
        lesion = (data.truth > 0.5).nonzero()
        if len(lesion) and draw() < ON_LESION:
            center = lesion[self.R.randint(len(lesion))].numpy() + draw(-0.25, 0.25, 3) * self.edge * step
        else:
            center = draw(0, 1, 3) * (shape - 1)
        turn = create_rotate(3, (draw(-TILT, TILT), 0.0, draw(-TURN, TURN)))
        matrix = turn @ create_scale(3, step * draw(1 - STRETCH, 1 + STRETCH, 3))
        reach = self.edge / 2 * np.abs(matrix[:3, :3]).sum(1) + 1  # no voxel further away is in the patch
        low = np.clip(np.floor(center - reach), 0, shape - 1).astype(int)
        high = np.clip(np.ceil(center + reach) + 1, low + 1, shape).astype(int)
        near = tuple(map(slice, low, high))
        matrix[:3, 3] = center - low - (high - low - 1) / 2
        around = torch.cat([data.image[(slice(None), *near)], data.truth[None][(slice(None), *near)]]).float()
        patch = self.resample(around[None], torch.from_numpy(matrix).float()[None])[0]
        return {"image": patch[:2], "label": (patch[2:] > 0.5).float()}


def changes(edge: int, axes: Sequence[int] = (0, 1, 2)) -> Compose:
    """Example -> image (2, edge, edge, edge) and label (1, ...), different each time; mirrored along some of the axes."""
    keys = ("image", "label")
    return Compose(
        [
            RandPatch(edge),
            *(RandFlipd(keys, MIRRORED[axis], axis) for axis in axes),
            # A box is kept: where a scan was cut off must not tell where its lesion lies.
            RandCoarseDropoutd(
                keys, holes=1, spatial_size=edge // 3, max_spatial_size=edge, dropout_holes=False, fill_value=0, prob=0.5
            ),
            RandAppearance(),
        ]
    )  # fmt: skip


def learn(
    model: Segmenter,
    prompt: Prompt,
    modality: str,
    examples: Sequence[Example],
    replayed: Sequence[Example] = (),
    *,
    steps: int = STEPS,
    learning_rate: float = RATE,
    kept: float = KEPT,
    seed: int = 0,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Specialist:
    """A specialist for a prompt in a modality.

    Args:
        model: whose `lesion_network` it starts from. examples: corrected scans. replayed: phantoms. kept: see KEPT.
        checkpoints: folder; a run that was stopped goes on from there.

    Raises:
        ValueError: there are fewer examples than FEWEST.
    """
    if len(examples) < FEWEST:
        raise ValueError(
            f"{len(examples)} scans are too few to learn {prompt.text!r} from: correct and save at least {FEWEST}"
        )
    return fit(
        model, prompt, modality, examples, replayed, steps=steps, learning_rate=learning_rate, kept=kept, seed=seed,
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
    learning_rate: float = RATE,
    kept: float = KEPT,
    seed: int = 0,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Specialist:
    """`learn` from however few examples."""
    with torch.random.fork_rng():
        trainer = None
        while trainer is None:  # again without a checkpoint that is damaged, which may have been loaded in part
            torch.manual_seed(seed)
            specialist = fresh(model, prompt, modality)
            old = deepcopy(specialist.network.state_dict())
            seen = Dataset(_order(examples, replayed, steps), changes(model.patch, mirror_axes([prompt])))
            trainer, mean = _trainer(specialist.network, seen, steps, learning_rate, checkpoints)
        torch.manual_seed(seed + 1000 * trainer.state.epoch)  # what goes on sees other patches than it began with
        if progress is not None:
            trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: progress(e.state.epoch, e.state.max_epochs))
        if trainer.state.epoch < trainer.state.max_epochs:  # else it had been learned to the end
            trainer.run()
    specialist.network.load_state_dict({name: old[name].lerp(new, kept) for name, new in mean.state_dict().items()})
    return specialist.eval()


def fresh(model: Segmenter, prompt: Prompt, modality: str) -> Specialist:
    """A specialist that has learned nothing yet: it marks whatever looks like a lesion."""
    embedding = model.encoder.encode([prompt.text])[0] if model.encoder is not None else torch.zeros(1)
    return Specialist(Learned(prompt.text, prompt.lesion, modality), model.lesion_network(), embedding)


class _Loss:
    """Of a network's maps, coarse to fine, and the lesions (B, 1, X, Y, Z)."""

    def __call__(self, maps: list[Tensor], truth: Tensor) -> Tensor:
        cover = (F.adaptive_avg_pool3d(truth, one.shape[2:]) for one in maps)
        return sum(w * any_lesion_loss(m, c) for w, m, c in zip(PRIOR_SCALES, maps, cover, strict=True))


def _order(examples: Sequence[Example], replayed: Sequence[Example], steps: int) -> list[Example]:
    """What each patch of each step is drawn from: all scans equally often, and a phantom last in every batch."""
    scans, phantoms = (iter(_shuffled(some, steps * BATCH)) for some in (examples, replayed))
    last = BATCH - 1 if replayed else BATCH
    return [next(phantoms if k % BATCH == last else scans) for k in range(steps * BATCH)]


def _shuffled(some: Sequence[Example], count: int) -> list[Example]:
    """So many of them, in turn, each turn in another order."""
    turns = -(-count // len(some)) if some else 0
    return [some[k] for _ in range(turns) for k in torch.randperm(len(some)).tolist()][:count]


def _trainer(
    network: LesionNetwork,
    seen: Dataset,
    steps: int,
    learning_rate: float,
    checkpoints: Path | None,
) -> tuple[SupervisedTrainer | None, torch.nn.Module]:
    """A trainer, and the running mean of the network; no trainer if there was a damaged checkpoint, which is gone now."""
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-4)
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=steps // 6, t_total=steps)
    mean = EMAHandler(network, momentum=0.02)
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=-(-steps // EPOCH),
        epoch_length=min(EPOCH, steps),
        train_data_loader=DataLoader(seen, batch_size=BATCH, num_workers=0),
        network=network,
        optimizer=optimizer,
        loss_function=_Loss(),
        inferer=Autocast(in_hardware(device)),
        train_handlers=[LrScheduleHandler(schedule, print_lr=False, epoch_level=False), ClipGradients(network)],
        decollate=False,
    )
    mean.attach(trainer)
    if steps % EPOCH and steps > EPOCH:  # the last epoch is a shorter one
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=steps), SupervisedTrainer.terminate)
    if checkpoints is not None:
        kept = {
            "network": network, "mean": mean.ema_model, "optimizer": optimizer, "schedule": schedule, "trainer": trainer
        }  # fmt: skip
        newest = sorted(Path(checkpoints).glob("checkpoint_epoch=*.pt"), key=lambda f: f.stat().st_mtime)
        if newest and not _resumed(trainer, kept, newest[-1]):
            return None, mean.ema_model
        CheckpointSaver(str(checkpoints), kept, save_interval=1, n_saved=1).attach(trainer)
    return trainer, mean.ema_model


def _resumed(trainer: SupervisedTrainer, kept: dict, checkpoint: Path) -> bool:
    """Load a checkpoint; one that is damaged is deleted, since it would stop every run to come."""
    try:
        CheckpointLoader(str(checkpoint), kept, map_location="cpu")(trainer)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        logger.warning(f"{checkpoint} is damaged, so training starts anew ({error})")
        checkpoint.unlink()
        return False
    return True
