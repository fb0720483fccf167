"""The shared encoder-decoder."""

import pytest
import torch

from zerotumor.attention import MaskedDecoderLayer, flatten, masks_of
from zerotumor.backbone import ResidualBackbone, coordinates


def test_four_maps_at_their_strides():
    backbone = ResidualBackbone(2, (4, 6, 8, 8, 8), mask_channels=3)
    maps = backbone(torch.rand(1, 2, 32, 48, 16))
    assert {k: tuple(m.shape[1:]) for k, m in maps.items()} == {
        "f1": (8, 4, 6, 2),
        "f2": (6, 8, 12, 4),
        "f3": (4, 16, 24, 8),
        "f4": (3, 32, 48, 16),
    }
    assert {k: m.shape[1] for k, m in maps.items()} == backbone.feature_channels


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="five levels"):
        ResidualBackbone(2, (4, 8))
    with pytest.raises(ValueError, match="multiples of 16"):
        ResidualBackbone(2, (4, 4, 4, 4, 4))(torch.rand(1, 2, 20, 32, 32))


def test_coordinates_span_the_patch():
    xyz = coordinates(torch.zeros(2, 1, 3, 4, 5))
    assert xyz.shape == (2, 6, 3, 4, 5)
    assert xyz[0, 0, :, 0, 0].tolist() == [-1, 0, 1] and xyz[0, 5].max() == 1


def test_blocked_voxels_have_no_say():
    layer = MaskedDecoderLayer(8, heads=2).eval()
    queries, memory = torch.randn(1, 2, 8), torch.randn(1, 6, 8)
    blocked = torch.zeros(1, 2, 6, dtype=torch.bool)
    blocked[:, :, 3:] = True
    changed = memory.clone()
    changed[:, 3:] += 5
    assert torch.allclose(layer(queries, memory, blocked), layer(queries, changed, blocked), atol=1e-5)
    assert not torch.allclose(layer(queries, memory), layer(queries, changed), atol=1e-3)


def test_everything_blocked_is_nothing_blocked():
    layer = MaskedDecoderLayer(8, heads=2).eval()
    queries, memory = torch.randn(1, 2, 8), torch.randn(1, 6, 8)
    blocked = torch.ones(1, 2, 6, dtype=torch.bool)
    assert torch.allclose(layer(queries, memory, blocked), layer(queries, memory), atol=1e-5)


def test_masks_are_dot_products():
    queries, volume = torch.randn(1, 2, 4), torch.randn(1, 4, 2, 3, 2)
    assert torch.allclose(masks_of(queries, volume).flatten(2), queries @ flatten(volume).transpose(1, 2), atol=1e-5)
