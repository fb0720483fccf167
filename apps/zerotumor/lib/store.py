"""Labels that are never lost: a folder of scans as datastore, and what the archive's shares with it.

MONAI Label's own copies a label over the old one and rewrites its index in place (so that a full disk takes both), uses ids
and tags of a request as paths, lets a scan that is uploaded under the name of another have its labels, and undoes in its
index what another process has written between its own read and write. What it takes for scans: `lib.scans`.
"""

from __future__ import annotations

import filecmp
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path

from fastapi import HTTPException
from filelock import FileLock
from monai.data import MetaTensor
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel

from zerotumor.errors import ScanError
from zerotumor.volumes import read_scan, write_atomically

from .options import EXTENSIONS, refuse
from .provenance import is_automatic
from .scans import Scans, readable
from .shared import copied, or_full, state_of

logger = logging.getLogger(__name__)
TAG = re.compile(r"[A-Za-z0-9_-]{1,40}")
LONGEST = 200
"""Bytes of an image's id: with the suffix and what is written beside it, a file's name has 255."""


def fresh(reader: Callable) -> Callable:
    """A reader of MONAI Label's that sees what other processes have written since.

    MONAI Label watches the index for changes in place; it does not hear of one that was renamed into its place.
    """

    @wraps(reader)
    def read(self, *args: object, **options: object) -> object:
        self._init_from_datastore_file()
        return reader(self, *args, **options)

    return read


