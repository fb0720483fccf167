"""Files that several processes of the app write: the server, scoring, batches."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zerotumor.errors import ScanError

from .options import refuse

logger = logging.getLogger(__name__)


def state_of(path: str | Path) -> tuple[int, int, int] | None:
    """What tells a version of a file from the next one; None if there is no file.

    A time alone does not: two writes may fall into one tick of the clock.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def or_full(said: str) -> Iterator[None]:
    """What cannot be written becomes an answer: what was not done, why, and what to do."""
    try:
        yield
    except (OSError, ScanError) as error:
        logger.warning(f"{said}: {error}")
        raise refuse(f"{said}, because the disk is full or locked: make room and try again", 507) from None


@contextmanager
def copied(source: Path, target: Path) -> Iterator[Path]:
    """A copy of a file beside its target, ready to be renamed; gone at the end if it was not.

    Its name has no suffix: MONAI Label watches the folder, and would take it for a label.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".saving-")
    os.close(handle)
    try:
        shutil.copyfile(source, name)
        os.chmod(name, 0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
