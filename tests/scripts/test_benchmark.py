"""What is measured when a method has no weights yet."""

import benchmark
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
    monkeypatch.setattr(benchmark, "model_of", lambda method: (method, method))
    monkeypatch.setattr(benchmark, "clinical_ct", lambda: type("Ct", (), {"image": torch.zeros(1, 2, 2, 2)}))
    for name in ("segment_scan", "encode_scan"):
        monkeypatch.setattr(benchmark, name, lambda *_: None)
    (_, rows), names = benchmark.segment_times(["malenia", "zept"]), ("malenia", "zept")
    assert [r[0] for r in rows[:-1]] == [f"{m}: {w}" for m in names for w in (
        "scan to masks, one prompt", "scan to masks, four prompts", "another prompt on kept features")]  # fmt: skip
    assert rows[-1][0] == "zept against malenia, one prompt" and rows[-1][1].endswith(" times")


def test_unknown_methods_are_refused():
    app = typer.Typer()
    app.command()(benchmark.main)
    result = CliRunner().invoke(app, ["--segment", "--method", "malenia,unet"])
    assert result.exit_code == 2 and "no method 'unet'" in result.output
