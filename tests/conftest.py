"""Shared by all tests: the package on the path, no network, and the real scans when they are there."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "scripts"), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "bundle"), os.environ.get("PYTHONPATH", "")])
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on every machine what the CPU answers; devices have tests of their own
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # every core has a process of its own already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

LONG = ("test_bundle.py", "test_devices.py", "test_stages.py", "test_server.py")
"""Files that take long come first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See LONG; the order of tests does not matter otherwise."""
    items.sort(key=lambda item: item.path.name not in LONG)


def find_data() -> Path | None:
    """The folder of real scans: $ZEROTUMOR_DATA, or ../shared/data beside the repository."""
    candidates = [os.environ.get("ZEROTUMOR_DATA"), ROOT.parent / "shared" / "data"]
    return next((Path(c) for c in candidates if c and Path(c).is_dir()), None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real scans; the test is skipped, by name, without it."""
    folder = find_data()
    if folder is None:
        pytest.skip("needs the real scans: set ZEROTUMOR_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_malenia():
    """Builds a tiny untrained Malenia, always the same, under a made-up hash of its weights."""
    import torch

    from zerotumor.segmenter import build
    from zerotumor.text import load_text_encoder

    def make():
        torch.manual_seed(0)
        config = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "heads": 2, "dim": 8, "tokens": 2, "patch": 32}
        out = build("malenia", {**config, "spacing": 4.0}).eval()
        out.encoder, out.weights_sha256 = load_text_encoder(), "a" * 64
        out.bank.fill(out.encoder)
        return out

    return make


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> None:
    """Text embeddings go to a cache of this run's own."""
    os.environ["ZEROTUMOR_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, so that order does not matter."""
    import torch
    from monai.utils import set_determinism

    set_determinism(0)
    torch.use_deterministic_algorithms(False)
