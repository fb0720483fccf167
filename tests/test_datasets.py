"""Class maps of public data sets, on tiny folders of their layout."""

import json

import pytest

from zerotumor.datasets import EXTRA_ORGANS, ORGAN_LABELS, PUBLIC_SETS, TOTAL_SEGMENTATOR, annotated, datalist
from zerotumor.errors import ScanError
from zerotumor.vocabulary import LESIONS, ORGANS, PAIRS

LAYOUTS = {
    "kits": ("case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz"),
    "amos": ("imagesTr/amos_0001.nii.gz", "labelsTr/amos_0001.nii.gz"),
    "word": ("imagesTr/word_0002.nii.gz", "labelsTr/word_0002.nii.gz"),
    "btcv": ("imagesTr/img0001.nii.gz", "labelsTr/label0001.nii.gz"),
    "abdomenct-1k": ("Images/Case_00001_0000.nii.gz", "Mask/Case_00001.nii.gz"),
}


def touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def test_names_are_known_and_numbers_unique():
    names = {n for s in PUBLIC_SETS.values() for n in s.labels.values()} | set(TOTAL_SEGMENTATOR.values())
    assert all(n in ORGAN_LABELS or n in PAIRS or n in LESIONS for n in names)
    assert len(set(ORGAN_LABELS.values())) == len(ORGAN_LABELS) and max(ORGAN_LABELS.values()) < 256
    assert all(parent in ORGANS or parent == "" for parent in EXTRA_ORGANS.values())


@pytest.mark.parametrize("kind", list(LAYOUTS))
def test_layouts(tmp_path, kind):
    image, label = LAYOUTS[kind]
    touch(tmp_path, image, label, image.replace("1", "7"))  # a scan without a label map is left out
    records = datalist(kind, tmp_path)
    assert [(r["image"], r["label"]) for r in records] == [(str(tmp_path / image), str(tmp_path / label))]
    assert records[0]["labels"]["1"] == PUBLIC_SETS[kind].labels[1] and records[0]["modality"] == "CT"


def test_btcv_as_first_published(tmp_path):
    touch(tmp_path, "img/img0001.nii.gz", "label/label0001.nii.gz")
    assert datalist("btcv", tmp_path)[0]["label"].endswith("label/label0001.nii.gz")


@pytest.mark.parametrize("layout", [("imagesTr", "labelsTr", "imagesTs"), ("img", "label", "images")])
def test_btcv_scans_without_label_maps_are_left_out(tmp_path, layout):
    images, labels, others = layout
    touch(tmp_path, f"{images}/img0001.nii.gz", f"{labels}/label0001.nii.gz", f"{others}/img0061.nii.gz")
    assert [r["label"] for r in datalist("btcv", tmp_path)] == [str(tmp_path / labels / "label0001.nii.gz")]


@pytest.mark.parametrize("name", ["ImagePart{}", "AbdomenCT-1K-ImagePart{}"])
@pytest.mark.parametrize("masks", ["Mask", "AbdomenCT-1K-Mask"])
def test_abdomenct_1k_in_parts(tmp_path, name, masks):
    images = [f"{name.format(k)}/Case_0000{k}_0000.nii.gz" for k in (1, 2)]
    labels = [f"{masks}/Case_0000{k}.nii.gz" for k in (1, 2)]
    touch(tmp_path, *images, *labels, f"{name.format(2)}/Case_00003_0000.nii.gz")
    records = datalist("abdomenct-1k", tmp_path)
    assert [(r["image"], r["label"]) for r in records] == [
        (str(tmp_path / i), str(tmp_path / m)) for i, m in zip(images, labels, strict=True)
    ]


@pytest.mark.parametrize("kind", list(LAYOUTS))
def test_a_scan_alone_is_not_its_own_label_map(tmp_path, kind):
    folder = tmp_path / "a [b]"
    touch(folder, LAYOUTS[kind][0])
    with pytest.raises(ScanError, match="no scans with labels"):
        datalist(kind, folder)
    touch(folder, LAYOUTS[kind][1])
    assert datalist(kind, folder)[0]["label"] == str(folder / LAYOUTS[kind][1])


def test_amos_has_mr_too(tmp_path):
    touch(tmp_path, *(f"{part}/amos_{n}.nii.gz" for part in ("imagesTr", "labelsTr") for n in ("0400", "0590")))
    assert [r["modality"] for r in datalist("amos", tmp_path)] == ["CT", "MR"]
    assert "15" not in datalist("amos", tmp_path)[0]["labels"]


@pytest.mark.parametrize("by", ["folder", "record"])
def test_msd_tells_its_task(tmp_path, by):
    folder = tmp_path / ("Task07_Pancreas" if by == "folder" else "download")
    touch(folder, "imagesTr/pancreas_001.nii.gz", "imagesTr/._pancreas_001.nii.gz", "labelsTr/pancreas_001.nii.gz",
          "labelsTr/._pancreas_001.nii.gz")  # fmt: skip
    if by == "record":
        (folder / "dataset.json").write_text(json.dumps({"name": "Pancreas"}))
    (record,) = datalist("msd", folder)
    assert record["labels"] == {"1": "pancreas", "2": "pancreatic tumor"}
    assert record["annotated"] == ["pancreas", "pancreatic tumor"]


@pytest.mark.parametrize("name", ["Task03_Liver", "download"])
def test_msd_tells_its_task_after_a_datalist_was_made_in_it(tmp_path, name):
    """What make_datalist.py moves aside still says it; without that, the folder's name does."""
    folder = tmp_path / name
    touch(folder, "imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"training": [], "validation": []}))
    if name == "download":
        with pytest.raises(ScanError, match="no class map for 'msd' .download."):
            datalist("msd", folder)
        (folder / "dataset.msd.json").write_text(json.dumps({"name": "Liver"}))
    assert datalist("msd", folder)[0]["labels"] == {"1": "liver", "2": "liver tumor"}


def test_totalsegmentator_has_a_file_a_class(tmp_path):
    touch(tmp_path, "s0001/ct.nii.gz", *(f"s0001/segmentations/{n}.nii.gz" for n in TOTAL_SEGMENTATOR))
    touch(
        tmp_path,
        "s0002/ct.nii.gz",
        "s0002/segmentations/liver.nii.gz",
        "s0002/segmentations/lung_upper_lobe_left.nii.gz",
    )
    touch(tmp_path, "s0003/ct.nii.gz")
    whole, part = datalist("totalsegmentator", tmp_path)
    assert {"left lung", "right adrenal gland", "bladder", "duodenum", "small bowel"} <= set(whole["annotated"])
    assert part["annotated"] == ["liver"]  # one lobe is not a lung
    assert set(part["label"]) == set(part["labels"])


def test_pairs_are_both_sides():
    assert annotated(["kidney", "liver"]) == ["left kidney", "liver", "right kidney"]


def test_errors_name_the_remedy(tmp_path):
    with pytest.raises(ScanError, match="choose one of msd"):
        datalist("mine", tmp_path)
    with pytest.raises(ScanError, match="as it was unpacked"):
        datalist("kits", tmp_path)
