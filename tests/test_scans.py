"""Folders of scans with label maps as training data."""

import json
from pathlib import Path

import make_datalist
import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from make_files import write_nifti
from typer.testing import CliRunner

from zerotumor.datasets import ORGAN_LABELS, datalist
from zerotumor.errors import ScanError
from zerotumor.malenia.attributes import NAMES, value_index
from zerotumor.scans import KINDS, NO_KIND, LoadScan, read_datalist
from zerotumor.vocabulary import ORGANS
from zerotumor.zept.classes import ENTRIES
from zerotumor.zept.samples import LoadPartial

app = typer.Typer()
app.command()(make_datalist.main)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


def write_case(folder, image="imaging.nii.gz", label="segmentation.nii.gz"):
    """Two kidneys, the right one (larger x) with a tumor, the left one with a cyst."""
    for name in (image, label):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((24, 16, 16), np.uint8)
    labels[2:9, 4:12, 4:12] = 1
    labels[15:22, 4:12, 4:12] = 1
    labels[17:20, 6:9, 6:9] = 2
    labels[4:6, 6:9, 6:9] = 3
    values = np.random.default_rng(0).normal(0, 10, labels.shape) - 1000.0 * (labels == 0) + 40
    write_nifti(folder / image, values.astype(np.float32), AFFINE)
    write_nifti(folder / label, labels, AFFINE)


def test_kits_folder(tmp_path):
    for k in range(6):
        write_case(tmp_path / f"case_{k:05d}")
    assert CliRunner().invoke(app, [str(tmp_path), "--validation", "0.5"]).exit_code == 0
    training = read_datalist(tmp_path / "dataset.json")
    assert len(training) == 3 and len(read_datalist(tmp_path / "dataset.json", "validation")) == 3
    data = LoadScan(spacing=4.0)(training[0])
    assert data["image"].shape == (2, 24, 16, 16) and data["lesions"].max() == 2
    places = {int(row[0]) for row in data["values"]}
    assert places == {value_index("location", "right kidney"), value_index("location", "left kidney")}
    assert (data["values"][:, 1:] == -1).all()
    assert (data["organs"][0, 16:21, 6:9, 6:9] == ORGANS["right kidney"].index).all()
    assert (data["organs"][0, 3:8, 6:9, 6:9] == ORGANS["left kidney"].index).all()


def test_msd_task_with_an_unseen_tumor_is_left_out(tmp_path):
    folder = tmp_path / "Task07_Pancreas"
    for k in range(3):
        write_case(folder, f"imagesTr/p{k}.nii.gz", f"labelsTr/p{k}.nii.gz")
    (folder / "dataset.json").write_text("{}")
    assert CliRunner().invoke(app, [str(folder)]).exit_code == 0
    assert (folder / "dataset.msd.json").is_file()
    with pytest.raises(ScanError, match="pancreatic tumor is to stay unseen: add scans of other kinds"):
        read_datalist(folder / "dataset.json")
    assert len(read_datalist(folder / "dataset.json", seen_only=False)) == 2


def test_recorded_attributes_are_used(tmp_path):
    write_case(tmp_path)
    record = {"image": str(tmp_path / "imaging.nii.gz"), "label": str(tmp_path / "segmentation.nii.gz"),
              "labels": {"2": "kidney tumor"}, "modality": "CT", "attributes": {"density": "hyperdense"}}  # fmt: skip
    values = LoadScan(spacing=4.0)(record)["values"]
    assert values[0, NAMES.index("density")] == value_index("density", "hyperdense")


@pytest.mark.parametrize("content, words", [("{", "no datalist"), ('{"validation": []}', "no datalist")])
def test_broken_datalist(tmp_path, content, words):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(ScanError, match=words):
        read_datalist(tmp_path / "d.json")


def datalist_of(tmp_path, *labels, **more):
    """A datalist with a record for each of some labels."""
    records = [{"image": "a.nii.gz", "label": "b.nii.gz", "labels": one} for one in labels]
    (tmp_path / "d.json").write_text(json.dumps({"training": records, **more}))
    return tmp_path / "d.json"


@pytest.mark.parametrize("name", ["gizzard", "kidny", "Liver", "odd thing", "no tumor", ""])
def test_a_name_of_neither_an_organ_nor_a_lesion_is_refused(tmp_path, name):
    path = datalist_of(tmp_path, {"1": "liver"}, {"1": name})
    with pytest.raises(ScanError, match=f'record 2 of .training. names {name!r}.* call it "lesion"'):
        read_datalist(path)


