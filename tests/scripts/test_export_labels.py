"""What was annotated leaves as sets that MONAI and nnU-Net read, with prompts and origins; bad labels stay behind."""

import json

import export_labels
import nibabel as nib
import numpy as np
import pytest
import typer
from make_files import ct_values
from monai.data import load_decathlon_datalist
from typer.testing import CliRunner

from zerotumor.annotated import annotations, kinds, names_of
from zerotumor.annotation import LabelError
from zerotumor.errors import ScanError
from zerotumor.label_numbers import LABELS

app = typer.Typer()
app.command()(export_labels.main)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 3.0, -30], [0, 0, 0, 1]])
BESIDE = AFFINE.copy()
BESIDE[0, 3] += 9
ORIGIN = {"method": "malenia", "weights_sha256": "abc", "dice": 0.8, "clicks_inside": 2}


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def mask(**boxes):
    """Label values by name of a box: `_3=(6, 9)` paints 3."""
    out = np.zeros((20, 18, 16), np.uint8)
    for value, (low, high) in boxes.items():
        out[low:high, 6:10, 4:8] = int(value.strip("_"))
    return out


@pytest.fixture
def studies(tmp_path):
    """Two CT and one MR with good labels, one CT without, one with an empty one, one with one on another grid."""
    folder, objects = tmp_path / "studies", {}

    def add(name, values, labels=None, info=None, affine=AFFINE):
        nib.save(nib.Nifti1Image(values, AFFINE), folder / f"{name}.nii.gz")
        objects[name] = {"image": {"ext": ".nii.gz", "info": {}}, "labels": {}}
        if labels is not None:
            nib.save(nib.Nifti1Image(labels, affine), folder / "labels" / "final" / f"{name}.nii.gz")
            objects[name]["labels"]["final"] = {"ext": ".nii.gz", "info": info or {}}

    (folder / "labels" / "final").mkdir(parents=True)
    ct = ct_values().round()
    segments = [{"name": "hepatic tumor", "idx": 3}, {"name": "my cyst", "idx": 5}]
    add("one", ct, mask(_3=(6, 8), _5=(9, 11)), {"label_info": segments, "prompt": "liver tumor; my cyst"})
    add("two words", ct, mask(_1=(6, 9)), {"prompt": "liver tumor", "provenance": ORIGIN})
    add("mr", np.clip(ct + 1000, 0, None) + 0.5, mask(_1=(6, 9)), {"label_info": [{"name": "Segment_1", "idx": 1}]})
    add("unlabeled", ct)
    add("empty", ct, mask())
    add("beside", ct, mask(_1=(6, 9)), affine=BESIDE)
    (folder / "datastore_v2.json").write_text(
        json.dumps({"images_dir": ".", "labels_dir": "labels", "objects": objects})
    )
    return folder


def test_a_datalist_that_monai_reads(studies, tmp_path):
    out = tmp_path / "out"
    said = run(studies, "--out", out, code=1)
    assert "empty is left out: the label is empty" in said and "beside is left out" in said and "3 of 5 labels" in said
    rows = load_decathlon_datalist(str(out / "CT.json"), True, "training")
    assert [r["labels"] for r in rows] == [{"3": "liver tumor", "5": "my cyst"}, {"1": "liver tumor"}]
    assert rows[1]["prompt"] == "liver tumor" and rows[1]["provenance"] == ORIGIN
    for row, name in zip(rows, ("one", "two words"), strict=True):
        for key, folder in (("image", ""), ("label", "labels/final")):
            before, after = nib.load(studies / folder / f"{name}.nii.gz"), nib.load(row[key])
            assert np.array_equal(before.get_fdata(), after.get_fdata()) and np.allclose(before.affine, after.affine)
    assert not json.loads((out / "CT.json").read_text())["training"][0]["image"].startswith("/"), "the folder may move"
    assert len(load_decathlon_datalist(str(out / "MR.json"), True, "training")) == 1
    assert load_decathlon_datalist(str(out / "MR.json"), True, "validation") == []
    assert "choose another --out" in run(studies, "--out", out, code=2)
    run(studies, "--out", out, "--force", "--validation", 0.5, code=1)
    halves = [load_decathlon_datalist(str(out / "CT.json"), True, k) for k in ("training", "validation")]
    assert [len(h) for h in halves] == [1, 1]


