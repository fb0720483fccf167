"""Which scan next, and how unsure the answers are."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import torch
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from torch import Tensor

from zerotumor.metrics import dice
from zerotumor.segmenter import METHODS
from zerotumor.selection import Candidate, descriptor, rank
from zerotumor.uncertainty import Uncertainty
from zerotumor.volumes import read_scan

from .archive import facts_of
from .engine import LATEST
from .tumor import Tumor

logger = logging.getLogger(__name__)
KEY = "tumor_uncertainty"
"""Where an image's info keeps its scores: prompt -> record."""
SHOWN = 10
"""Places of the ranking that a reply shows."""
NAMES = {  # of strategies, as clients see them
    "tumor_uncertainty": "uncertainty",
    "tumor_committee": "committee",
    "tumor_diversity": "diversity",
    "tumor_mix": "mix",
    "random": "random",
    "first": "first",
}
DESCRIPTIONS = {
    "uncertainty": "Unlabeled scan whose answer to the prompt is least sure",
    "committee": "Unlabeled scan on which the methods disagree most",
    "diversity": "Unlabeled scan that is least like all labeled ones where the prompt points",
    "mix": "Unlabeled scan with the best mean place by uncertainty, disagreement and diversity",
    "random": "Unlabeled scan drawn at random",
    "first": "First unlabeled scan by name",
}


class UncertaintyScoring(ScoringMethod):
    """Notes with every scan, for a prompt, how unsure the answer is and what the scan looks like where the prompt points.

    A score remembers the weights that it was made with: what was scored with the present ones is not scored again.
    """

    def __init__(self, tumor: Tumor) -> None:
        super().__init__("Uncertainty of the task tumor for a prompt, kept with each image")
        self.tumor = tumor

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """A request (`prompt`, `method`, `modality`, `passes`, `max_samples`, `force`) -> what was scored, skipped, failed.

        Scans with a final label are only looked at, so that `diversity` knows what is covered. `max_samples` counts scans
        that are scored: those that are done or cannot be read never stand in the way of the rest.
        """
        prompt = prompt_of(request) or "tumor"
        waiting = sorted(datastore.get_unlabeled_images(DefaultLabelTag.FINAL))
        labeled = sorted(set(datastore.list_images()) - set(waiting))
        options = {k: request[k] for k in ("modality", "passes") if k in request}
        if request.get("method") in METHODS:  # in such a request MONAI Label writes the scoring's own name there
            options["method"] = request["method"]
        weights = current(self.tumor, options.get("method"))
        limit = int(request.get("max_samples") or len(waiting))
        scored, skipped, failed = {}, [], {}
        for image in [*waiting, *labeled]:
            known = datastore.get_image_info(image).get(KEY) or {}
            if not request.get("force") and known.get(prompt, {}).get("weights") == weights:
                skipped.append(image)
                continue
            if image not in labeled and len(scored) >= limit:
                continue
            looks = {"passes": 0} if image in labeled else {}
            try:
                facts = {**facts_of(image, datastore), "image": datastore.get_image_uri(image), "prompt": prompt}
                record = self.score({**options, **facts, **looks}, committee=image not in labeled)
            except HTTPException as error:
                failed[image] = error.detail
                continue
            datastore.update_image_info(image, {KEY: {**known, prompt: {**record, "weights": weights}}})
            if image not in labeled:
                scored[image] = record["value"]
        return {"prompt": prompt, "scored": scored, "skipped": skipped, "failed": failed}

    def score(self, request: dict, committee: bool) -> dict:
        """The record of one scan and prompt."""
        asked = self.tumor.understand(request)
        unsure = self.tumor.doubts(asked, committee)
        rows = descriptor(asked.model, asked.encoded, asked.prompts, probabilities_of(unsure))
        worst = max(unsure, key=lambda u: u.value)
        return {
            **worst.parts(),
            "descriptor": [round(x, 4) for x in rows.mean(0).tolist()],
            "method": asked.options.method,
            "ts": int(time.time()),
        }


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


