"""Runs that go on: which checkpoints of theirs are whole, and how a trainer takes up the newest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from zipfile import is_zipfile

import torch
from ignite.engine import Engine
from ignite.handlers import Checkpoint
from monai.handlers import CheckpointLoader


def whole(folder: str | Path) -> dict[int, Path]:
    """Epoch -> checkpoint in a folder, oldest first; one that was cut off while it was written is named and left out.

    Only the end of each file is read: a checkpoint is a zip archive, whose list of contents comes last.
    """
    found = {int(path.stem.split("=")[1]): path for path in Path(folder).glob("checkpoint_epoch=*.pt")}
    good = {epoch: path for epoch, path in sorted(found.items()) if is_zipfile(path)}
    for epoch in found.keys() - good.keys():
        logging.getLogger(__name__).warning(
            f"{found[epoch]} is damaged: the run goes on from the one before it, if any"
        )
    return good


def resume(
    trainer: Engine,
    checkpoints: Mapping[int, Path],
    objects: Mapping[str, object],
    saver: Checkpoint,
    device: torch.device | str = "cpu",
) -> None:
    """Have a trainer take up the newest checkpoint when it starts; without one it begins.

    Args:
        checkpoints: of `whole`. objects: what a checkpoint holds, by name; one of an earlier version may hold less, and what
        it lacks stays as it is. saver: writes the next ones; it is told of these, and removes them in their turn.
    """
    if not checkpoints:
        return
    newest = checkpoints[max(checkpoints)]
    held = torch.load(newest, map_location="cpu", mmap=True, weights_only=True)  # names alone: no tensor is read
    known = {name: part for name, part in objects.items() if name in held}
    CheckpointLoader(str(newest), known, map_location=device).attach(trainer)
    saver.load_state_dict({"_saved": [(epoch, path.name) for epoch, path in sorted(checkpoints.items())]})
