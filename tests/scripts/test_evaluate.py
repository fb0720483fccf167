"""The evaluation and the pages made from it."""

import json

import evaluate
import evaluate_organs
import model_card
import pytest
import torch
import typer
from monai.data import MetaTensor
from typer.testing import CliRunner

from zerotumor.cohorts import Case
from zerotumor.errors import ScanError
from zerotumor.segmenter import METHODS, build, save
from zerotumor.text import load_text_encoder

FIELDS = {
    "method", "set", "split", "category", "modality", "case", "prompt", "dice", "nsd2", "auroc", "fpr95", "lesion_f1",
    "truth_ml", "volume_ml", "fp_ml", "seconds",
}  # fmt: skip
PAGES = ("results.md", "model_card.md", "README.md")
evaluation, card, organs_app = typer.Typer(), typer.Typer(), typer.Typer()
evaluation.command()(evaluate.main)
organs_app.command()(evaluate_organs.main)
card.command()(model_card.main)


def test_records_are_complete(tmp_path):
    arguments = [
        "--method",
        "outlier,everything",
        "--set",
        "phantom",
        "--limit",
        "2",
        "--masks",
        str(tmp_path / "masks"),
    ]
    result = CliRunner().invoke(evaluation, [*arguments, "--out", str(tmp_path / "e.json")])
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "e.json").read_text())
    assert all(set(r) >= FIELDS for r in saved["records"])
    assert {r["method"] for r in saved["records"]} == {"outlier", "everything"}
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == len(saved["records"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the evaluation of one baseline on tiny scans, of which some raise an error when they are read."""

    def case(name, error):
        def read():
            if error is not None:
                raise error
            scan = MetaTensor(torch.full((1, 12, 12, 12), 40.0), affine=torch.eye(4), meta={"modality": "CT"})
            return scan, {"liver tumor": torch.ones(12, 12, 12, dtype=torch.uint8)}, {}

        return Case(name, "real", "CT", read, {"liver tumor": ("liver tumor", "seen")})

    def start(**errors):
        monkeypatch.setattr(evaluate, "SETS", {"real": lambda: [case(n, e) for n, e in errors.items()]})
        monkeypatch.setattr(evaluate, "missing_cases", lambda: {"gone": "gone.nii.gz is missing"})
        options = ["--method", "everything", "--set", "real", "--out", str(tmp_path / "e.json")]
        return CliRunner().invoke(evaluation, options)

    return start


def test_a_scan_that_cannot_be_read_is_left_out_by_name(tmp_path, run):
    result = run(a=None, b=ScanError("b is damaged: copy it again"), c=None)
    assert result.exit_code == 0 and "b is left out: b is damaged" in result.output and "2 cases left" in result.output
    saved = json.loads((tmp_path / "e.json").read_text())
    assert [r["case"] for r in saved["records"]] == ["a", "c"]
    assert saved["left_out"] == {"gone": "gone.nii.gz is missing", "b": "b is damaged: copy it again"}
    assert [f.name for f in tmp_path.iterdir()] == ["e.json"]


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (MemoryError(), 1)])
def test_a_run_that_is_interrupted_leaves_what_it_measured(tmp_path, run, error, code):
    (tmp_path / "e.json").write_text("of an earlier run")
    assert run(a=None, b=None, c=error, d=None).exit_code == code
    saved = json.loads((tmp_path / "e.partial.json").read_text())
    assert [r["case"] for r in saved["records"]] == ["a", "b"] and set(saved["weights_sha256"]) == {"everything"}
    assert (tmp_path / "e.json").read_text() == "of an earlier run"


def test_a_folder_that_cannot_be_written_is_said_at_the_first_case(tmp_path, run):
    (tmp_path / "e.partial.json").mkdir()
    result = run(a=None, b=MemoryError())
    assert result.exit_code == 1 and "could not be written" in " ".join(result.output.split())


def test_the_rows_of_an_ablation_share_what_is_encoded_of_a_scan(monkeypatch):
    encoded = []
    monkeypatch.setattr(
        evaluate, "encode_scan", lambda model, scan, modality: encoded.append((model, scan)) or len(encoded)
    )
    encodings, one, two = evaluate.Encodings(), object(), object()
    asked = [("diffugts", one), ("diffugts", one), ("other", one), ("diffugts", two), ("diffugts", one)]
    assert [encodings.of(name, name, scan, "CT") for name, scan in asked] == [1, 1, 2, 3, 4]
    assert encoded == [asked[k] for k in (0, 2, 3, 4)]


@pytest.mark.parametrize("arguments, code", [(["--set", "moon"], 2), (["--method", "nothing"], 2)])
def test_wrong_words(tmp_path, arguments, code):
    assert CliRunner().invoke(evaluation, [*arguments, "--out", str(tmp_path / "e.json")]).exit_code == code


def made_up(method, set_, split, dice, fp):
    figures = dict.fromkeys(("nsd2", "auroc", "fpr95", "lesion_f1"), 0.5)
    return {"method": method, "set": set_, "split": split, "category": "x", "modality": "CT", "case": "c", "prompt": "p",
            "found": True, "score": 0.5, "dice": dice, "volume_ml": 1.0, "fp_ml": fp, "seconds": 2.0, **figures}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    records = [
        made_up("malenia", "phantom", "seen", 0.25, 1.0),
        made_up("malenia", "phantom", "seen", 0.75, 1.0) | {"case": "d"},
        made_up("malenia", "real", "unseen", 0.125, 9.0),
        made_up("malenia", "real", "healthy", None, 3.25),
    ]
    (tmp_path / "e.json").write_text(json.dumps({"weights_sha256": {"malenia": "abc"}, "records": records}))
    record = {
        "sha256": "abc",
        "config": {"spacing": 4.0},
        "text_encoder": {"name": "minilm"},
        "trained": {"steps": 1234},
    }
    (tmp_path / "model.json").write_text(json.dumps(record))
    (tmp_path / "README.md").write_text("a\n<!-- results:begin -->\nold\n<!-- results:end -->\nb\n")
    return tmp_path


def arguments(files):
    return [str(files / "e.json"), "--models", str(files), "--docs", str(files), "--readme", str(files / "README.md")]


def test_pages_hold_the_records_figures(files):
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    page = (files / "results.md").read_text()
    assert "0.50 (0.25 to 0.75)" in page and "3.2" in page
    model = (files / "model_card.md").read_text()
    assert "steps: 1234" in model and "abc" in model and "liver tumor" in model
    assert "Small lesions vanish on a grid of 4.0 mm." in model
    readme = (files / "README.md").read_text()
    assert "old" not in readme and readme.startswith("a\n") and readme.endswith("b\n") and "0.12" in readme


def test_scans_that_were_trained_on_are_named(files):
    saved = json.loads((files / "e.json").read_text())
    saved["records"].append(made_up("malenia", "real", "healthy", None, 7.0) | {"case": "example_ct"})
    (files / "e.json").write_text(json.dumps(saved))
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    before = {name: (files / name).read_text() for name in PAGES}
    assert "No real scan was in training" in before["model_card.md"] and "no test" not in "".join(before.values())
    record = json.loads((files / "model.json").read_text())
    record["trained"]["healthy_scans"] = ["example_ct", "an_atlas"]
    (files / "model.json").write_text(json.dumps(record))
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    for name in PAGES:
        assert "The healthy CT was in the training of malenia" in (files / name).read_text(), name
    assert "Real anatomy in training, of healthy people: example_ct, an_atlas" in (files / "model_card.md").read_text()


@pytest.mark.parametrize("phantoms", [True, False])
def test_a_card_says_that_real_scans_were_in_training(files, phantoms):
    record = json.loads((files / "model.json").read_text())
    record["trained"] |= {"scans": [f"liver_{k}" for k in range(30)]} | ({} if phantoms else {"phantoms": False})
    (files / "model.json").write_text(json.dumps(record))
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    text = (files / "model_card.md").read_text()
    assert ("Phantoms, and real scans as they are." if phantoms else "Real scans as they are alone.") in text
    assert "Real scans in training, no test of these weights: liver_0, liver_1" in text and "and 10 more" in text
    assert (
        "No real scan" not in text and "Phantoms alone" not in text and ("Phantoms are synthetic" in text) == phantoms
    )


def test_a_second_method_has_a_card_of_its_own(files):
    before = {name: (CliRunner().invoke(card, arguments(files)), (files / name).read_text())[1] for name in PAGES}
    saved = json.loads((files / "e.json").read_text())
    saved["records"] += [made_up("zept", "phantom", "seen", 0.875, 1.0), made_up("outlier", "real", "unseen", 0.0, 1.0)]
    saved["weights_sha256"] |= {"zept": "def", "outlier": "none"}
    (files / "e.json").write_text(json.dumps(saved))
    (files / "zept").mkdir()
    (files / "zept" / "model.json").write_text(
        (files / "model.json").read_text().replace("abc", "def").replace("1234", "99")
    )
    organs = [{"method": m, "set": "phantom", "case": "c", "modality": "CT", "organ": o, "dice": d, "seconds": 1.0}
              for m, o, d in (("zept", "liver", 0.5), ("zept", "spleen", 0.75), ("malenia", "liver", 0.25))]  # fmt: skip
    (files / "organs.json").write_text(json.dumps({"weights_sha256": {"zept": "def"}, "records": organs}))
    done = CliRunner().invoke(card, [*arguments(files), "--organs", str(files / "organs.json")])
    assert done.exit_code == 0, done.output
    own = (files / "model_card_zept.md").read_text()
    assert "# Model card: starter weights of zept" in own and "models/zept/model.pt" in own and "steps: 99" in own
    assert "0.88" in own and "| **mean of organs** | **0.62** |" in own and "malenia" not in own
    results, readme = (files / "results.md").read_text(), (files / "README.md").read_text()
    assert "| liver | 0.25 | 0.50 |" in results and "| spleen | - | 0.75 |" in results
    assert "| phantoms, seen kinds | zept | 1 |" in results and "| phantoms, seen kinds | zept | 1 |" in readme
    assert "Healthy organs" not in before["results.md"] and "zept" not in "".join(before.values())
    assert (files / "model_card.md").read_text().startswith(before["model_card.md"].split("Median")[0])


def test_methods_measured_apart_share_the_pages_while_their_weights_last(files):
    done = CliRunner().invoke(card, arguments(files))
    assert done.exit_code == 0, done.output
    kept = json.loads((files / "records.json").read_text())
    assert kept["lesions"]["weights_sha256"] == {"malenia": "abc"} and len(kept["lesions"]["records"]) == 4
    (files / "zept").mkdir()
    (files / "zept" / "model.json").write_text((files / "model.json").read_text().replace("abc", "def"))
    alone = {"weights_sha256": {"zept": "def"}, "records": [made_up("zept", "phantom", "seen", 0.875, 1.0)]}
    (files / "e.json").write_text(json.dumps(alone))
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    page = (files / "results.md").read_text()
    assert "| phantoms, seen kinds | malenia | 2 | 0.50 (0.25 to 0.75)" in page and "| zept | 1 | 0.88" in page
    (files / "model.json").write_text((files / "model.json").read_text().replace("abc", "new"))
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0  # malenia's figures are of weights that are gone
    assert "malenia" not in (files / "results.md").read_text()


def test_the_ensembles_figures_last_as_long_as_all_of_its_weights(files):
    together = {"weights_sha256": {"ensemble": "malenia:abc,zept:def"}, "records": []}
    (files / "zept").mkdir()
    for name, hashed in (("model.json", "abc"), ("zept/model.json", "def")):
        (files / name).write_text(json.dumps({"sha256": hashed}))
    assert model_card.keep_up(together, model_card.NOTHING, files)["weights_sha256"] == together["weights_sha256"]
    (files / "zept" / "model.json").write_text(json.dumps({"sha256": "new"}))
    assert model_card.keep_up(together, model_card.NOTHING, files)["weights_sha256"] == {}


def test_two_scans_of_a_patient_are_one_patient():
    scans = [
        made_up("malenia", "real", "unseen", dice, 1.0) | {"case": f"P{k}-{modality}"}
        for k, dice in enumerate((0.0, 0.2, 0.7, 1.0))
        for modality in ("CT", "MR")
    ]
    mean, low, high = evaluate.over_patients(scans, "dice")
    alone = evaluate.over_patients(scans[::2], "dice")
    assert (mean, low, high) == pytest.approx(alone), "a second scan that says the same adds nothing"
    apart = evaluate.over_patients([s | {"case": str(k)} for k, s in enumerate(scans)], "dice")
    assert apart[0] == pytest.approx(mean) and apart[2] - apart[1] < high - low


def test_the_median_of_two_lies_between_them():
    assert evaluate.median([0.0, 10.0]) == 5.0 and evaluate.median([3.0, 1.0, 2.0]) == 2.0


def test_lesions_are_told_apart_by_size(files):
    saved = json.loads((files / "e.json").read_text())
    CliRunner().invoke(card, arguments(files))
    assert "## By size" not in (files / "results.md").read_text()  # records that do not know it
    sizes = (4.9, 5.0, 50.0, 0.0)
    saved["records"] = [r | {"truth_ml": ml} for r, ml in zip(saved["records"], sizes, strict=True)]
    saved["records"].append(made_up("zept", "phantom", "seen", 0.0, 1.0) | {"truth_ml": 4.9})
    saved["weights_sha256"]["zept"] = "def"
    (files / "e.json").write_text(json.dumps(saved))
    (files / "zept").mkdir()
    (files / "zept" / "model.json").write_text((files / "model.json").read_text().replace("abc", "def"))
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    page = (files / "results.md").read_text()
    lines = ["phantom, under 5 ml | 1 | 0.25 (1) | 0.00 (0)", "phantom, 5 to 50 ml | 1 | 0.75 (1) | -"]
    assert all(f"| {line} |" in page for line in [*lines, "real, 50 ml and more | 1 | 0.12 (1) | -"])


def test_words_are_compared_on_the_same_lesions(files):
    """The real one was never asked for by another organ's name: it is no line."""
    saved = json.loads((files / "e.json").read_text())
    named, wrong = made_up("malenia", "phantom", "seen", 0.5, 0.0), {"set": "words", "split": "elsewhere", "dice": None}
    own = [named | {"case": case, "volume_ml": ml} for case, ml in (("a", 8.0), ("b", 0.0))]
    other = [r | wrong | {"volume_ml": ml} for r, ml in zip(own, (3.0, 0.0), strict=True)]
    (files / "e.json").write_text(json.dumps(saved | {"records": [*own, *other, saved["records"][2]]}))
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    page = (files / "results.md").read_text()
    assert "| phantom | malenia | 2 | 1 | 4.0 | 1 | 1.5 |" in page and "| real | malenia" not in page
    assert "words: x CT" not in page  # the wrong words are no kind


def test_a_set_measured_alone_leaves_the_others(files):
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    again = [made_up("malenia", "real", "unseen", 0.625, 9.0)]
    (files / "e.json").write_text(json.dumps({"weights_sha256": {"malenia": "abc"}, "records": again}))
    assert CliRunner().invoke(card, arguments(files)).exit_code == 0
    page = (files / "results.md").read_text()
    assert (
        "| phantoms, seen kinds | malenia | 2 | 0.50" in page
        and "| real scans (all unseen) | malenia | 1 | 0.62" in page
    )
    assert "| real CT | malenia" not in page  # its healthy scans were part of the set


def test_a_card_needs_its_weights_record(files):
    saved = json.loads((files / "e.json").read_text())
    saved["weights_sha256"]["zept"] = "def"
    (files / "e.json").write_text(json.dumps(saved))
    result = CliRunner().invoke(card, arguments(files))
    assert result.exit_code == 1 and "zept/model.jsonismissing" in "".join(result.output.split())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Tiny weights of both methods in one folder."""
    folder, encoder = tmp_path_factory.mktemp("weights"), load_text_encoder()
    common = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "heads": 2, "patch": 32, "spacing": 8.0}
    for name, own in (("malenia", {"dim": 8, "tokens": 2}), ("zept", {"width": 8})):
        torch.manual_seed(0)
        model = build(name, common | own)
        model.bank.fill(encoder)
        save(model, name, folder / METHODS[name].weights, config=common | own, encoder=encoder)
    return folder


def test_both_methods_have_rows(tmp_path, weights):
    options = ["--set", "phantom", "--limit", "1", "--method", "malenia,zept", "--weights", str(weights)]
    result = CliRunner().invoke(evaluation, [*options, "--out", str(tmp_path / "e.json")])
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "e.json").read_text())
    assert [r["method"] for r in saved["records"]] == ["malenia", "zept"]
    assert all(0 <= r["auroc"] <= 1 and r["dice"] is not None for r in saved["records"])
    assert len(set(saved["weights_sha256"].values())) == 2


@pytest.mark.parametrize("app", ["evaluation", "organs"])
def test_without_weights_there_is_a_sentence(tmp_path, app):
    options = ["--method", "zept", "--weights", str(tmp_path), "--out", str(tmp_path / "e.json")]
    result = CliRunner().invoke({"evaluation": evaluation, "organs": organs_app}[app], options)
    assert result.exit_code == 2 and "zept/model.pt is missing: train it" in " ".join(result.output.split())


def test_organs_of_both_methods(tmp_path, weights):
    options = ["--set", "phantom", "--limit", "1", "--method", "malenia,zept", "--weights", str(weights)]
    result = CliRunner().invoke(organs_app, [*options, "--out", str(tmp_path / "o.json")])
    assert result.exit_code == 0, result.output
    records = json.loads((tmp_path / "o.json").read_text())["records"]
    own = {m: {r["organ"] for r in records if r["method"] == m} for m in ("malenia", "zept")}
    assert own["malenia"] == own["zept"] and "liver" in own["zept"]  # the first phantom is an abdomen
    assert all(0 <= r["dice"] <= 1 for r in records) and "mean" in result.output


def test_records_of_other_weights_are_refused(files):
    (files / "model.json").write_text((files / "model.json").read_text().replace("abc", "xyz"))
    result = CliRunner().invoke(card, arguments(files))
    assert result.exit_code == 1 and "other weights" in result.output