def test_lesions_that_the_vocabulary_does_not_know_are_of_no_kind(tmp_path, caplog):
    """As exports of annotated scans name them; words for a known kind are that kind, and stay unseen if it is to."""
    free = {"1": "lesion", "2": "tumor", "3": "Hepatic Tumour", "4": "spiculated mass near the hilum", "5": "lesion 2"}
    (record,) = read_datalist(datalist_of(tmp_path, free, {"1": "pancreatic cancer"}))
    assert list(record["labels"].values()) == [NO_KIND, NO_KIND, "liver tumor", NO_KIND, NO_KIND]
    (said,) = caplog.messages
    assert "'lesion', 'lesion 2', 'spiculated mass near the hilum', 'tumor'" in said and "Hepatic" not in said
    caplog.clear()
    assert read_datalist(datalist_of(tmp_path, {"1": "abstract lesion", "2": "kidney"})) and not caplog.messages


def test_a_lesion_of_no_kind_is_learned_without_a_place(tmp_path):
    write_case(tmp_path)
    record = {"image": str(tmp_path / "imaging.nii.gz"), "label": str(tmp_path / "segmentation.nii.gz"),
              "labels": {"1": "kidney", "2": NO_KIND}, "modality": "CT"}  # fmt: skip
    data = LoadScan(spacing=4.0)(record)
    assert data["kinds"].tolist() == [KINDS.index(NO_KIND)] and (data["values"] == -1).all()
    assert (data["organs"][data["lesions"] > 0] == ORGANS["right kidney"].index).all()  # as under phantoms' lesions


@pytest.mark.parametrize("gone", ["image", "label", "labels"])
def test_a_record_that_lacks_something(tmp_path, gone):
    path = datalist_of(tmp_path, {"1": "liver"}, {"1": "liver"})
    listed = json.loads(path.read_text())
    del listed["training"][1][gone]
    path.write_text(json.dumps(listed))
    with pytest.raises(ScanError, match=f'record 2 of .training. has no {gone}: write {{"image"'):
        read_datalist(path)


def test_a_section_without_records_says_what_to_do(tmp_path):
    with pytest.raises(ScanError, match="no scan under 'validation': move some"):
        read_datalist(datalist_of(tmp_path, {"1": "liver"}, validation=[]), "validation")


def test_names_and_masks_of_public_sets_in_a_datalist(tmp_path):
    """Duodenum and femur are no organs of the vocabulary, but have a number; a mask a class lies beside the datalist."""
    record = label_map(tmp_path / "scans", np.eye(4))
    files = {k: str(Path(record[k]).relative_to(tmp_path)) for k in ("image", "label")}
    one = {**record, **files, "labels": {"2": "duodenum", "3": "left femur"}}
    several = {**one, "label": {"2": files["label"], "3": files["label"]}}
    (tmp_path / "d.json").write_text(json.dumps({"training": [one, several]}))
    first, second = read_datalist(tmp_path / "d.json")
    assert first["label"] == record["label"] and second["label"] == {"2": record["label"], "3": record["label"]}
    organs = LoadScan(spacing=4.0)(first)["organs"]
    assert set(organs.unique().tolist()) == {0, ORGAN_LABELS["duodenum"], ORGAN_LABELS["left femur"]}


@pytest.mark.parametrize("kind", ["amos", "word", "totalsegmentator"])
def test_records_of_public_sets_make_a_datalist(tmp_path, kind):
    files = {"amos": ("imagesTr/amos_0001.nii.gz", "labelsTr/amos_0001.nii.gz"),
             "word": ("imagesTr/word_0001.nii.gz", "labelsTr/word_0001.nii.gz"),
             "totalsegmentator": ("s0001/ct.nii.gz", "s0001/segmentations/duodenum.nii.gz")}  # fmt: skip
    for file in files[kind]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    records = datalist(kind, tmp_path)
    assert "duodenum" in records[0]["labels"].values()
    (tmp_path / "d.json").write_text(json.dumps({"training": records}))
    assert read_datalist(tmp_path / "d.json") == records


def test_folder_of_neither_kind(tmp_path):
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 1 and "neither imagesTr" in " ".join(result.output.split())


def test_label_map_of_another_scan(tmp_path):
    write_case(tmp_path)
    other = write_nifti(tmp_path / "other.nii.gz", np.ones((5, 5, 5), np.uint8), AFFINE)
    record = {
        "image": str(tmp_path / "imaging.nii.gz"),
        "label": str(other),
        "labels": {"1": "liver"},
        "modality": "CT",
    }
    with pytest.raises(ScanError, match="other.nii.gz has .5, 5, 5. voxels"):
        LoadScan()(record)


def label_map(folder, change, values=lambda v: v):
    """A record of `write_case`, its label map saved with other voxels and another affine."""
    write_case(folder)
    image = nib.load(folder / "segmentation.nii.gz")
    write_nifti(folder / "segmentation.nii.gz", values(np.asarray(image.dataobj)).copy(), AFFINE @ change)
    return {"image": str(folder / "imaging.nii.gz"), "label": str(folder / "segmentation.nii.gz"),
            "labels": {"1": "kidney", "2": "kidney tumor", "3": "kidney cyst"}, "modality": "CT"}  # fmt: skip


