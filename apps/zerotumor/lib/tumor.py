"""The task `tumor`: one or several prompts in, one label map out."""

from __future__ import annotations

import time
from collections.abc import Callable

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from zerotumor.maps import summaries
from zerotumor.pipeline import segment_scan
from zerotumor.prompts import PromptError, asks_for_anomaly, parse
from zerotumor.uncertainty import case_uncertainty

from . import answers
from .engine import Engine
from .history import Histories
from .labels import ANOMALY, numbers_of, offered, prompts_of
from .options import TumorOptions, checked, refuse


class Tumor(InferTask):
    """Segment what the text names. Options: prompt (several separated by ';'), method, modality, overlap.

    The prompt "anomaly" (or "where is anything unusual?") asks a method that has such a map for all that is unusual; what
    maps a method has is summed up in the reply whatever was asked (`maps`: peak and where, ml above the threshold).
    """

    def __init__(self, engine: Engine, histories: Histories, push: Callable | None = None) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=offered(engine.methods()),
            dimension=3,
            description="Find what you describe: write it into the prompt, several separated by ';'",
            config={"prompt": "tumor", "method": engine.methods(), "modality": ["auto", "CT", "MR"], "overlap": 0.5},
        )
        self.engine, self.histories, self.push = engine, histories, push

    def is_valid(self) -> bool:
        """There is always something to offer; what is wrong with the weights is said when they are used."""
        return True

    def __call__(self, request: dict) -> tuple[str | None, dict]:
        """A request -> the label map's file and the reply.

        Raises:
            HTTPException: with one sentence, for whatever cannot be answered.
        """
        started = time.perf_counter()
        options = checked(TumorOptions, request)
        path = self.engine.image_path(options.dicom_folder or request.get("image"))
        digest, encoded, encoding = self.engine.encoded(path, options.method, options.stated_modality)
        model = self.engine.model(options.method)
        text = prompts_of(options.label_prompt) if options.label_prompt else options.prompt
        try:
            prompts = parse(text, modality=encoded.modality, encoder=model.encoder)
        except PromptError as error:
            raise refuse(str(error)) from None
        if any(map(asks_for_anomaly, prompts)) and ANOMALY not in model.maps:
            raise refuse(f"{options.method} has no map of anomalies: choose a method that has one, such as zept")
        numbers = numbers_of(prompts)
        result = segment_scan(model, encoded, prompts, keep_probabilities=True, overlap=options.overlap)
        labels = answers.label_map(result.masks, numbers)
        entries = result.report["prompts"]
        for entry, number, probabilities in zip(entries, numbers, result.probabilities, strict=True):
            entry |= {"label": number, "uncertainty": case_uncertainty(probabilities, entry["score"])}
        self.histories.propose(digest, options.client_id, result.masks.amax(0))
        segmented = time.perf_counter()
        if options.format:
            made_by = {"method": options.method, "weights": model.weights_sha256}
            file = answers.write_dicom(result.masks, encoded.scan, entries, options, self.push, **made_by)
        else:
            file = answers.write(labels, encoded.scan, options)
        missing = [e["prompt"] for e in entries if not e["found"]]
        return file, {
            "label_names": answers.names_present(labels, [p.text for p in prompts], numbers),
            "prompt": "; ".join(p.text for p in prompts),
            "method": options.method,
            "modality": encoded.modality,
            "weights_sha256": model.weights_sha256,
            "prompts": entries,
            "message": f"nothing found for: {'; '.join(missing)}" if missing else "",
            "score": max(e["score"] for e in entries),
            "uncertainty": max(e["uncertainty"] for e in entries),
            "maps": summaries(result.extras, encoded.scan.affine),
            "volume_ml": round(sum(e["volume_ml"] for e in entries), 3),
            "latencies": {
                "encode": round(encoding, 3),
                "segment": round(segmented - started - encoding, 3),
                "write": round(time.perf_counter() - segmented, 3),
                "total": round(time.perf_counter() - started, 3),
            },
        }
