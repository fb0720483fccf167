"""A tiny DiffuGTS with a tiny random prior, its texts filled in, and one phantom."""

import pytest
import torch

from zerotumor.diffugts import DiffuGTS
from zerotumor.diffugts.samples import RandQuestions, collate, known, prepare_batch
from zerotumor.diffusion.prior import Condition, DiffusionPrior
from zerotumor.diffusion.schedules import Ddpm, Flow
from zerotumor.segmenter import save, save_state
from zerotumor.text import load_text_encoder
from zerotumor.training import GeneratePhantom

EDGE = 16
PRIOR = {
    "autoencoder": {"num_channels": [4, 4, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4},
    "unet": {"num_channels": [8, 8], "num_res_blocks": 1, "attention_levels": [False, True],
             "num_head_channels": [0, 8], "norm_num_groups": 4},
}  # fmt: skip
CONFIG = {"prior": PRIOR, "patch": EDGE, "fusion_hidden": 4, "wordings": 1, "context_mm": 16.0, "dilate_mm": 4.0,
          "alpha": 0.5}  # fmt: skip


@pytest.fixture(scope="session")
def config():
    """Arguments of a tiny DiffuGTS."""
    return CONFIG


@pytest.fixture(scope="session")
def bank():
    """The texts' embeddings, encoded once."""
    model = DiffuGTS(**CONFIG)
    model.bank.fill(load_text_encoder())
    return model.bank.texts


@pytest.fixture
def make(bank):
    """Builds a tiny DiffuGTS with options, quick. Threshold 0: all is drawn anew; theta 0: all of that is painted."""

    def build(**options):
        model = DiffuGTS(**{**CONFIG, **options})
        model.bank.texts.copy_(bank)
        model.encoder, model.quality = load_text_encoder(), "fast"
        # Random output layers are zero in a fresh diffusion model: it would say nothing at all.
        torch.nn.init.normal_(model.prior.unet.out[-1].conv.weight, std=0.1)
        return model.eval()

    return build


@pytest.fixture(params=["flow", "ddpm"])
def schedule(request):
    """Both kinds."""
    return {"flow": Flow(warp=True), "ddpm": Ddpm()}[request.param]


@pytest.fixture
def flow():
    """Rectified flow."""
    return Flow(warp=False)


@pytest.fixture
def prior(schedule):
    """A tiny random prior with either schedule."""
    built = DiffusionPrior(**PRIOR, schedule=schedule)
    torch.nn.init.normal_(built.unet.out[-1].conv.weight, std=0.1)
    return built.freeze()


@pytest.fixture
def condition():
    """A CT at 4 mm."""
    return Condition("CT", 4.0)


@pytest.fixture(scope="session")
def prior_file(tmp_path_factory):
    """Weights of a tiny prior, as they are stored."""
    path = tmp_path_factory.mktemp("prior") / "prior.pt"
    torch.manual_seed(5)
    save_state(DiffusionPrior(**PRIOR), path, {"method": "diffusion", "config": PRIOR})
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory, prior_file, bank):
    """A folder's DiffuGTS weights with the prior beside them; everything is found, everywhere."""
    folder = tmp_path_factory.mktemp("weights")
    config = {**CONFIG, "theta": 0.0, "threshold": 0.0}
    torch.manual_seed(3)
    model = DiffuGTS(**config).load_prior(prior_file)
    model.bank.texts.copy_(bank)
    encoder = load_text_encoder()
    folder = folder / "diffugts"
    save(model, "diffugts", folder / "model.pt", config=config, encoder=encoder, prior=model.keep_prior(folder))
    return folder / "model.pt"


@pytest.fixture(scope="session")
def sample():
    """A phantom of one patch with a cyst."""
    record = {"seed": 1, "difficulty": 0.0, "category": "kidney cyst"}
    return known(record, GeneratePhantom((EDGE,) * 3, 12.0)(record))


@pytest.fixture
def batch(sample):
    """Two questions' worth of it, ready for the trainer."""
    return prepare_batch(collate([RandQuestions(3).set_random_state(k)(sample) for k in range(2)]), "cpu")
