"""Which checkpoints of a run can be gone on from."""

from __future__ import annotations

import logging
from pathlib import Path
from zipfile import is_zipfile


def whole(folder: str | Path) -> dict[int, Path]:
    """Epoch -> checkpoint in a folder, oldest first; one that was cut off while it was written is named and left out.

    Only the end of each file is read: a checkpoint is a zip archive, whose list of contents comes last.
    """
    found = {int(path.stem.split("=")[1]): path for path in Path(folder).glob("checkpoint_epoch=*.pt")}
    for path in found.values():
        if not is_zipfile(path):
            logging.getLogger(__name__).warning(f"{path} is damaged: the run goes on from the one before it, if any")
    return {epoch: path for epoch, path in sorted(found.items()) if is_zipfile(path)}
