"""Organs: from a method's maps to labels, and from files with tables of labels to truths."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.nifti1 import Nifti1Extension

from zerotumor.errors import ScanError
from zerotumor.organs import label_names, mean_dice, organ_labels, real_organs, score_organs
from zerotumor.segmenter import Segmenter, build

TABLE = """<?xml version="1.0"?><CaretExtension><VolumeInformation Index="0"><LabelTable>
{}</LabelTable></VolumeInformation></CaretExtension>"""
AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])


class Bright(Segmenter):
    """Calls what is bright a liver and what is dark a spleen."""

    organ_names, spacing, patch = ("liver", "spleen"), 4.0, 16

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def encode_image(self, image):
        return {"image": image[:, 1:]}

    def organ_maps(self, features):
        value = features["image"]
        return torch.cat([torch.full_like(value, 0.5), value, 0.8 - value], 1)


def write(path, values, names=None):
    image = nib.Nifti1Image(values, AFFINE)
    if names:
        rows = "".join(f'<Label Key="{k}"><![CDATA[{n}]]></Label>' for k, n in names.items())
        image.header.extensions.append(Nifti1Extension(0, TABLE.format(rows).encode()))
    nib.save(image, path)


@pytest.fixture
def folder(tmp_path):
    """A healthy scan: a bright half made of two parts, a dark quarter."""
    inside = tmp_path / "healthy" / "totalsegmentator"
    inside.mkdir(parents=True)
    values, labels = (
        np.random.default_rng(0).uniform(-5, 5, (20, 20, 20)).astype(np.float32),
        np.zeros((20,) * 3, np.uint8),
    )
    values[:10] += 200
    values[15:] -= 150
    labels[:5], labels[5:10], labels[15:] = 3, 7, 9
    write(inside / "example_ct_sm.nii.gz", values)
    write(inside / "example_seg.nii.gz", labels, {3: "liver", 7: "hip_left", 9: "spleen"})
    return tmp_path


def test_files_say_what_their_labels_are(folder, tmp_path):
    assert label_names(folder / "healthy/totalsegmentator/example_seg.nii.gz")[9] == "spleen"
    write(tmp_path / "plain.nii.gz", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ScanError, match="does not say what its labels are"):
        label_names(tmp_path / "plain.nii.gz")


def test_real_scans_are_measured_by_name(folder):
    (case,) = real_organs(folder)
    records = {r["organ"]: r["dice"] for r in score_organs(Bright(), case)}
    assert set(records) == {"liver", "spleen"}  # a hip is not all bone
    assert records["spleen"] == 1 and records["liver"] == pytest.approx(2 * 5 / (5 + 10), abs=1e-4)


def test_a_voxel_is_what_has_the_most():
    scan = MetaTensor(torch.zeros(1, 16, 16, 16), affine=np.diag([4.0, 4, 4, 1]), meta={"modality": "CT"})
    assert organ_labels(Bright(), scan).unique().tolist() == [0]
    scan[:, :8], scan[:, 8:] = 300.0, -300.0
    labels = organ_labels(Bright(), scan)
    assert (labels[:8] == 1).all() and (labels[8:] == 2).all()


@pytest.mark.parametrize("method", ["malenia", "zept"])
def test_methods_show_their_organs_on_the_images_grid(method):
    config = {"channels": [4, 4, 4, 4, 4], "mask_channels": 2, "heads": 2, "patch": 32}
    model = build(method, config).eval()
    with torch.no_grad():
        maps = model.organ_maps(model.encode_image(torch.rand(1, 2, 32, 32, 32)))
    assert maps.shape == (1, 1 + len(model.organ_names), 32, 32, 32) and 0 <= maps.min() <= maps.max() <= 1


def test_means_are_over_cases():
    rows = [{"organ": o, "dice": d} for o, d in (("liver", 0.5), ("spleen", 0.25), ("liver", 1.0))]
    assert mean_dice(rows) == {"liver": 0.75, "spleen": 0.25}
