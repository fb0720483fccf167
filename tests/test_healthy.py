"""Healthy scans as files: found, read, and turned into training samples."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from zerotumor.diffugts.samples import Phantoms as Asked
from zerotumor.errors import ScanError
from zerotumor.healthy import healthy_datalist, healthy_files, organ_of, read_healthy
from zerotumor.scans import KINDS
from zerotumor.training import GeneratePhantom
from zerotumor.vocabulary import ORGANS
from zerotumor.zept.classes import ENTRIES
from zerotumor.zept.samples import Phantoms

TABLE = "<LabelTable>{}</LabelTable>".format(
    "".join(f'<Label Key="{k}">{n}</Label>' for k, n in {1: "liver", 2: "rib_left_7", 3: "no_organ"}.items())
)


def write(path, values, table=None):
    image = nib.Nifti1Image(values, np.diag([-6.0, 6.0, 6.0, 1.0]))
    if table:
        image.header.extensions.append(Nifti1Extension(0, table.encode()))
    nib.save(image, path)


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "healthy" / "totalsegmentator"
    inside.mkdir(parents=True)
    values, labels = np.full((24, 24, 24), -1000, np.float32), np.zeros((24, 24, 24), np.uint8)
    values[2:22, 2:22] = -100
    values[4:20, 4:20] = 50
    labels[6:12, 6:14, 6:18], labels[14:18, 8:12], labels[18:19, 14:16] = 1, 2, 3
    values[labels == 2] = 700
    values += np.random.default_rng(0).normal(0, 2, values.shape).astype(np.float32)
    write(inside / "example_ct.nii.gz", values)
    write(inside / "example_seg_fast_force_split.nii.gz", labels, TABLE)
    return tmp_path


@pytest.mark.parametrize(
    ("label", "organ"),
    [
        ("kidney_left", "left kidney"), ("vertebrae_L3", "bone"), ("rib_left_7", "bone"), ("duodenum", "small bowel"),
        ("gluteus_maximus_left", "muscle"), ("iliac_vena_left", "inferior vena cava"), ("lung_upper_lobe_left", "left lung"),
        ("spinal_cord", None),
    ],
)  # fmt: skip
def test_names_of_totalsegmentator_are_organs_of_ours(label, organ):
    assert organ_of(label) == organ


def test_a_scan_is_read_in_ras(folder):
    files = healthy_files(folder)
    assert {f["name"] for f in files} == {"example_ct"}
    scan = read_healthy(files[0]["image"], files[0]["label"])
    assert scan.spacing == pytest.approx((6.0,) * 3)
    liver = (scan.organs == ORGANS["liver"].index).nonzero().float().mean(0)
    assert liver[0] == pytest.approx(23 - 8.5)  # stored from right to left
    assert int((scan.organs == ORGANS["bone"].index).sum()) == 4 * 4 * 24


def test_samples_are_drawn_in_it(folder):
    records = healthy_datalist(10, folder)
    assert len({r["seed"] for r in records}) == 10 and [
        k for k, r in enumerate(records) if r.get("category") == "healthy"
    ] == [0, 5]
    assert [k for k, r in enumerate(records) if r.get("organ") == "muscle"] == [1, 5, 9]
    make = GeneratePhantom((16, 16, 16), 8.0)
    samples = [make(record) for record in records]
    assert not samples[0]["lesions"].any() and any(s["lesions"].any() for s in samples)
    assert all(s["image"].shape == (2, 16, 16, 16) for s in samples)
    assert all(int(s["lesions"].max()) <= len(s["values"]) for s in samples)


def test_zept_and_diffugts_learn_from_drawn_lesions_too(folder, tmp_path):
    records = [{**healthy_datalist(2, folder)[1], "category": "liver tumor"}, {"seed": 3, "category": "liver tumor"}]
    make = GeneratePhantom((16,) * 3, 10.0)
    scanned, phantom = Phantoms(records, make, cache_dir=tmp_path / "zept")
    assert {KINDS[k] for k in scanned["kinds"]} == {"liver tumor"}
    missing = {ENTRIES[k] for k in (scanned["annotated"] != phantom["annotated"]).nonzero().flatten().tolist()}
    assert missing == {"muscle"} and bool(phantom["annotated"][ENTRIES.index("muscle")])
    asked = Asked(records, make, cache_dir=tmp_path / "diffugts")[0]
    assert asked["kinds"].tolist() == scanned["kinds"].tolist()


def test_without_the_scans_there_is_nothing_to_draw_in(tmp_path):
    assert healthy_files(tmp_path) == [] and healthy_datalist(0, tmp_path) == []
    with pytest.raises(ScanError, match="ZEROTUMOR_DATA"):
        healthy_datalist(3, tmp_path)


def test_a_map_that_does_not_fit_is_refused(folder):
    image, label = (healthy_files(folder)[0][key] for key in ("image", "label"))
    write(label, np.zeros((24, 24, 23), np.uint8), TABLE)
    with pytest.raises(ScanError, match="24, 23. voxels"):
        read_healthy(image, label)
    write(label, np.zeros((24, 24, 24), np.uint8))
    with pytest.raises(ScanError, match="what its labels are"):
        read_healthy(image, label)
