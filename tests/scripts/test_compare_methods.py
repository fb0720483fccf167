"""Two methods side by side, with tiny seeded weights."""

import compare_methods
import numpy as np
import pytest
import torch
import typer
from compare_methods import CASES, find
from PIL import Image
from typer.testing import CliRunner

from zerotumor.segmenter import METHODS, build, save
from zerotumor.text import load_text_encoder

app = typer.Typer()
app.command()(compare_methods.main)


def test_a_line_a_case_and_a_panel_a_method(tmp_path):
    encoder = load_text_encoder()
    common = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "heads": 2, "patch": 32, "spacing": 8.0}
    for name, own in (("malenia", {"dim": 8, "tokens": 2}), ("zept", {"width": 8})):
        torch.manual_seed(0)
        model = build(name, common | own)
        model.bank.fill(encoder)
        save(model, name, tmp_path / METHODS[name].weights, config=common | own, encoder=encoder)
    picture = tmp_path / "side" / "both.png"
    options = ["--out", str(picture), "--weights", str(tmp_path), "--cases", "phantom-9000000"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    green = (
        (pixels[..., 1] > 180) & (pixels[..., 0] < 120) & (pixels[..., 2] < 120)
    )  # the truth, in its own panel alone
    columns = np.flatnonzero(green.any(0)) * 5 // pixels.shape[1]
    assert set(columns) == {1}
    heat = np.ptp(pixels, axis=2) > 60
    assert heat[:, 4 * pixels.shape[1] // 5 :].any()


def test_cases_have_names():
    assert find(["phantom-9000003"])[0].name == "phantom-9000003"
    with pytest.raises(ValueError, match="there is no case 'nobody'"):
        find(["nobody"])
    assert len(CASES.split(",")) == 6


def test_without_weights_there_is_a_sentence(tmp_path):
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "x.png"), "--weights", str(tmp_path)])
    assert result.exit_code == 2 and "is missing: train it" in " ".join(result.output.split())
