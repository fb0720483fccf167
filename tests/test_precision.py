"""Training in bfloat16 on a CPU: only the network's forward pass, and only if asked for."""

import torch

from zerotumor import precision
from zerotumor.attention import LazyMasks
from zerotumor.precision import Autocast, full, mixed, mixed_on_gpu


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 4, 3)
        self.kinds = []

    def forward(self, image, factor=1.0):
        logits = self.conv(image) * factor
        self.kinds.append(logits.dtype)
        return {"logits": logits, "levels": [logits, (logits.relu(),)], "name": "map"}


def test_the_network_runs_in_bfloat16_and_the_loss_in_full_precision():
    network, image = Network(), torch.rand(1, 1, 8, 8, 8)
    out = Autocast()(image, network, factor=2.0)
    assert network.kinds == [torch.bfloat16] and out["name"] == "map"
    assert out["logits"].dtype == out["levels"][0].dtype == out["levels"][1][0].dtype == torch.float32
    assert torch.allclose(out["logits"], network(image, 2.0)["logits"], atol=0.05)
    out["logits"].square().mean().backward()
    assert network.conv.weight.grad.dtype == torch.float32 and network.conv.weight.grad.any()


def test_not_asked_for_nothing_changes():
    network, image = Network(), torch.rand(1, 1, 8, 8, 8)
    out = Autocast(enabled=False)(image, network)
    assert network.kinds == [torch.float32] and torch.equal(out["logits"], network(image)["logits"])


def test_other_kinds_of_numbers_stay():
    mask = torch.ones(2, dtype=torch.bool)
    assert full(mask) is mask and full(3) == 3 and full(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_masks_that_are_computed_later_are_in_full_precision():
    masks = full(LazyMasks(torch.rand(1, 2, 5), torch.rand(1, 4, 4, 4, 4, dtype=torch.bfloat16)))
    assert masks.every(2).shape == (1, 2, 2, 2, 2) and masks.every(2).dtype == torch.float32


def test_a_forward_pass_is_mixed_where_that_pays(monkeypatch):
    layer, x = torch.nn.Conv3d(1, 1, 1), torch.rand(1, 1, 2, 2, 2)
    for there, kind in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "in_hardware", lambda there=there: there)
        with mixed(x.device):
            assert layer(x).dtype == kind


def test_an_unreadable_machine_is_taken_for_one_without(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "CPU", tmp_path / "missing")
    assert not precision._cpu_has_bfloat16.__wrapped__()
    (tmp_path / "cpuinfo").write_text("flags : fpu avx512f avx512_bf16 sse\n")
    monkeypatch.setattr(precision, "CPU", tmp_path / "cpuinfo")
    assert precision._cpu_has_bfloat16.__wrapped__()


def test_what_training_chose_on_a_cpu_is_left_alone():
    cpu = torch.device("cpu")
    for chosen in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=chosen), mixed_on_gpu(cpu):
            assert torch.is_autocast_enabled("cpu") == chosen
