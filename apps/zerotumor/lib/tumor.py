"""The task `tumor`: one or several prompts in, one label map out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from torch import Tensor

from zerotumor.inferer import OVERLAP, VolumeResult
from zerotumor.maps import summaries
from zerotumor.pipeline import EncodedScan, segment_scan
from zerotumor.prompts import Prompt, PromptError, asks_for_anomaly, parse
from zerotumor.segmenter import Segmenter, asked_in_turn, class_of
from zerotumor.uncertainty import Uncertainty, assess, attach, case_uncertainty

from . import answers
from .engine import LATEST, STARTER, Engine
from .history import Histories
from .labels import ANOMALY, numbers_of, offered, prompts_of
from .options import QUALITIES, TumorOptions, checked, refuse
from .provenance import Ledger


@dataclass
class Asked:
    """A request that is understood: what to do with which scan."""

    options: TumorOptions
    path: object  # of the scan
    digest: str  # of its content
    encoded: EncodedScan
    encoding: float  # seconds
    model: Segmenter
    prompts: list[Prompt]


class Tumor(InferTask):
    """Segment what the text names. Options: prompt (several separated by ';'), method, modality, overlap, uncertainty.

    The prompt "anomaly" (or "where is anything unusual?") asks a method that has such a map for all that is unusual; what
    maps a method has is summed up in the reply whatever was asked (`maps`: peak and where, ml above the threshold).
    `quality` (fast, standard, best) trades time for quality where a method knows how.
    `uncertainty` looks at the scan several times and asks the other methods; `map` returns a map in place of labels.
    """

    def __init__(
        self, engine: Engine, histories: Histories, push: Callable | None = None, ledger: Ledger | None = None
    ) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=offered(engine.methods()),
            dimension=3,
            description="Find what you describe: write it into the prompt, several separated by ';'",
            config={"prompt": "tumor", "method": engine.offered, "modality": ["auto", "CT", "MR"], "overlap": OVERLAP,
                    "version": [LATEST, STARTER], "uncertainty": False,
                    **({"quality": list(QUALITIES)} if any(class_of(m).qualities for m in engine.methods()) else {})},
        )  # fmt: skip
        self.engine, self.histories, self.push, self.ledger = engine, histories, push, ledger

    def is_valid(self) -> bool:
        """There is always something to offer; what is wrong with the weights is said when they are used."""
        return True

    def understand(self, request: dict) -> Asked:
        """A request, checked, with its scan encoded.

        Raises:
            HTTPException: with one sentence, for whatever cannot be answered.
        """
        options = checked(TumorOptions, request)
        path = self.engine.image_path(options.dicom_folder or request.get("image"))
        digest, encoded, encoding = self.engine.encoded(path, options.method, options.stated_modality)
        model = self._model(options)
        prompts = self._prompts(options, encoded.modality, model)
        if any(map(asks_for_anomaly, prompts)) and ANOMALY not in model.maps:
            raise refuse(f"{options.method} has no map of anomalies: choose a method that has one, such as zept")
        if options.map not in ("", "uncertainty", *model.maps):
            raise refuse(f"{options.method} has no map {options.map!r}: choose uncertainty, or another method")
        return Asked(options, path, digest, encoded, encoding, model, prompts)

    def _model(self, options: TumorOptions) -> Segmenter:
        """The method, in the version and quality asked for."""
        model = self.engine.model(options.method, options.version)
        return model.at(options.quality) if options.quality in model.qualities else model

    @staticmethod
    def _prompts(options: TumorOptions, modality: str, model: Segmenter) -> list[Prompt]:
        text = prompts_of(options.label_prompt) if options.label_prompt else options.prompt
        try:
            return parse(text, modality=modality, encoder=model.encoder)
        except PromptError as error:
            raise refuse(str(error)) from None

    def terms(self, request: dict) -> dict:
        """What of a request decides the answer to a scan, as the reply will say it. No scan is looked at.

        Raises:
            HTTPException: an option is out of range, or there are no such weights.
        """
        options = checked(TumorOptions, request)
        model = self._model(options)
        said = made_by(options, model, self._prompts(options, "CT", model))
        return said if options.modality == "auto" else said | {"modality": options.modality}

    def committee(self, asked: Asked) -> dict[str, Tensor]:
        """What the other methods with weights find, (P, X, Y, Z) by name; one that cannot answer is left out."""
        found = {}
        for method in self.engine.methods():
            if method == asked_in_turn(asked.options.method)[0]:  # who is asked second has a vote
                continue
            _, encoded, _ = self.engine.encoded(asked.path, method, asked.options.stated_modality)
            try:
                found[method] = segment_scan(self.engine.model(method).as_voter(), encoded, asked.prompts).masks
            except PromptError:  # a method may know a fixed list of kinds alone
                continue
        return found

    @property
    def default_method(self) -> str:
        """What answers a request that names no method."""
        return self.engine.offered[0]

    def doubts(self, asked: Asked, committee: bool = True, plain: VolumeResult | None = None) -> list[Uncertainty]:
        """How unsure the answer to each prompt is, in full; with or without what the other methods find.

        Args:
            plain: the answer, if it is there already.
        """
        others = list(self.committee(asked).values()) if committee else []
        passes, overlap = asked.options.passes, asked.options.overlap
        return assess(
            asked.model, asked.encoded, asked.prompts, others=others, passes=passes, overlap=overlap, plain=plain
        )

    def __call__(self, request: dict) -> tuple[str | None, dict]:
        """A request -> the label map's file and the reply.

        Raises:
            HTTPException: with one sentence, for whatever cannot be answered.
        """
        started = time.perf_counter()
        asked = self.understand(request)
        options, encoded, model, prompts = asked.options, asked.encoded, asked.model, asked.prompts
        numbers = numbers_of(prompts)
        result = segment_scan(model, encoded, prompts, keep_probabilities=True, overlap=options.overlap)
        labels = answers.label_map(result.masks, numbers)
        entries = result.report["prompts"]
        for entry, number, probabilities in zip(entries, numbers, result.probabilities, strict=True):
            entry |= {"label": number, "uncertainty": case_uncertainty(probabilities, entry["score"])}
        maps = dict(result.extras)
        if options.doubts:
            maps["uncertainty"] = attach(entries, self.doubts(asked, plain=result.answer))
        union = result.masks.amax(0)
        self.histories.propose(asked.digest, options.client_id, union)
        said = made_by(options, model, prompts)
        if self.ledger is not None:
            facts = {"method": options.method, "weights_sha256": model.weights_sha256, "modality": encoded.modality}
            volume = round(sum(e["volume_ml"] for e in entries), 3)
            facts |= {"affine": encoded.scan.affine, "proposed_ml": volume}
            self.ledger.propose(asked.digest, options.client_id, said["prompt"], union, **facts)
        segmented = time.perf_counter()
        if options.map:
            file = answers.write_values(maps[options.map], encoded.scan, options)
        elif options.format:
            facts = {"method": options.method, "weights": model.weights_sha256}
            file = answers.write_dicom(result.masks, encoded.scan, entries, options, self.push, **facts)
        else:
            file = answers.write(labels, encoded.scan, options)
        missing = [e["prompt"] for e in entries if not e["found"]]
        return file, {
            "label_names": answers.names_present(labels, [p.text for p in prompts], numbers),
            **said,
            "version": getattr(model, "version", STARTER),
            "modality": encoded.modality,
            "prompts": entries,
            "message": f"nothing found for: {'; '.join(missing)}" if missing else "",
            "score": max(e["score"] for e in entries),
            "uncertainty": max(e["uncertainty"] for e in entries),
            "maps": summaries(maps, encoded.scan.affine),
            "volume_ml": round(sum(e["volume_ml"] for e in entries), 3),
            "latencies": {
                "encode": round(asked.encoding, 3),
                "segment": round(segmented - started - asked.encoding, 3),
                "write": round(time.perf_counter() - segmented, 3),
                "total": round(time.perf_counter() - started, 3),
            },
        }


def made_by(options: TumorOptions, model: Segmenter, prompts: list[Prompt]) -> dict:
    """What, besides the scan, an answer follows from."""
    return {
        "prompt": "; ".join(p.text for p in prompts),
        "method": options.method,
        "weights_sha256": model.weights_sha256,
        "quality": model.quality,
        "overlap": options.overlap,
        "map": options.map,
    }
