"""What scripts/train_starter.py does with its plan: what is done, what is next, and how a stage is started and stopped."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from starter_plan import ADDED, BUDGETS, IN_TURN_DOUBTS, JOINT, LAST, SECOND, STAGES, Budget, Stage, Tool

from zerotumor import checkpoints
from zerotumor.devices import AUTO, device_of
from zerotumor.healthy import healthy_files
from zerotumor.in_turn import IN_TURN, joint_peak, joint_sha256, peak_after
from zerotumor.pause import PAUSED
from zerotumor.precision import in_hardware
from zerotumor.segmenter import asked_in_turn, sha256
from zerotumor.volumes import write_atomically, write_json

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
GRACE = 20
"""Seconds that a process has to end after it was told to."""


class ProgrammeError(RuntimeError):
    """The programme cannot go on; one sentence with the remedy."""


def whole(weights: Path) -> bool:
    """Whether a weights file and its record are there and belong together; not so if writing them was cut off."""
    try:
        return json.loads(weights.with_suffix(".json").read_text())["sha256"] == sha256(weights)
    except (OSError, json.JSONDecodeError, KeyError):
        return False


def start(command: Sequence[str], log: Path, until: float | None = None) -> int:
    """Run a command with its output appended to a log; its exit status, or PAUSED if time ran out and it was ended."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BUNDLE), os.environ.get("PYTHONPATH", "")])}
    with open(log, "ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent, env=environment)
        try:
            return process.wait(None if until is None else max(0.0, until - time.time()))
        except subprocess.TimeoutExpired:
            return PAUSED
        finally:  # also on Ctrl-C: nothing is left running
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


class Programme:
    """All runs of one budget in one folder.

    Args:
        out: the folder. name: of the budget. budget: its lengths, if they are not those of the name.

    Raises:
        ProgrammeError: the folder holds the runs of another budget, or there is no such budget.
    """

    def __init__(self, out: Path, name: str, budget: Budget | None = None) -> None:
        if name not in BUDGETS:
            raise ProgrammeError(f"there is no budget {name!r}: choose one of {', '.join(BUDGETS)}")
        self.out, self.name, self.budget = Path(out).resolve(), name, budget or BUDGETS[name]
        self.models, self.cards = self.out / "models", self.out / "cards"
        mark = self.out / "budget.json"
        begun = json.loads(mark.read_text())["budget"] if mark.is_file() else name
        if begun != name:
            raise ProgrammeError(
                f"{self.out} was begun with --budget {begun}: go on with that, or give another folder as --out"
            )

    def begin(self) -> None:
        """Note the budget in the folder: schedules of another one would not fit its checkpoints."""
        write_json({"budget": self.name}, self.out / "budget.json")

    # ---- where a stage stands ---------------------------------------------------------------------------------------

    def folder(self, stage: Stage) -> Path:
        return self.out / stage.name

    def done(self, stage: Stage) -> bool:
        return whole(self.folder(stage) / stage.makes)

    def epochs(self, stage: Stage) -> int:
        """Epochs of a whole stage."""
        return math.ceil(self.budget.stages[stage.name].steps / self.budget.epoch)

    def trained(self, stage: Stage) -> int:
        """Epochs that its newest whole checkpoint has seen."""
        return max(checkpoints.whole(self.folder(stage)), default=0)

    def missing(self, stage: Stage) -> list[str]:
        """Earlier stages that a stage starts from and that are not done."""
        sources = dict.fromkeys(file.rpartition("/")[0] for file in stage.needs.values())
        return [s.name for s in STAGES if s.name in sources and not self.done(s)]

    def state(self, stage: Stage) -> str:
        """In words."""
        if self.done(stage):
            return "done"
        if epochs := self.trained(stage):
            return f"{epochs} of {self.epochs(stage)} epochs"
        needs = self.missing(stage)
        return f"waits for {', '.join(needs)}" if needs else "not begun"

    # ---- starting one -----------------------------------------------------------------------------------------------

    def overrides(self, stage: Stage) -> dict[str, object]:
        """What a stage's configs are told."""
        length, epochs = self.budget.stages[stage.name], self.epochs(stage)
        healthy = {} if healthy_files() else dict.fromkeys({"train_healthy"} & set(length.more), 0)
        return {
            "output_dir": str(self.folder(stage)),
            "max_epochs": epochs,
            "epoch_length": self.budget.epoch,
            "batch_size": length.batch,
            "train_count": length.phantoms,
            "val_count": self.budget.val_count,
            "val_interval": min(self.budget.validate, epochs),
            "warmup_steps": max(1, min(100, length.steps // 10)),
            "bf16": in_hardware(device_of(AUTO)),
            **stage.fixed,
            **length.more,
            **healthy,
            **{key: str(self.out / path) for key, path in (*stage.shared.items(), *stage.needs.items())},
        }

    def command(self, stage: Stage, until: float | None, epochs: int | None) -> list[str]:
        """The bundle's command line for a stage."""
        files = [str(BUNDLE / "configs" / f"{name}.yaml") for name in (*stage.configs, "pause")]
        told = {**self.overrides(stage), "pause_until": until, "pause_epochs": epochs}
        pairs = [(f"--{key}", value if isinstance(value, str) else repr(value)) for key, value in told.items()]
        head = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(BUNDLE)]
        return [*head, *(word for pair in pairs for word in pair)]

    def train(self, stage: Stage, until: float | None = None, epochs: int | None = None) -> bool:
        """Train a stage, or go on with it; whether it is done.

        Raises:
            ProgrammeError: it starts from a stage that is not done, or it failed.
        """
        if missing := self.missing(stage):
            raise ProgrammeError(
                f"{stage.name} starts from {' and '.join(missing)}, which is not done: leave out --only, or add "
                f"{','.join(dict.fromkeys(m.split('/')[0] for m in missing))} to it"
            )
        log = self.folder(stage) / "log.txt"
        status = start(self.command(stage, until, epochs), log, until)
        if status not in (0, PAUSED) or (status == 0 and not self.done(stage)):
            raise ProgrammeError(
                f"{stage.name} failed ({last_line(log)}): see {log}, and start again when it is mended"
            )
        return status == 0

    def collect(self, stages: Sequence[Stage] = STAGES) -> None:
        """Copy weights of finished stages to the folder `models`, by the names that the bundle gives them."""
        for stage in stages:
            for source, target in stage.ships.items() if self.done(stage) else ():
                copy_weights(self.folder(stage) / source, self.models / target)

    # ---- what is made of weights ------------------------------------------------------------------------------------

    def run_tool(self, tool: Tool, until: float | None = None) -> bool:
        """Run a script of the plan on collected weights; whether it came to its end.

        Raises:
            ProgrammeError: it failed.
        """
        b = self.budget
        words = {"models": self.models, "cards": self.cards, "theta": b.theta_phantoms, "doubt": b.doubt_phantoms,
                 "passes": b.passes}  # fmt: skip
        arguments = [argument.format(**words) for argument in tool.arguments]
        if b.thetas is not None and tool.script == "calibrate.py":
            arguments += ["--thetas", b.thetas]
        return self.script(tool.script, arguments, until)

    def script(self, name: str, arguments: Sequence[str], until: float | None = None) -> bool:
        """A script of this folder; whether it came to its end.

        Raises:
            ProgrammeError: it failed.
        """
        log = self.cards / "log.txt"
        status = start([sys.executable, str(ROOT / "scripts" / name), *arguments], log, until)
        if status not in (0, PAUSED):
            raise ProgrammeError(f"{name} failed ({last_line(log)}): see {log}, and start again when it is mended")
        return status == 0

    def tool_done(self, tool: Tool) -> bool:
        """Whether what a tool makes is there, for the weights that are collected now."""
        record = read_json((self.models / tool.weights).with_suffix(".json"))
        first = read_json((self.models / LAST["malenia"][1]).with_suffix(".json"))
        if tool.name in (JOINT, SECOND):
            peak = joint_peak if tool.name == JOINT else peak_after
            return not first or peak(record, first) is not None
        if tool.script == "calibrate.py":
            return "calibrated" in record
        known = [r["weights_sha256"] for r in read_json(self.models / "uncertainty.json").get("weights", [])]
        if tool.name == IN_TURN_DOUBTS:
            names = dict(zip(asked_in_turn(IN_TURN), (first.get("sha256"), record.get("sha256")), strict=True))
            return not first or joint_sha256(names) in known
        return record.get("sha256") in known


def read_json(path: Path) -> dict:
    """A JSON file, or an empty dictionary where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def last_line(log: Path) -> str:
    """The last line of a log that says anything."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def copy_weights(source: Path, target: Path) -> None:
    """Copy weights and record, unless the same weights are there: their record may have been calibrated since."""
    if whole(target) and read_json(target.with_suffix(".json"))["sha256"] == sha256(source):
        return
    for suffix in (".pt", ".json"):
        write_atomically(
            target.with_suffix(suffix),
            lambda temporary, suffix=suffix: shutil.copyfile(source.with_suffix(suffix), temporary),
        )


# ---- measuring ------------------------------------------------------------------------------------------------------


def measuring(budget: Budget, steps: int) -> Budget:
    """The same networks and batches for three short epochs: the first makes the phantoms, the second is timed."""
    stages = {}
    for name, length in budget.stages.items():
        more = {k: v for k, v in length.more.items() if k not in ADDED} | {"saver::n_saved": 3}
        stages[name] = replace(length, steps=3 * steps, phantoms=length.batch * steps, more=more)
    return replace(budget, epoch=steps, validate=3, val_count=2, stages=stages)


def speed(programme: Programme, stage: Stage, since: float) -> dict[str, float]:
    """Seconds of a step, and of a new phantom, from the times of the files that a measuring run has left.

    Args:
        since: time.time() when it was started. Phantoms that an earlier stage has made cost nothing.
    """
    first, second = (modified(programme.folder(stage) / f"checkpoint_epoch={k}.pt") for k in (1, 2))
    times = sorted(modified(p) for p in programme.out.rglob("*.pt") if not p.name.startswith("checkpoint"))
    made = [t for t in times if since < t < first]
    phantom = (made[-1] - made[0]) / (len(made) - 1) if len(made) > 1 else 0.0
    return {"step": (second - first) / programme.budget.epoch, "phantom": phantom}


def modified(path: Path) -> float:
    """When a file was last written, seconds since 1970."""
    return path.stat().st_mtime_ns / 1e9


def hours(programme: Programme, stage: Stage, speeds: Mapping[str, Mapping[str, float]]) -> tuple[float, bool]:
    """Hours that a stage still takes, and whether they come from a measurement on this machine."""
    if programme.done(stage):
        return 0.0, True
    length, begun = programme.budget.stages[stage.name], programme.trained(stage)
    known = speeds.get(stage.name)
    left = (programme.epochs(stage) - begun) * programme.budget.epoch
    if known is None:
        return left * length.seconds / 3600, False
    new = 0 if begun else length.phantoms + sum(length.more.get(k, 0) for k in ADDED)
    return (left * known["step"] + new * known["phantom"]) / 3600, True
