"""Fundamental queries and object-aware grouping."""

import torch

from zerotumor.zept.grouping import FundamentalQueries, GroupingBlock, assign, row_normalize


def test_every_voxel_goes_to_exactly_one_query():
    logits = torch.randn(2, 5, 40)
    for training in (True, False):
        one_hot = assign(logits, training)
        assert torch.allclose(one_hot.sum(1), torch.ones(2, 40)) and set(
            one_hot.round(decimals=4).unique().tolist()
        ) == {0, 1}
    assert torch.equal(assign(logits, False).argmax(1), logits.argmax(1))


def test_training_is_noisy_and_has_a_gradient_and_testing_is_neither():
    logits = torch.randn(1, 4, 200, requires_grad=True)
    first, second = assign(logits, True), assign(logits, True)
    assert not torch.equal(first, second)
    (first * torch.randn_like(first)).sum().backward()
    assert logits.grad.abs().sum() > 0
    assert torch.equal(assign(logits, False), assign(logits, False)) and not assign(logits, False).requires_grad


def test_shares_of_a_query_sum_to_less_than_one():
    shares = row_normalize(assign(torch.randn(2, 5, 40), True))
    assert (shares.sum(-1) < 1).all()
    empty = torch.zeros(1, 2, 6)
    empty[:, 0] = 1
    assert torch.allclose(row_normalize(empty).sum(-1), torch.tensor([[6 / 7, 0.0]]))


def test_queries_are_interchangeable():
    """Permuting the queries permutes what becomes of them: nothing but their vectors tells them apart."""
    block = GroupingBlock(8, 4, heads=2).eval()
    queries, features, order = torch.randn(1, 5, 8), torch.randn(1, 4, 3, 3, 3), torch.tensor([3, 0, 4, 1, 2])
    for before, after in zip(block(queries, features), block(queries[:, order], features), strict=True):
        assert torch.allclose(before[:, order], after, atol=1e-5)


def test_a_query_without_voxels_gathers_nothing_from_the_map():
    block = GroupingBlock(4, 4, heads=2).eval()
    assert torch.equal(row_normalize(torch.zeros(1, 1, 9)) @ torch.randn(1, 9, 4), torch.zeros(1, 1, 4))
    assert assign(block.affinity(torch.randn(1, 3, 4), torch.randn(1, 9, 4)), False).sum() == 9


def test_one_query_set_a_level():
    fundamental = FundamentalQueries(3, (8, 6, 4, 2), heads=2)
    maps = [torch.randn(2, d, n, n, n) for d, n in zip((8, 6, 4, 2), (1, 2, 4, 8), strict=True)]
    queries, affinities = fundamental(maps)
    assert [tuple(q.shape) for q in queries] == [(2, 3, 8), (2, 3, 6), (2, 3, 4), (2, 3, 2)]
    assert [tuple(a.shape) for a in affinities] == [(2, 3, n, n, n) for n in (1, 2, 4, 8)]
