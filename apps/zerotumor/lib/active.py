"""Which scan next, and how unsure the answers are."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import torch
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from pydantic import BaseModel, Field
from torch import Tensor

from zerotumor.grids import on_grid
from zerotumor.in_turn import IN_TURN
from zerotumor.metrics import dice
from zerotumor.segmenter import METHODS, asked_in_turn
from zerotumor.selection import Candidate, descriptor, rank
from zerotumor.uncertainty import Uncertainty
from zerotumor.volumes import read_scan

from .archive import facts_of
from .engine import LATEST
from .options import TumorOptions, checked, first_of, reason_of
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

    A score remembers how it was made (method, weights, passes, committee, modality): what was scored just so is not scored
    again.
    """

    def __init__(self, tumor: Tumor) -> None:
        super().__init__("Uncertainty of the task tumor for a prompt, kept with each image")
        self.tumor = tumor

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """A request (`prompt`, `method`, `modality`, `passes`, `max_samples`, `force`) -> what was scored, skipped, failed.

        Scans with a final label are only looked at, so that `diversity` knows what is covered. `max_samples` counts scans
        that are scored: those that are done or cannot be read never stand in the way of the rest.

        Raises:
            HTTPException: an option is out of range.
        """
        prompt = prompt_of(request) or "tumor"
        waiting = sorted(datastore.get_unlabeled_images(DefaultLabelTag.FINAL))
        labeled = sorted(set(datastore.list_images()) - set(waiting))
        options = {k: request[k] for k in ("modality", "passes") if k in request}
        options["method"] = method_of(request) or self.tumor.default_method
        how = manner(self.tumor, options)
        limit = int(request.get("max_samples") or len(waiting))
        scored, skipped, failed = {}, [], {}
        for image in [*waiting, *labeled]:
            full = image not in labeled
            asked, made = (options, how) if full else (options | {"passes": 0}, how | {"passes": 0, "committee": False})
            try:
                known = datastore.get_image_info(image).get(KEY) or {}
                # A labeled scan needs a look alone, and has had it if it was scored in full.
                if not request.get("force") and any(agrees(known.get(prompt, {}), m) for m in (how, made)):
                    skipped.append(image)
                    continue
                if full and len(scored) >= limit:
                    continue
                facts = {**facts_of(image, datastore), "image": datastore.get_image_uri(image), "prompt": prompt}
                record = self.score({**asked, **facts}, committee=full)
                datastore.update_image_info(image, {KEY: {**known, prompt: {**record, **made}}})
            except Exception as error:  # whatever is wrong with one scan, the others are still to be scored
                failed[image] = reason_of(error)
                continue
            if full:
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
            "ts": int(time.time()),
        }


class DiceScoring(ScoringMethod):
    """Dice of what the model proposed against what the annotator saved, of every scan that has both on one grid."""

    def __init__(self) -> None:
        super().__init__("Dice of original against final labels")

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """A request (`y`, `y_pred`: tags) -> Dice by image, their mean, and why others with both labels have none."""
        truth, proposed = request.get("y") or DefaultLabelTag.FINAL, request.get("y_pred") or DefaultLabelTag.ORIGINAL
        values, failed = {}, {}
        for image in sorted(datastore.get_labeled_images()):
            try:
                value = self.score(image, truth, proposed, datastore)
            except Exception as error:  # whatever is wrong with one label, the others are still to be compared
                failed[image] = reason_of(error)
                continue
            if value is not None:
                values[image] = value
        mean = sum(values.values()) / len(values) if values else None
        return {"dice": values, "mean": mean, "failed": failed}

    @staticmethod
    def score(image: str, truth: str, proposed: str, datastore: Datastore) -> float | None:
        """Dice of an image's labels of two tags, kept with the proposed one; None if it has not both.

        Raises:
            ScanError: a label cannot be read, or they do not lie on one grid.
        """
        labels = [datastore.get_label_by_image_id(image, tag) for tag in (truth, proposed)]
        if not all(labels):
            return None
        paths = [datastore.get_label_uri(label, tag) for label, tag in zip(labels, (truth, proposed), strict=True)]
        drawn, made = (read_scan(path, labels=True) for path in paths)
        drawn = on_grid(drawn, made.affine, made.shape[1:])  # voxels that lie apart cannot be compared
        value = float(dice(made[0] > 0, drawn[0] > 0))
        datastore.update_label_info(labels[1], proposed, {"dice": value})
        return value


