"""The programme that trains all methods: its plan is consistent, and it stops, goes on and skips as it says."""

import contextlib
import inspect
import json
import os
import runpy
import sys
import time
from dataclasses import fields

import pytest
import starter_plan
import starter_run
import torch
import train_starter
import typer
from monai.bundle import ConfigParser
from starter_plan import ADDED, BUDGETS, IN_TURN_DOUBTS, JOINT, LAST, PHANTOMS, SECOND, STAGES, TINY, TOOLS
from starter_run import BUNDLE, PAUSED, Programme, ProgrammeError, whole
from typer.testing import CliRunner

from zerotumor.diffugts.options import Options
from zerotumor.segmenter import METHODS, build, class_of, save_state

app = typer.Typer()
app.command()(train_starter.main)


def invoke(*arguments, code=0):
    """The command line; what it printed, on one line."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}{result.exception!r}"
    return " ".join(result.output.split())


def here(command, log, until=None):
    """`starter_run.start` in this process: `python -m monai.bundle` with the same arguments."""
    log.parent.mkdir(parents=True, exist_ok=True)
    code = 0
    with open(log, "a") as file, contextlib.redirect_stdout(file), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command[2:], "--logging_file", "False"])
        patch.chdir(log.parent)
        try:
            runpy.run_module(command[2], run_name="__main__")
        except SystemExit as leaving:
            code = leaving.code or 0
    return code


def finished(programme, stage, value=1.0):
    """Files as if a stage had been trained."""
    for name in {stage.makes, *stage.ships}:
        network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(network.weight, value)
        save_state(network, programme.folder(stage) / name, {"method": stage.method, "config": {}})


@pytest.fixture
def malenia_trained(tmp_path):
    """What the click network starts from, of the size that the smoke budget has."""
    programme, stage = Programme(tmp_path, "smoke"), next(s for s in STAGES if s.name == "malenia/whole")
    told = {key.split("::")[-1]: value for key, value in TINY.items() if "channels" in key}
    config = {**told, "channels": json.loads(told["channels"]), "dim": 8, "tokens": 2, "gain": 0.15}
    save_state(build("malenia", config), programme.folder(stage) / stage.makes, {"method": "malenia", "config": config})
    assert programme.done(stage)


# ---- the plan -------------------------------------------------------------------------------------------------------


def test_what_a_stage_needs_an_earlier_one_makes():
    made = set()
    for stage in STAGES:
        for file in stage.needs.values():
            assert file in made, f"{stage.name} needs {file}"
        made |= {f"{stage.name}/{file}" for file in (stage.makes, "best.pt", *stage.ships)}
    assert len({stage.name for stage in STAGES}) == len(STAGES)


def test_every_stage_has_a_length_in_every_budget():
    for name, budget in BUDGETS.items():
        assert set(budget.stages) == {stage.name for stage in STAGES}, name
        assert all(x.steps >= budget.epoch and x.phantoms >= x.batch for x in budget.stages.values()), name


def test_the_opponent_is_given_what_malenia_is_given():
    stage = next(stage for stage in STAGES if stage.name == "closed_set/whole")
    assert stage.needs == {"pretrained": "malenia/dense/model.pt"}
    for budget in BUDGETS.values():
        second, own = (budget.stages[n] for n in ("malenia/whole", "closed_set/whole"))
        assert (own.steps, own.batch, own.phantoms) == (second.steps, second.batch, second.phantoms)
        assert all(own.more.get(key) == second.more.get(key) for key in ADDED)


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_configs_exist_and_know_every_override(stage, tmp_path):
    files = [BUNDLE / "configs" / f"{name}.yaml" for name in (*stage.configs, "pause")]
    assert all(file.is_file() for file in files)
    config = ConfigParser.load_config_files(files)
    settable = ConfigParser(config)
    for name in BUDGETS:
        told = Programme(tmp_path / name, name).overrides(stage)
        for key in [*told, "pause_until", "pause_epochs"]:
            assert key in settable or key in arguments(settable), f"{stage.name} has no {key}"


def grids(parser, config):
    """mm of all phantoms that a config, or a part of it, draws."""
    if isinstance(config, dict) and config.get("_target_") == "zerotumor.training.GeneratePhantom":
        return {parser.get_parsed_content(config["spacing"].removeprefix("@"))}
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return set().union(*(grids(parser, part) for part in parts))


@pytest.mark.parametrize("budget", BUDGETS)
def test_phantoms_that_stages_share_are_on_one_grid(budget, tmp_path):
    found = {}
    for stage in (stage for stage in STAGES if PHANTOMS in stage.shared.values()):
        files = [BUNDLE / "configs" / f"{name}.yaml" for name in stage.configs]
        parser = ConfigParser(ConfigParser.load_config_files(files))
        parser.update(Programme(tmp_path, budget).overrides(stage))
        found[stage.name] = grids(parser, parser.get())
    assert len(found) == 7 and set().union(*found.values()) == {8.0 if budget == "smoke" else 4.0}, found


@pytest.mark.parametrize(
    "names, spacing",
    [
        ("train zept zept_train", 4.0),
        ("train zept zept_train zept_paper", 1.5),
        ("train diffugts diffugts_attention diffugts_taps", 4.0),
        ("train diffugts diffugts_attention diffugts_maisi", 1.5),
        ("train malenia_paper", 1.5),
    ],
)
def test_samples_are_on_the_grid_that_their_cache_is_named_after(names, spacing):
    parser = ConfigParser(
        ConfigParser.load_config_files([BUNDLE / "configs" / f"{name}.yaml" for name in names.split()])
    )
    patch = parser.get_parsed_content("network_config::patch")
    for mm in (spacing, 2.5):  # as configured, and as the command line says
        if "malenia" not in names:
            parser.update({"network_config::spacing": mm})
            spacing = mm
        assert grids(parser, parser.get()) == {parser.get_parsed_content("network_config::spacing")} == {spacing}
        assert parser.get_parsed_content("dataset_dir").endswith(f"/phantoms_{patch}_{spacing:g}mm")


def arguments(config):
    """Overrides of a method's network that its config leaves to the class."""
    if config.get("method") not in METHODS:
        return set()
    names = {*inspect.signature(class_of(config["method"])).parameters, *(field.name for field in fields(Options))}
    return {f"network_config::{name}" for name in names}