class Folder(LocalDatastore):
    """A folder of scans. Labels and index appear whole or not at all, and what was saved before stays till then.

    Scoring and batches run in processes of their own, each with this index: whoever changes it reads it again first, and
    holds its lock till the change is written.
    """

    provenance: Callable[[str, MetaTensor, dict], dict] | None = None
    """Image id, label map and what the client said of it -> what there is to add; set by the app."""

    def __init__(self, datastore_path: str, *args: object, **options: object) -> None:
        # MONAI Label makes a lock at every use. Only one and the same can be taken again by the thread that holds it.
        self._index_lock = FileLock(os.path.join(datastore_path, ".lock"))
        self._seen: tuple | None = None
        if "extensions" in options:
            options["extensions"] = readable(options["extensions"])
        self._scans: Scans | None = None
        super().__init__(datastore_path, *args, **options)

    list_images = fresh(LocalDatastore.list_images)
    get_labeled_images = fresh(LocalDatastore.get_labeled_images)
    get_unlabeled_images = fresh(LocalDatastore.get_unlabeled_images)
    get_image_info = fresh(LocalDatastore.get_image_info)
    get_label_uri = fresh(LocalDatastore.get_label_uri)
    get_label_info = fresh(LocalDatastore.get_label_info)
    get_label_by_image_id = fresh(LocalDatastore.get_label_by_image_id)
    get_labels_by_image_id = fresh(LocalDatastore.get_labels_by_image_id)
    datalist = fresh(LocalDatastore.datalist)
    status = fresh(LocalDatastore.status)
    json = fresh(LocalDatastore.json)

    @fresh
    def get_image_uri(self, image_id: str) -> str:
        """As MONAI Label's, and of a scan that is a link, the link: it lies in this folder, what it leads to need not."""
        entry = self._datastore.objects.get(image_id)
        return os.path.abspath(self._image_file(image_id, entry.image.ext)) if entry else ""

    def add_image(self, image_id: str, image_filename: str, image_info: dict) -> str:
        """Keep a scan; returns its id. One that is there already, voxel by voxel, stays with all that is known of it.

        Raises:
            HTTPException: 400 the id is no name of a file, or the file's suffix not that of a scan; 409 there is another
                scan of this id; 507 it cannot be written.
        """
        said = checked_info(image_info)
        name, extension = self._to_id(os.path.basename(image_filename))
        image_id = checked_id(image_id or name)
        taken = [e for e in EXTENSIONS if f"*{e}" in self._extensions]
        if extension not in taken:
            raise refuse(f"a file {extension[:20]!r} is no scan: send one of {', '.join(taken)}")
        path = self._image_file(image_id, extension)
        with (
            or_full("the scan was not saved"),
            copied(Path(image_filename), path) as ready,
            self._changing(image_id) as objects,
        ):
            before = objects.get(image_id)
            earlier = path if before is None else self._image_file(image_id, before.image.ext)
            if earlier.exists() and not (earlier == path and filecmp.cmp(ready, path, shallow=False)):
                raise refuse(
                    f"there is another scan {image_id[:100]!r}: choose another name, or delete that one first", 409
                )
            known, labels = (before.image.info, before.labels) if before is not None else ({}, {})
            info = {**known, **said, "ts": int(time.time()), "name": path.name}
            objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension), labels=labels)
            self._update_datastore_file()
            os.replace(ready, path)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Delete a scan and its labels.

        Raises:
            HTTPException: 400 the id is no name of a file; 404 there is no such scan; 507 the folder is locked.
        """
        checked_id(image_id)
        with or_full("the scan was not removed"), self._changing(image_id) as objects:
            if image_id not in objects:
                raise unknown(image_id)
            entry = objects[image_id]
            files = [f for tag in entry.labels if TAG.fullmatch(tag) for f in self._label_files(image_id, tag)]
            for path in (*files, self._image_file(image_id, entry.image.ext)):
                path.unlink(missing_ok=True)  # of a link, the link: what lies elsewhere is not the folder's
            del objects[image_id]
            self._update_datastore_file()

    def save_label(
        self,
        image_id: str,
        label_filename: str,
        label_tag: str,
        label_info: dict,
        publish: Callable[[str, MetaTensor, dict], dict] | None = None,
    ) -> str:
        """Keep a label of an image; returns the label's id.

        Args:
            publish: shows a label that is about to be kept, (1, X, Y, Z) with its `info`, wherever else it belongs; returns
                what is to be known of that.

        Raises:
            HTTPException: 400 the tag is no word; 404 there is no such image; 409 it is the server's own, and a person has
                saved one; 422 the label cannot be read; 507 it cannot be written; the label saved before is still there.
        """
        check_tag(label_tag)
        said = checked_info(label_info)
        self._init_from_datastore_file()
        if image_id not in self._datastore.objects:
            raise unknown(image_id)
        try:
            labels = read_scan(label_filename, labels=True)
        except ScanError as error:
            raise refuse(str(error).replace(str(label_filename), "the label"), 422) from None
        _, extension = self._to_id(os.path.basename(label_filename))
        path = Path(self._datastore.label_path(label_tag)) / self._filename(image_id, extension)
        info = {**said, "ts": int(time.time()), "name": path.name}
        info |= self._origin(image_id, labels, info)
        self._check_owner(self._datastore.objects, image_id, label_tag, info)
        info |= publish(image_id, labels, info) if publish is not None else {}
        # The old label goes last: whatever fails before, file and index are still those of the label before.
        with (
            or_full("the label was not saved"),
            copied(Path(label_filename), path) as ready,
            self._changing(image_id) as objects,
        ):
            self._check_owner(objects, image_id, label_tag, info)
            objects[image_id].labels[label_tag] = DataModel(info=info, ext=extension)
            self._update_datastore_file()
            os.replace(ready, path)
            for earlier in self._label_files(image_id, label_tag):
                if earlier != path:  # of another format: it would be taken for the label once this one is deleted
                    earlier.unlink(missing_ok=True)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label, and what an earlier one may have left in another format.

        Raises:
            HTTPException: 400 the tag is no word; 404 there is no such image; 507 the folder is locked.
        """
        check_tag(label_tag)
        with or_full("the label was not removed"), self._changing(label_id) as objects:
            if label_id not in objects:
                raise unknown(label_id)
            for path in self._label_files(label_id, label_tag):
                path.unlink(missing_ok=True)
            objects[label_id].labels.pop(label_tag, None)
            self._update_datastore_file()

    def update_image_info(self, image_id: str, info: dict) -> None:
        """As MONAI Label's, upon what was written since: scoring, in a process of its own, would undo a label's entry."""
        with self._changing(image_id):
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict) -> None:
        """As MONAI Label's, upon what was written since."""
        with self._changing(label_id):
            super().update_label_info(label_id, label_tag, info)

    @staticmethod
    def _check_owner(objects: dict[str, ImageLabelModel], image_id: str, tag: str, info: dict) -> None:
        """Raises HTTPException: 404 there is no such image; 409 this label is the server's, and that before a person's."""
        if image_id not in objects:
            raise unknown(image_id)
        before = objects[image_id].labels.get(tag)
        if before is not None and is_automatic(info) and not is_automatic(before.info):
            raise refuse(
                f"the label of tag {tag} is a person's: choose another label_tag, or delete that one first", 409
            )

    def _image_file(self, image_id: str, extension: str) -> Path:
        return Path(self._datastore.image_path()) / self._filename(image_id, extension)

    def _label_files(self, image_id: str, tag: str) -> list[Path]:
        """Files that a label of an image may be in, there or not: one for each format."""
        folder = Path(self._datastore.label_path(tag))
        known = dict.fromkeys([*EXTENSIONS, *(pattern.replace("*", "") for pattern in self._extensions)])
        return [folder / self._filename(image_id, extension) for extension in known]

    def _origin(self, image_id: str, labels: MetaTensor, info: dict) -> dict:
        """Where a label comes from. That this cannot be told is no reason to lose the label."""
        try:
            return self.provenance(image_id, labels, info) if self.provenance is not None else {}
        except (OSError, RuntimeError, ValueError, HTTPException) as error:
            logger.warning(f"where the label of {image_id} comes from is not known: {error}")
            return {}

    @contextmanager
    def _changing(self, image_id: str) -> Iterator[dict[str, ImageLabelModel]]:
        """What the index says now, for a change of one image's entry that is written before anybody else's turn.

        If it cannot be written, the entry is as before.
        """
        with self._index_lock:
            self._read_index()
            objects = self._datastore.objects
            before = objects[image_id].model_copy(deep=True) if image_id in objects else None
            try:
                yield objects
            except (OSError, ScanError):
                objects.pop(image_id, None) if before is None else objects.update({image_id: before})
                with suppress(ScanError):
                    self._update_datastore_file()
                raise

    def _reconcile_datastore(self) -> None:
        """As MONAI Label's, which goes through the folder for a while before it writes."""
        with self._index_lock:
            self._read_index()
            super()._reconcile_datastore()

    def _add_non_existing_images(self) -> int:
        """In place of MONAI Label's, which takes pictures and results for scans, see `lib.scans`."""
        self._init_from_datastore_file()
        if self._scans is None:
            self._scans = Scans(self._extensions, self._to_id)
        return self._scans.reconcile(self._datastore.objects, Path(self._datastore.image_path()))

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """As MONAI Label's, if the file is another one than was read or written last."""
        if state_of(self._datastore_config_path) != self._seen:
            with self._index_lock:  # a change that is half made in another thread is not taken from under its hands
                self._read_index(throw_exception)

    def _read_index(self, throw_exception: bool = False) -> None:
        seen = state_of(self._datastore_config_path)
        if seen is None:
            return
        try:
            index = LocalDatastoreModel.model_validate_json(Path(self._datastore_config_path).read_text())
        except ValueError as error:
            logger.error(f"{self._datastore_config_path} is damaged and is not read ({error})")
            if throw_exception:
                raise
            return
        index.base_path = self._datastore_path
        self._datastore, self._seen = index, seen

    def _update_datastore_file(self, lock: bool = True) -> None:
        """As MONAI Label's, through a temporary file. Whoever holds the lock takes it again."""
        target = Path(self._datastore_config_path)
        with self._index_lock:
            text = self._datastore.model_dump_json(exclude={"base_path"}, indent=2)
            write_atomically(target, lambda temporary: temporary.write_text(text))
            self._seen = state_of(target)


def check_tag(tag: str) -> None:
    """Raises HTTPException: 400 the tag of a label, which is the name of a folder, is no word."""
    if not TAG.fullmatch(tag):
        raise refuse("the tag of a label is a word of letters, digits, - and _, such as final")


def checked_id(image_id: str) -> str:
    """An image's id, which is the name of its file and of its labels'.

    Raises:
        HTTPException: 400 it would be another folder's, hidden, or too long for a name.
    """
    other = image_id.startswith(".") or any(c in image_id for c in "/\\") or not image_id.isprintable()
    if other or not image_id or len(os.fsencode(image_id)) > LONGEST:
        raise refuse(f"an image's id is a name without / and \\ that begins with no dot, of up to {LONGEST} letters")
    return image_id


def checked_info(info: object) -> dict:
    """What a client said of an image or label.

    Raises:
        HTTPException: 400 it is no object.
    """
    if not isinstance(info or {}, dict):
        raise refuse('params must be an object, such as {"prompt": "liver tumor"}')
    return dict(info or {})


def unknown(image_id: str) -> HTTPException:
    """What a client gets for an image that is not there."""
    return refuse(f"there is no image {image_id[:100]!r} in the datastore: ask for /datastore/?output=all", 404)
