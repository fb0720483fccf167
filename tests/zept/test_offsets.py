"""Organs that begin as a linear layer of the first stage that all methods share."""

import pytest
import torch

from zerotumor.attention import masks_of
from zerotumor.vocabulary import ORGANS
from zerotumor.zept.offsets import start_from


@pytest.fixture
def layer(tmp_path):
    """Its weights (1 + L, 4), "none" first, and the checkpoint that they lie in."""
    torch.manual_seed(0)
    weight, bias = torch.randn(1 + len(ORGANS), 4), torch.randn(1 + len(ORGANS))
    path = tmp_path / "best.pt"
    torch.save({"model": {"organs.f4.weight": weight[..., None, None, None], "organs.f4.bias": bias}}, path)
    return weight, bias, path


@pytest.mark.parametrize("background", ["learned", "none"])
def test_organs_are_what_the_layer_says(make, layer, background):
    weight, bias, path = layer
    model = make(background=background)
    start_from(model, path)
    features = model.encode_image(torch.rand(1, 2, 32, 32, 32))
    said = torch.einsum("om,bmxyz->boxyz", weight, features["mask"]) + bias[None, :, None, None, None]
    organs = masks_of(features["organ_weights"], features["mask"])
    assert torch.allclose(organs[:, : len(ORGANS)], said[:, 1:], atol=1e-4)
    if background == "learned":
        assert torch.allclose(organs[:, -1:], said[:, :1], atol=1e-4)
    model.organ_logits(features).sum().backward()
    assert model.organ_head.weight.grad.abs().sum() > 0  # queries may still have a say


@pytest.mark.parametrize(
    "options, says", [({"offset": "none"}, "learned offsets"), ({"mask_channels": 6}, "4 mask channels")]
)
def test_a_network_without_a_place_for_it_is_refused(make, layer, options, says):
    with pytest.raises(ValueError, match=says):
        start_from(make(**options), layer[2])


def test_weights_without_such_a_layer_are_refused(make, tmp_path):
    torch.save({"backbone": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no organ layer"):
        start_from(make(), tmp_path / "model.pt")
