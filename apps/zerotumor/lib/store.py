"""Labels that are never lost: a folder of scans as datastore, and what the archive's shares with it.

MONAI Label's own copies a label over the old one and rewrites its index in place (so that a full disk takes both), and uses
the tag of a request as the name of a folder.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import HTTPException
from filelock import FileLock
from monai.data import MetaTensor
from monailabel.datastore.local import DataModel, LocalDatastore

from zerotumor.errors import ScanError
from zerotumor.volumes import read_scan, write_atomically

from .options import refuse

logger = logging.getLogger(__name__)
TAG = re.compile(r"[A-Za-z0-9_-]{1,40}")


class Folder(LocalDatastore):
    """A folder of scans. Labels and index appear whole or not at all, and what was saved before stays till then."""

    provenance: Callable[[str, MetaTensor, dict], dict] | None = None
    """Image id, label map and what the client said of it -> what there is to add; set by the app."""

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict) -> str:
        """Keep a label of an image; returns the label's id.

        Raises:
            HTTPException: 400 the tag is no word; 404 there is no such image; 422 the label cannot be read; 507 it cannot be
                written; the label saved before is still there.
        """
        if not TAG.fullmatch(label_tag):
            raise refuse("the tag of a label is a word of letters, digits, - and _, such as final")
        self._init_from_datastore_file()  # what scoring, in a process of its own, has noted since
        entry = self._datastore.objects.get(image_id)
        if entry is None:
            raise refuse(f"there is no image {image_id[:100]!r} in the datastore: ask for /datastore/?output=all", 404)
        try:
            labels = read_scan(label_filename, labels=True)
        except ScanError as error:
            raise refuse(str(error).replace(str(label_filename), "the label"), 422) from None
        _, extension = self._to_id(os.path.basename(label_filename))
        path = Path(self._datastore.label_path(label_tag)) / self._filename(image_id, extension)
        info = {**(label_info or {}), "ts": int(time.time()), "name": path.name}
        info |= self._origin(image_id, labels, info)
        with FileLock(self._lock_file):
            before = entry.labels.get(label_tag)
            try:
                # The old label goes last: whatever fails before, file and index are still those of the label before.
                with copied(Path(label_filename), path) as ready:
                    entry.labels[label_tag] = DataModel(info=info, ext=extension)
                    self._update_datastore_file(lock=False)
                    os.replace(ready, path)
            except (OSError, ScanError) as error:
                entry.labels.pop(label_tag, None) if before is None else entry.labels.update({label_tag: before})
                logger.warning(f"a label was not saved: {error}")
                raise refuse(
                    "the label was not saved, because the disk is full or locked: make room and save again", 507
                ) from None
        return image_id

    def update_image_info(self, image_id: str, info: dict) -> None:
        """As MONAI Label's, upon what was written since: scoring, in a process of its own, would undo a label's entry."""
        self._init_from_datastore_file()
        super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict) -> None:
        """As MONAI Label's, upon what was written since."""
        self._init_from_datastore_file()
        super().update_label_info(label_id, label_tag, info)

    def _origin(self, image_id: str, labels: MetaTensor, info: dict) -> dict:
        """Where a label comes from. That this cannot be told is no reason to lose the label."""
        try:
            return self.provenance(image_id, labels, info) if self.provenance is not None else {}
        except (OSError, RuntimeError, ValueError, HTTPException) as error:
            logger.warning(f"where the label of {image_id} comes from is not known: {error}")
            return {}

    def _update_datastore_file(self, lock: bool = True) -> None:
        """As MONAI Label's, through a temporary file."""
        target = Path(self._datastore_config_path)
        text = self._datastore.model_dump_json(exclude={"base_path"}, indent=2)

        def write() -> None:
            self._ignore_event_config = True  # MONAI Label watches the file for changes by others
            write_atomically(target, lambda temporary: temporary.write_text(text))
            self._config_ts = target.stat().st_mtime

        if not lock:
            return write()
        with FileLock(self._lock_file):
            write()


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
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
