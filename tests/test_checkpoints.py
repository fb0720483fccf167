"""What a run that was stopped finds when it is started again: whole files, whenever that was."""

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from zerotumor.checkpoints import resume, whole

CONFIGS = Path(__file__).resolve().parents[1] / "bundle" / "configs"
ALL = ("train", "train_refine", "diffusion_autoencoder", "diffusion_unet")


def parser_of(config, folder):
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / f"{config}.yaml"))
    parser.update({"output_dir": str(folder)})
    return parser


class Killed:
    """The process ends while this is written."""

    def __reduce__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize("config", ALL)
def test_the_newest_checkpoint_that_was_written_to_its_end_is_gone_on_from(config, tmp_path, caplog):
    folder = tmp_path / "run [2]*"  # these are no patterns
    folder.mkdir()
    for epoch in (9, 10, 11):
        torch.save({"model": torch.rand(99)}, folder / f"checkpoint_epoch={epoch}.pt")
    newest = folder / "checkpoint_epoch=11.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    parser = parser_of(config, folder)
    assert list(parser.get_parsed_content("checkpoints").items()) == [
        (epoch, folder / f"checkpoint_epoch={epoch}.pt") for epoch in (9, 10)
    ]
    assert f"{newest} is damaged" in caplog.text and parser.get_parsed_content("run_seed") == 10


def test_a_folder_without_checkpoints_has_none(tmp_path):
    (tmp_path / "best.pt").touch()
    assert whole(tmp_path) == whole(tmp_path / "none") == {}


@pytest.mark.parametrize("config", ALL)
def test_a_file_is_replaced_when_the_next_is_whole(config, tmp_path):
    disk = parser_of(config, tmp_path).get_parsed_content("disk")
    disk({"weight": torch.ones(1)}, "best.pt")
    with pytest.raises(KeyboardInterrupt):
        disk({"weight": torch.zeros(1), "more": Killed()}, "best.pt")
    assert torch.load(tmp_path / "best.pt", weights_only=True) == {"weight": torch.ones(1)}
    assert (tmp_path / "best.pt").stat().st_mode & 0o044 == 0o044  # others may read it


METRICS = {"train": "val_mean_dice", "diffusion_autoencoder": "val_psnr", "diffusion_unet": "val_mse"}
IDLE = {"_target_": "ignite.engine.Engine", "process_function": "$lambda engine, batch: None"}


def piece(config, folder, scores, epochs, forget=()):
    """One piece of a run by a real config, with idle engines: a validation an epoch, with these scores; its parser.

    Args:
        forget: what its last checkpoint is then stripped of, as if an earlier version had written it.
    """
    parser = parser_of(config, folder)
    parser.update({
        "network": "$torch.nn.Linear(1, 1)", "network_def": None,
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 1.0},
        "train#trainer": IDLE, "validate#evaluator": IDLE, "early_stop_patience": 3, "max_epochs": epochs,
    })  # fmt: skip
    trainer, evaluator = (parser.get_parsed_content(name) for name in ("train::trainer", "validate::evaluator"))
    sign = -1 if METRICS[config] == "val_mse" else 1

    @evaluator.on(Events.EPOCH_COMPLETED)
    def judge(engine):
        engine.state.metrics[METRICS[config]] = torch.tensor(sign * scores[trainer.state.epoch])

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        network = parser.get_parsed_content("ema").ema_model
        torch.nn.init.constant_(network.weight, float(engine.state.epoch))
        evaluator.run([0])

    for k, line in enumerate(parser["initialize"]):
        if "Events" in line:
            parser.get_parsed_content(f"initialize::{k}")
    parser.get_parsed_content("run::0")
    trainer.run([0], max_epochs=epochs)
    path = folder / f"checkpoint_epoch={trainer.state.epoch}.pt"
    torch.save({k: v for k, v in torch.load(path, weights_only=True).items() if k not in forget}, path)
    return parser


def best_of(folder):
    """The epoch that best.pt is of."""
    return int(torch.load(folder / "best.pt", weights_only=True)["weight"])


@pytest.mark.parametrize("config", METRICS)
def test_a_run_in_pieces_keeps_the_best_of_all_and_stops_early_all_the_same(config, tmp_path):
    scores = {1: 0.2, 2: 0.5, 3: 0.3, 4: 0.4, 5: 0.1, 6: 0.9}
    for epochs in (1, 3, 4):
        piece(config, tmp_path, scores, epochs)
        assert best_of(tmp_path) == min(epochs, 2)
    parser = piece(config, tmp_path, scores, 6)
    assert parser.get_parsed_content("train::trainer").state.epoch == 5  # the third without a better one
    assert best_of(tmp_path) == 2 and sorted(whole(tmp_path)) == [4, 5]


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(tmp_path):
    piece("train", tmp_path, {1: 0.5}, 1, forget=("early_stop", "best"))
    parser = piece("train", tmp_path, {2: 0.4, 3: 0.6}, 3)
    assert parser.get_parsed_content("train::trainer").state.iteration == 3
    assert best_of(tmp_path) == 3 and sorted(whole(tmp_path)) == [2, 3]


def test_without_a_checkpoint_a_run_begins():
    trainer = Engine(lambda engine, batch: None)
    resume(trainer, {}, {"trainer": trainer}, None)
    assert trainer.run([0], max_epochs=2).iteration == 2
