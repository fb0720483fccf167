"""The plan of scripts/train_starter.py as data: what is trained from what, for how many steps, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zerotumor.in_turn import IN_TURN
from zerotumor.segmenter import AND

PHANTOMS = "phantoms"
"""Folder, in that of the runs, of the phantoms that several methods share: all on one grid, whatever a network's is."""
MALENIA = ("train",)
DENSE = ("train", "dense_train")
ZEPT = ("train", "zept", "zept_train")
ATTENTION = ("train", "diffugts", "diffugts_attention", "diffugts_taps")
CLOSED_SET = ("train", "closed_set_train")
RESIDUAL = ("train", "diffugts", "diffugts_residual")


@dataclass(frozen=True)
class Stage:
    """One run of `monai.bundle run`. Paths are relative to the folder of all runs."""

    name: str  # method/stage: its folder too
    configs: tuple[str, ...]  # of bundle/configs, later ones on top
    fixed: Mapping[str, object] = field(default_factory=dict)  # override -> value, whatever the budget
    needs: Mapping[str, str] = field(default_factory=dict)  # override -> file of an earlier stage
    shared: Mapping[str, str] = field(default_factory=dict)  # override -> folder that stages have in common
    makes: str = "model.pt"  # its .json beside it
    ships: Mapping[str, str] = field(default_factory=dict)  # file in its folder -> file in bundle/models

    @property
    def method(self) -> str:
        return self.name.split("/")[0]


