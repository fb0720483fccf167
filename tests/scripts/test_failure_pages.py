"""Pages of real scans: what is drawn, at which slices, and how causes that people write come into them."""

import json

import failure_pages
import numpy as np
import pytest
import torch
import typer
from failure_pages import FAILURES, PagesError, centers, index_page, notebook_page, read_failures
from monai.data import MetaTensor
from PIL import Image
from typer.testing import CliRunner

from zerotumor.cohorts import Case
from zerotumor.segmenter import METHODS, build, save
from zerotumor.text import load_text_encoder

app = typer.Typer()
app.command()(failure_pages.main)
HEAD = "case,prompt,cause,mend\n"


def invoke(*arguments, code=0):
    """The command line; what it printed, on one line."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}{result.exception!r}"
    return " ".join(result.output.split())


def scan_case(name, lesion, prompts):
    """A bright box in a body, asked about by `prompts`; half of the box is the truth where there is a lesion."""
    image = torch.full((1, 24, 28, 32), -1000.0)
    image[:, 2:-2, 2:-2, 2:-2] = 40.0
    image[:, 8:14, 8:14, 8:14] = 200.0
    truth = torch.zeros(24, 28, 32, dtype=torch.uint8)
    if lesion:
        truth[8:14, 8:14, 8:11] = 1
    scan = MetaTensor(image, affine=np.diag([5.0, 5.0, 5.0, 1.0]), meta={"modality": "CT"})
    split = "unseen" if lesion else "healthy"
    return Case(name, "real", "CT", lambda: (scan, dict.fromkeys(prompts, truth), {}), {p: (p, split) for p in prompts})


@pytest.fixture
def scans(monkeypatch):
    """Two scans in place of the real ones."""
    cases = [scan_case("sick", True, ["liver tumor"]), scan_case("well", False, ["liver tumor", "kidney cyst"])]
    monkeypatch.setattr(failure_pages, "real_cases", lambda: iter(cases))
    return cases


def test_every_scan_and_prompt_has_a_picture_and_an_entry(tmp_path, scans):
    (tmp_path / "none.csv").write_text("case,prompt,cause,mend\n")
    order = ("--out", tmp_path / "pages", "--method", "everything,outlier", "--failures", tmp_path / "none.csv")
    invoke(*order, "--notebook", tmp_path / "notebook.md")
    records = json.loads((tmp_path / "pages/pages.json").read_text())
    assert [(r["case"], r["prompt"]) for r in records] == [
        ("sick", "liver tumor"), ("well", "liver tumor"), ("well", "kidney cyst"),
    ]  # fmt: skip
    body, truth = 20 * 24 * 28, 6 * 6 * 3
    everything = records[0]["methods"]["everything"]
    assert everything == {"dice": round(2 * truth / (body + truth), 4), "ml": body * 0.125, "peak": 1.0}
    assert records[0]["truth_ml"] == truth * 0.125 and records[1]["methods"]["everything"]["dice"] is None
    index = (tmp_path / "pages/index.md").read_text()
    for r in records:
        picture = Image.open(tmp_path / "pages" / r["picture"])
        assert picture.width > 1000 and f"]({r['picture']})" in index
    assert index.count("\n- cause:\n- mend:\n") == 3
    assert (
        f"| sick | liver tumor | {truth * 0.125:.1f} | Dice {everything['dice']:.2f}, {body * 0.125:.1f} ml |" in index
    )
    assert "| case | prompt | cause | mend |\n| --- | --- | --- | --- |\n<!--" in (tmp_path / "notebook.md").read_text()


def test_truth_is_outlined_in_its_panel_and_not_on_the_scan(tmp_path, scans):
    invoke("--out", tmp_path, "--method", "everything", "--limit", 1)
    pixels = np.asarray(Image.open(tmp_path / "sick_liver-tumor.png").convert("RGB")).astype(int)
    green = (pixels[..., 1] > 180) & (pixels[..., 0] < 120) & (pixels[..., 2] < 120)
    panels = set(np.flatnonzero(green.any(0)) * 4 // pixels.shape[1])
    assert panels == {1, 2, 3}  # truth, mask, probability


def test_slices_go_where_the_truth_is_widest():
    truth = np.zeros((9, 9, 9))
    truth[2, 1:4, 3] = 1
    truth[2, 2, 3:8] = 1
    mask, heat = np.zeros((9, 9, 9)), np.zeros((9, 9, 9))
    mask[6, 6, 5:7], heat[1, 2, 3] = 1, 0.5
    assert centers(truth, [mask], [heat]) == [2, 2, 3]
    assert centers(0 * truth, [mask, mask], [heat]) == [6, 6, 5]
    assert centers(0 * truth, [0 * mask], [heat, heat / 2]) == [1, 2, 3]


def test_methods_with_weights_are_drawn_by_themselves(tmp_path, scans):
    common = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "heads": 2, "patch": 32, "spacing": 8.0}
    config, encoder = common | {"dim": 8, "tokens": 2}, load_text_encoder()
    torch.manual_seed(0)
    model = build("malenia", config)
    model.bank.fill(encoder)
    save(model, "malenia", tmp_path / "w" / METHODS["malenia"].weights, config=config, encoder=encoder)
    invoke("--out", tmp_path / "pages", "--weights", tmp_path / "w", "--limit", 1)
    methods = json.loads((tmp_path / "pages/pages.json").read_text())[0]["methods"]
    assert list(methods) == ["malenia"] and 0 < methods["malenia"]["peak"] < 1


# ---- causes ---------------------------------------------------------------------------------------------------------

FIGURES = {"malenia": {"dice": 0.5, "ml": 3.0, "peak": 0.9}, "zept": {"dice": 0.0, "ml": 0.0, "peak": 0.1}}
RECORD = {"case": "a", "modality": "CT", "prompt": "liver tumor", "truth_ml": 2.0, "picture": "a.png",
          "methods": FIGURES}  # fmt: skip


def test_causes_are_merged_without_drawing(tmp_path):
    (tmp_path / "pages.json").write_text(json.dumps([RECORD, RECORD | {"case": "b"}]))
    table, notebook = tmp_path / "failures.csv", tmp_path / "notebook.md"
    table.write_text(HEAD + 'b,liver tumor,"too faint, on T1 | T2",more faint ones\nc,liver tumor,x,y\n')
    notebook.write_text("# Notes\n\nkept\n")
    order = ("--out", tmp_path, "--merge", "--failures", table, "--notebook", notebook)
    assert "no page shows c, liver tumor" in invoke(*order)
    index = (tmp_path / "index.md").read_text()
    assert "- cause: too faint, on T1 | T2\n- mend: more faint ones" in index and index.count("\n- cause:\n") == 1
    assert "| b | liver tumor | 2.0 | Dice 0.50, 3.0 ml | Dice 0.00, nothing found | too faint, on T1 \\| T2 |" in index
    text = notebook.read_text()
    assert (
        text.startswith("# Notes\n\nkept\n")
        and "| b | liver tumor | too faint, on T1 \\| T2 | more faint ones |" in text
    )
    table.write_text(HEAD)
    invoke(*order)
    assert "too faint" not in (tmp_path / "index.md").read_text() + notebook.read_text()
    assert notebook.read_text().count("## Failures") == 1


def test_a_notebook_keeps_what_stands_around_its_table():
    once = notebook_page("before\n<!-- failures:begin -->\nold\n<!-- failures:end -->\nafter\n", [])
    assert once.startswith("before\n") and once.endswith("after\n") and "old" not in once


@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, "is missing: restore it"),
        ("case,cause\n", "its first line must be case,prompt,cause,mend"),
        (HEAD + "a,liver tumor,faint\n", "line 2 of"),
        (HEAD + "a,liver tumor,faint, small,none\n", "line 2 of"),
        (HEAD + "a,liver tumor,x,y\na,liver tumor,z,y\n", "speaks of a, liver tumor twice"),
    ],
)
def test_a_damaged_table_is_a_sentence(tmp_path, text, sentence):
    table = tmp_path / "failures.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(PagesError, match=sentence):
        read_failures(table)


def test_the_shipped_table_can_be_read():
    assert FAILURES.read_text().startswith(HEAD)
    rows = read_failures(FAILURES)
    assert index_page([RECORD], rows).startswith("# Real scans")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--merge"], "holds no pages to merge causes into"),
        (["--method", "nothing"], "there is no method 'nothing'"),
        (["--method", "everything", "--cases", "nobody"], "there is no case 'nobody'"),
        (["--weights", "."], "no method has weights there"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in invoke("--out", tmp_path / "pages", *arguments, code=2)


def test_without_real_scans_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(failure_pages, "real_cases", lambda: iter(()))
    assert "set ZEROTUMOR_DATA" in invoke("--out", tmp_path, "--method", "everything", code=2)