@pytest.mark.parametrize("mask_a_class", [False, True])
def test_a_label_map_stored_mirrored_is_turned_back(tmp_path, mask_a_class):
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 23
    kept = [1, 2, 3] if not mask_a_class else [2]
    records = [
        label_map(tmp_path / "a", np.eye(4), lambda v: v * np.isin(v, kept)),
        label_map(tmp_path / "b", mirror, lambda v: (v * np.isin(v, kept))[::-1]),
    ]
    if mask_a_class:
        records = [{**r, "label": {"2": r["label"]}} for r in records]
    plain, turned = (LoadScan(spacing=4.0)(record) for record in records)
    assert plain["organs"].any() and all(torch.equal(plain[k], turned[k]) for k in ("lesions", "organs", "values"))


def test_a_label_map_beside_its_scan_is_refused(tmp_path):
    beside = np.eye(4)
    beside[0, 3] = 22.5
    with pytest.raises(ScanError, match="90.0 mm beside"):
        LoadScan(spacing=4.0)(label_map(tmp_path, beside))


def test_samples_are_plain_tensors(tmp_path):
    write_case(tmp_path)
    record = {"image": str(tmp_path / "imaging.nii.gz"), "label": str(tmp_path / "segmentation.nii.gz"),
              "labels": {"1": "kidney", "3": "kidney cyst"}, "modality": "CT"}  # fmt: skip
    assert all(type(v) is torch.Tensor for v in LoadScan(spacing=4.0)(record).values())


def body(tmp_path, columns, names):
    """A record of a trunk of 400 mm with air beside it, of which the scan shows some columns of 8 mm: kidneys (1 the right
    one, 4 the left), a tumor (2) below the middle of the right one, a cyst (3) that touches nothing. Larger x is right."""
    labels = np.zeros((60, 16, 16), np.uint8)
    labels[36:44, 4:12, 4:12], labels[16:24, 4:12, 4:12] = 1, 4
    labels[37:39, 6:9, 6:9], labels[47:49, 2:4, 2:4] = 2, 3
    values = np.full(labels.shape, -1000.0)
    values[5:55, 1:15] = 40
    values += np.random.default_rng(0).normal(0, 10, labels.shape)
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    write_nifti(tmp_path / "i.nii.gz", values[columns].astype(np.float32), affine)
    write_nifti(tmp_path / "l.nii.gz", labels[columns], affine)
    return {"image": str(tmp_path / "i.nii.gz"), "label": str(tmp_path / "l.nii.gz"), "labels": names, "modality": "CT"}


PAIR = {"1": "kidney", "4": "kidney", "2": "kidney tumor", "3": "kidney cyst"}
SIDES = PAIR | {"1": "right kidney", "4": "left kidney"}
NARROW, OFF_CENTER = slice(34, 52), slice(8, 60)


def places(data):
    """Location of each lesion, and organs that are painted: names."""
    names = list(ORGANS)
    located = [names[int(row[0])] if row[0] >= 0 else None for row in data["values"]]
    return located, {names[k - 1] for k in data["organs"].unique().tolist() if k}


@pytest.mark.parametrize(
    ("columns", "names", "located", "painted"),
    [
        (slice(0, 60), PAIR, ["right kidney", "right kidney"], {"right kidney", "left kidney"}),
        (OFF_CENTER, PAIR, ["right kidney", "right kidney"], {"right kidney", "left kidney"}),
        (NARROW, SIDES, ["right kidney", None], {"right kidney"}),  # it lies in what it touches
        (NARROW, PAIR, [None, None], set()),  # it could be either
        (slice(14, 50), PAIR, ["right kidney", None], {"right kidney", "left kidney"}),  # the pair tells, the body does not
        (slice(0, 60), {"2": "kidney tumor"}, ["right kidney"], {"right kidney"}),  # the body's middle
        (OFF_CENTER, {"3": "kidney cyst"}, ["right kidney"], {"right kidney"}),
        (NARROW, {"2": "kidney tumor"}, [None], set()),
    ],
)  # fmt: skip
def test_left_and_right_are_told_by_labels_then_by_the_body(tmp_path, columns, names, located, painted):
    assert places(LoadScan(spacing=8.0)(body(tmp_path, columns, names))) == (located, painted)


def test_zept_does_not_take_a_kidney_of_unknown_side_for_annotated(tmp_path):
    record = body(tmp_path, NARROW, PAIR | {"9": "liver"})
    known = {ENTRIES[k] for k in LoadPartial(spacing=8.0)(record)["annotated"].nonzero().flatten().tolist()}
    assert known == {"liver", "kidney tumor", "kidney cyst"}
    whole = LoadPartial(spacing=8.0)(body(tmp_path, OFF_CENTER, PAIR))["annotated"]
    assert whole[ENTRIES.index("left kidney")] and whole[ENTRIES.index("right kidney")]
