"""Models and scans that stay in memory between requests.

A model is loaded once. A scan's features are computed once for a model, whatever the number of prompts and clicks, and
kept until newer scans need the room. Scans are told apart by their content, so a copy under another name is known too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import psutil

from zerotumor.adaptation import Adapted
from zerotumor.devices import AUTO, device_of
from zerotumor.errors import ScanError
from zerotumor.in_turn import InTurn, usual
from zerotumor.pipeline import EncodedScan, encode_scan
from zerotumor.segmenter import AND, METHODS, Segmenter, WeightsError, asked_in_turn, available, load
from zerotumor.text import TextEncoderError
from zerotumor.transforms import ModalityError
from zerotumor.versions import load_version, read_about, versions_of
from zerotumor.volumes import read_scan

from .options import refuse

logger = logging.getLogger(__name__)
LATEST, STARTER = "latest", "starter"
"""Names for the newest version of a method, and for the method as it ships."""
UPLOAD = re.compile(r"tmp[a-z0-9_]{8}(\..*)?", re.DOTALL)
"""What Python calls a temporary file; MONAI Label adds the suffix of the file that was sent."""


class Engine:
    """Answers "this scan, encoded for this method".

    Args:
        models: folder with weights, or None for the bundle's. share: of the free memory, for encoded scans. roots: the
        folders that an image may come from besides uploads, asked for at every request. versions: folder of what was learned
        here. device: what all networks are on, see `devices.device_of`.

    Raises:
        ValueError: there is no such device.
    """

    def __init__(
        self, models: Path | None, share: float, roots: Callable[[], Sequence[Path]], versions: Path | None = None,
        device: str = AUTO,
    ) -> None:  # fmt: skip
        self.models, self.roots, self.versions, self.device = models, roots, versions, device_of(device)
        self.budget = int(share * psutil.virtual_memory().available)
        self._models: dict[str, Segmenter] = {}
        self._adapted: dict[tuple[str, str], Adapted] = {}
        self._scans: OrderedDict[tuple, EncodedScan] = OrderedDict()
        self._digests: dict[tuple, str] = {}
        self._locks: dict[object, threading.Lock] = {}
        self._guard = threading.Lock()

    def _lock(self, key: object) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    def methods(self) -> list[str]:
        """Methods that have weights. One without any is still named, and says so when it is used."""
        return available(self.models) or [next(iter(METHODS))]

    @cached_property
    def offered(self) -> list[str]:
        """What viewers offer: two methods in turn, where they can be asked so, and each alone. The first is the default."""
        try:
            return [name for name in (usual(self.models),) if AND in name] + self.methods()
        except WeightsError:  # it is said when they are used
            return self.methods()

    def model(self, method: str, version: str = STARTER) -> Segmenter:
        """The method with its weights, loaded at first use, and with what a version of it has learned.

        Args:
            version: a name, STARTER for the method as it ships, or LATEST for the newest version, if there is any.

        Raises:
            HTTPException: weights or text encoder are missing or do not fit; there is no such version.
        """
        if AND in method:  # what was learned is the first one's
            first, second = asked_in_turn(method)
            return self._in_turn((first, self.model(first, version)), (second, self._base(second)))
        base = self._base(method)
        if version == LATEST:
            version = self.latest(method)
        if version == STARTER:
            return base
        if self.versions is None or version not in versions_of(self.versions, method):
            raise refuse(f"there is no version {version[:60]!r} of {method}: choose {LATEST} or {STARTER}", 404)
        with self._lock((method, version)):
            kept = self._adapted.get((method, version))
            # A version that was removed may have left its name to another.
            if kept is None or kept.weights_sha256 != read_about(self.versions / version).sha256:
                try:
                    kept = self._adapted[method, version] = load_version(base, self.versions / version)
                except WeightsError as error:
                    raise refuse(str(error), 500) from None
            return kept

    @staticmethod
    def _in_turn(first: tuple[str, Segmenter], second: tuple[str, Segmenter]) -> Segmenter:
        try:
            return InTurn.after(first, second)
        except WeightsError as error:
            raise refuse(str(error), 500) from None

    def latest(self, method: str) -> str:
        """The newest version that was learned on the weights in use, or STARTER."""
        known = versions_of(self.versions, method, self._base(method).weights_sha256) if self.versions else []
        return known[-1] if known else STARTER

    def _base(self, method: str) -> Segmenter:
        with self._lock(method):
            if method not in self._models:
                try:
                    self._models[method] = load(method, self.models, device=self.device)
                except (WeightsError, TextEncoderError) as error:
                    raise refuse(str(error), 500) from None
            return self._models[method]

    def image_path(self, image: object) -> Path:
        """The path of a request's image, if it may be read.

        Raises:
            HTTPException: it is no path, or lies outside the datastore, the sessions and the uploads.
        """
        if not isinstance(image, str) or not image:
            raise refuse("the request names no image: give the id of an image in the datastore, or upload one")
        # A link in the datastore is its owner's: clients can make none.
        path, named = Path(image).resolve(), Path(os.path.abspath(image))
        inside = any(
            path.is_relative_to(Path(root).resolve()) or named.is_relative_to(os.path.abspath(root))
            for root in self.roots()
        )
        if not inside and not is_upload(path):
            raise refuse("the image must lie in the datastore or be uploaded: paths of the server are not read", 403)
        if not path.exists():
            raise refuse(f"there is no image {path.name!r} in the datastore: ask for /datastore/?output=all", 404)
        return path

    def digest(self, path: Path) -> str:
        """Hash of a file's content, or of all files in a folder; remembered while sizes and times stay the same."""
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        state = (str(path), *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files))
        if state not in self._digests:
            value = hashlib.sha256()
            for file in files:
                with open(file, "rb") as source:
                    while piece := source.read(1 << 20):
                        value.update(piece)
            self._digests[state] = value.hexdigest()
        return self._digests[state]

    def encoded(self, path: Path, method: str, modality: str | None) -> tuple[str, EncodedScan, float]:
        """A scan encoded for a method: the hash of its content, the encoded scan, and the seconds that it took.

        Raises:
            HTTPException: 422 with the reason, when the scan cannot be used.
        """
        started = time.perf_counter()
        method = asked_in_turn(method)[0]  # the features of who is asked first are kept
        model, digest = self.model(method), self.digest(path)
        key = (digest, method, modality)
        with self._lock(key):
            if (known := self._known(key)) is not None:
                return digest, known, time.perf_counter() - started
            try:
                scan = read_scan(path)
                encoded = encode_scan(model, scan, modality=modality, progress=self._log(path.name))
            except (ScanError, ModalityError) as error:
                raise refuse(str(error), 422) from None
            self._keep(key, encoded)
        return digest, encoded, time.perf_counter() - started

    def _known(self, key: tuple) -> EncodedScan | None:
        """A scan that was encoded before, now the newest; since then, prompts may have had more of it computed."""
        with self._guard:
            if key not in self._scans:
                return None
            self._scans.move_to_end(key)
            self._make_room()
            return self._scans[key]

    def _keep(self, key: tuple, encoded: EncodedScan) -> None:
        """Store; one that is too large for the whole budget is not kept."""
        with self._guard:
            if encoded.bytes <= self.budget:
                self._scans[key] = encoded
                self._make_room()

    def _make_room(self) -> None:
        """Let the oldest go until all fit, and of the newest, in the end, what prompts had computed."""
        while (total := sum(e.bytes for e in self._scans.values())) > self.budget and len(self._scans) > 1:
            self._scans.popitem(last=False)
        newest = next(reversed(self._scans.values()))
        if total > self.budget and newest.features is not None:
            newest.features.further.clear()

    @staticmethod
    def _log(name: str) -> Callable[[int, int], None]:
        """Progress lines, one at every tenth of the windows."""

        def report(k: int, n: int) -> None:
            if n >= 10 and k % (n // 10) == 0:
                logger.info(f"{name}: window {k}/{n}")

        return report


def is_upload(path: Path) -> bool:
    """Whether a file (its path resolved) may be what a client has just sent: MONAI Label puts it, and what it makes of it,
    into the temporary folder itself, under a name of Python's. All else that lies there, in any folder, is other programs'.
    """
    if path.parent != Path(tempfile.gettempdir()).resolve() or not UPLOAD.fullmatch(path.name):
        return False
    return path.is_file() and path.stat().st_uid == os.geteuid()