class Ranked(Strategy):
    """A ranking of the scans without a final label, from what is known of each for the prompt.

    Args:
        name: one of `selection.STRATEGIES`. weights: method -> hashes of the weights in use, see `current`.
    """

    def __init__(self, name: str, weights: Callable[[str | None], dict]) -> None:
        super().__init__(DESCRIPTIONS[name])
        self.name, self.weights = name, weights

    def __call__(self, request: dict, datastore: Datastore) -> dict | None:
        """A request (`prompt`, `seed`, `method`) -> the first of the ranking with its reason, and the ranking; None if all
        scans are labeled.

        Scans that were not scored for the prompt come last. If none was, the first by name is it, and the reason says so.
        """
        waiting = sorted(datastore.get_unlabeled_images(DefaultLabelTag.FINAL))
        if not waiting:
            return None
        seed = int(request["seed"]) if str(request.get("seed", "")).lstrip("-").isdigit() else random.randrange(2**31)
        if self.name in ("random", "first"):
            return self._reply(rank(self.name, [Candidate(i) for i in waiting], seed=seed), "", [])
        records = {i: datastore.get_image_info(i).get(KEY) or {} for i in datastore.list_images()}
        prompt = prompt_of(request) or latest(records)
        known, note = self._fresh({i: r[prompt] for i, r in records.items() if prompt in r}, request.get("method"))
        scored = [i for i in waiting if i in known]
        if not scored:
            how = f'POST /scoring/{KEY} with {{"prompt": "{prompt}"}}'
            choices = rank("first", [Candidate(i) for i in waiting])
            return self._reply(choices, prompt, [f"no scan is scored for {prompt!r} yet, so the first by name: {how}"])
        candidates = [candidate(i, known[i]) for i in scored]
        labelled = [r["descriptor"] for i, r in known.items() if i not in waiting and r.get("descriptor")]
        choices = rank(self.name, candidates, labelled, seed)
        best = known[choices[0].id]
        said = [choices[0].reason, str(best.get("reason", ""))] if self.name != "diversity" else [choices[0].reason]
        left = len(waiting) - len(scored)
        said += [note] if note else []
        said += [f"{left} not scored yet"] if left else []
        return self._reply(choices, prompt, list(dict.fromkeys(s for s in said if s)))

    def _fresh(self, records: dict[str, dict], method: str | None) -> tuple[dict[str, dict], str]:
        """Records of the weights in use; if there are none, the newest others, and a note that they are old.

        Those of different weights are never mixed: neither their values nor their descriptors compare.
        """
        weights = self.weights(method if method in METHODS else None)
        fresh = {i: r for i, r in records.items() if r.get("weights") == weights}
        if fresh or not records:
            return fresh, ""
        newest = max(records.values(), key=lambda r: r.get("ts", 0)).get("weights")
        return {
            i: r for i, r in records.items() if r.get("weights") == newest
        }, "scored with other weights: score again"

    def _reply(self, choices: list, prompt: str, reasons: list[str]) -> dict:
        first = choices[0]
        reason = "; ".join(reasons) or first.reason
        return {
            "id": first.id,
            "reason": f"{prompt}: {reason}" if prompt else reason,
            "prompt": prompt,
            "ranking": [{"id": c.id, "score": round(c.score, 4), "reason": c.reason} for c in choices[:SHOWN]],
        }


def strategies(tumor: Tumor) -> dict[str, Strategy]:
    """All strategies by the names that clients see."""
    return {shown: Ranked(name, lambda method: current(tumor, method)) for shown, name in NAMES.items()}


def current(tumor: Tumor, method: str | None = None) -> dict[str, str]:
    """Hashes of the weights that an answer would be made with now: of the method asked, with what it has learned here, and
    of the rest of the committee, as they ship."""
    asked = method or tumor.default_method
    others = (m for m in tumor.engine.methods() if m != asked)
    models = {asked: tumor.engine.model(asked, LATEST), **{m: tumor.engine.model(m) for m in others}}
    return {m: model.weights_sha256 for m, model in models.items()}


def prompt_of(request: dict) -> str:
    """The prompt of a request in one line; empty if there is none."""
    value = request.get("prompt")
    value = value[0] if isinstance(value, list) and value else value
    return " ".join(value.split()) if isinstance(value, str) else ""


def latest(records: dict[str, dict]) -> str:
    """The prompt to go by where a client sends none, as OHIF does: "tumor" if it was scored, else the one scored last."""
    newest: dict[str, int] = {}
    for by_prompt in records.values():
        for prompt, record in by_prompt.items():
            newest[prompt] = max(newest.get(prompt, 0), record.get("ts", 0))
    return "tumor" if "tumor" in newest or not newest else max(newest, key=newest.get)


def candidate(image: str, record: dict) -> Candidate:
    """What a record says of an image. Entropy orders scans: the calibrated value has plateaus, on which all are equal."""
    return Candidate(image, record["entropy"], record.get("disagreement_ml"), record.get("descriptor") or ())


def probabilities_of(unsure: list[Uncertainty]) -> Tensor:
    """Mean probabilities (P, x, y, z) behind P assessments."""
    return torch.stack([u.probability for u in unsure])
