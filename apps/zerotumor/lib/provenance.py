"""Where a label comes from: what was proposed for it, by which weights, for which words, and what a person made of it.

MONAI Label keeps with a label what the client sent along and no more. REST clients may send a prompt; 3D Slicer sends the
names of its segments, and OHIF saves nothing. So the server remembers what it proposed for a scan, and writes it to the
label that comes back: to its `info`, under `prompt` and `provenance`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from monai.data import MetaTensor
from torch import Tensor

from zerotumor.clicks import Click
from zerotumor.errors import ScanError
from zerotumor.grids import on_grid
from zerotumor.metrics import dice
from zerotumor.volumes import write_atomically

from .history import pack, unpack
from .shared import state_of

logger = logging.getLogger(__name__)
MOST = 20
"""Proposals that are remembered of a scan; of more, the oldest go."""


@dataclass
class Proposal:
    """What the server found in a scan for one text and one client, and what was clicked since."""

    client_id: str
    prompt: str
    shape: tuple[int, int, int]
    mask: str  # packed, base64: what was proposed first
    at: float  # seconds since 1970
    facts: dict = field(default_factory=dict)  # method, weights_sha256, modality, proposed_ml
    clicks_inside: int = 0
    clicks_outside: int = 0
    refined_by: str = ""  # hash of the click network's weights
    affine: list[list[float]] = field(default_factory=list)  # of the mask's grid; none in files of earlier versions

    @classmethod
    def of(cls, client: str, prompt: str, mask: Tensor, at: float, facts: dict, affine: Tensor | None) -> Proposal:
        """A proposal of a mask (X, Y, Z), non-zero inside."""
        data = base64.b64encode(pack(mask > 0)).decode()
        grid = [] if affine is None else torch.as_tensor(affine).as_subclass(Tensor).double().tolist()
        return cls(client, prompt, tuple(int(n) for n in mask.shape), data, at, facts, affine=grid)

    def is_meant(self, client: str, prompt: str, weights: str) -> bool:
        """Whether clicks of a client for a text go with it; weights: of what the clicks started from, if known."""
        own = self.facts.get("weights_sha256", weights)
        return self.client_id == client and prompt in ("", self.prompt) and own == (weights or own)


class Ledger:
    """Proposals by the content of their scan, in memory and on disk, where batches, in processes of their own, write too.

    Args:
        folder: for the files, or None to keep nothing over a restart. now: the time in seconds since 1970.
    """

    def __init__(self, folder: Path | None, now: Callable[[], float] = time.time) -> None:
        self.folder, self.now = folder, now
        self._known: dict[str, tuple[tuple | None, list[Proposal]]] = {}  # and the state of the file that they are from
        self._guard = threading.Lock()
        # Beside the folder: all that lies in it are proposals.
        self._lock = nullcontext() if folder is None else FileLock(f"{folder}.lock", thread_local=False)

    def propose(
        self, digest: str, client: str, prompt: str, mask: Tensor, affine: Tensor | None = None, **facts: object
    ) -> None:
        """Note what was found in a scan: a mask (X, Y, Z), non-zero inside, and its affine. A new proposal takes an equal
        one's place."""
        new = Proposal.of(client, prompt, mask, self.now(), facts, affine)
        with self._changing():
            kept = [p for p in self._of(digest) if (p.client_id, p.prompt) != (client, prompt)]
            self._keep(digest, [*kept, new][-MOST:])

    def clicked(
        self, digest: str, client: str, prompt: str, start: Tensor, clicks: Sequence[Click], refined_by: str,
        affine: Tensor | None = None, **facts: object,
    ) -> None:  # fmt: skip
        """Note the clicks so far on a lesion. Without a text, they go with what was proposed last.

        With no proposal to go with, `start` (X, Y, Z) is taken for one, of which `facts` are known.
        """
        with self._changing():
            known = self._of(digest)
            weights = str(facts.get("weights_sha256", ""))
            found = next((p for p in reversed(known) if p.is_meant(client, prompt, weights)), None)
            if found is None:
                found = Proposal.of(client, prompt, start, self.now(), facts, affine)
            found.clicks_inside = sum(c.inside for c in clicks)
            found.clicks_outside = len(clicks) - found.clicks_inside
            found.refined_by = refined_by
            self._keep(digest, [*(p for p in known if p is not found), found][-MOST:])

    def last(self, digest: str, client: str, prompt: str = "") -> Proposal | None:
        """What a label of a scan most probably came from: the last proposal for this client and text, or for this client,
        or for anybody."""
        with self._guard:
            known = self._of(digest)
        own = [p for p in known if p.client_id == client]
        meant = [p for p in own if p.prompt == prompt]
        return next((some[-1] for some in (meant, own, known) if some), None)

    def describe(self, digest: str, labels: MetaTensor, info: dict) -> dict:
        """What to add to the `info` of a label map (1, X, Y, Z) that is about to be saved.

        Returns:
            `prompt`, if there is one: the client's, else the proposal's, else the names of the segments. `provenance`:
            which of these it is (`prompt_from`), method, weights_sha256, modality, proposed_ml, saved_ml, clicks_inside,
            clicks_outside, refined_by (the click network's weights), seconds from proposal to save, dice of proposal and
            label (1: nothing was corrected), client_id, proposed_to (if to another client), saved_at.
        """
        made = info.get("params") if isinstance(info.get("params"), dict) else None
        if made is not None and "method" in made:  # saved by the server itself: the answer as it was
            keys = ("method", "weights_sha256", "modality")
            facts = {k: made[k] for k in keys if k in made}
            known = {"prompt_from": "request", **facts, "proposed_ml": made.get("volume_ml")}
            known["automatic"] = made["method"] != "clicks"  # these are a person's
            return {"prompt": str(made.get("prompt", "")), "provenance": {**known, "saved_at": round(self.now(), 1)}}
        client = str(info.get("client_id") or "")
        sent = _text(info.get("prompt"))
        named = _names(info.get("label_info"))
        found = self.last(digest, client, sent or named)
        source, prompt = next(
            ((s, t) for s, t in (("client", sent), ("proposal", found.prompt if found else ""), ("segment name", named))
             if t), ("none", ""),
        )  # fmt: skip
        voxel_ml = abs(float(torch.linalg.det(labels.affine[:3, :3].double()))) / 1000
        inside = torch.as_tensor(labels).as_subclass(Tensor)[0] > 0
        known = {"prompt_from": source, "client_id": client, "saved_ml": round(float(inside.sum()) * voxel_ml, 3)}
        known["saved_at"] = round(self.now(), 1)
        if found is not None and found.client_id != client:
            known["proposed_to"] = found.client_id
        if found is not None:
            known |= {
                **found.facts,
                "clicks_inside": found.clicks_inside,
                "clicks_outside": found.clicks_outside,
                "refined_by": found.refined_by,
                "seconds": round(self.now() - found.at, 1),
                "dice": self._agreement(found, labels),
            }
        return {**({"prompt": prompt} if prompt else {}), "provenance": known}

    @staticmethod
    def _agreement(proposal: Proposal, labels: MetaTensor) -> float | None:
        """Dice of a proposal and a label (1, X, Y, Z); None if they do not lie on one grid."""
        grid = torch.tensor(proposal.affine) if proposal.affine else labels.affine
        try:
            inside = on_grid(labels, grid, proposal.shape).as_tensor()[0] > 0
        except ScanError:
            return None
        proposed = unpack(base64.b64decode(proposal.mask), proposal.shape)
        if not inside.any() and not proposed.any():
            return 1.0
        value = dice(proposed, inside)
        return 0.0 if np.isnan(value) else round(value, 4)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Nobody else writes meanwhile; where the lock cannot be had, as on a full disk, no other thread does."""
        with self._guard, ExitStack() as held:
            try:
                held.enter_context(self._lock)
            except OSError as error:
                logger.warning(f"proposals are noted without a lock: {error}")
            yield

    def _of(self, digest: str) -> list[Proposal]:
        """Proposals of a scan; read again if the file is another one than was read or written last."""
        state = None if self.folder is None else state_of(self._file(digest))
        if digest not in self._known or (state is not None and state != self._known[digest][0]):
            self._known[digest] = (state, self._read(digest))
        return self._known[digest][1]

    def _file(self, digest: str) -> Path:
        """A name made of a hash: what a client writes never becomes a path."""
        return self.folder / (hashlib.sha256(digest.encode()).hexdigest() + ".json")

    def _keep(self, digest: str, proposals: list[Proposal]) -> None:
        if self.folder is None:
            self._known[digest] = (None, proposals)
            return
        text = json.dumps([asdict(p) for p in proposals])
        try:
            write_atomically(self._file(digest), lambda temporary: temporary.write_text(text))
        except ScanError as error:
            logger.warning(f"proposals are kept in memory only: {error}")
        self._known[digest] = (state_of(self._file(digest)), proposals)

    def _read(self, digest: str) -> list[Proposal]:
        if self.folder is None or not self._file(digest).is_file():
            return []
        try:
            rows = json.loads(self._file(digest).read_text())
            return [Proposal(**{**row, "shape": tuple(row["shape"])}) for row in rows]
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning(f"{self._file(digest)} is damaged and is ignored ({error})")
            return []


def is_automatic(info: dict) -> bool:
    """Whether a label, by its `info`, was made and saved by the server alone. One of which this is not known may be a
    person's."""
    known = info.get("provenance")
    return isinstance(known, dict) and known.get("automatic") is True


def _text(value: object) -> str:
    """A prompt as a client may send it, in one line."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def _names(given: object) -> str:
    """Names of the segments in a client's `label_info`, as prompts are joined."""
    items = [n for n in given if isinstance(n, dict)] if isinstance(given, list) else []
    return "; ".join(dict.fromkeys(t for t in (_text(n.get("name")) for n in items) if t))
