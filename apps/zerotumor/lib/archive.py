"""A DICOMweb archive as datastore: CT and MR, seen as it is now, and labels that a PACS takes.

MONAI Label's own offers CT alone, and remembers for two hours which series there are and which are labeled, so that a scan
just labeled is offered again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from monai.data import MetaTensor
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom import Dataset

from zerotumor.errors import ScanError, ServerError
from zerotumor.export import dicom_seg
from zerotumor.prompts import Prompt
from zerotumor.report import describe_prompt
from zerotumor.stow import store
from zerotumor.vocabulary import LESIONS
from zerotumor.volumes import read_scan

from .options import refuse

logger = logging.getLogger(__name__)
MODALITIES = ("CT", "MR")


class Archive(DICOMWebDatastore):
    """`MONAI_LABEL_DICOMWEB_SEARCH_FILTER` still narrows what is offered; its modality counts only if it is not CT, which
    is MONAI Label's default and not a wish."""

    @classmethod
    def like(cls, store: DICOMWebDatastore) -> Archive:
        """The same archive as a datastore that MONAI Label made from its settings."""
        return cls(
            client=store._client,
            search_filter=store._search_filter,
            cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None,
            fetch_by_frame=store._fetch_by_frame,
            convert_to_nifti=store._convert_to_nifti,
        )

    def list_images(self) -> list[str]:
        """SeriesInstanceUIDs of the CT and MR series."""
        wanted = {k: v for k, v in (self._search_filter or {}).items() if k != "Modality"}
        asked = (self._search_filter or {}).get("Modality", "CT")
        found = []
        for modality in MODALITIES if asked == "CT" else (asked,):
            answers = self._client.search_for_series(search_filters={**wanted, "Modality": modality})
            found += [str(Dataset.from_json(a)["SeriesInstanceUID"].value) for a in answers]
        return found

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """SeriesInstanceUIDs of the series that a DICOM SEG in the archive refers to."""
        segmented = set()
        for answer in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            series = Dataset.from_json(answer)
            stored = self._client.retrieve_series_metadata(
                str(series["StudyInstanceUID"].value), str(series["SeriesInstanceUID"].value)
            )
            for item in Dataset.from_json(stored[0]).get("ReferencedSeriesSequence", []):
                segmented.add(str(item["SeriesInstanceUID"].value))
        return sorted(segmented & set(self.list_images()))

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
        if label_tag == DefaultLabelTag.FINAL:
            self.get_image_uri(image_id)
            try:
                labels = read_scan(label_filename, labels=True)
                dataset = self._segmentation(image_id, labels, label_info.get("label_info") or [])
                if dataset is not None:
                    self.push(dataset)
                    label_info = {**label_info, "SeriesInstanceUID": str(dataset.SeriesInstanceUID)}
            except ScanError as error:
                raise refuse(str(error), 422) from None
            except ServerError as error:
                raise refuse(str(error), 502) from None
        return LocalDatastore.save_label(self, image_id, label_filename, label_tag, label_info, label_id)

    def _segmentation(self, image_id: str, labels: MetaTensor, names: list[dict]) -> Dataset | None:
        """A label map (1, X, Y, Z) as DICOM SEG, one segment a value."""
        values = [int(v) for v in labels.unique().tolist() if v > 0]
        known = {int(n["idx"]): str(n.get("name", "lesion")) for n in names if isinstance(n, dict) and "idx" in n}
        in_order = [str(n.get("name", "lesion")) for n in names if isinstance(n, dict)]
        masks, entries = [], []
        for k, value in enumerate(values):
            name = known.get(value) or (in_order[k] if k < len(in_order) else "lesion")
            mask = (labels[0] == value).as_tensor()
            concept = LESIONS.get(name)
            prompt = Prompt(name, name, lesion=name if concept else None, organs=concept.hosts if concept else ())
            masks.append(mask)
            entries.append(describe_prompt(prompt, mask, labels.affine, 1.0))
        if not masks:
            return None
        return dicom_seg(self.series_folder(image_id), torch.stack(masks), labels.affine, entries,
                         method="annotation", semiautomatic=True)  # fmt: skip

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """SeriesInstanceUIDs of the series without a DICOM SEG."""
        return sorted(set(self.list_images()) - set(self.get_labeled_images()))
