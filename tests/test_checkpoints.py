"""What a run that was stopped finds when it is started again: whole files, whenever that was."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from zerotumor.checkpoints import whole

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
