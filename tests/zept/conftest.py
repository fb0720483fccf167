"""A tiny ZePT, untrained, with its knowledge filled in."""

import pytest

from zerotumor.text import load_text_encoder
from zerotumor.zept import ZePT

TINY = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "width": 8, "heads": 2, "patch": 32}


@pytest.fixture
def make():
    """Builds a tiny ZePT with options."""

    def build(**options):
        model = ZePT(**{**TINY, **options})
        model.bank.fill(load_text_encoder())
        model.encoder = load_text_encoder()
        return model.eval()

    return build
