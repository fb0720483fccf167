"""A DICOMweb archive as datastore: CT and MR, seen as it is now, and labels that a PACS takes.

MONAI Label's own offers CT alone, remembers for two hours which series there are and which are labeled (so that a scan just
labeled is offered again), takes a series whose download broke off for whole, and believes whatever slices it gets.
"""

from __future__ import annotations

import filecmp
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from dicomweb_client import DICOMwebClient
from fastapi import HTTPException
from filelock import FileLock
from monai.data import MetaTensor
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.utils.convert import binary_to_image
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from pydicom import Dataset

from zerotumor.derived import MAKER
from zerotumor.errors import ScanError, ServerError
from zerotumor.export import dicom_seg
from zerotumor.prompts import Prompt
from zerotumor.report import describe_prompt
from zerotumor.stow import BAD_ANSWER, bound_waits, store
from zerotumor.vocabulary import LESIONS
from zerotumor.volumes import read_scan, write_scan

from .options import refuse
from .shared import copied, or_full
from .store import Folder

logger = logging.getLogger(__name__)
MODALITIES = ("CT", "MR")
UID = re.compile(r"[0-9]+(\.[0-9]+)*")


class Archive(DICOMWebDatastore, Folder):
    """`MONAI_LABEL_DICOMWEB_SEARCH_FILTER` still narrows what is offered; its modality counts only if it is not CT, which
    is MONAI Label's default and not a wish."""

    def __init__(self, client: DICOMwebClient, search_filter: dict, **options: object) -> None:
        if options.pop("fetch_by_frame", False):
            raise ValueError(
                "MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME makes files that nothing can read: unset it, series are fetched whole"
            )
        self._referenced: dict[str, tuple[str, ...]] = {}
        bound_waits(client)
        super().__init__(client, search_filter, **options)

    @classmethod
    def like(cls, store: DICOMWebDatastore) -> Archive:
        """The same archive as a datastore that MONAI Label made from its settings, and in its place."""
        observer = getattr(store, "_observer", None)
        if observer is not None:  # else two of them would write the same files
            observer.stop()
        return cls(
            store._client,
            store._search_filter,
            cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None,
            fetch_by_frame=store._fetch_by_frame,
        )

    def list_images(self) -> list[str]:
        """SeriesInstanceUIDs of the CT and MR series.

        Raises:
            HTTPException: 502 the archive is not reached, here and wherever it is asked.
        """
        wanted = {k: v for k, v in (self._search_filter or {}).items() if k != "Modality"}
        asked = (self._search_filter or {}).get("Modality", "CT")
        modalities = MODALITIES if asked == "CT" else (asked,)
        return [uid for modality in modalities for uid in self._series({**wanted, "Modality": modality})]

    def _series(self, wanted: dict[str, str]) -> dict[str, Dataset]:
        """What the archive says of the series that it finds, by SeriesInstanceUID."""
        with answering():
            found = [Dataset.from_json(a) for a in self._client.search_for_series(search_filters=wanted)]
            return {str(series["SeriesInstanceUID"].value): series for series in found}

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """SeriesInstanceUIDs of the series that a DICOM SEG in the archive refers to, or whose final label is empty.

        What this app found by itself and stored is a proposal and no label.
        """
        self._init_from_datastore_file()
        empty = {k for k, v in self._datastore.objects.items() if self._is_empty_label(v.labels)}
        return sorted((empty | self._segmented().keys()) & set(self.list_images()))

    def _segmented(self) -> dict[str, str]:
        """SeriesInstanceUIDs of series, and of a DICOM SEG in the archive in which a person had a part."""
        segmented: dict[str, str] = {}
        for uid, series in self._series({"Modality": "SEG"}).items():
            if uid not in self._referenced:
                with answering():
                    stored = self._client.retrieve_series_metadata(str(series["StudyInstanceUID"].value), uid)
                    self._referenced[uid] = labeled_by(Dataset.from_json(stored[0])) if stored else ()
            for image in self._referenced[uid]:
                segmented.setdefault(image, uid)
        return segmented

    def datalist(self) -> list[dict[str, str]]:
        """Files of the labeled series and of their final labels, fetched where the archive alone has them.

        MONAI Label's deletes final labels that have no DICOM SEG in the archive, as those without a lesion, and takes what
        this app proposed for final.

        Raises:
            HTTPException: 502 the archive is not reached.
        """
        segmented, pairs = self._segmented(), []
        for image in self.get_labeled_images():
            try:
                scan = self.get_image_uri(image)
                label = self.get_label_uri(segmented.get(image, ""), DefaultLabelTag.FINAL, image)
            except HTTPException as error:
                if error.status_code >= 500:
                    raise
                logger.warning(f"{image} is not listed for training: {error.detail}")
                continue
            pairs += [{"image": scan, "label": label}] if label else []
        return pairs

    @staticmethod
    def _is_empty_label(labels: dict) -> bool:
        """A final label without a lesion has no DICOM SEG, and is known here alone."""
        final = labels.get(DefaultLabelTag.FINAL)
        return final is not None and bool(final.info.get("empty"))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """SeriesInstanceUIDs of the other series."""
        return sorted(set(self.list_images()) - set(self.get_labeled_images()))

    def get_image_uri(self, image_id: str) -> str:
        """A series as NIfTI for clients, fetched at first use, and again once the archive has more of it.

        Raises:
            HTTPException: 404 there is no such series; 422 it cannot be used; 502 the archive is not reached.
        """
        if len(image_id) > 64 or not UID.fullmatch(image_id):
            raise refuse(f"{image_id[:100]!r} is no SeriesInstanceUID: ask for /datastore/?output=all", 404)
        series = self._series({"SeriesInstanceUID": image_id}).get(image_id)
        if series is None:
            raise refuse(f"there is no series {image_id} in the archive: ask for /datastore/?output=all", 404)
        files = self._files_of(series)
        cache = Path(self._datastore.image_path()).resolve()
        folder, nifti = cache / image_id, cache / f"{image_id}.nii.gz"
        with FileLock(f"{folder}.lock"):  # batches run in a process of their own
            whole = folder.is_dir() and len(list(folder.iterdir())) >= files  # else it was still arriving
            if not whole or not nifti.is_file() or not Folder.get_image_uri(self, image_id):
                self._fetch(series, files, folder, nifti)
        return str(nifti)

    def _files_of(self, series: Dataset) -> int:
        """How many files of a series the archive has by now."""
        with answering():
            study, uid = (str(series[key].value) for key in ("StudyInstanceUID", "SeriesInstanceUID"))
            said = int(series.get("NumberOfSeriesRelatedInstances") or 0)
            return said if said > 0 else len(self._client.search_for_instances(study, uid))

    def _fetch(self, series: Dataset, files: int, folder: Path, nifti: Path) -> None:
        """Download a series; folder and NIfTI file appear, or replace those of fewer files, when it is there and readable.

        Raises:
            HTTPException: 422 it cannot be used; 502 the archive gives less than it has.
        """
        study, uid = str(series.StudyInstanceUID), str(series.SeriesInstanceUID)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fetching-"))
        try:
            with answering():
                info = self._dicom_info(uid)
                dicom_web_download_series(study, uid, str(partial), self._client)
            got = len(list(partial.iterdir()))
            if got < files:
                raise refuse(f"the archive gave {got} of {files} files of the series {uid}: ask again later", 502)
            with tempfile.TemporaryDirectory() as temporary:
                copy = Path(temporary) / nifti.name
                write_scan(read_scan(partial), copy)
                self._keep(uid, copy, nifti, info)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)  # last: what breaks off before is fetched again
        except ScanError as error:
            raise refuse(str(error).replace(str(partial), f"the series {uid}"), 422) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _keep(self, uid: str, scan: Path, nifti: Path, info: dict) -> None:
        """Put a scan into the datastore; a shorter one makes room, and its labels stay."""
        if nifti.is_file() and not filecmp.cmp(scan, nifti, shallow=False):  # `add_image` would call it another scan
            logger.warning(f"{uid} was fetched anew; what was made on it before may not cover it")
            with or_full("the scan was not saved"), copied(scan, nifti) as ready:
                os.replace(ready, nifti)
        self.add_image(uid, str(scan), info)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """A label's file: as it was saved here, else made from the DICOM SEG `label_id` of the archive.

        MONAI Label takes the image's own series for the label's when it is asked for a label by the image's id.
        """
        here = Folder.get_label_uri(self, image_id or label_id, label_tag)
        if here or not image_id:
            return here
        with answering():
            super().get_label_uri(label_id, label_tag, image_id)
        return Folder.get_label_uri(self, image_id, label_tag)

    def series_folder(self, image_id: str) -> str:
        """Where the DICOM files of a series lie, once it was fetched."""
        folder = Path(self._datastore.image_path()).resolve() / image_id
        return str(folder) if folder.is_dir() else ""

    def push(self, dataset: Dataset) -> None:
        """Store one DICOM object.

        Raises:
            ServerError: the archive is not reached or refuses it.
        """
        store(self._client, [dataset])

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict, label_id: str = ""
    ) -> str:
        """Keep a label; a final one becomes a DICOM SEG in the archive, with the names of `label_info` and coded concepts.

        Raises:
            HTTPException: the label does not lie on the scan's grid, or the archive refuses it; nothing saved is lost.
        """
        image = self.get_image_uri(image_id)
        if label_filename.endswith(".bin"):  # bare voxels, as OHIF keeps them
            try:
                label_filename = binary_to_image(image, label_filename)
            except ScanError as error:
                raise refuse(str(error).replace(label_filename, "the label"), 422) from None
        publish = self._published if label_tag == DefaultLabelTag.FINAL else None
        return Folder.save_label(self, image_id, label_filename, label_tag, label_info, publish)

    def _published(self, image_id: str, labels: MetaTensor, info: dict) -> dict:
        """Push a label to the archive: whether it is empty, and the series that it became."""
        try:
            dataset = self._segmentation(image_id, labels, info.get("label_info"))
            if dataset is not None:
                self.push(dataset)
        except ScanError as error:
            raise refuse(str(error), 422) from None
        except ServerError as error:
            raise refuse(str(error), 502) from None
        return {"empty": dataset is None, "SeriesInstanceUID": str(getattr(dataset, "SeriesInstanceUID", ""))}

    def _segmentation(self, image_id: str, labels: MetaTensor, given: object) -> Dataset | None:
        """A label map (1, X, Y, Z) as DICOM SEG, one segment a value; None if it is empty."""
        values = [int(v) for v in labels.unique().tolist() if v > 0]
        masks, entries = [], []
        for name, value in zip(names_of(values, given), values, strict=True):
            mask = (labels[0] == value).as_tensor()
            concept = LESIONS.get(name)
            prompt = Prompt(name, name, lesion=name if concept else None, organs=concept.hosts if concept else ())
            masks.append(mask)
            entries.append(describe_prompt(prompt, mask, labels.affine, 1.0))
        if not masks:
            return None
        return dicom_seg(self.series_folder(image_id), torch.stack(masks), labels.affine, entries,
                         method="annotation", semiautomatic=True)  # fmt: skip