def test_scans_of_both_modalities_keep_files_of_their_own(studies, tmp_path):
    index, out = studies / "datastore_v2.json", tmp_path / "out"
    stored = json.loads(index.read_text())
    for old, new in (("one", "Müller"), ("mr", "Möller")):  # as names of files, both are M-ller
        for folder in (studies, studies / "labels" / "final"):
            (folder / f"{old}.nii.gz").rename(folder / f"{new}.nii.gz")
        stored["objects"][new] = stored["objects"].pop(old)
    index.write_text(json.dumps(stored))
    run(studies, "--out", out, code=1)
    for modality, name in (("CT", "Müller"), ("MR", "Möller")):
        row = load_decathlon_datalist(str(out / f"{modality}.json"), True, "training")[0]
        for key, folder in (("image", studies), ("label", studies / "labels" / "final")):
            before, after = nib.load(folder / f"{name}.nii.gz"), nib.load(row[key])
            assert np.array_equal(before.get_fdata(), after.get_fdata()), f"{key} of {name}"
    assert len(list((out / "images").iterdir())) == len(list((out / "labels").iterdir())) == 3


def test_nnunets_raw_folder(studies, tmp_path):
    out = tmp_path / "raw"
    run(studies, "--out", out, "--format", "nnunet", "--number", 7, "--name", "Mine", code=1)
    ct, mr = out / "Dataset007_Minect", out / "Dataset008_Minemr"
    about = json.loads((ct / "dataset.json").read_text())
    assert about == {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "liver tumor": 1, "my cyst": 2}, "numTraining": 2,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    assert sorted(f.name for f in (ct / "imagesTr").iterdir()) == ["one_0000.nii.gz", "two-words_0000.nii.gz"]
    one = nib.load(ct / "labelsTr" / "one.nii.gz")
    given = nib.load(studies / "labels" / "final" / "one.nii.gz").get_fdata()
    assert np.array_equal(one.get_fdata(), np.where(given == 3, 1, np.where(given == 5, 2, 0)))
    assert np.allclose(one.affine, nib.load(ct / "imagesTr" / "one_0000.nii.gz").affine) and np.allclose(
        one.affine, AFFINE
    )
    assert json.loads((ct / "provenance.json").read_text())["two-words"]["provenance"] == ORIGIN
    assert json.loads((mr / "dataset.json").read_text())["labels"] == {"background": 0, "lesion": 1}
    assert "is there already" in run(studies, "--out", out, "--format", "nnunet", "--number", 8, code=2)
    run(studies, "--out", tmp_path / "merged", "--format", "nnunet", "--merge", code=1)
    merged = tmp_path / "merged" / "Dataset501_ZeroTumorct"
    assert json.loads((merged / "dataset.json").read_text())["labels"] == {"background": 0, "lesion": 1}
    assert np.array_equal(nib.load(merged / "labelsTr" / "one.nii.gz").get_fdata(), given > 0)


def test_an_export_over_another_leaves_none_of_its_cases_and_all_that_is_not_ours(studies, tmp_path):
    out = tmp_path / "raw"
    options = ("--out", out, "--format", "nnunet", "--force")
    run(studies, *options, code=1)
    ct = out / "Dataset501_ZeroTumorct"
    (ct / "notes.txt").write_text("of a person")
    without(studies, "one")
    run(studies, *options, code=1)
    assert json.loads((ct / "dataset.json").read_text())["numTraining"] == 1
    assert [f.name for f in (ct / "labelsTr").iterdir()] == ["two-words.nii.gz"]
    assert [f.name for f in (ct / "imagesTr").iterdir()] == ["two-words_0000.nii.gz"]
    assert (ct / "notes.txt").read_text() == "of a person"
    (ct / "labelsTr" / "mine.nii.gz").write_bytes(b"by hand")
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    assert "mine.nii.gz was not exported from here" in run(studies, *options, code=2)
    said = run(studies, *options, "--name", "Other", code=2)
    assert "Dataset501_ZeroTumorct has the number of Dataset501_Otherct" in said and "choose another --number" in said
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before
    (ct / "labelsTr" / "mine.nii.gz").unlink()
    (ct / "provenance.json").write_text("{")
    assert "was not exported from here" in run(studies, *options, code=2), "then nobody knows whose it is"


def without(studies, *names):
    """Take scans out of the index of a folder."""
    index = studies / "datastore_v2.json"
    stored = json.loads(index.read_text())
    for name in names:
        del stored["objects"][name]
    index.write_text(json.dumps(stored))


