"""Files that several processes of the app write: the server, scoring, batches."""

from __future__ import annotations

import os
from pathlib import Path


def state_of(path: str | Path) -> tuple[int, int, int] | None:
    """What tells a version of a file from the next one; None if there is no file.

    A time alone does not: two writes may fall into one tick of the clock.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
