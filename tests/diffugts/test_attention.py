"""Anomaly-aware open-vocabulary attention: the mathematics of each part."""

import pytest
import torch

from zerotumor.diffugts.attention import (
    Adapter,
    Adapters,
    AnomalyScore,
    Attention,
    ClassEmbedding,
    CrossModalAttention,
    TextReducer,
    anomaly_logit,
    attention,
    peak_logit,
)

CHANNELS, SIZE = (4, 6, 6), (8, 8, 8)


def levels(batch=2):
    return [torch.randn(batch, c, n, n, n) for c, n in zip(CHANNELS, (4, 2, 2), strict=True)]


def texts(batch=2, prompts=3, dim=16):
    return torch.nn.functional.normalize(torch.randn(batch, prompts, 2, dim), dim=-1)


@pytest.mark.parametrize("context", [False, True])
def test_an_adapter_with_no_share_changes_nothing_but_scale(context):
    features = torch.randn(1, 6, 3, 3, 3)
    adapted = Adapter(6, alpha=0.0, context=context)(features)
    expected = torch.nn.LayerNorm(6)(features.movedim(1, -1)).movedim(-1, 1) if context else features
    assert torch.allclose(adapted, expected, atol=1e-5)


def test_the_papers_adapter_is_a_residual_mlp_at_each_voxel():
    adapter, features = Adapter(5, alpha=0.1), torch.randn(1, 5, 3, 3, 3)
    weights = adapter.state_dict()
    assert {k for k in weights if k.endswith("weight")} == {"first.weight", "rest.1.weight"}
    voxel = features[0, :, 1, 2, 0]
    hidden = (weights["first.weight"][:, :, 0, 0, 0] @ voxel + weights["first.bias"]).relu()
    mlp = weights["rest.1.weight"][:, :, 0, 0, 0] @ hidden + weights["rest.1.bias"]
    assert torch.allclose(adapter(features)[0, :, 1, 2, 0], 0.1 * mlp + 0.9 * voxel, atol=1e-5)


def test_with_context_a_voxel_knows_its_neighbors_and_the_coarser_level():
    for context in (False, True):
        adapters, maps = Adapters(CHANNELS, 0.5, context), levels(1)
        before = adapters(maps)
        near, coarse = [m.clone() for m in maps], [m.clone() for m in maps]
        near[0][:, :, 1, 0, 0] += torch.randn(4)
        coarse[2] += 3 * torch.randn_like(coarse[2])
        moved = [(adapters(m)[0] - before[0])[0, :, 0, 0, 0].abs().sum() for m in (near, coarse)]
        changed = [bool(m > 1e-7) for m in moved]
        assert changed == [context, context]


def test_text_reducer():
    reducer = TextReducer(16, 4)
    assert [tuple(p.shape) for p in reducer.parameters() if p.dim() == 2] == [(8, 16), (4, 8)]
    out = reducer(torch.randn(5, 16))
    assert torch.allclose(out.mean(1), torch.zeros(5), atol=1e-5)  # a layer norm is last


def test_scores_are_scaled_dot_products():
    module, features, words = CrossModalAttention(4, 16), torch.randn(1, 4, 2, 2, 2), texts(1, 1)
    scores = module(features, words)
    query = module.query(features)[0, :, 1, 0, 1]
    key = module.key(module.reduce(words))[0, 0, 1]
    assert scores.shape == (1, 1, 2, 2, 2, 2)
    assert torch.allclose(scores[0, 0, 1, 1, 0, 1], query @ key / 2, atol=1e-5)


def test_the_softmax_is_over_texts_and_not_over_space():
    maps = attention(10 * torch.randn(2, 3, 2, 4, 4, 4))
    assert torch.allclose(maps.sum(2), torch.ones(2, 3, 4, 4, 4), atol=1e-5)
    assert not torch.allclose(maps.flatten(3).sum(-1), torch.ones(2, 3, 2), atol=0.1)


