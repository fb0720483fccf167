"""The mean of weights, by the script's own command."""

import json
from pathlib import Path

import average_weights
import pytest
import torch
import typer
from typer.testing import CliRunner

from zerotumor.segmenter import build, load, save
from zerotumor.text import load_text_encoder

CONFIG = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "dim": 8, "tokens": 2, "heads": 2, "patch": 32}
app = typer.Typer()
app.command()(average_weights.main)


def write(path, seed, **config):
    torch.manual_seed(seed)
    model, encoder = build("malenia", CONFIG | config), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "malenia", path, config=CONFIG | config, encoder=encoder, trained={"steps": seed, "scans": [str(seed)]})
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [write(folder / f"{k}" / "model.pt", k, theta=k / 10) for k in (2, 4)]


def test_every_tensor_is_the_mean_and_the_record_says_of_what(files, tmp_path):
    result = CliRunner().invoke(app, [*files, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    mean, one, other = (load("malenia", file).state_dict() for file in (tmp_path, *files))
    for name, value in mean.items():
        assert torch.allclose(value.float(), (one[name].float() + other[name].float()) / 2, atol=2e-3), name
    assert any(not torch.equal(mean[name], one[name]) for name in mean)
    record, *sources = (
        json.loads(Path(file).with_suffix(".json").read_text()) for file in (tmp_path / "model.pt", *files)
    )
    assert record["trained"] == {"steps": 4, "scans": ["2", "4"], "mean_of": [s["sha256"] for s in sources]}
    assert record["config"]["theta"] == 0.4


def test_what_has_no_mean_is_refused(files, tmp_path):
    other = write(tmp_path / "other" / "model.pt", 3, dim=16)
    for given, said in ((files[:1], "no mean"), ([files[0], other], "not of the same network"),
                        ([files[0], "gone.pt"], "missing")):  # fmt: skip
        result = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "out")])
        assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output
    assert not (tmp_path / "out").exists()