def test_all_that_methods_need_is_shipped():
    shipped = {name for stage in STAGES for name in stage.ships.values()}
    assert shipped >= {file for method in METHODS.values() for file in (method.weights, *method.needs)}
    assert {method: weights for method, (_, weights) in LAST.items() if method in METHODS} == {
        name: method.weights for name, method in METHODS.items()
    }
    assert {tool.needs for tool in TOOLS} <= {stage.name for stage in STAGES if stage.ships}
    assert all((starter_run.ROOT / "scripts" / tool.script).is_file() for tool in TOOLS)


# ---- running it -----------------------------------------------------------------------------------------------------


def test_a_stage_is_cut_goes_on_and_is_not_trained_twice(tmp_path, monkeypatch, malenia_trained):
    started = []
    monkeypatch.setattr(starter_run, "start", lambda *a: (started.append(a[0]), here(*a))[1])
    order = ("--budget", "smoke", "--only", "refine", "--out", tmp_path)
    said = invoke(*order, "--epochs", 1, code=PAUSED)
    folder = tmp_path / "refine/clicks"
    assert "1 of 2 epochs" in said and "the same command goes on" in said
    assert (folder / "checkpoint_epoch=1.pt").is_file() and not (folder / "model.pt").exists()
    assert "1 of 2 epochs" in invoke(*order, "--list")

    assert "all is done" in invoke(*order)
    state = torch.load(folder / "checkpoint_epoch=2.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 2 and state["lr_scheduler"]["last_epoch"] == 2
    record = json.loads((tmp_path / "models/refine/model.json").read_text())
    assert record["trained"]["steps"] == 2 and whole(tmp_path / "models/refine/model.pt")

    # cut off while the weights were written: they are written again, from the last checkpoint
    (folder / "model.json").write_text("{")
    assert "all is done" in invoke(*order)
    assert whole(folder / "model.pt") and json.loads((folder / "model.json").read_text())["trained"]["steps"] == 2

    assert len(started) == 3
    assert "done already" in invoke(*order) and len(started) == 3


def test_a_checkpoint_that_was_cut_off_does_not_count(tmp_path):
    programme, stage = Programme(tmp_path, "cpu"), STAGES[0]
    programme.folder(stage).mkdir(parents=True)
    for epoch in (3, 4):
        torch.save({"epoch": epoch}, programme.folder(stage) / f"checkpoint_epoch={epoch}.pt")
    newest = programme.folder(stage) / "checkpoint_epoch=4.pt"
    newest.write_bytes(newest.read_bytes()[:200])
    assert programme.trained(stage) == 3 and programme.state(stage).startswith("3 of")


def test_no_time_is_a_clean_stop(tmp_path, monkeypatch, malenia_trained):
    monkeypatch.setattr(starter_run, "start", lambda *a: pytest.fail("something was started"))
    invoke("--budget", "smoke", "--only", "refine", "--out", tmp_path, "--minutes", 0, code=PAUSED)


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    endless = [sys.executable, "-c", "import signal; print('on', flush=True); signal.pause()"]
    assert starter_run.start(endless, tmp_path / "log.txt", until=0.0) == PAUSED


def test_a_failure_names_its_reason_and_the_log(tmp_path, monkeypatch, malenia_trained):
    broken = [sys.executable, "-c", "import sys; print('no space left'); sys.exit(3)"]
    monkeypatch.setattr(Programme, "command", lambda *a: broken)
    said = invoke("--budget", "smoke", "--only", "refine", "--out", tmp_path, code=2)
    assert "refine/clicks failed (no space left)" in said and "log.txt" in said


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--budget", "huge"], "there is no budget 'huge': choose one of cpu, gpu, smoke"),
        (["--only", "malenia,unet"], "there is no 'unet' to train: choose among malenia"),
        (["--budget", "smoke", "--only", "zept/tumors"], "starts from zept/organs, which is not done"),
        (["--budget", "smoke", "--ship"], "give another folder as --models"),
        (["--ship"], "nothing is finished"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(tmp_path, arguments, sentence):
    assert sentence in invoke("--out", tmp_path, *arguments, code=2)


def test_a_folder_keeps_its_budget(tmp_path):
    Programme(tmp_path, "cpu").begin()
    with pytest.raises(ProgrammeError, match="was begun with --budget cpu"):
        Programme(tmp_path, "gpu")


def test_finished_weights_are_shipped_with_their_records(tmp_path):
    programme, models = Programme(tmp_path / "runs", "smoke"), tmp_path / "models"
    stages = {stage.name: stage for stage in STAGES}
    for name in ("refine/clicks", "diffugts/residual"):
        finished(programme, stages[name])
    order = ("--budget", "smoke", "--out", tmp_path / "runs", "--ship", "--models", models)
    said = invoke(*order)
    assert "refine/model.pt in" in said and "diffugts/residual is left out" in said
    assert whole(models / "refine/model.pt") and not (models / "diffugts").exists()

    # calibrated, and measured: record and curves come along, and curves of other weights stay
    record = json.loads((programme.models / "diffugts/model.json").read_text()) | {"calibrated": {}}
    (programme.models / "diffugts/model.json").write_text(json.dumps(record))
    for folder, sha in ((programme.models, record["sha256"]), (models, "others")):
        (folder / "uncertainty.json").write_text(json.dumps({"weights": [{"weights_sha256": sha}]}))
    assert "diffugts/model.pt, diffugts/diffusion.pt in" in invoke(*order, "--only", "diffugts")
    assert "calibrated" in json.loads((models / "diffugts/model.json").read_text()) and whole(
        models / "diffugts/diffusion.pt"
    )
    curves = json.loads((models / "uncertainty.json").read_text())["weights"]
    assert [c["weights_sha256"] for c in curves] == ["others", record["sha256"]]

    # curves of weights that lay there before go with them
    before, now = ([{"weights_sha256": sha, "file": "diffugts/model.pt"}] for sha in ("before", record["sha256"]))
    (models / "uncertainty.json").write_text(json.dumps({"weights": [*curves[:1], *before]}))
    (programme.models / "uncertainty.json").write_text(json.dumps({"weights": now}))
    invoke(*order, "--only", "diffugts")
    assert json.loads((models / "uncertainty.json").read_text())["weights"] == [*curves[:1], *now]


def test_new_weights_replace_collected_ones_and_the_same_do_not(tmp_path):
    programme, stage = Programme(tmp_path, "smoke"), STAGES[1]
    finished(programme, stage)
    programme.collect()
    kept = programme.models / "model.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"calibrated": {}}))
    programme.collect()
    assert programme.tool_done(TOOLS[0])
    finished(programme, stage, value=2.0)
    programme.collect()
    assert not programme.tool_done(TOOLS[0])


@pytest.mark.parametrize("name", [JOINT, SECOND])
def test_who_is_asked_second_is_measured_for_the_weights_of_the_first_that_are_there(tmp_path, name):
    programme = Programme(tmp_path, "smoke")
    tool = next(tool for tool in TOOLS if tool.name == name)
    key = name.split("/")[1]
    for file, record in (
        ("zept/model.json", {key: {"after": "a", "theta_peak": 0.9}}),
        ("model.json", {"sha256": "a"}),
    ):
        assert programme.tool_done(tool)  # as long as nothing is there to be asked first, too
        (programme.models / file).parent.mkdir(parents=True, exist_ok=True)
        (programme.models / file).write_text(json.dumps(record))
    assert programme.tool_done(tool)
    (programme.models / "model.json").write_text(json.dumps({"sha256": "b"}))
    assert not programme.tool_done(tool)


def test_doubts_of_two_in_turn_are_measured_for_the_weights_of_both(tmp_path):
    programme = Programme(tmp_path, "smoke")
    tool = next(tool for tool in TOOLS if tool.name == IN_TURN_DOUBTS)
    programme.models.mkdir(parents=True)
    (programme.models / "zept").mkdir()
    (programme.models / "zept" / "model.json").write_text(json.dumps({"sha256": "b"}))
    assert programme.tool_done(tool)  # nothing is there to be asked first
    (programme.models / "model.json").write_text(json.dumps({"sha256": "a"}))
    for sha, done in (("b", False), ("malenia:a,zept:c", False), ("malenia:a,zept:b", True)):
        curves = {"weights": [{"weights_sha256": sha}]}
        (programme.models / "uncertainty.json").write_text(json.dumps(curves))
        assert programme.tool_done(tool) is done


# ---- measuring ------------------------------------------------------------------------------------------------------


def test_measuring_times_the_second_epoch_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def touch(path, at):
        path.touch()
        os.utime(path, (at, at))

    def pretend(self, stage, until=None, epochs=None):
        folder, length, now = self.folder(stage), self.budget.stages[stage.name], time.time() + 1
        (folder / "lesions").mkdir(parents=True)
        for k in range(length.phantoms):  # a phantom every two seconds
            touch(folder / "lesions" / f"{k}.pt", now + 2 * k)
        touch(folder / "lesions" / "earlier.pt", now - 1000)  # of another stage
        for k, end in enumerate((200, 220, 300), 1):
            touch(folder / f"checkpoint_epoch={k}.pt", now + end)
        return True

    monkeypatch.setattr(Programme, "train", pretend)
    order = ("--budget", "cpu", "--only", "diffugts/autoencoder", "--out", tmp_path)
    assert "~" in invoke(*order, "--list")
    assert "0.40 steps a second, 2.00 s a new phantom" in invoke(*order, "--measure")
    length = starter_plan.BUDGETS["cpu"].stages["diffugts/autoencoder"]
    hours = (length.steps * 2.5 + length.phantoms * 2.0) / 3600
    said = invoke(*order, "--list")
    assert f"{hours:.2f}" in said and "~" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["speed.json"]


def test_measuring_keeps_networks_and_batches():
    for name, budget in BUDGETS.items():
        short = starter_run.measuring(budget, 8)
        for stage, length in short.stages.items():
            usual = budget.stages[stage]
            assert length.batch == usual.batch and length.steps == 24 and length.phantoms == 8 * usual.batch, name
            kept = {k: v for k, v in usual.more.items() if k not in ADDED}
            assert not set(ADDED) & set(length.more)
            assert kept.items() <= length.more.items()


def test_methods_bring_what_they_start_from_when_they_are_measured():
    names = [stage.name for stage in train_starter.needed(train_starter.choose("zept"))]
    assert names == ["malenia/dense", "malenia/whole", "zept/dense", "zept/organs", "zept/tumors"]