@pytest.mark.parametrize("aggregate", ["logit", "mean"])
def test_swapping_the_texts_flips_the_map_and_equal_texts_say_nothing(aggregate):
    module, words = Attention(CHANNELS, 16, aggregate=aggregate), texts()
    features = module.queries(levels())
    ahead, back = (module(features, w, SIZE)["logits"].sigmoid() for w in (words, words.flip(2)))
    assert ahead.shape == (2, 3, 8, 8, 8) and (ahead - 0.5).abs().max() > 1e-3
    assert torch.allclose(ahead, 1 - back, atol=1e-5)
    same = module(features, words[:, :, :1].expand(-1, -1, 2, -1), SIZE)["logits"].sigmoid()
    assert torch.allclose(same, torch.full_like(same, 0.5), atol=1e-6)


def test_one_level_is_a_two_way_softmax_however_it_is_aggregated():
    scores = torch.randn(1, 2, 2, 4, 4, 4)
    expected = attention(scores)[:, :, 1]
    for aggregate in ("logit", "mean"):
        got = anomaly_logit([scores], (4, 4, 4), aggregate).sigmoid()
        assert torch.allclose(got, expected, atol=1e-5)


def test_the_papers_mean_is_the_mean_of_levels_and_reaches_all_of_0_to_1():
    """No sigmoid of what is a probability already: that would leave 0.5 to 0.95."""
    sure = torch.zeros(1, 1, 2, 4, 4, 4)
    sure[:, :, 1] = 20.0
    high, low = (anomaly_logit([s, s, s], (4, 4, 4), "mean").sigmoid() for s in (sure, -sure))
    assert (high > 0.999).all() and (low < 0.001).all()
    mixed = anomaly_logit([sure, -sure, torch.zeros_like(sure)], (4, 4, 4), "mean").sigmoid()
    assert torch.allclose(mixed, torch.full_like(mixed, 0.5), atol=1e-5)


def test_the_abnormal_text_and_not_the_normal_one_makes_the_map():
    """The map that opens holes is that of text 1."""
    scores = torch.zeros(1, 1, 2, 2, 2, 2)
    scores[:, :, 1, 0] = 5.0
    probability = anomaly_logit([scores], (2, 2, 2)).sigmoid()
    assert (probability[:, :, 0] > 0.9).all() and torch.allclose(probability[:, :, 1], torch.tensor(0.5))


def test_class_embedding_is_a_mean_over_what_a_text_claims():
    module = ClassEmbedding(3, 5)
    features, maps = torch.randn(1, 3, 4, 2, 2), torch.zeros(1, 1, 2, 4, 2, 2)
    maps[:, :, 0, :2], maps[:, :, 1, 2:] = 0.3, 0.9
    embedded = module(features, maps)
    expected = module.project(
        torch.stack([features[0, :, :2].flatten(1).mean(1), features[0, :, 2:].flatten(1).mean(1)])
    )
    assert torch.allclose(embedded[0, 0], expected, atol=1e-5)


def test_any_depth_will_do():
    module, words = Attention(CHANNELS, 16), texts(1)
    for depth in (2, 4, 6):
        maps = [torch.randn(1, c, 4 // s, 4 // s, 2 * depth // s) for c, s in zip(CHANNELS, (1, 2, 2), strict=True)]
        out = module(module.queries(maps), words, (8, 8, 4 * depth))
        assert out["embedded"].shape == (1, 3, 2, 16) and out["logits"].shape[-1] == 4 * depth


def test_the_score_takes_the_highest_of_both_texts():
    module, embedded = AnomalyScore(16), torch.randn(2, 3, 2, 16)
    assert module(embedded).shape == (2, 3)
    assert torch.allclose(module(embedded), module.mlp(embedded.max(2).values)[..., 0])


def test_peak():
    logits = torch.full((1, 1, 4, 4, 4), -3.0)
    logits[0, 0, :2, :2, :2] = 1.0
    assert peak_logit(logits).item() == 1.0
    one = torch.full((1, 1, 4, 4, 4), -3.0)
    one[0, 0, 0, 0, 0] = 5.0
    assert peak_logit(one).item() == -2.0
    by_peak = Attention(CHANNELS, 16, score="peak")
    out = by_peak(by_peak.queries(levels()), texts(), SIZE)
    assert torch.equal(out["score"], peak_logit(out["logits"]))
