"""The app's own package on the path, and a folder with what its tasks need."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "apps" / "zerotumor"))

import nibabel as nib
import numpy as np
import pytest
import torch

from zerotumor.segmenter import METHODS, build, save
from zerotumor.text import load_text_encoder

TINY = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "heads": 2, "patch": 32, "spacing": 4.0}
CONFIGS = {"malenia": {**TINY, "dim": 8, "tokens": 2}, "zept": {**TINY, "width": 8}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny seeded weights of two methods, and a scan of noise in air."""
    folder, encoder = tmp_path_factory.mktemp("tasks"), load_text_encoder()
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = build(name, config)
        model.bank.fill(encoder)
        save(model, name, folder / METHODS[name].weights, config=config, encoder=encoder)
    values = np.random.default_rng(0).normal(0, 60, (32, 32, 32)).astype(np.float32)
    values[:8] = -1000
    nib.save(nib.Nifti1Image(values, np.diag([-4.0, -4.0, 4.0, 1.0])), folder / "scan.nii.gz")
    return folder
