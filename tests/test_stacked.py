"""A second U-Net on the maps of the first."""

import pytest
import torch

from zerotumor.backbone import ResidualBackbone
from zerotumor.malenia import Malenia
from zerotumor.stacked import StackedBackbone
from zerotumor.training import warm_start

CHANNELS, SECOND = (4, 6, 8, 8, 8), (8, 8, 8, 8)


def test_it_starts_as_no_change_and_then_changes_the_two_finest_maps():
    stacked = StackedBackbone(2, CHANNELS, 3, SECOND)
    first = ResidualBackbone(2, CHANNELS, 3)
    first.load_state_dict({k: v for k, v in stacked.state_dict().items() if not k.startswith("second.")})
    image = torch.rand(2, 2, 32, 48, 32)
    before = first(image)
    assert all(torch.equal(before[name], values) for name, values in stacked(image).items())
    torch.nn.init.normal_(stacked.second.leave.weight)
    after = stacked(image)
    assert {name for name in after if not torch.equal(before[name], after[name])} == {"f3", "f4"}
    assert {name: m.shape for name, m in after.items()} == {name: m.shape for name, m in before.items()}


def test_what_is_frozen_learns_nothing_and_the_second_does():
    stacked = StackedBackbone(2, CHANNELS, 3, SECOND)
    stacked.freeze_first()
    sum(m.square().mean() for m in stacked(torch.rand(1, 2, 32, 32, 32)).values()).backward()
    learned = {name for name, p in stacked.named_parameters() if p.grad is not None}
    assert "second.leave.weight" in learned and all(name.startswith("second.") for name in learned)


def test_a_trained_network_gets_a_second_one_without_a_change(tiny_malenia, tmp_path):
    model = tiny_malenia()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    config = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "heads": 2, "dim": 8, "tokens": 2, "patch": 32}
    stacked = Malenia(**config, second=SECOND).eval()
    fresh = warm_start(stacked, tmp_path / "model.pt")
    assert fresh and all(name.startswith("backbone.second.") for name in fresh)
    stacked.encoder, image = model.encoder, torch.rand(1, 2, 32, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(stacked(image), model(image), atol=1e-4)


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="four levels"):
        StackedBackbone(2, CHANNELS, 3, (8, 8))
