"""The loop of annotation, simulated: what is annotated, what an annotator saves, and what is learned, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from evaluate_clicks import clicked
from torch import Tensor

from zerotumor.adaptation import Specialist, chosen
from zerotumor.annotation import LabelError, check_label
from zerotumor.cohorts import measured_phantom, real_cases
from zerotumor.edges import along_edges
from zerotumor.examples import Example, example_of, method_logits, place_of
from zerotumor.held_out import learn_where_it_helps
from zerotumor.inferer import settled
from zerotumor.learning import FEWEST, STEPS
from zerotumor.metrics import dice
from zerotumor.pipeline import EncodedScan, encode_scan, segment_scan, to_grid
from zerotumor.prompts import Prompt, parse
from zerotumor.refine import Refiner
from zerotumor.segmenter import Segmenter
from zerotumor.selection import Candidate, descriptor, rank
from zerotumor.uncertainty import assess, case_uncertainty

SETS = ("sarcoma-ct", "sarcoma-mr", "phantom-sarcoma")
PROMPT = "soft tissue sarcoma"
POOL_SEED = 7_500_000
"""Phantoms to annotate; neither training, nor calibration, nor any test draws from there."""


@dataclass
class Scan:
    """One scan of the pool, and all of it that stays the same while others are corrected."""

    name: str
    encoded: EncodedScan
    truth: Tensor  # (X, Y, Z) bool
    said: Tensor  # (x, y, z) logits of the method
    place: Tensor | None  # (x, y, z) how well it fits the prompt
    descriptor: Tensor  # (C,)
    disagreement_ml: float | None


def pool(name: str, model: Segmenter, committee: Sequence[Segmenter], count: int) -> tuple[Prompt, str, list[Scan]]:
    """The scans of a set, encoded; their prompt and modality.

    Raises:
        ValueError: there is no such set, or the real scans are not here.
    """
    modality = "CT" if name == "sarcoma-ct" else "MR"
    prompt = parse(PROMPT, modality=modality, encoder=model.encoder)[0]
    if name == "phantom-sarcoma":
        arguments = {"category": PROMPT, "modality": modality}
        cases = [(f"phantom-{POOL_SEED + k}", *_phantom(POOL_SEED + k, arguments)) for k in range(count)]
    elif name in SETS:
        listed = [c for c in real_cases() if c.modality == modality and PROMPT in c.prompts]
        sick = [c for c in listed if c.prompts[PROMPT][1] != "healthy"]
        cases = [(c.name, *c.read()[:2]) for c in sick]
    else:
        raise ValueError(f"there is no set {name!r}: choose one of {', '.join(SETS)}")
    if not cases:
        raise ValueError("no real scans here: set ZEROTUMOR_DATA to their folder, or take --on phantom-sarcoma")
    scans = []
    for case, scan, truths in cases:
        encoded = encode_scan(model, scan, modality=modality)
        votes = [segment_scan(m, scan, [prompt], modality=modality).masks for m in committee]
        split = assess(model, encoded, [prompt], others=votes, passes=0)[0].disagreement_ml if votes else None
        said, place = method_logits(model, encoded, prompt), place_of(model, encoded, prompt)
        described = descriptor(model, encoded, [prompt])[0]
        scans.append(Scan(case, encoded, truths[PROMPT] > 0, said, place, described, split))
    return prompt, modality, scans


def _phantom(seed: int, arguments: dict) -> tuple:
    scan, phantom = measured_phantom(seed, arguments)
    return scan, {PROMPT: phantom.lesions[0]}


def corrected(scan: Scan, proposal: Tensor, refiner: Refiner | None, modality: str, clicks: int) -> tuple[Tensor, int]:
    """The label that an annotator saves, (X, Y, Z) bool, and the clicks that it took: the truth is drawn by hand."""
    if refiner is None:
        return scan.truth, 0
    masks = [proposal, *clicked(refiner, scan.encoded.scan, modality, proposal, scan.truth, clicks)]
    return masks[-1], len(masks) - 1


@dataclass
class Setting:
    """What one simulation is made of."""

    model: Segmenter
    prompt: Prompt
    modality: str
    scans: list[Scan]
    replayed: list[Example]
    refiner: Refiner | None
    clicks: int
    rounds: int
    learn_after: Sequence[int]
    steps: int = STEPS
    check: bool = True
    known: dict[tuple, Specialist | None] = field(default_factory=dict)
    answered: dict[tuple, Tensor] = field(default_factory=dict)

    def learned(self, examples: Sequence[Example], seed: int) -> Specialist | None:
        """What the server would learn and keep of corrected scans, if anything; strategies often pick the same ones."""
        key = (seed, *sorted(f"{one.name} {int(one.truth.sum())}" for one in examples))
        if key not in self.known:
            named = sorted(examples, key=lambda one: one.name)
            given = (self.model, self.prompt, self.modality, named, self.replayed)
            self.known[key], _ = learn_where_it_helps(*given, steps=self.steps, seed=seed, check=self.check)
        return self.known[key]

    def probability(self, scan: Scan, specialist: Specialist | None) -> Tensor:
        """(x, y, z) on the method's grid. What is said of a scan never changes, so it is asked once."""
        if specialist is None:
            return scan.said.sigmoid()
        key = (id(specialist), scan.name)
        if key not in self.answered:
            image = torch.as_tensor(scan.encoded.prepared).as_subclass(Tensor)
            self.answered[key] = specialist.answer(image, scan.place)
        return chosen(self.model, scan.said, self.answered[key], specialist.learned.where).sigmoid()

    def answer(self, scan: Scan, specialist: Specialist | None) -> Tensor:
        """(X, Y, Z) bool on the scan's grid."""
        image = torch.as_tensor(scan.encoded.prepared).as_subclass(Tensor)
        found = settled(self.model, self.probability(scan, specialist)[None])
        found = along_edges(image, found, self.model.edge_weight)
        return to_grid(found, scan.encoded.prepared.affine, scan.encoded.scan)[0] >= 0.5

    def unsure(self, scan: Scan, specialist: Specialist | None) -> float:
        """Of the present model, in one look: rounds are many."""
        found = self.probability(scan, specialist)
        return case_uncertainty(found, float(found.amax()))


