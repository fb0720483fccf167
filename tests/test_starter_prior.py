"""The shipped diffusion prior: it loses nothing, and takes noise off healthy bodies that it has not seen."""

import json
import shutil

import pytest
import torch

from zerotumor.diffusion.prior import Condition
from zerotumor.diffusion.schedules import normal
from zerotumor.diffusion.weights import load_prior
from zerotumor.phantom import generate
from zerotumor.segmenter import MODELS, WeightsError, available, load
from zerotumor.transforms import normalize

FILE = MODELS / "diffugts" / "diffusion.pt"
SEEDS = range(6_200_000, 6_200_004)


@pytest.fixture(scope="module")
def prior():
    return load_prior(FILE).freeze()


@pytest.fixture(scope="module")
def bodies():
    """Healthy phantoms of 48^3 voxels of 4 mm: image (1, 1, X, Y, Z) and condition."""
    out = []
    for seed in SEEDS:
        modality = ("CT", "MR")[seed % 2]
        phantom = generate(seed, category="healthy", modality=modality, shape=(48, 48, 48), spacing=4.0)
        out.append((normalize(phantom.image, modality)[None, :1].clamp(0, 1), Condition(modality, 4.0)))
    return out


def test_it_is_small_and_says_what_it_was_trained_for():
    record = json.loads(FILE.with_suffix(".json").read_text())
    assert FILE.stat().st_size < 20e6 and record["trained"]["steps"] > 1000


def test_it_alone_is_no_method(tmp_path):
    folder = tmp_path / "diffugts"
    folder.mkdir()
    for name in ("diffusion.pt", "diffusion.json"):
        shutil.copy(FILE.with_name(name), folder)
    assert "diffugts" not in available(tmp_path)
    with pytest.raises(WeightsError, match="model.pt"):
        load("diffugts", tmp_path)


@torch.no_grad()
def test_nothing_is_lost_by_encoding(prior, bodies):
    for image, _ in bodies:
        assert float((prior.reconstruct(image) - image).square().mean()) < 1e-4  # 40 dB
    spread = torch.cat([prior.encode(image) for image, _ in bodies]).std()
    assert 0.5 < float(spread) < 2


@torch.no_grad()
@pytest.mark.parametrize(("level", "most"), [(0.25, 0.6), (0.5, 0.25), (0.75, 0.1)])
def test_most_of_the_noise_is_taken_off(prior, bodies, level, most):
    """Error of the predicted x_0 against that of x_t / a(t), which is noise alone."""
    ratios = []
    for image, condition in bodies:
        x0 = prior.encode(image)
        noise = normal(x0, torch.Generator().manual_seed(0))
        t = prior.schedule.timesteps(1, level)[0]
        x = prior.schedule.add_noise(x0, noise, t)
        guess = prior.schedule.x0_of(prior.predict(x, t, condition), t, x)
        ratios.append(float((guess - x0).square().mean() / (x / (1 - level) - x0).square().mean()))
    assert sum(ratios) / len(ratios) < most, ratios
