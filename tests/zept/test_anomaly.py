"""The anomaly score map, the visual prompt that it makes, and how much of it a tumor gets."""

import pytest
import torch

from zerotumor.zept.anomaly import NOT_HERE, anomaly_map, blocked, host_gate, limit, normalize, value_range


def test_what_no_query_claims_is_anomalous():
    queries = torch.eye(3)[None]  # three organs, each with a direction of its own
    features = torch.zeros(1, 3, 2, 2, 1)
    features[0, 0, 0, 0], features[0, 1, 0, 1], features[0, 2, 1, 0] = 5.0, 5.0, 5.0
    score = anomaly_map(queries, features)
    assert score.shape == (1, 1, 2, 2, 1) and score.flatten().tolist() == [-5.0, -5.0, -5.0, 0.0]


@pytest.mark.parametrize(
    "volume", [torch.randn(2, 1, 4, 4, 4), torch.zeros(2, 1, 3, 3, 3), -1e6 * torch.rand(1, 1, 5, 5, 5)]
)
@pytest.mark.parametrize("shift", [0.0, 100.0, -100.0])
def test_some_voxel_is_always_open(volume, shift):
    """Whatever the map, and whatever the limits of the rest of the scan."""
    closed = blocked(volume, value_range(volume) + shift)
    assert closed.shape == (len(volume), volume[0].numel()) and (~closed).any(1).all()


def test_open_is_the_upper_half_of_the_range():
    volume = torch.linspace(-3, 5, 10).reshape(1, 1, 10, 1, 1).requires_grad_()
    closed = blocked(volume, value_range(volume))
    assert closed[0].tolist() == [True] * 5 + [False] * 5 and not closed.requires_grad
    assert normalize(volume, value_range(volume)).amax() <= 1


def test_limits_of_the_scan_change_what_is_open():
    volume = torch.linspace(0, 1, 8).reshape(1, 1, 8, 1, 1)
    own, scan = value_range(volume), torch.tensor([[0.0, 4.0]])
    assert (~blocked(volume, own)).sum() == 4 and (~blocked(volume, scan)).sum() == 1


def test_the_gate_is_open_in_and_near_hosts_alone():
    organs = torch.zeros(1, 2, 32, 8, 8)
    organs[:, 0, :8] = 1  # the first organ fills one end
    gate = host_gate(organs, torch.tensor([[True, False], [False, True], [False, False]]))
    assert (gate[0, 0, :10] > 0.99).all() and (gate[0, 0, 20:] == 0).all()
    assert (gate[0, 1] == 0).all() and (gate[0, 2] == 1).all()


def test_far_from_hosts_the_anomaly_says_no():
    gate = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 3, 1, 1)
    assert limit(torch.full((1, 1, 3, 1, 1), 6.0), gate).flatten().tolist() == [6.0, 0.0, NOT_HERE]
    assert limit(torch.full((1, 1, 3, 1, 1), -9.0), gate).flatten().tolist() == [-9.0] * 3


def test_where_organs_are_is_not_learned_from_tumors():
    organs = torch.rand(1, 2, 8, 8, 8, requires_grad=True)
    assert not host_gate(organs, torch.tensor([[True, False]])).requires_grad
