"""Batch inference that goes on: what is answered already is left alone, and a bad scan does not stop the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask, run_infer_task
from monailabel.interfaces.tasks.infer_v2 import InferTask

from .options import reason_of
from .provenance import is_automatic

logger = logging.getLogger(__name__)
PERSONS = (
    "its label of tag {tag} is a person's, and a batch replaces none: choose another label_tag, or delete it first"
)
DONE = "it has a label of tag {tag} that answers this very request: force makes it anew"


class ResumableBatch(BatchInferTask):
    """One scan after the other, on two cores and on one GPU alike: a scan uses all that there is.

    Args:
        tasks: name -> task. One with `terms` says what of a request decides an answer, and its reply says the same; of
            others, the name alone tells one answer from another.
    """

    def __init__(self, tasks: Mapping[str, InferTask]) -> None:
        self.tasks = tasks

    def __call__(self, request: dict, datastore: Datastore, infer: Callable) -> dict:
        """A request (`images`: all, labeled or unlabeled; `max_batch_size`; `label_tag`; `force`; options of the task) ->
        image id -> answer, why it was skipped, or error.

        The size counts scans that are answered: those that are done or cannot be read never stand in the way of the rest.

        Raises:
            HTTPException: an option of the task is out of range.
        """
        tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL
        tag = getattr(tag, "value", tag)
        task = self.tasks.get(request.get("model"))
        terms = task.terms(request) if hasattr(task, "terms") else {}
        saved = set(datastore.get_labeled_images()) if tag == DefaultLabelTag.FINAL else set()
        images = sorted(self.get_images(request, datastore))
        limit = int(request.get("max_batch_size") or len(images))
        results: dict[str, dict] = {}
        answered = 0
        for k, image in enumerate(images):
            try:
                kept = PERSONS if image in saved else self.kept(image, tag, terms, request, datastore)
                if kept:
                    results[image] = {"skipped": kept.format(tag=tag)}
                    continue
                if answered >= limit:
                    continue
                results[image] = run_infer_task(
                    {**request, "image": image, "save_label": True, "label_tag": tag}, datastore, infer
                )
                answered += 1
            except Exception as error:  # whatever is wrong with one scan, the others are still to be done
                results[image] = {"error": reason_of(error)}
            logger.info(f"{k + 1}/{len(images)} {image}: {results[image].get('error', 'done')}")
        return results

    @staticmethod
    def kept(image: str, tag: str, terms: dict, request: dict, datastore: Datastore) -> str:
        """Why the label of a scan stays as it is: a person's always does, another if it is what is asked for. Else empty."""
        label = datastore.get_label_by_image_id(image, tag)
        if not label:
            return ""
        info = datastore.get_label_info(label, tag)
        if not is_automatic(info):
            return PERSONS
        same = info.get("model") == request.get("model") and terms.items() <= info.get("params", {}).items()
        return DONE if same and not request.get("force") else ""
