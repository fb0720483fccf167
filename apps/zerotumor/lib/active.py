"""Which scan next, and how unsure the answers are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from zerotumor.metrics import dice
from zerotumor.segmenter import METHODS
from zerotumor.volumes import read_scan

from .archive import facts_of

logger = logging.getLogger(__name__)
KEY = "tumor_uncertainty"


class UncertaintyScoring(ScoringMethod):
    """Segments every scan without a final label and notes, for the prompt, how unsure the answer is."""

    def __init__(self, infer: Callable[[dict], tuple[str | None, dict]]) -> None:
        super().__init__("Uncertainty of the task tumor for a prompt, kept with each image")
        self.infer = infer

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """A request (`prompt`, `method`, `max_samples`) -> what was scored and what failed."""
        prompt = str(request.get("prompt") or "tumor")
        images = sorted(datastore.get_unlabeled_images(DefaultLabelTag.FINAL))
        scored, failed = {}, {}
        for image in images[: int(request.get("max_samples") or len(images))]:
            options = {"modality": request["modality"]} if "modality" in request else {}
            if request.get("method") in METHODS:  # in such a request MONAI Label writes the scoring's own name there
                options["method"] = request["method"]
            try:
                options |= {**facts_of(image, datastore), "image": datastore.get_image_uri(image), "prompt": prompt}
                _, reply = self.infer(options)
            except HTTPException as error:
                failed[image] = error.detail
                continue
            known = datastore.get_image_info(image).get(KEY) or {}
            known[prompt] = {"value": reply["uncertainty"], "score": reply["score"], "ts": int(time.time())}
            datastore.update_image_info(image, {KEY: known})
            scored[image] = reply["uncertainty"]
        return {"prompt": prompt, "scored": scored, "failed": failed}


class DiceScoring(ScoringMethod):
    """Dice of what the model proposed against what the annotator saved, of every scan that has both."""

    def __init__(self) -> None:
        super().__init__("Dice of original against final labels")

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """A request (`y`, `y_pred`: tags) -> Dice by image, and their mean."""
        truth, proposed = request.get("y") or DefaultLabelTag.FINAL, request.get("y_pred") or DefaultLabelTag.ORIGINAL
        values = {}
        for image in sorted(datastore.get_labeled_images()):
            labels = [datastore.get_label_by_image_id(image, tag) for tag in (truth, proposed)]
            if not all(labels):
                continue
            paths = [datastore.get_label_uri(label, tag) for label, tag in zip(labels, (truth, proposed), strict=True)]
            masks = [read_scan(path, labels=True)[0] > 0 for path in paths]
            if masks[0].shape == masks[1].shape:
                values[image] = float(dice(masks[1], masks[0]))
                datastore.update_label_info(labels[1], proposed, {"dice": values[image]})
        mean = sum(values.values()) / len(values) if values else None
        return {"dice": values, "mean": mean}


class First(Strategy):
    """The first scan without a final label, by name."""

    def __init__(self) -> None:
        super().__init__("First unlabeled scan by name")

    def __call__(self, request: dict, datastore: Datastore) -> dict | None:
        waiting = sorted(datastore.get_unlabeled_images(DefaultLabelTag.FINAL))
        return {"id": waiting[0], "reason": "first by name"} if waiting else None


class MostUncertain(Strategy):
    """The scan without a final label whose answer was least sure; scans that were never scored come first."""

    def __init__(self) -> None:
        super().__init__("Unlabeled scan whose answer to the prompt is least sure")

    def __call__(self, request: dict, datastore: Datastore) -> dict | None:
        prompt = str(request.get("prompt") or "tumor")
        ranked = []
        for image in sorted(datastore.get_unlabeled_images(DefaultLabelTag.FINAL)):
            known = (datastore.get_image_info(image).get(KEY) or {}).get(prompt)
            ranked.append((known["value"] if known else 2.0, image))
        if not ranked:
            return None
        value, image = max(ranked, key=lambda pair: (pair[0], pair[1]))
        reason = f"not scored yet for {prompt!r}" if value > 1 else f"uncertainty {value:.2f} for {prompt!r}"
        return {"id": image, "reason": reason}
