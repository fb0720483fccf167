"""The trainer `tumor`: learns from the labels that people saved, to a new version beside the weights in use."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask
from pydantic import BaseModel, ConfigDict, Field

from zerotumor.adaptation import TOGETHER, Adapted, Specialist
from zerotumor.annotated import LESION, Annotation, Checked, checked, kinds
from zerotumor.annotation import LabelError
from zerotumor.errors import ScanError
from zerotumor.examples import REPLAYED, Example, example, replay
from zerotumor.held_out import HeldOut, learn_where_it_helps, means
from zerotumor.learning import FEWEST, STEPS
from zerotumor.prompts import Prompt, PromptError, parse
from zerotumor.segmenter import Segmenter
from zerotumor.transforms import ModalityError
from zerotumor.versions import RECORD, save_version, versions_of

from .engine import LATEST, STARTER, Engine
from .options import checked as checked_options
from .options import refuse

logger = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")


class TrainOptions(BaseModel):
    """What a client may set."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field("", max_length=300)  # only labels of this text, or of these, with ';' between; default: of all
    version: str = Field("", max_length=60)  # name of the new one; default: date and time
    steps: int = Field(STEPS, ge=1, le=5000)
    replayed: int = Field(REPLAYED, ge=0, le=200)
    seed: int = Field(0, ge=0, lt=2**31)
    check: bool = True  # use what was learned only where corrected scans say so when they are left out


class TrainTumor(TrainTask):
    """Learns a specialist for every text that labels were saved under. Weights and earlier versions are never overwritten.

    A run that was stopped goes on where it was when it is started again with the same labels and options.

    Args:
        engine: for scans and models. versions: where versions go. runs: for what a stopped run needs to go on.
    """

    def __init__(self, engine: Engine, versions: Path, runs: Path) -> None:
        super().__init__("Learn from the saved labels, to a new version beside the weights in use")
        self.engine, self.versions, self.runs = engine, versions, runs

    def config(self) -> dict:
        """Options with their defaults."""
        return {**TrainOptions().model_dump(), "method": self.engine.methods()}

    def stats(self) -> dict:
        """What the newest version of each method says of itself."""
        out = {}
        for method in self.engine.methods():
            names = versions_of(self.versions, method)
            if names:
                out[method] = {"version": names[-1], "versions": names, **_facts(self.versions / names[-1])}
        return out

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """Learn; returns the new version, what it was learned from, how scans are answered that are left out, and what was
        not learned from and why.

        Raises:
            HTTPException: an option is out of range, no label can be learned from, or what was learned does not help.
        """
        options = checked_options(TrainOptions, request)
        given = request.get("method")
        method = given if isinstance(given, str) and given in self.engine.methods() else self.engine.methods()[0]
        version = options.version or time.strftime("%Y%m%d-%H%M%S")
        if not NAME.fullmatch(version) or version in (STARTER, LATEST) or (self.versions / version).exists():
            raise refuse(
                f"{version!r} cannot be the name of a new version: take letters, digits, - and _, and a new name"
            )
        model = self.engine.model(method)
        groups, refused = self._examples(model, method, options, datastore)
        few = {key: some for key, some in groups.items() if len({one.name for one in some}) < FEWEST}
        for (prompt, modality), some in few.items():
            why = f"{len(some)} scan with {prompt.text!r} in {modality} is too few to learn from: correct another"
            refused |= dict.fromkeys((one.name for one in some), why)
        groups = {key: some for key, some in groups.items() if key not in few}
        if not groups:
            why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise refuse(f"there is no label to learn from: correct a scan and save it{f' ({why})' if why else ''}")
        before = self.engine.latest(method)
        old = [] if before == STARTER else list(self.engine.model(method, before).specialists)
        learned = dict(_facts(self.versions / before).get("learned_from", {})) if old else {}
        held_out = dict(_facts(self.versions / before).get("held_out", {})) if old else {}
        specialists = {(s.learned.prompt, s.learned.modality): s for s in old}
        key = self._key(model, options, groups)
        useless: dict[str, str] = {}
        for n, ((prompt, modality), examples) in enumerate(groups.items()):
            name, names = f"{prompt.text} {modality}", sorted({e.name for e in examples})
            specialist, held = self._specialist(model, prompt, modality, examples, options, self.runs / key / str(n))
            # What was learned from fewer labels goes, too: they are among those that speak against it.
            for kept in (specialists, learned, held_out):
                kept.pop((prompt.text, modality) if kept is specialists else name, None)
            if held:
                held_out[name] = [asdict(h) for h in held]
            if specialist is None:
                useless[name] = no_help(held)
                refused |= dict.fromkeys(names, useless[name])
            else:
                specialists[prompt.text, modality], learned[name] = specialist, names
        if len(useless) == len(groups) and len(specialists) == len(old):
            shutil.rmtree(self.runs / key, ignore_errors=True)
            why = "; ".join(f"{name}: {reason}" for name, reason in useless.items())
            raise refuse(f"nothing was learned, and no version made: {why}. Send check: false to keep it all the same")
        facts = {"learned_from": learned, "held_out": held_out, "refused": refused, "parent": before,
                 "options": options.model_dump()}  # fmt: skip
        save_version(Adapted(model, list(specialists.values())), self.versions / version, method=method, **facts)
        shutil.rmtree(self.runs / key, ignore_errors=True)
        logger.info(f"learned version {version}")
        return {"version": version, "method": method, **{k: facts[k] for k in ("learned_from", "held_out", "refused")}}

    def _specialist(
        self,
        model: Segmenter,
        prompt: Prompt,
        modality: str,
        examples: list[Example],
        options: TrainOptions,
        checkpoints: Path,
    ) -> tuple[Specialist | None, list[HeldOut]]:
        """What is learned of a prompt, or None if it does not help; and how each scan is answered when it is left out."""
        logger.info(f"learning {prompt.text!r} in {modality} from {len(examples)} scans")
        return learn_where_it_helps(
            model, prompt, modality, examples, replay(prompt, modality, options.replayed, options.seed),
            steps=options.steps, seed=options.seed, check=options.check, checkpoints=checkpoints,
        )  # fmt: skip

    def _examples(
        self, model: Segmenter, method: str, options: TrainOptions, datastore: Datastore
    ) -> tuple[dict[tuple[Prompt, str], list[Example]], dict[str, str]]:
        """Examples by prompt and modality; and the labels that cannot be learned from, with the reason."""
        groups: dict[tuple[Prompt, str], list[Example]] = {}
        refused: dict[str, str] = {}
        only = kinds(options.prompt)
        for annotation in saved(datastore):
            try:
                label = checked(annotation)
                for prompt, values in prompts_of(label, model).items():
                    if only and prompt.name not in only:
                        continue
                    _, encoded, _ = self.engine.encoded(annotation.image, method, label.modality)
                    mask = torch.isin(label.labels(), torch.tensor(values, dtype=torch.uint8))
                    one = example(model, encoded, prompt, mask, annotation.id)
                    groups.setdefault((prompt, label.modality), []).append(one)
            except (LabelError, ScanError, ModalityError, PromptError) as error:
                refused[annotation.id] = str(error)
            except HTTPException as error:
                refused[annotation.id] = str(error.detail)
        return groups, refused

    @staticmethod
    def _key(model: Segmenter, options: TrainOptions, groups: dict[tuple[Prompt, str], list[Example]]) -> str:
        """Names a run by all that decides its result, so that only the same run goes on from what it left."""
        digest = hashlib.sha256(f"{model.weights_sha256} {options.steps} {options.replayed} {options.seed}".encode())
        for (prompt, modality), examples in groups.items():
            digest.update(f"{prompt.text} {modality}".encode())
            for one in examples:
                digest.update(one.image.numpy().tobytes())
                digest.update(one.truth.numpy().tobytes())
        return digest.hexdigest()[:16]