class SampleOptions(BaseModel):
    """What a client of a strategy may set, besides prompt and method."""

    seed: int | None = Field(None, ge=-(2**31), lt=2**31)


class Ranked(Strategy):
    """A ranking of the scans without a final label, from what is known of each for the prompt.

    Args:
        name: one of `selection.STRATEGIES`. made_by: method -> what a score is made by now, see `maker`.
    """

    def __init__(self, name: str, made_by: Callable[[str | None], dict]) -> None:
        super().__init__(DESCRIPTIONS[name])
        self.name, self.made_by = name, made_by

    def __call__(self, request: dict, datastore: Datastore) -> dict | None:
        """A request (`prompt`, `seed`, `method`) -> the first of the ranking with its reason, and the ranking; None if all
        scans are labeled.

        Scans that were not scored for the prompt come last. If none was, the first by name is it, and the reason says so.

        Raises:
            HTTPException: the seed is no whole number, or too large.
        """
        waiting = sorted(datastore.get_unlabeled_images(DefaultLabelTag.FINAL))
        if not waiting:
            return None
        seed = checked(SampleOptions, request).seed
        seed = random.randrange(2**31) if seed is None else seed
        if self.name in ("random", "first"):
            return self._reply(rank(self.name, [Candidate(i) for i in waiting], seed=seed), "", [])
        records = {i: datastore.get_image_info(i).get(KEY) or {} for i in datastore.list_images()}
        prompt = prompt_of(request) or latest(records)
        known, note = self._fresh({i: r[prompt] for i, r in records.items() if prompt in r}, method_of(request))
        # A scan that was looked at while it had a label has no score that compares.
        scored = [i for i in waiting if i in known and known[i].get("committee", True)]
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
        """Records of the method and the weights in use; if there are none, the newest others, and a note that they are old.

        Those of different methods or weights are never mixed: neither their values nor their descriptors compare.
        """
        made_by = self.made_by(method)
        fresh = {i: r for i, r in records.items() if agrees(r, made_by)}
        if fresh or not records:
            return fresh, ""
        newest = max(records.values(), key=lambda r: r.get("ts", 0))
        made_by = {k: newest.get(k) for k in made_by}
        note = "scored by another method or with other weights: score again"
        return {i: r for i, r in records.items() if agrees(r, made_by)}, note

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
    return {shown: Ranked(name, lambda method: maker(tumor, method)) for shown, name in NAMES.items()}


def current(tumor: Tumor, method: str | None = None) -> dict[str, str]:
    """Hashes of the weights that an answer would be made with now: of the method asked, with what it has learned here, and
    of the rest of the committee, as they ship."""
    asked = method or tumor.default_method
    others = (m for m in tumor.engine.methods() if m != asked_in_turn(asked)[0])
    models = {asked: tumor.engine.model(asked, LATEST), **{m: tumor.engine.model(m) for m in others}}
    return {m: model.weights_sha256 for m, model in models.items()}


def maker(tumor: Tumor, method: str | None = None) -> dict:
    """What a score is made by now: the method asked, and the weights."""
    return {"method": method or tumor.default_method, "weights": current(tumor, method)}


def manner(tumor: Tumor, options: dict) -> dict:
    """How a score is made with certain options: by what, from how many looks, with the other methods' votes.

    Raises:
        HTTPException: an option is out of range.
    """
    asked = checked(TumorOptions, options)
    return {**maker(tumor, asked.method), "passes": asked.passes, "committee": True, "modality": asked.modality}


def agrees(record: dict, terms: dict) -> bool:
    """Whether a record was made so."""
    return all(record.get(k) == v for k, v in terms.items())


def method_of(request: dict) -> str | None:
    """The method of a request; None if it names none, as where MONAI Label writes the scoring's own name there."""
    value = first_of(request.get("method"))
    return value if isinstance(value, str) and value in (*METHODS, IN_TURN) else None


def prompt_of(request: dict) -> str:
    """The prompt of a request in one line; empty if there is none."""
    value = first_of(request.get("prompt"))
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
