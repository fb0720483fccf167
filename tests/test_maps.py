"""A method's own maps: their names, numbers and files."""

import nibabel as nib
import numpy as np
import pytest
import torch

from zerotumor.maps import summaries, summary, wanted_maps, write_map


class Model:
    maps = ("anomaly", "residual")


class Plain:
    maps = ()


def test_names():
    assert wanted_maps(" residual,anomaly, residual", Model(), "zept") == ("residual", "anomaly")
    assert wanted_maps(None, Plain(), "malenia") == wanted_maps("", Plain(), "malenia") == ()
    assert wanted_maps("uncertainty", Plain(), "malenia") == ("uncertainty",)
    with pytest.raises(ValueError, match=r"no map 'attention' \(it has anomaly, residual, uncertainty\): leave it out"):
        wanted_maps("anomaly,attention", Model(), "zept")
    with pytest.raises(ValueError, match=r"malenia has no map 'anomaly' \(it has uncertainty\).*zept"):
        wanted_maps("anomaly", Plain(), "malenia")


def test_summary():
    volume = torch.zeros(1, 6, 5, 4)
    volume[0, 2, 1, 3], volume[0, 2, 1, 2], volume[0, 0, 0, 0] = 0.9, 0.5, 0.49
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [10, 0, -1]
    found = summary(volume, affine)
    assert found == {"peak": 0.9, "peak_mm": [6.0, 3.0, 11.0], "threshold": 0.5, "above_ml": 2 * 0.024}
    assert summaries({"a": volume, "b": volume * 0}, affine, ["b"])["b"]["above_ml"] == 0


def test_files_hold_the_values(tmp_path):
    volume, affine = torch.rand(1, 6, 5, 4), np.diag([-2.0, 3.0, 4.0, 1.0])
    write_map(volume, torch.from_numpy(affine), tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.float32 and np.allclose(image.affine, affine)
    assert np.allclose(np.asarray(image.dataobj), volume[0].numpy())