def no_help(held: list[HeldOut]) -> str:
    """Why a specialist is not kept."""
    mean = means(held)
    return (
        f"scans that are left out are answered worse by what the others teach (overlap {mean['before']:.2f} without, "
        f"{mean[TOGETHER]:.2f} with it), so it is not used: correct more scans"
    )


def saved(datastore: Datastore) -> Iterator[Annotation]:
    """All final labels of a datastore, by image."""
    for image in sorted(datastore.get_labeled_images()):
        label = datastore.get_label_by_image_id(image, DefaultLabelTag.FINAL)
        if not label:
            continue
        yield Annotation(
            image,
            Path(datastore.get_image_uri(image)),
            Path(datastore.get_label_uri(label, DefaultLabelTag.FINAL)),
            datastore.get_label_info(label, DefaultLabelTag.FINAL) or {},
            datastore.get_image_info(image) or {},
        )


def prompts_of(label: Checked, model: Segmenter) -> dict[Prompt, list[int]]:
    """What was asked for, and the label values that show it: lesions of one name are one mask, and a scan counts once.

    Raises:
        LabelError: nobody said what it is. PromptError: what was said is no prompt.
    """
    out: dict[Prompt, list[int]] = {}
    for value, name in label.names.items():
        if re.fullmatch(rf"{LESION}( \d+)?", name):  # what `names_of` calls those of which nothing is known
            raise LabelError("nothing says what the label shows: save it with a prompt, or name its segment")
        (prompt,) = parse(name, modality=label.modality, encoder=model.encoder)
        out.setdefault(prompt, []).append(value)
    return out


def _facts(version: Path) -> dict:
    return json.loads((version / RECORD).read_text())