STAGES = (
    Stage("malenia/dense", MALENIA, {"dense": True, "learning_rate": 1.4e-3}, shared={"dataset_dir": PHANTOMS}),
    Stage(
        "malenia/whole", MALENIA, {"learning_rate": 8e-4}, {"pretrained": "malenia/dense/model.pt"},
        {"dataset_dir": PHANTOMS}, ships={"model.pt": "model.pt"},
    ),
    Stage(
        "refine/clicks", ("train_refine",), {"learning_rate": 6e-4}, {"pretrained": "malenia/whole/model.pt"},
        ships={"model.pt": "refine/model.pt"},
    ),
    Stage(
        "zept/dense", DENSE, {"network_config::mask_channels": 32, "network_config::fine_channels": 16},
        {"pretrained": "malenia/whole/model.pt"}, {"dataset_dir": PHANTOMS},
    ),
    Stage(
        "zept/organs", ZEPT, {"stage": 1, "renamed": {"method.": ""}},
        {"pretrained": "zept/dense/best.pt", "organ_layer": "zept/dense/best.pt"}, {"dataset_dir": PHANTOMS},
    ),
    Stage(
        "zept/tumors", ZEPT, {"stage": 2}, {"pretrained": "zept/organs/best.pt"}, {"dataset_dir": PHANTOMS},
        ships={"model.pt": "zept/model.pt"},
    ),
    Stage("diffugts/autoencoder", ("diffusion_autoencoder",), makes="autoencoder.pt"),
    Stage(
        "diffugts/unet", ("diffusion_unet",), {}, {"autoencoder_weights": "diffugts/autoencoder/autoencoder.pt"},
        makes="diffusion.pt",
    ),
    Stage(
        "diffugts/attention", ATTENTION, {"learning_rate": 3e-3}, {"prior_weights": "diffugts/unet/diffusion.pt"},
        {"dataset_dir": PHANTOMS},
    ),
    Stage(
        "diffugts/residual", RESIDUAL, {},
        {"prior_weights": "diffugts/unet/diffusion.pt", "pretrained": "diffugts/attention/best.pt"},
        ships={"model.pt": "diffugts/model.pt", "diffusion.pt": "diffugts/diffusion.pt"},
    ),
    Stage(
        "closed_set/whole", CLOSED_SET, {"learning_rate": 8e-4}, {"pretrained": "malenia/dense/model.pt"},
        {"dataset_dir": PHANTOMS}, ships={"model.pt": "closed_set/model.pt"},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Length:
    """How long a stage is trained, and on what."""

    steps: int
    batch: int
    phantoms: int
    seconds: float  # a step, before anything was measured on the machine
    more: Mapping[str, object] = field(default_factory=dict)  # further overrides


@dataclass(frozen=True)
class Budget:
    """All lengths; epochs are what a pause waits for, so they are short."""

    what: str
    epoch: int  # steps
    validate: int  # epochs between validations
    val_count: int
    stages: Mapping[str, Length]
    theta_phantoms: int  # of scripts/calibrate.py, with a lesion and without
    thetas: str | None  # None: that script's own
    doubt_phantoms: int  # of scripts/calibrate_uncertainty.py
    passes: int
    cases: int | None  # of each set of scripts/evaluate.py; None: all


FAINT = {"train_faint": 2800, "workers": 1}
DRAWN = {"train_healthy": 1600}
"""Lesions drawn in real healthy scans, beside the phantoms; none where the scans are not there."""
MASSES = {
    f"train_masses::{region}": n
    for region, n in {"limb": 1200, "head": 900, "chest": 1500, "abdomen": 900, "pelvis": 600}.items()
}
ADDED = ("train_faint", *MASSES, *DRAWN)
"""Overrides that say how many samples are made besides `Length.phantoms`."""
TINY = {"network_config::channels": "[4,4,4,4,4]", "network_config::mask_channels": 2, "network_config::patch": 32,
        "network_config::spacing": 8.0, "sample_spacing": 8.0, "workers": 0}  # fmt: skip
TINY_PRIOR = {
    "autoencoder": {"num_channels": [4, 4, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4},
    "unet": {"num_channels": [8, 8], "num_res_blocks": 1, "attention_levels": [False, True],
             "num_head_channels": [0, 8], "norm_num_groups": 4},
}  # fmt: skip
SMALL = {"patch": 16, "spacing": 8.0, "workers": 0}
TINY_TEXT = {"network_config::prior": TINY_PRIOR, "network_config::patch": 16, "network_config::spacing": 8.0,
             "network_config::fusion_hidden": 4, "network_config::wordings": 1, "network_config::context_mm": 32.0,
             "workers": 0}  # fmt: skip
GPU_FAINT = {"train_faint": 800, "workers": 12, **DRAWN}

BUDGETS = {
    "cpu": Budget(
        "two cores, over hours", 100, 4, 32,
        {
            "malenia/dense": Length(8000, 4, 7200, 0.9, FAINT | DRAWN),
            "malenia/whole": Length(3200, 4, 7200, 1.9, FAINT | DRAWN | MASSES),
            "refine/clicks": Length(3600, 4, 2400, 0.6, DRAWN | MASSES),
            "zept/dense": Length(7000, 4, 7200, 0.6, FAINT | DRAWN | MASSES | {"part": 32}),  # Malenia's phantoms
            "zept/organs": Length(1000, 4, 7200, 1.6, FAINT | DRAWN | MASSES),
            "zept/tumors": Length(4000, 4, 7200, 1.6, FAINT | DRAWN | MASSES),
            "diffugts/autoencoder": Length(200, 4, 2400, 0.3),  # it starts without loss
            "diffugts/unet": Length(6000, 4, 2400, 1.0),
            "diffugts/attention": Length(10000, 2, 2400, 1.0),  # phantoms and their twins
            "diffugts/residual": Length(2000, 4, 600, 1.0),
            "closed_set/whole": Length(3200, 4, 7200, 0.8, FAINT | DRAWN | MASSES),  # as many as Malenia's second stage
        },
        40, None, 24, 4, None,
    ),
    "gpu": Budget(
        "25 minutes of one data-center GPU", 100, 5, 32,
        {
            "malenia/dense": Length(3000, 8, 3200, 0.05, GPU_FAINT),
            "malenia/whole": Length(1200, 8, 3200, 0.15, GPU_FAINT | MASSES),
            "refine/clicks": Length(1200, 8, 1600, 0.2, {"workers": 12, **DRAWN, **MASSES}),
            "zept/dense": Length(1200, 8, 3200, 0.1, GPU_FAINT | MASSES),
            "zept/organs": Length(200, 8, 3200, 0.12, GPU_FAINT | MASSES),
            "zept/tumors": Length(800, 8, 3200, 0.12, GPU_FAINT | MASSES),
            "diffugts/autoencoder": Length(200, 8, 2400, 0.06, {"workers": 12}),
            "diffugts/unet": Length(3000, 16, 600, 0.05),  # these are made in the process that trains
            "diffugts/attention": Length(3000, 4, 600, 0.08),  # these are made in the process that trains
            "diffugts/residual": Length(400, 8, 160, 0.1),
            "closed_set/whole": Length(1200, 8, 3200, 0.04, GPU_FAINT | MASSES),
        },
        40, None, 24, 4, None,
    ),
    "smoke": Budget(
        "a few steps of tiny networks, to see that everything runs", 1, 1, 1,
        {
            "malenia/dense": Length(2, 2, 2, 1.0, TINY | {"network_config::dim": 8, "network_config::tokens": 2}),
            "malenia/whole": Length(2, 2, 2, 1.0, TINY | {"network_config::dim": 8, "network_config::tokens": 2}),
            "refine/clicks": Length(2, 2, 2, 1.0, {
                "network_config::channels": "[4,4,4,4,4]", "network_config::mask_channels": 2, "edge": 32,
                "sample_edge": 40, "workers": 0,
            }),
            "zept/dense": Length(2, 2, 2, 1.0, TINY | {"network_config::dim": 8, "network_config::tokens": 2}),
            "zept/organs": Length(2, 2, 2, 1.0, TINY | {"network_config::width": 8, "network_config::heads": 2}),
            "zept/tumors": Length(2, 2, 2, 1.0, TINY | {"network_config::width": 8, "network_config::heads": 2}),
            "diffugts/autoencoder": Length(2, 2, 2, 1.0, SMALL | {
                "crop": 16, "network_config": TINY_PRIOR["autoencoder"],
            }),
            "diffugts/unet": Length(2, 2, 2, 1.0, SMALL | {"unet_config": TINY_PRIOR["unet"]}),
            "diffugts/attention": Length(2, 2, 2, 1.0, TINY_TEXT),
            "diffugts/residual": Length(2, 2, 2, 1.0, TINY_TEXT | {"quality": "fast"}),
            "closed_set/whole": Length(2, 2, 2, 1.0, TINY),
        },
        1, "0.5", 4, 0, 1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """A script that makes something of shipped weights; `{models}`, `{cards}` and the budget's numbers are filled in."""

    name: str
    needs: str  # the stage whose weights it takes
    weights: str  # their name in the folder of models
    script: str
    arguments: tuple[str, ...]


QUIET = {"malenia": "0.75", "zept": "0.75", "closed_set": "0.75", "diffugts": "0.5"}
"""Share of healthy phantoms that theta must keep quiet, where it is not scripts/calibrate.py's own, and see there."""
PEAKS = {
    "malenia": "0.5,0.55,0.6,0.65,0.7",
    "zept": "0.7,0.8,0.9,0.95,0.98,0.99",
    "closed_set": "0.5,0.6,0.7,0.8,0.9,0.95,0.98",
}
"""What theta_peak is chosen from."""


def theta(method: str, last: str, file: str) -> Tool:
    """The thresholds, into the record of the weights."""
    arguments = ("--weights", f"{{models}}/{file}", "--count", "{theta}", "--quiet", QUIET.get(method, "0.9"))
    arguments += ("--peaks", PEAKS[method]) if method in PEAKS else ()
    arguments += ("--quality", "fast") if method == "diffugts" else ()
    return Tool(f"{method}/theta", last, file, "calibrate.py", arguments)


def reliability_picture(method: str) -> str:
    """Name of the diagram of what a method's probabilities are worth; the first method's is the plain one."""
    return "reliability.png" if method == next(iter(LAST)) else f"reliability_{method.replace(AND, '_')}.png"


IN_TURN_DOUBTS = f"{IN_TURN}/uncertainty"


def doubts(method: str, last: str, file: str) -> Tool:
    """What probabilities and doubts are worth."""
    arguments = (
        "--method", method, "--weights", "{models}", "--count", "{doubt}", "--passes", "{passes}",
        "--out", "{models}/uncertainty.json", "--picture", f"{{cards}}/{reliability_picture(method)}",
    )  # fmt: skip
    return Tool(f"{method}/uncertainty", last, file, "calibrate_uncertainty.py", arguments)


JOINT = "zept/joint"
"""What masks have to reach where it has a say in Malenia's finds; as SECOND, which is measured with it, and after it."""
SECOND = "zept/second"
"""From when on it speaks where Malenia finds nothing; nothing to be done where that one has no weights."""


def with_malenia(name: str, option: str, quiet: str, peaks: str) -> Tool:
    """A peak of ZePT's beside Malenia, or after it."""
    last, file = LAST["zept"]
    arguments = (
        "--weights", f"{{models}}/{file}", option, "{models}/model.pt", "--count", "{theta}", "--quiet", quiet,
        "--peaks", peaks,
    )  # fmt: skip
    return Tool(name, last, file, "calibrate.py", arguments)


LAST = {
    "malenia": ("malenia/whole", "model.pt"),
    "zept": ("zept/tumors", "zept/model.pt"),
    "diffugts": ("diffugts/residual", "diffugts/model.pt"),
    "closed_set": ("closed_set/whole", "closed_set/model.pt"),
}
"""Method or opponent -> the stage whose weights are shipped, and their name."""
TOOLS = (
    *(theta(method, *last) for method, last in LAST.items()),
    with_malenia(JOINT, "--beside", "0.75", "0.55,0.6,0.65,0.7"),
    with_malenia(SECOND, "--after", "0.97", "0.8,0.9,0.95,0.98,0.99,0.995,0.999,0.9995,0.9998"),
    *(doubts(method, *last) for method, last in LAST.items() if method != "closed_set"),
    doubts(IN_TURN, *LAST["zept"]),
)
CARDS = "cards"
"""The last step, for all methods that are there: evaluate.py, evaluate_organs.py, model_card.py."""
