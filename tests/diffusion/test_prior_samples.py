"""What the prior learns from: healthy, repeatable, of both kinds."""

import nibabel as nib
import numpy as np
import pytest
import torch

from zerotumor.diffusion.samples import Encode, Healthy, RandLatent, records
from zerotumor.errors import ScanError
from zerotumor.phantom import generate
from zerotumor.transforms import normalize

SHAPE, SPACING = (16, 16, 16), 8.0
RECORD = {"seed": 3, "difficulty": 0.0, "category": "kidney cyst"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scans of a healthy abdomen."""
    target = tmp_path_factory.mktemp("scans")
    for k in range(2):
        body = generate(k, category="healthy", region="abdomen", modality="CT", shape=(20, 20, 20), spacing=SPACING)
        nib.save(nib.Nifti1Image(body.image[0].numpy(), np.diag([SPACING] * 3 + [1.0])), target / f"scan{k}.nii.gz")
    return target


def test_a_phantom_with_a_lesion_gives_its_healthy_twin():
    phantom = generate(3, shape=SHAPE, spacing=SPACING, difficulty=0.0, category="kidney cyst")
    sample = Healthy(SHAPE, SPACING)(RECORD)
    healthy, sick = (normalize(x, phantom.modality)[:1].clamp(0, 1) for x in (phantom.healthy, phantom.image))
    assert torch.allclose(sample["image"].float(), healthy, atol=1e-3)
    assert not torch.allclose(sample["image"].float(), sick, atol=1e-2)
    assert int(sample["ct"]) == (phantom.modality == "CT") and sample["spacing"].tolist() == [SPACING] * 3


def test_a_record_is_a_sample(folder):
    make = Healthy(SHAPE, SPACING)
    for record in (RECORD, records(0, scans=folder, crops=2)[1]):
        one, again = make(record), make(record)
        assert all(torch.equal(one[k], again[k]) for k in one)
        assert one["image"].shape == (1, *SHAPE) and one["image"].dtype == torch.float16
        assert float(one["image"].min()) >= 0 and float(one["image"].max()) <= 1


def test_scans_are_cropped_at_several_places_and_split(folder):
    training, validation = (records(0, scans=folder, crops=4, section=s) for s in ("training", "validation"))
    assert len(training) == len(validation) == 4
    assert not {r["image"] for r in training} & {r["image"] for r in validation}
    first, second = (Healthy(SHAPE, SPACING)(r) for r in training[:2])
    assert int(first["ct"]) == 1 and not torch.equal(first["image"], second["image"])
    assert len(records(3, scans=folder, crops=4)) == 7 and len(records(3)) == 3


def test_one_scan_is_not_enough(folder, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes((folder / "scan0.nii.gz").read_bytes())
    with pytest.raises(ScanError, match="two are needed"):
        records(0, scans=tmp_path)


def test_latents_are_the_means_of_an_image_and_its_mirror_image(make):
    prior, sample = make(), Healthy(SHAPE, SPACING)(RECORD)
    encoded = Encode(prior.autoencoder)(sample)
    image = sample["image"].float()[None]
    for latent, x in zip(encoded["latent"], (image, image.flip(2)), strict=True):
        assert torch.allclose(latent.float(), prior.encode(x)[0], atol=2e-3)
    assert "image" not in encoded and int(encoded["ct"]) == int(sample["ct"])
    draw = RandLatent()
    seen = {bool(torch.equal(draw(encoded)["latent"], encoded["latent"][0].float())) for _ in range(20)}
    assert seen == {True, False}
    assert torch.equal(RandLatent(0.0)(encoded)["latent"], encoded["latent"][0].float())
