"""A DICOMweb archive as datastore: CT and MR, seen as it is now, and labels that a PACS takes.

MONAI Label's own offers CT alone, and remembers for two hours which series there are and which are labeled, so that a scan
just labeled is offered again.
"""

from __future__ import annotations

import logging

from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from pydicom import Dataset

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

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """SeriesInstanceUIDs of the series without a DICOM SEG."""
        return sorted(set(self.list_images()) - set(self.get_labeled_images()))
