"""What methods are measured on: a fixed set of phantoms, and real scans with truth.

Seeds from 9,000,000 up are for testing alone. Each category has one prompt, its plain name; prompts and cases were chosen
before any result was seen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from .grids import read_labels
from .phantom import Phantom, generate
from .vocabulary import LESIONS, ORGANS
from .volumes import read_scan

logger = logging.getLogger(__name__)
T = TypeVar("T")
TEST_SEED = 9_000_000
PHANTOM_SHAPE, PHANTOM_SPACING = (88, 88, 72), 3.0
SEEN = [("liver tumor", 8), ("kidney tumor", 8), ("kidney cyst", 8)]
UNSEEN = [
    ("pancreatic tumor", 4), ("pancreatic cyst", 2), ("lung tumor", 4), ("colon tumor", 4), ("hepatic vessel tumor", 4),
    ("soft tissue sarcoma", 8), ("brain tumor", 6), ("meningioma", 2), ("spleen tumor", 2), ("bone tumor", 2),
    ("bladder tumor", 2), ("breast tumor", 2), ("prostate tumor", 2), ("adrenal tumor", 2),
]  # fmt: skip
HEALTHY = [("abdomen", "CT"), ("abdomen", "MR"), ("limb", "CT"), ("limb", "MR"), ("chest", "CT"), ("head", "MR"),
           ("pelvis", "CT"), ("pelvis", "MR"), ("abdomen", "CT"), ("limb", "MR")] * 2  # fmt: skip
HEALTHY_PROMPTS = {
    "abdomen": ("liver tumor", "kidney tumor", "pancreatic tumor"),
    "limb": ("soft tissue sarcoma",),
    "chest": ("lung tumor",),
    "head": ("brain tumor",),
    "pelvis": ("bladder tumor", "soft tissue sarcoma"),
}
ELSEWHERE = {
    **dict.fromkeys(("liver tumor", "hepatic vessel tumor", "pancreatic cyst", "spleen tumor"), "kidney tumor"),
    **dict.fromkeys(("kidney tumor", "kidney cyst", "pancreatic tumor", "colon tumor", "adrenal tumor"), "liver tumor"),
    "bone tumor": "soft tissue sarcoma",
}
"""What the wrong words are for a category: a tumor of an organ that the same scans show. For all others, a bone tumor."""
WRONG_WORDS = "bone tumor"


@dataclass
class Case:
    """One scan, and for each prompt the truth that it asks for."""

    name: str
    set: str  # phantom, real or words
    modality: str
    read: Callable[[], tuple[MetaTensor, dict[str, Tensor], dict[str, Tensor]]]  # scan; prompt -> truth, host region
    prompts: dict[str, tuple[str, str]] = field(default_factory=dict)  # prompt -> (category, split)
    files: tuple[Path, ...] = ()  # that it is read from


def spread(cases: Iterable[T], count: int | None) -> list[T]:
    """So many evenly spread ones of a list of cases; all of them without a number."""
    cases = list(cases)
    n = len(cases)
    return cases if count is None or count >= n else [cases[i * n // count] for i in range(count)]


def measured_phantoms() -> Iterator[tuple[int, dict, dict[str, tuple[str, str]]]]:
    """Seed, arguments of `phantom.generate` and prompts of all test phantoms: 24 seen, 46 unseen and 20 healthy."""
    seed = TEST_SEED
    for split, table in (("seen", SEEN), ("unseen", UNSEEN)):
        for category, count in table:
            allowed = LESIONS[category].modalities  # in turns, so that both are tested evenly
            for k in range(count):
                yield seed, {"category": category, "modality": allowed[k % len(allowed)]}, {category: (category, split)}
                seed += 1
    for region, modality in HEALTHY:
        prompts = {p: ("healthy", "healthy") for p in HEALTHY_PROMPTS[region]}
        yield seed, {"category": "healthy", "region": region, "modality": modality}, prompts
        seed += 1


def measured_phantom(seed: int, arguments: dict) -> tuple[MetaTensor, Phantom]:
    """A test phantom as a scan (1, X, Y, Z), and all that is known of it."""
    phantom = generate(seed, shape=PHANTOM_SHAPE, spacing=PHANTOM_SPACING, **arguments)
    meta = {"modality": phantom.modality, "path": f"phantom-{seed}"}
    return MetaTensor(phantom.image, affine=np.diag([*phantom.spacing, 1.0]), meta=meta), phantom


def phantom_cases() -> Iterator[Case]:
    """The test phantoms, always the same."""
    for seed, arguments, prompts in measured_phantoms():
        yield _phantom(seed, arguments, prompts)


def _phantom(seed: int, arguments: dict, prompts: dict) -> Case:
    def read() -> tuple[MetaTensor, dict, dict]:
        scan, phantom = measured_phantom(seed, arguments)
        truth = {p: (phantom.lesions[0] > 0).to(torch.uint8) for p in prompts}
        regions = {}
        if arguments["category"] != "healthy":
            hosts = [ORGANS[h].index for h in LESIONS[arguments["category"]].hosts]
            region = torch.isin(phantom.organs[0], torch.tensor(hosts, dtype=torch.uint8))
            regions = dict.fromkeys(prompts, region)
        return scan, truth, regions

    return Case(f"phantom-{seed}", "phantom", arguments["modality"], read, prompts)


def data_folder() -> Path | None:
    """Folder of real scans: $ZEROTUMOR_DATA, or shared/data beside the repository; None if there is none."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    given = os.environ.get("ZEROTUMOR_DATA")
    return next((Path(f) for f in (given, beside) if f and Path(f).is_dir()), None)


