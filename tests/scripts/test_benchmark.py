"""What is measured when a method has no weights yet."""

import benchmark
import pytest
import torch
import typer
from typer.testing import CliRunner

from zerotumor.zept import ZePT


def test_fresh_weights_stand_in_for_missing_ones(monkeypatch):
    monkeypatch.setattr(benchmark, "available", lambda: ["malenia"])
    model, name = benchmark.model_of("zept")
    assert name == "zept, untrained" and isinstance(model, ZePT) and not model.training
    assert model.bank.texts.norm(dim=1).allclose(torch.ones(len(model.bank.texts)), atol=1e-3)
    assert benchmark.model_of("malenia")[1] == "malenia"


def test_methods_are_compared_with_the_first(monkeypatch):
    monkeypatch.setattr(benchmark, "model_of", lambda method, device: (method, method))
    monkeypatch.setattr(benchmark, "clinical_ct", lambda: type("Ct", (), {"image": torch.zeros(1, 2, 2, 2)}))
    for name in ("segment_scan", "encode_scan"):
        monkeypatch.setattr(benchmark, name, lambda *_: None)
    (_, rows), names = benchmark.segment_times(["malenia", "zept"]), ("malenia", "zept")
    assert [r[0] for r in rows[:-1]] == [f"{m}: {w}" for m in names for w in (
        "scan to masks, one prompt", "scan to masks, four prompts", "another prompt on kept features")]  # fmt: skip
    assert rows[-1][0] == "zept against malenia, one prompt" and rows[-1][1].endswith(" times")


def test_the_published_size_is_measured_with_a_lesion_to_draw(monkeypatch):
    drawn = []
    tiny = {
        "prior": {
            "autoencoder": {"num_channels": [4, 4, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4},
            "unet": {"num_channels": [8, 8], "num_res_blocks": 1, "attention_levels": [False, True],
                     "num_head_channels": [0, 8], "norm_num_groups": 4},
        },
        "patch": 16, "spacing": 8.0,
    }  # fmt: skip
    monkeypatch.setattr(benchmark, "FINE", (8.0, 8.0, 8.0))
    made = benchmark.untrained

    def watched(*arguments, **options):
        model = made(*arguments, **options)
        heal = model.heal
        model.heal = lambda image, hole, *rest: drawn.append(int(hole.sum())) or heal(image, hole, *rest)
        return model

    monkeypatch.setattr(benchmark, "untrained", watched)
    (heading, _), rows = benchmark.maisi_times(benchmark.CPU, False, (24, 24, 24), ("fast",), **tiny)
    assert "24 x 24 x 24 CT" in heading and [name for name, _ in rows] == [
        "fast: scan to mask", "fast: another prompt on kept features"]  # fmt: skip
    ball = 4 / 3 * 3.14159 * (benchmark.LESION_MM / 2 / 8) ** 3
    assert len(drawn) == 1 and ball < drawn[0] < 8 * ball  # dilated by 8 mm


def test_unknown_methods_are_refused():
    app = typer.Typer()
    app.command()(benchmark.main)
    result = CliRunner().invoke(app, ["--segment", "--method", "malenia,unet"])
    assert result.exit_code == 2 and "no method 'unet'" in result.output


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--maisi", "--device", "cpu", "--compile"], "needs a GPU"),
        (["--maisi"], "needs a GPU"),
        (["--segment", "--device", "nowhere"], "there is no device 'nowhere' here: use cpu"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(monkeypatch, options, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    app = typer.Typer()
    app.command()(benchmark.main)
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2 and sentence in result.output
