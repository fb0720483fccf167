"""Which files in a folder are scans that a person is offered: those that can be read and that no program's report names.

MONAI Label's own takes every kind of file that one of its apps reads, slides and photographs too. It knows a scan by its
name without the suffix, and of files that differ in it alone, the last takes the others' place.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from monailabel.datastore.local import DataModel, ImageLabelModel

from zerotumor.results import read_report

from .options import EXTENSIONS
from .shared import state_of

logger = logging.getLogger(__name__)


def readable(patterns: str | Sequence[str]) -> list[str]:
    """Patterns of files' names, less those of kinds that the app cannot read.

    Raises:
        ValueError: none is left.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    kept = [p for p in patterns if p.endswith(EXTENSIONS)]
    if not kept:
        wanted = ", ".join(f"*{e}" for e in EXTENSIONS)
        raise ValueError(
            f"MONAI_LABEL_DATASTORE_FILE_EXT names no kind of scan that can be read: name some of {wanted}, or unset it"
        )
    return kept


class Scans:
    """The scans of one folder, as an index of MONAI Label's has them and as they lie there.

    Args:
        patterns: of the files' names; of files with one id, that of the first pattern is it. to_id: name -> id and suffix.
    """

    def __init__(self, patterns: Sequence[str], to_id: Callable[[str], tuple[str, str]]) -> None:
        self.patterns, self.to_id = patterns, to_id
        self._told: set[str] = set()
        self._reports: dict[str, tuple[tuple | None, set[str]]] = {}  # file -> its state, and the files that it names
        self._looked = False

    def reconcile(self, objects: dict[str, ImageLabelModel], folder: Path) -> int:
        """Bring an index (id -> entry) up to date with new files; returns how many entries changed.

        An id that is taken stays its scan's. What an earlier version took for a scan goes, unless it has a label.
        """
        files = self._files(folder)
        unsure = not self._looked or any(i not in objects or len(found) > 1 for i, found in files.items())
        results = self._results(folder) if unsure else set()
        changed = 0 if self._looked else self._mend(objects, files, results)
        self._looked = True
        for image, found in files.items():
            scans = {suffix: name for suffix, name in found.items() if name not in results}
            if image not in objects and scans:
                suffix, name = next(iter(scans.items()))
                logger.info(f"new scan {image}: {name}")
                objects[image] = ImageLabelModel(image=_described(name, suffix))
                changed += 1
            if image in objects:
                self._warn([name for suffix, name in scans.items() if suffix != objects[image].image.ext])
        return changed

    def _files(self, folder: Path) -> dict[str, dict[str, str]]:
        """Id -> suffix -> name of the files that may be scans, in the order of the patterns."""
        with os.scandir(folder) as inside:
            names = sorted(f.name for f in inside if not f.name.startswith(".") and f.is_file())
        files: dict[str, dict[str, str]] = {}
        for pattern in self.patterns:
            for name in fnmatch.filter(names, pattern):
                image, suffix = self.to_id(name)
                files.setdefault(image, {})[suffix] = name
        return files

    def _results(self, folder: Path) -> set[str]:
        """Names of the files that reports name. Of thousands, each is read once, and when it changes."""
        known, self._reports = self._reports, {}
        for file in folder.glob("*.json"):
            state, names = known.get(file.name, (None, set()))
            if state is None or state != state_of(file):
                state, report = state_of(file), read_report(file)
                names = set(report["files"]) if report else set()
            self._reports[file.name] = (state, names)
        return {name for _, names in self._reports.values() for name in names}

    def _mend(self, objects: dict[str, ImageLabelModel], files: dict[str, dict[str, str]], results: set[str]) -> int:
        """Entries of pictures become those of the scans beside them; without one, and those of results, they go."""
        changed = 0
        for image, entry in list(objects.items()):
            picture = not entry.image.ext.endswith(EXTENSIONS)
            if not picture and image + entry.image.ext not in results:
                continue
            beside = [(s, name) for s, name in files.get(image, {}).items() if name not in results]
            if beside:
                suffix, name = beside[0]
                entry.image = DataModel(info=entry.image.info | _described(name, suffix).info, ext=suffix)
            elif entry.labels:
                logger.warning(f"{image}{entry.image.ext} is no scan, and has labels: delete them, and it is left out")
                continue
            else:
                del objects[image]
            changed += 1
        return changed

    def _warn(self, names: Sequence[str]) -> None:
        """Say once of a file that it is left out."""
        for name in names:
            if name not in self._told:
                logger.warning(f"{name} is not offered, since another scan has its name: rename one of them")
                self._told.add(name)


def _described(name: str, suffix: str) -> DataModel:
    """A file as MONAI Label describes it."""
    return DataModel(info={"ts": int(time.time()), "name": name}, ext=suffix)