def real_cases(folder: Path | None = None) -> Iterator[Case]:
    """Every real scan with truth in the data folder, and a warning that names those missing; none if there is no folder."""
    folder = folder or data_folder()
    missing = missing_cases(folder)
    if missing:
        _warn_once(f"real scans left out, for files that {folder} lacks: {', '.join(missing)}; complete the folder")
    if folder is not None:
        yield from (case for case in _listed(folder) if case.name not in missing)


def missing_cases(folder: Path | None = None) -> dict[str, str]:
    """Real scans that the data folder has no files of, or not all: name -> the first that is missing."""
    folder = folder or data_folder()
    cases = [] if folder is None else _listed(folder)
    gaps = {case.name: [f for f in case.files if not f.is_file()] for case in cases}
    return {name: f"{files[0]} is missing" for name, files in gaps.items() if files}


@lru_cache
def _warn_once(sentence: str) -> None:
    """A warning that is not repeated when the cases are listed again."""
    logger.warning(sentence)


def _listed(folder: Path) -> Iterator[Case]:
    """Every real scan with truth that belongs in the data folder."""
    tumor = folder / "tumour"
    patients = sorted((tumor / "sts").glob("STS_*"))
    for patient in patients or [tumor / "sts" / "STS_*"]:  # none at all are missing too
        for modality, stem in (("CT", "CT"), ("MR", "MR_T1")):
            image, mask = patient / f"{stem}_image.nii.gz", patient / f"{stem}_mask.nii.gz"
            yield _files(
                f"{patient.name}-{modality}", modality, image, mask, {"soft tissue sarcoma": (None, "sarcoma")}
            )
    lung = tumor / "4dlung_113"
    truths = {"lung tumor": ((4,), "lung tumor"), "lymph node metastasis": ((3,), "lymph node metastasis")}
    yield _files("4dlung_113", "CT", lung / "image_crop.nii.gz", lung / "label_crop.nii.gz", truths)
    for name, prompt in (("brain1", "brain tumor"), ("brain2", "brain tumor"), ("breast1", "breast tumor")):
        files = [tumor / "brain_mr" / f"{name}_{kind}.nrrd" for kind in ("image", "label")]
        yield _files(name, "MR", *files, {prompt: (None, prompt)})
    gbm = tumor / "upenn_gbm"
    yield _files("upenn_gbm", "MR", gbm / "t2.nii.gz", gbm / "seg.nii.gz", {"glioblastoma": (None, "glioblastoma")})
    tiny = tumor / "tiny_flair"
    yield _files(
        "tiny_flair", "MR", tiny / "image.nii.gz", tiny / "mask.nii.gz", {"brain tumor": (None, "brain tumor")}
    )
    prostate = folder / "dicom" / "prostate_mr_seg" / "derived"
    truths = {"prostate tumor": ((4,), "prostate tumor")}
    yield _files("prostate_adc", "MR", prostate / "image_adc.nii.gz", prostate / "label_adc.nii.gz", truths)
    healthy = folder / "healthy" / "totalsegmentator"
    asked = ("liver tumor", "kidney tumor", "kidney cyst", "pancreatic tumor", "soft tissue sarcoma")
    for name, modality in (("example_ct", "CT"), ("example_ct_sm", "CT"), ("example_mr_sm", "MR")):
        prompts = {p: (None, "healthy") for p in asked}
        yield _files(name, modality, healthy / f"{name}.nii.gz", None, prompts, split="healthy")


def word_cases(folder: Path | None = None) -> Iterator[Case]:
    """Every case with a lesion, asked by the wrong words for a tumor of another organ: there is none."""
    for case in (*phantom_cases(), *real_cases(folder)):
        category, split = next(iter(case.prompts.values()))
        if split != "healthy":
            asked = ELSEWHERE.get(category, WRONG_WORDS)
            yield Case(case.name, "words", case.modality, _empty(case, asked), {asked: (category, "elsewhere")})


def _empty(case: Case, asked: str) -> Callable[[], tuple[MetaTensor, dict, dict]]:
    def read() -> tuple[MetaTensor, dict, dict]:
        scan, _, _ = case.read()
        return scan, {asked: torch.zeros(scan.shape[1:], dtype=torch.uint8)}, {}

    return read


def _files(
    name: str, modality: str, image: Path, mask: Path | None, prompts: dict[str, tuple], split: str = "unseen"
) -> Case:
    """A case from files; `prompts` maps a prompt to the mask's label values (None: all) and the category."""

    def read() -> tuple[MetaTensor, dict, dict]:
        scan = read_scan(image)
        truth = {}
        for prompt, (values, _) in prompts.items():
            if mask is None:
                truth[prompt] = torch.zeros(scan.shape[1:], dtype=torch.uint8)
                continue
            labels = read_labels(mask, scan)
            truth[prompt] = (labels > 0 if values is None else torch.isin(labels, torch.tensor(values))).to(torch.uint8)
        return scan, truth, {}

    files = (image,) if mask is None else (image, mask)
    return Case(name, "real", modality, read, {p: (c, split) for p, (_, c) in prompts.items()}, files)