@contextmanager
def answering() -> Iterator[None]:
    """The archive is asked within, and its answer read.

    Raises:
        HTTPException: 502 it is not reached, or sends something else.
    """
    try:
        yield
    except BAD_ANSWER as error:
        logger.warning(f"the archive does not answer: {error!r}")
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise refuse(
            "the archive is not reached or does not answer as a DICOMweb server "
            f"({f'HTTP {status}' if status else type(error).__name__}): check its address, that it runs, and name and "
            "password if it asks for them",
            502,
        ) from None


def facts_of(image_id: str, datastore: Datastore) -> dict[str, str]:
    """What a datastore knows of an image beyond its voxels, as options of a request; the image is fetched for it.

    Raises:
        HTTPException: there is no such image, or the archive is not reached.
    """
    if not datastore.get_image_uri(image_id):
        raise refuse(f"there is no image {image_id[:100]!r} in the datastore: ask for /datastore/?output=all", 404)
    known = datastore.get_image_info(image_id).get("Modality")
    facts = {"header_modality": known} if known in MODALITIES else {}
    return {**facts, "dicom_folder": datastore.series_folder(image_id)} if isinstance(datastore, Archive) else facts


def names_of(values: list[int], given: object) -> list[str]:
    """Names of label values from a client's `label_info`, by its `idx` if it has any, else in order of the values."""
    items = [n for n in given if isinstance(n, dict)] if isinstance(given, list) else []
    names = [" ".join(str(n.get("name") or "lesion").split()) for n in items]
    numbered = {str(n.get("idx")): name for n, name in zip(items, names, strict=True) if n.get("idx") is not None}
    in_order = dict(zip(values, names, strict=False)) if not numbered else {}
    return [numbered.get(str(v)) or in_order.get(v) or "lesion" for v in values]


def labeled_by(seg: Dataset) -> tuple[str, ...]:
    """SeriesInstanceUIDs that a DICOM SEG (its metadata) is a label of; none if this app made it without a person."""
    kinds = {str(s.get("SegmentAlgorithmType", "")) for s in seg.get("SegmentSequence", [])}
    if str(seg.get("Manufacturer", "")) == MAKER and kinds == {"AUTOMATIC"}:
        return ()
    return tuple(str(item.get("SeriesInstanceUID", "")) for item in seg.get("ReferencedSeriesSequence", []))
