"""How much time an answer may take, through the task that the server runs, with tiny seeded weights of DiffuGTS."""

import nibabel as nib
import numpy as np
import pytest
import torch
from lib.engine import Engine
from lib.history import Histories
from lib.options import QUALITIES
from lib.tumor import Tumor

from zerotumor.diffugts import DiffuGTS
from zerotumor.diffugts.inpainting import QUALITIES as KNOWN
from zerotumor.diffusion.prior import DiffusionPrior
from zerotumor.segmenter import METHODS, build, save, save_state
from zerotumor.text import load_text_encoder

PRIOR = {
    "autoencoder": {"num_channels": [4, 4, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4},
    "unet": {"num_channels": [8, 8], "num_res_blocks": 1, "attention_levels": [False, True],
             "num_head_channels": [0, 8], "norm_num_groups": 4},
}  # fmt: skip
CONFIGS = {
    "malenia": {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "heads": 2, "patch": 32, "spacing": 8.0, "dim": 8,
                "tokens": 2},
    "diffugts": {"prior": PRIOR, "patch": 16, "spacing": 8.0, "fusion_hidden": 4, "wordings": 1, "context_mm": 16.0,
                 "dilate_mm": 8.0, "theta": 0.0, "threshold": 0.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of both methods, and a scan of noise in air."""
    folder, encoder = tmp_path_factory.mktemp("quality"), load_text_encoder()
    torch.manual_seed(0)
    save_state(DiffusionPrior(**PRIOR), folder / "prior.pt", {"method": "diffusion", "config": PRIOR})
    for name, config in CONFIGS.items():
        model, path, facts = build(name, config), folder / METHODS[name].weights, {}
        model.bank.fill(encoder)
        if name == "diffugts":
            facts["prior"] = model.load_prior(folder / "prior.pt").keep_prior(path.parent)
        save(model, name, path, config=config, encoder=encoder, **facts)
    values = np.random.default_rng(0).normal(0, 60, (16, 16, 16)).astype(np.float32)
    values[:4] = -1000
    nib.save(nib.Nifti1Image(values, np.diag([-8.0, -8.0, 8.0, 1.0])), folder / "scan.nii.gz")
    return folder


def test_the_app_knows_the_methods_qualities(folder):
    assert set(QUALITIES) == set(KNOWN) and QUALITIES[0] == DiffuGTS.quality
    task = Tumor(Engine(folder, 0.3, lambda: [folder]), Histories(folder / "clicks"))
    assert task.config()["quality"] == list(QUALITIES)
    (folder / "alone").mkdir()
    alone = Tumor(Engine(folder / "alone", 0.3, lambda: [folder]), Histories(folder / "clicks"))
    assert "quality" not in alone.config()  # nothing there has a choice


def test_a_requests_quality_reaches_the_method_and_stays_with_the_request(folder, monkeypatch):
    used = []
    original = DiffuGTS.heal

    def heal(self, image, hole, ct=None, quality=None):
        used.append(quality or self.quality)
        return original(self, image, hole, ct, "fast")

    monkeypatch.setattr(DiffuGTS, "heal", heal)
    task = Tumor(Engine(folder, 0.3, lambda: [folder]), Histories(folder / "clicks"))
    for quality in ({"quality": "best"}, {"quality": list(QUALITIES)}, {"quality": "fast"}, {}):
        request = {"image": str(folder / "scan.nii.gz"), "modality": "CT", "prompt": "tumor", "method": "diffugts"}
        task({**request, **quality})
    assert list(dict.fromkeys(used)) == ["best", "standard", "fast"] and used[-1] == "standard"
    task({"image": str(folder / "scan.nii.gz"), "modality": "CT", "quality": "best"})  # the default has no choice
