"""The shared encoder-decoder."""

import pytest
import torch

from zerotumor.attention import MaskedDecoderLayer, flatten, masks_of
from zerotumor.backbone import BalancedUnit, ResidualBackbone, coordinates


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


def test_the_linear_path_cannot_drown_the_other_one():
    torch.manual_seed(0)
    unit, image = BalancedUnit(3, 4, 8, strides=2, subunits=2, gain=0.5), torch.randn(2, 4, 8, 8, 8)
    linear = unit.norm(unit.residual(image))
    assert torch.allclose(unit(image) - linear, 0.5 * unit.conv(image), atol=1e-6)
    before = unit(image)
    with torch.no_grad():
        unit.residual.weight *= 1000
        unit.residual.bias *= 1000
    assert torch.allclose(unit(image), before, atol=1e-3)


def test_the_two_deepest_levels_are_balanced_where_a_gain_is_given():
    plain, balanced = ResidualBackbone(2, (4, 4, 8, 8, 8), 2), ResidualBackbone(2, (4, 4, 8, 8, 8), 2, gain=0.15)
    assert [isinstance(unit, BalancedUnit) for unit in balanced.encoder] == [False, False, False, True, True]
    assert not any(isinstance(unit, BalancedUnit) for unit in plain.encoder)
    new = set(balanced.state_dict()) - set(plain.state_dict())
    assert new == {f"encoder.{k}.{name}" for k in (3, 4) for name in ("gain", "norm.weight", "norm.bias")}
    assert set(plain.state_dict()) < set(balanced.state_dict())  # one can start from the other's weights
    balanced(torch.rand(1, 2, 32, 32, 32))["f4"].sum().backward()
    assert all(float(balanced.encoder[k].gain.grad.abs().max()) > 0 for k in (3, 4))


def test_with_a_full_grid_all_but_the_last_map_has_the_same_names_and_sizes():
    shuffled = ResidualBackbone(2, (4, 4, 8, 8, 8), mask_channels=8)
    fine = ResidualBackbone(2, (4, 4, 8, 8, 8), mask_channels=6, fine_channels=5)
    names = {k: v.shape for k, v in fine.state_dict().items()}
    assert {k.split(".")[0] for k in set(names) - set(shuffled.state_dict())} == {"detail", "rise", "fine"}
    assert {k.split(".")[0] for k in set(shuffled.state_dict()) - set(names)} == {"sharpen"}
    maps = fine(torch.rand(1, 2, 32, 16, 48))
    assert maps["f4"].shape == (1, 6, 32, 16, 48) and fine.feature_channels["f4"] == 6


@pytest.mark.parametrize("fine_channels", [None, 5])
def test_a_part_of_the_full_grid_is_that_part(fine_channels):
    torch.manual_seed(0)
    backbone = ResidualBackbone(2, (4, 4, 8, 8, 8), mask_channels=6, fine_channels=fine_channels)
    image, part = torch.rand(1, 2, 32, 48, 32), [slice(4, 20), slice(0, 48), slice(16, 32)]
    whole, some = backbone(image), backbone(image, part)
    assert all(torch.equal(whole[name], some[name]) for name in ("f1", "f2", "f3"))
    assert some["f4"].shape == (1, 6, 16, 48, 16)
    everything = backbone(image, [slice(0, 32), slice(0, 48), slice(0, 32)])
    assert torch.allclose(everything["f4"], whole["f4"], atol=1e-5)


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