def simulate(setting: Setting, strategy: str, seed: int) -> tuple[list[dict], Specialist | None, list[Scan]]:
    """One loop over the pool: a row a round; what was learned in the end, and the scans that were never picked."""
    specialist, spent, refused = None, 0, 0
    waiting, done, examples, rows = list(setting.scans), [], [], []
    before = {s.name: dice(setting.answer(s, None), s.truth) for s in waiting}
    for k in range(setting.rounds + 1):
        values = [dice(setting.answer(s, specialist), s.truth) for s in waiting]
        rows.append(
            {
                "strategy": strategy,
                "seed": seed,
                "scans": k,
                "clicks": spent,
                "dice": sum(values) / len(values),
                "zero_shot": sum(before[s.name] for s in waiting) / len(waiting),
                "picked": done[-1].name if done else "",
                "refused": refused,
                "adapted": specialist.learned.where if specialist else "",
            }
        )
        if k == setting.rounds:
            break
        candidates = [
            Candidate(s.name, setting.unsure(s, specialist), s.disagreement_ml, s.descriptor) for s in waiting
        ]
        # The first pick of all strategies but random depends on nothing random: seeds differ in what patches are drawn.
        choice = rank(strategy, candidates, [s.descriptor for s in done], 100 * seed + k)[0]
        picked = next(s for s in waiting if s.name == choice.id)
        label, clicks = corrected(
            picked, setting.answer(picked, specialist), setting.refiner, setting.modality, setting.clicks
        )
        spent += clicks
        try:
            check_label(label[None], picked.encoded.scan)
            known = (picked.encoded, picked.said, picked.place)
            examples.append(example_of(*known, label, setting.model.spacing, picked.name))
        except LabelError:
            refused += 1
        waiting = [s for s in waiting if s.name != picked.name]
        done.append(picked)
        if k + 1 in setting.learn_after and len(examples) >= FEWEST:
            specialist = setting.learned(examples, seed)
    return rows, specialist, waiting
