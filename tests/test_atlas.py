"""An atlas becomes a body: what lies between its organs is filled in."""

import nrrd
import numpy as np
import pytest
import torch

from zerotumor.atlas import atlas_scan, organ_of, read_atlas, read_table
from zerotumor.errors import ScanError
from zerotumor.phantom import generate
from zerotumor.phantom.anatomy import TISSUES
from zerotumor.vocabulary import ORGANS

NAMES = {3: "liver", 9: "colon", 131: "muscle", 299: "bone"}
ROWS = {3: "liver", 9: "colon_and_ileum", 131: "right_psoas_muscle", 200: "Pelvis"}
TABLE = "# Color table\n" + "".join(f"{k} {name} 1 2 3 255\n" for k, name in ROWS.items())


def a_map():
    """(40, 30, 20) of 4 mm: two muscles with a gap between them, a liver, a block of bone, bowel."""
    labels = torch.zeros(40, 30, 20, dtype=torch.long)
    labels[4:8, 4:26], labels[32:36, 4:26] = 131, 131
    labels[10:20, 16:24], labels[14:26, 4:10], labels[22:29, 12:24] = 3, 299, 9
    return labels


@pytest.mark.parametrize(
    ("label", "organ"),
    [
        ("right_kidney", "right kidney"), ("Lumbar3", "bone"), ("Pelvis", "bone"), ("left_renal_pelvis", None),
        ("splenic_artery", "aorta"), ("right_hepatic_vein", "hepatic vessels"), ("L4-L3-IntervertebralDisc", None),
        ("left_ureter", None), ("colon_and_ileum", "colon"), ("Rib7", "bone"),
    ],
)  # fmt: skip
def test_names_of_the_table_are_organs_of_ours(label, organ):
    assert organ_of(label) == organ


def test_between_organs_is_fat_and_around_them_a_rind():
    scan = atlas_scan(a_map(), NAMES, (4.0,) * 3)
    x, y, _ = scan.hu.shape
    middle = scan.tissue[x // 2 - 11, y // 2 + 5]  # between muscle and liver
    assert (middle == TISSUES["fat"]).all() and (scan.tissue[0] == TISSUES["air"]).all()
    fat = (scan.tissue[:, y // 2, 10] == TISSUES["fat"]).nonzero()
    assert 2 <= int((scan.organs[:, y // 2, 10] == ORGANS["muscle"].index).nonzero()[0]) - int(fat[0]) <= 4  # 12 mm
    bone = scan.organs == ORGANS["bone"].index
    assert {int(t) for t in scan.tissue[bone].unique()} == {TISSUES["cortical bone"], TISSUES["red marrow"]}
    assert (scan.tissue[scan.organs == ORGANS["colon"].index] == TISSUES["gas"]).any()


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_lesions_are_drawn_in_an_atlas_file(tmp_path, modality):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([4.0, 4.0, 4.0]),
        "space origin": [0, 0, 0],
    }
    nrrd.write(str(tmp_path / "seg.nrrd"), np.where(a_map() == 299, 200, a_map()).astype(np.uint8), header)
    (tmp_path / "colors.ctbl").write_text(TABLE)
    scan = read_atlas(str(tmp_path / "seg.nrrd"), str(tmp_path / "colors.ctbl"))
    phantom = generate(
        2, scan=scan, category="liver tumor", modality=modality, difficulty=0.0, shape=(24,) * 3, spacing=6.0
    )
    assert phantom.lesions.any() and phantom.records[0].category == "liver tumor"
    assert torch.isfinite(phantom.image).all() and not torch.equal(phantom.image, phantom.healthy)


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "colors.ctbl").write_text("# nothing\n")
    with pytest.raises(ScanError, match="no color table"):
        read_table(tmp_path / "colors.ctbl")
