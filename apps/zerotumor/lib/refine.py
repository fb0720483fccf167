"""The task `tumor_refine`: clicks in, a corrected mask out."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.data import MetaTensor
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from torch import Tensor

from zerotumor.clicks import Click
from zerotumor.errors import ScanError
from zerotumor.grids import on_grid
from zerotumor.pipeline import EncodedScan, segment_scan
from zerotumor.prompts import Prompt, PromptError, parse
from zerotumor.refine import Refiner, check_clicks, load_refiner
from zerotumor.report import describe_prompt
from zerotumor.segmenter import WeightsError
from zerotumor.volumes import read_scan

from . import answers
from .engine import Engine
from .history import Histories, History, unpack
from .labels import LABELS
from .options import RefineOptions, checked, refuse
from .provenance import Ledger

UNNAMED = re.compile(r"(segment|segmentation|label|mask|lesion|tumou?r)?[\s_-]*\d*", re.IGNORECASE)
"""Names that viewers give to segments by themselves: they say nothing of what is looked for. A prompt always does."""


class TumorRefine(InferTask):
    """Correct a lesion by clicks. Starts from an uploaded mask, from the text that the segment is called by, from what
    `tumor` last found in the scan, or from nothing."""

    def __init__(
        self, engine: Engine, histories: Histories, push: Callable | None = None, weights: Path | None = None,
        ledger: Ledger | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            type=InferType.DEEPGROW,
            labels=LABELS,  # of no account to the mask, but OHIF corrects the segment that is chosen among them
            dimension=3,
            description="Click inside what is missing and outside what is too much",
            config={"prompt": "", "method": engine.offered, "modality": ["auto", "CT", "MR"], "undo": False,
                    "reset": False},
        )  # fmt: skip
        self.engine, self.histories, self.push, self.weights = engine, histories, push, weights
        self.ledger = ledger
        self._refiner: Refiner | None = None
        self._loading = threading.Lock()

    def is_valid(self) -> bool:
        """There is always something to offer; what is wrong with the weights is said when they are used."""
        return True

    def refiner(self) -> Refiner:
        """The click network, loaded at first use.

        Raises:
            HTTPException: its weights are missing or damaged.
        """
        with self._loading:
            if self._refiner is None:
                try:
                    self._refiner = load_refiner(self.weights, self.engine.device)
                except WeightsError as error:
                    raise refuse(str(error), 500) from None
            return self._refiner

    def __call__(self, request: dict) -> tuple[str | None, dict]:
        """A request -> the mask's file and the reply.

        Raises:
            HTTPException: with one sentence, for whatever cannot be answered.
        """
        started = time.perf_counter()
        options = checked(RefineOptions, request)
        path = self.engine.image_path(options.dicom_folder or request.get("image"))
        digest, encoded, encoding = self.engine.encoded(path, options.method, options.stated_modality)
        shape = tuple(encoded.scan.shape[1:])
        clicks = clicks_of(options)
        if clicks:
            try:
                check_clicks(clicks, shape)
            except ValueError as error:
                raise refuse(str(error)) from None
        text, given = self._text(options), self._uploaded(options.label, encoded.scan)
        key = (digest, options.client_id, text)
        with self.histories.lock(key):
            history = self._history(key, clicks, given, encoded, options)
            mask = self._answer(history, clicks, encoded, options)
            self.histories.put(key, history)
            self._note(digest, options, text, history, encoded, given is not None)
        refined = time.perf_counter()
        labels = mask.to(torch.uint8)
        name = text or "lesion"
        entry = describe_prompt(Prompt(name, name), mask, encoded.scan.affine, float(bool(mask.any())))
        if options.format:
            made_by = {"method": "clicks", "semiautomatic": True}
            file = answers.write_dicom(mask[None], encoded.scan, [entry], options, self.push, **made_by)
        else:
            file = answers.write(labels, encoded.scan, options)
        return file, {
            "label_names": answers.names_present(labels, [name], [1]),
            "prompt": name,
            "method": "clicks",
            "modality": encoded.modality,
            "clicks": len(history.steps[-1].clicks),
            "steps": len(history.steps) - 1,
            "message": "" if entry["found"] else "the mask is empty: click inside the lesion",
            "volume_ml": entry["volume_ml"],
            "centroid_mm": entry["centroid_mm"],
            "prompts": [entry],
            "latencies": {
                "encode": round(encoding, 3),
                "refine": round(refined - started - encoding, 3),
                "write": round(time.perf_counter() - refined, 3),
                "total": round(time.perf_counter() - started, 3),
            },
        }

    def _history(
        self, key: tuple[str, str, str], clicks: tuple[Click, ...], given: Tensor | None, encoded: EncodedScan,
        options: RefineOptions,
    ) -> History:  # fmt: skip
        """What to go on from: the lesion as it is, or a new start.

        A lesion starts anew if it would now start from something else than it did (other weights, another proposal), unless
        the request goes on from clicks on it.
        """
        digest, client, text = key
        shape = tuple(encoded.scan.shape[1:])
        if options.reset or given is not None:
            self.histories.drop(key)
        history = self.histories.get(key)
        origin = self._origin(encoded, options) if text else self.histories.proposal(digest, client)
        if history is not None and history.shape == shape:
            same = origin in ("", history.origin)  # empty: since a restart, nothing was proposed
            if same or options.undo or history.knows(clicks):
                return history
        history = History(shape, origin=origin)
        history.add((), given if given is not None else self._start(digest, encoded, options, text))
        return history

    def _origin(self, encoded: EncodedScan, options: RefineOptions) -> str:
        """What makes the mask that a text stands for: method, weights, modality."""
        weights = self.engine.model(options.method, options.version).weights_sha256
        return f"{options.method} {weights} {encoded.modality}"

    def _note(
        self, digest: str, options: RefineOptions, text: str, history: History, encoded: EncodedScan, uploaded: bool
    ) -> None:
        """What a label that comes back will be said to come from."""
        if self.ledger is None:
            return
        start, clicks = unpack(history.steps[0].mask, history.shape), history.steps[-1].clicks
        voxel_ml = abs(float(torch.linalg.det(encoded.scan.affine[:3, :3].double()))) / 1000
        facts = {
            "modality": encoded.modality,
            "affine": encoded.scan.affine,
            "proposed_ml": round(float(start.sum()) * voxel_ml, 3),
        }
        if uploaded or not text:
            facts["method"] = "uploaded mask" if uploaded else "clicks"
        else:
            made_by = (history.origin or self._origin(encoded, options)).split()
            facts |= dict(zip(("method", "weights_sha256"), made_by, strict=False))
        refined_by = self._refiner.weights_sha256 if self._refiner is not None else ""
        self.ledger.clicked(digest, options.client_id, text, start, clicks, refined_by, **facts)

    def _answer(
        self, history: History, clicks: tuple[Click, ...], encoded: EncodedScan, options: RefineOptions
    ) -> Tensor:
        """The mask after this request; the history is brought up to date."""
        if options.undo:
            return unpack(history.undo().mask, history.shape)
        step, new = history.agreeing(clicks)
        mask = unpack(step.mask, history.shape)
        if new:
            ordered = (*step.clicks, *new)
            mask = self.refiner().update(encoded.scan, encoded.modality, mask, ordered, options.roi)
            history.add(ordered, mask)
        return mask

    def _text(self, options: RefineOptions) -> str:
        """What is looked for: the prompt as it is, or the segment's name if it says something."""
        prompt, name = " ".join(options.prompt.split()), " ".join(options.label.split())
        return prompt or ("" if _is_file(options.label) or UNNAMED.fullmatch(name) else name)

    def _uploaded(self, label: str, scan: MetaTensor) -> Tensor | None:
        """A mask that came with the request, (X, Y, Z) bool."""
        if not _is_file(label):
            return None
        try:
            mask = on_grid(read_scan(self.engine.image_path(label), labels=True), scan.affine, scan.shape[1:])
        except ScanError as error:
            raise refuse(str(error), 422) from None
        return mask.as_tensor()[0] > 0

    def _start(self, digest: str, encoded: EncodedScan, options: RefineOptions, text: str) -> Tensor:
        """The mask to start from, (X, Y, Z) bool."""
        if text:
            model = self.engine.model(options.method, options.version)
            try:
                prompts = parse(text, modality=encoded.modality, encoder=model.encoder)
            except PromptError as error:
                raise refuse(str(error)) from None
            return segment_scan(model, encoded, prompts).masks.amax(0) > 0
        proposed = self.histories.proposed(digest, options.client_id)
        return proposed if proposed is not None else torch.zeros(encoded.scan.shape[1:], dtype=torch.bool)


def clicks_of(options: RefineOptions) -> tuple[Click, ...]:
    """Clicks of a request. Viewers send inside and outside apart, without their order; each list is in order itself.

    Raises:
        HTTPException: a click is both. OHIF sends the clicks outside as both while `background` is the chosen segment.
    """
    both = set(options.foreground) & set(options.background)
    if both:
        raise refuse(
            f"the click {min(both)} is both inside and outside: choose the lesion's segment again, and run then"
        )
    inside = [Click(tuple(i), True) for i in options.foreground]
    return (*inside, *(Click(tuple(i), False) for i in options.background))


def _is_file(label: str) -> bool:
    """MONAI Label puts the path of an uploaded mask where a viewer puts the segment's name."""
    return label.startswith("/") and os.path.isfile(label)  # pathlib's would not bear a name that is too long
