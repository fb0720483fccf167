"""What an annotator did to a lesion, so that it can be undone and so that a restart of the server loses nothing.

A viewer sends all clicks of a lesion with every request. A step is remembered with the clicks that led to it, so taking a
click back in the viewer is the same as `undo`: the answer goes on from the last step whose clicks are all still there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zerotumor.clicks import Click

logger = logging.getLogger(__name__)
MAX_STEPS = 200


def pack(mask: Tensor) -> bytes:
    """A mask (X, Y, Z) in a few kilobytes."""
    return zlib.compress(np.packbits(np.asarray(mask, dtype=bool)).tobytes(), 1)


def unpack(data: bytes, shape: tuple[int, int, int]) -> Tensor:
    """The mask (X, Y, Z) bool of `pack`."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(data), dtype=np.uint8), count=int(np.prod(shape)))
    return torch.from_numpy(bits.reshape(shape).astype(bool))


@dataclass
class Step:
    """A mask and the clicks that led to it."""

    clicks: tuple[Click, ...]
    mask: bytes


@dataclass
class History:
    """Steps of one lesion in one scan; the first has no clicks and holds the mask to start from."""

    shape: tuple[int, int, int]
    steps: list[Step] = field(default_factory=list)
    origin: str = ""  # what a lesion would start from when this one began: a method and its weights, or a proposal

    def knows(self, clicks: Sequence[Click]) -> bool:
        """Whether any of these clicks led to a step."""
        return any(c in step.clicks for step in self.steps for c in clicks)

    def agreeing(self, clicks: Sequence[Click]) -> tuple[Step, tuple[Click, ...]]:
        """Drop the steps that hold a click which is no longer there; the last that is left, and the clicks it has not seen.

        Viewers send clicks inside and outside apart, so their order says nothing.
        """
        while len(self.steps) > 1 and not set(self.steps[-1].clicks) <= set(clicks):
            self.steps.pop()
        step = self.steps[-1]
        return step, tuple(c for c in dict.fromkeys(clicks) if c not in step.clicks)

    def undo(self) -> Step:
        """Go back one step."""
        if len(self.steps) > 1:
            self.steps.pop()
        return self.steps[-1]

    def add(self, clicks: tuple[Click, ...], mask: Tensor) -> None:
        """Remember a step; of very many, the oldest after the start is forgotten."""
        self.steps.append(Step(clicks, pack(mask)))
        if len(self.steps) > MAX_STEPS:
            del self.steps[1]


class Histories:
    """All histories, in memory and on disk.

    Args:
        folder: for the files, or None to keep nothing over a restart.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._histories: dict[tuple, History] = {}
        self._proposed: dict[tuple, tuple[tuple, bytes]] = {}
        self._locks: dict[tuple, threading.Lock] = {}
        self._guard = threading.Lock()

    def lock(self, key: tuple) -> threading.Lock:
        """Clicks on one lesion are answered one after the other."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    def propose(self, digest: str, client: str, mask: Tensor) -> None:
        """Remember what was last found in a scan by text: clicks without a text of their own start from it."""
        self._proposed[digest, client] = (tuple(mask.shape), pack(mask))

    def proposed(self, digest: str, client: str) -> Tensor | None:
        """The last proposal for a scan, if there is one."""
        if (digest, client) not in self._proposed:
            return None
        shape, data = self._proposed[digest, client]
        return unpack(data, shape)

    def proposal(self, digest: str, client: str) -> str:
        """A name of the last proposal for a scan, the same for the same mask; empty if there is none."""
        _, data = self._proposed.get((digest, client), ((), b""))
        return hashlib.sha256(data).hexdigest() if data else ""

    def get(self, key: tuple) -> History | None:
        """A lesion's history, from memory or disk."""
        if key not in self._histories and self.folder is not None:
            restored = self._read(self._file(key))
            if restored is not None:
                self._histories[key] = restored
        return self._histories.get(key)

    def put(self, key: tuple, history: History) -> None:
        """Keep a history; on disk too, and if the disk is full, in memory alone."""
        self._histories[key] = history
        if self.folder is None:
            return
        try:
            self._write(self._file(key), history)
        except OSError as error:
            logger.warning(f"clicks are kept in memory only: {self.folder} cannot be written ({error})")

    def drop(self, key: tuple) -> None:
        """Forget a lesion's history."""
        self._histories.pop(key, None)
        if self.folder is not None:
            self._file(key).unlink(missing_ok=True)

    def _file(self, key: tuple) -> Path:
        """A name made of a hash: what a client writes never becomes a path."""
        return self.folder / (hashlib.sha256(json.dumps(key).encode()).hexdigest() + ".npz")

    @staticmethod
    def _write(path: Path, history: History) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        clicks = [[[*c.index, int(c.inside)] for c in s.clicks] for s in history.steps]
        arrays = {f"mask{k}": np.frombuffer(s.mask, dtype=np.uint8) for k, s in enumerate(history.steps)}
        temporary = path.with_suffix(".writing.npz")
        try:
            facts = {"shape": history.shape, "clicks": json.dumps(clicks), "origin": history.origin}
            np.savez(temporary, **facts, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _read(path: Path) -> History | None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                rows = json.loads(str(stored["clicks"]))
                steps = [
                    Step(tuple(Click((i, j, k), bool(v)) for i, j, k, v in row), stored[f"mask{n}"].tobytes())
                    for n, row in enumerate(rows)
                ]
                origin = str(stored["origin"]) if "origin" in stored else ""  # files of earlier versions have none
                return History(tuple(int(n) for n in stored["shape"]), steps, origin)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as error:
            logger.warning(f"{path} is damaged and is ignored ({error})")
            return None
