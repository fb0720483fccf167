"""The simulated annotator: its loop on a small pool of phantoms, and what it refuses."""

import csv
import json

import pytest
import simulate_annotation as script
import torch
from PIL import Image
from typer.testing import CliRunner

from zerotumor import held_out
from zerotumor.adaptation import Adapted
from zerotumor.cohorts import measured_phantoms
from zerotumor.examples import Example
from zerotumor.learning import fresh
from zerotumor.metrics import dice
from zerotumor.pipeline import segment_scan
from zerotumor.prompts import parse
from zerotumor.segmenter import load

cli = CliRunner()


def run(*arguments):
    import typer

    app = typer.Typer()
    app.command()(script.main)
    return cli.invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def pools():
    """What was made by method, name and size: each is made once."""
    return {}


@pytest.fixture(autouse=True)
def pooled(monkeypatch, pools):
    make = script.pool

    def known(name, model, committee, count):
        key = (model.weights_sha256, name, count)
        if key not in pools:
            pools[key] = make(name, model, committee, count)
        return pools[key]

    monkeypatch.setattr(script, "pool", known)


@pytest.fixture
def tiny(monkeypatch, tiny_malenia):
    """In the place of the starter weights, where what is answered does not matter, with few scans that have no lesion."""
    known = [*measured_phantoms()]
    few = [c for c in known if c[1]["category"] == "healthy" and script.PROMPT in c[2] and c[1]["modality"] == "MR"][:2]
    monkeypatch.setattr(script, "load", lambda *_, **__: tiny_malenia())
    monkeypatch.setattr(script, "real_cases", lambda: [])
    monkeypatch.setattr(
        script, "measured_phantoms", lambda: (c for c in known if c in few or c[1]["category"] != "healthy")
    )


@pytest.mark.usefixtures("tiny")
def test_the_loop_writes_its_curve(tmp_path):
    result = run(
        "--out", tmp_path, "--phantoms", 4, "--rounds", 2, "--seeds", 1, "--strategies", "first,random",
        "--replayed", 1, "--steps", 2, "--seen", 1, "--correct", "clicks", "--clicks", 1,
        "--picture", tmp_path / "learned.png",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    assert len(rows) == 2 * 3
    for row in rows:
        assert 0 <= float(row["dice"]) <= 1 and int(row["clicks"]) <= int(row["scans"])
    first = [r["picked"] for r in rows if r["strategy"] == "first"]
    assert first == ["", "phantom-7500000", "phantom-7500001"]
    start = [r for r in rows if r["scans"] == "0"]
    assert all(r["dice"] == r["zero_shot"] for r in start) and len({r["dice"] for r in start}) == 1
    found = json.loads((tmp_path / "summary.json").read_text())
    assert set(found["strategies"]) == {"first", "random"} and found["strategies"]["first"]["gain"]["0"][0] == 0
    assert abs(found["forgetting"]) < 0.02 and found["healthy"]["scans"] == 2 and found["learned_after"] == [2]
    assert (tmp_path / "curve.png").stat().st_size > 5000
    with Image.open(tmp_path / "learned.png") as drawn:
        assert drawn.width > 700 and drawn.height > 400  # two scans were never picked
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- phantom-sarcoma-clicks:begin -->\nold\n<!-- phantom-sarcoma-clicks:end -->\nafter\n")
    (tmp_path / "images").mkdir()
    result = run("--out", tmp_path, "--redraw", "--page", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "old" not in text and text.startswith("before") and text.endswith("after\n")
    assert "| first | +0.00 [+0.00, +0.00] |" in text and "Forgetting" in text
    assert (tmp_path / "images" / "learning-phantom-sarcoma-clicks.png").is_file() and "committee: none" in text
    other = run("--out", tmp_path, "--phantoms", 4, "--rounds", 2, "--steps", 3, "--replayed", 1, "--correct", "clicks")
    assert other.exit_code == 2 and "other settings (clicks, steps): give another" in " ".join(other.output.split())
    page.write_text("no marks")
    refused = run("--out", tmp_path, "--redraw", "--page", page)
    assert refused.exit_code == 2 and page.read_text() == "no marks"


@pytest.mark.usefixtures("tiny")
def test_what_is_picked_is_never_measured_on_again():
    model = script.load()
    prompt, modality, scans = script.pool("phantom-sarcoma", model, [], 4)
    setting = script.Setting(model, prompt, modality, scans, [], None, 5, 2, [1, 2], steps=2, check=False)
    rows, specialist, rest = script.simulate(setting, "first", 0)
    assert specialist is not None and [r["picked"] for r in rows[1:]] == [s.name for s in scans[:2]]
    assert rows[1]["dice"] == rows[1]["zero_shot"]  # one scan is too few to learn from
    left = [dice(setting.answer(s, None), s.truth) for s in scans[2:]]
    assert rows[2]["zero_shot"] == pytest.approx(sum(left) / 2)
    after = [dice(setting.answer(s, specialist), s.truth) for s in scans[2:]]
    assert rows[2]["dice"] == pytest.approx(sum(after) / 2)


def test_the_shortcut_answers_as_the_method_does():
    """Answers come from what was said once: they must be those of the method, and of the method with what it learned."""
    model = load()
    prompt, modality, scans = script.pool("phantom-sarcoma", model, [], 1)
    setting = script.Setting(model, prompt, modality, scans, [], None, 5, 1, [])
    for specialist in (None, fresh(model, prompt, modality).eval()):
        answering = model if specialist is None else Adapted(model, [specialist])
        whole = segment_scan(answering, scans[0].encoded, [prompt]).masks[0] > 0
        short = setting.answer(scans[0], specialist)
        assert whole.any() and dice(short, whole) > 0.99


def test_what_the_same_scans_teach_is_learned_once(monkeypatch):
    taught = []
    monkeypatch.setattr(held_out, "learn", lambda *a, **k: taught.append(k["seed"]) or fresh(*a[:3]))
    prompt = parse("soft tissue sarcoma")[0]
    setting = script.Setting(load(), prompt, "MR", [], [], None, 5, 1, [2], check=False)
    some = [Example(torch.zeros(2, 4, 4, 4), torch.ones(4, 4, 4), 4.0, name=name) for name in "ab"]
    assert setting.learned(some, 0) is setting.learned(some[::-1], 0)
    setting.learned(some, 1)
    some[0].truth = some[0].truth / 2  # another label
    setting.learned(some, 0)
    assert taught == [0, 1, 0]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--on", "nothing"), "--on sarcoma-ct"),
        (("--strategies", "wisest"), "choose strategies"),
        (("--correct", "magic"), "truth or clicks"),
        (("--phantoms", 4, "--rounds", 4), "none would be left"),
        (("--redraw",), "no summary.json"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_refusals(tmp_path, arguments, said):
    result = run("--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2 and said in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
