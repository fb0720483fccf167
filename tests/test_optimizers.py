"""Muon for convolutions: what moves, how far, and that a run can be stopped."""

from __future__ import annotations

import copy

import torch
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from zerotumor.optimizers import ConvolutionMuon, is_kernel


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.InstanceNorm3d(6, affine=True), nn.Conv3d(6, 3, 1))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(2, 2, 6, 6, 6, generator=generator)
        optimizer.zero_grad()
        (net(x) - x.mean(1, keepdim=True)).square().mean().backward()
        optimizer.step()


def test_kernels_move_in_all_directions_alike_and_the_rest_as_adamw_moves_it():
    net = network()
    before = copy.deepcopy(net.state_dict())
    train(net, ConvolutionMuon(net.parameters(), lr=0.01, kernels=2.0, weight_decay=0.0, kernel_decay=0.0), 1)
    moved = {k: v - before[k] for k, v in net.state_dict().items()}
    values = torch.linalg.svdvals(moved["0.weight"].flatten(1))
    # Newton's steps end near one, not at it; AdamW's size is 0.2 a number: sqrt of the longer side
    assert (values / (0.02 * 0.2 * 54**0.5) - 1).abs().max() < 0.5
    assert torch.allclose(
        moved["2.bias"].abs(), torch.full((3,), 0.01), rtol=1e-3
    )  # AdamW's first step: the rate itself


def test_groups_keep_their_rates_and_schedules_drive_both():
    net = network()
    slow, fast = list(net[0].parameters()), list(net[2].parameters())
    optimizer = ConvolutionMuon([{"params": slow, "lr": 0.0}, {"params": fast}], lr=0.01)
    before = copy.deepcopy(net.state_dict())
    train(net, optimizer, 1)
    after = net.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"]) and torch.equal(after["0.bias"], before["0.bias"])
    assert not torch.equal(after["2.weight"], before["2.weight"]) and not torch.equal(after["2.bias"], before["2.bias"])
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=0, t_total=2)
    for _ in range(2):
        train(net, optimizer, 1)
        schedule.step()
    before = copy.deepcopy(net.state_dict())
    train(net, optimizer, 1)  # the schedule has come down to nothing
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_format_of_the_memory_makes_no_difference():
    """Kernels with their channels last cannot be viewed as matrices."""
    plain, turned = network(), network().to(memory_format=torch.channels_last_3d)
    assert turned[0].weight.flatten(1).data_ptr() != turned[0].weight.data_ptr()
    for net in (plain, turned):
        optimizer, generator = ConvolutionMuon(net.parameters(), lr=0.01), torch.Generator().manual_seed(0)
        for _ in range(3):  # the same gradients: those of another format's convolutions are rounded otherwise
            for p in net.parameters():
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            optimizer.step()
    assert turned[0].weight.grad.is_contiguous(memory_format=torch.channels_last_3d)
    assert not torch.equal(plain[0].weight, network()[0].weight)
    assert all(torch.allclose(v, turned.state_dict()[k], atol=1e-6) for k, v in plain.state_dict().items())


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, first = network(), network()
    optimizer = ConvolutionMuon(whole.parameters(), lr=0.01)
    train(whole, optimizer, 2)
    train(whole, optimizer, 2, seed=2)
    optimizer = ConvolutionMuon(first.parameters(), lr=0.01)
    train(first, optimizer, 2)
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    second = network()
    resumed = ConvolutionMuon(second.parameters(), lr=0.5)
    resumed.load_state_dict(saved["optimizer"])
    second.load_state_dict(saved["model"])
    train(second, resumed, 2, seed=2)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in whole.state_dict().items())


def test_it_follows_a_network_that_is_moved_to_other_memory():
    net = network()
    optimizer = ConvolutionMuon(net.parameters(), lr=0.01)
    net[0].weight.data = net[0].weight.data.clone()
    before = net[0].weight.detach().clone()
    train(net, optimizer, 1)
    assert not torch.equal(net[0].weight, before)


def test_what_is_a_kernel():
    net = network()
    assert [name for name, p in net.named_parameters() if is_kernel(p)] == ["0.weight", "2.weight"]
    assert not is_kernel(nn.Linear(3, 3).weight) and not is_kernel(nn.Conv3d(4, 1, 1).weight)
