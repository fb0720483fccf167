"""Batch inference that goes on: what is labeled already is left alone, and a bad scan does not stop the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask, run_infer_task

logger = logging.getLogger(__name__)


class ResumableBatch(BatchInferTask):
    """One scan after the other, on two cores and on one GPU alike: a scan uses all that there is."""

    def __call__(self, request: dict, datastore: Datastore, infer: Callable) -> dict:
        """A request (`images`: all, labeled or unlabeled; `max_batch_size`; `force`) -> image id -> answer or error.

        The size counts scans that are answered: those that are done or cannot be read never stand in the way of the rest.
        """
        tag = request.get("label_tag", DefaultLabelTag.ORIGINAL)
        images = sorted(self.get_images(request, datastore))
        limit = int(request.get("max_batch_size") or len(images))
        results: dict[str, dict] = {}
        answered = 0
        for k, image in enumerate(images):
            if not request.get("force") and datastore.get_label_by_image_id(image, tag):
                results[image] = {"skipped": f"it has a label of tag {tag}"}
                continue
            if answered >= limit:
                continue
            try:
                results[image] = run_infer_task(
                    {**request, "image": image, "save_label": True, "label_tag": tag}, datastore, infer
                )
                answered += 1
            except HTTPException as error:
                results[image] = {"error": error.detail}
            except Exception as error:  # whatever is wrong with one scan, the others are still to be done
                results[image] = {"error": f"{type(error).__name__}: {error}"}
            logger.info(f"{k + 1}/{len(images)} {image}: {results[image].get('error', 'done')}")
        return results