def files_of(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def test_a_datalist_over_another_leaves_none_of_its_cases_and_all_that_is_not_its_own(studies, tmp_path):
    out, beside = tmp_path / "out", tmp_path / "beside.nii.gz"
    run(studies, "--out", out, code=1)
    assert "images/mr.nii.gz" in files_of(out)
    for mine in ("notes.txt", "images/mine.nii.gz", "mine.json"):
        (out / mine).write_text("of a person")
    beside.write_text("of a person")
    stored = json.loads((out / "MR.json").read_text())
    foreign = [{"image": "../beside.nii.gz", "label": str(beside)}, {"image": "images", "label": "images/gone.nii.gz"}]
    (out / "MR.json").write_text(json.dumps(stored | {"validation": foreign}))
    without(studies, "mr", "one")
    run(studies, "--out", out, "--force", code=1)
    assert files_of(out) == {
        "CT.json", "images/two-words.nii.gz", "labels/two-words.nii.gz", "notes.txt", "images/mine.nii.gz", "mine.json",
    }  # fmt: skip
    assert len(load_decathlon_datalist(str(out / "CT.json"), True, "training")) == 1
    assert beside.read_text() == "of a person"


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored | {"name": "Task03_Liver"},
        lambda stored: stored | {"training": [{"image": 3}]},
        lambda stored: [],
    ],
)
def test_a_datalist_of_somebody_else_stays_with_all_that_it_lists(studies, tmp_path, change):
    out = tmp_path / "out"
    run(studies, "--out", out, code=1)
    (out / "MR.json").write_text(json.dumps(change(json.loads((out / "MR.json").read_text()))))
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    assert "MR.json was not exported from here" in run(studies, "--out", out, "--force", code=2)
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before


def test_what_is_exported_is_never_written_over(studies):
    stored = json.loads((studies / "datastore_v2.json").read_text()) | {"images_dir": "images"}
    (studies / "datastore_v2.json").write_text(json.dumps(stored))
    (studies / "images").mkdir()
    for scan in studies.glob("*.nii.gz"):
        scan.rename(studies / "images" / scan.name)
    before = files_of(studies)
    assert "belongs to the annotated folder" in run(studies, "--out", studies, "--force", code=2)
    assert files_of(studies) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "coco"), "use one of monai, nnunet"),
        (("--format", "nnunet", "--name", "../up"), "letters, digits"),
        (("--tag", "original"), "no label with the tag 'original'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(studies, tmp_path, options, words):
    assert words in run(studies, "--out", tmp_path / "out", *options, code=2)
    assert not list(tmp_path.glob("out/*"))


def test_other_folders_and_damaged_ones(tmp_path):
    with pytest.raises(ScanError, match="--studies"):
        annotations(tmp_path)
    (tmp_path / "datastore_v2.json").write_text('{"objects": {"a": {"image": 3, "labels": {"final": {}}}}}')
    with pytest.raises(ScanError, match="damaged"):
        annotations(tmp_path)


def test_names_of_labels():
    assert (
        set(kinds("Hepatic  Tumour")) == {"liver tumor"} and set(kinds("Odd Thing")) == {"odd thing"} and not kinds("")
    )
    assert names_of([2], {"prompt": "RCC"}) == {2: next(iter(kinds("RCC")))}
    assert names_of([1, 2], {"prompt": "RCC"}) == {1: "lesion 1", 2: "lesion 2"}, "which of them is it?"
    assert names_of([1], {"label_info": "damaged", "prompt": 3}) == {1: "lesion"}
    odd = [{"idx": idx, "name": "lipoma"} for idx in ("\u00b2", "9" * 5000, None, [2])]
    assert names_of([2], {"label_info": odd, "prompt": "RCC"}) == names_of([2], {"prompt": "RCC"})
    assert names_of([2], {"label_info": [*odd, {"idx": "2", "name": "liver tumor"}]}) == {2: "liver tumor"}


def test_of_several_lesions_the_number_says_which_one_it_is():
    both = {"prompt": "renal cyst; Liver tumor"}
    cyst, liver = LABELS["kidney cyst"], LABELS["liver tumor"]
    assert names_of([liver], both) == {liver: "liver tumor"} and names_of([cyst], both) == {cyst: "kidney cyst"}
    assert names_of([cyst, liver], both) == {cyst: "kidney cyst", liver: "liver tumor"}
    assert names_of([1], {"prompt": "liver tumor; hepatic tumor"}) == {1: "liver tumor"}, "they are one"
    assert names_of([1], {**both, "label_info": [{"idx": 1, "name": "lipoma"}]}) == {1: "lipoma"}
    for values, info in (
        ([1], both),
        ([LABELS["lipoma"]], both),
        ([1, 2], both),
        ([1], {"prompt": "odd thing; liver tumor"}),
        ([1], {"label_info": [{"idx": 1, "name": "renal cyst; liver tumor"}]}),
    ):
        with pytest.raises(LabelError, match=f"which of them label {values[0]} is: save it with the names"):
            names_of(values, info)
