"""Rankings of scans to annotate: they rank, they say why, and nothing but what is known of the scans decides."""

import pytest
import torch

from zerotumor.prompts import parse
from zerotumor.segmenter import build
from zerotumor.selection import STRATEGIES, Candidate, descriptor, rank

CANDIDATES = [
    Candidate("b", 0.9, 1.0, (1.0, 0.0)),
    Candidate("a", 0.2, 12.0, (0.0, 1.0)),
    Candidate("c", 0.5, None, (1.0, 0.1)),
    Candidate("d", 0.1, 3.0, (-1.0, 0.0)),
]


def ids(strategy, candidates=CANDIDATES, **more):
    return [choice.id for choice in rank(strategy, candidates, **more)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_ranks_all_with_reasons_whatever_their_order(strategy):
    ranking = rank(strategy, CANDIDATES, [(1.0, 0.0)], seed=3)
    assert sorted(c.id for c in ranking) == ["a", "b", "c", "d"]
    assert all(c.reason for c in ranking)
    scores = [c.score for c in ranking]
    assert scores == sorted(scores, reverse=True)
    assert rank(strategy, CANDIDATES[::-1], [(1.0, 0.0)], seed=3) == ranking
    assert rank(strategy, []) == []


def test_uncertainty_is_a_ranking_and_not_only_a_best():
    assert ids("uncertainty") == ["b", "c", "a", "d"]


def test_the_committee_says_on_how_much_it_disagrees():
    ranking = rank("committee", CANDIDATES)
    assert [c.id for c in ranking] == ["a", "d", "b", "c"], "who was not asked comes last"
    assert "disagree on 12.0 ml" in ranking[0].reason and "only one method" in ranking[-1].reason


def test_coverage_avoids_what_is_annotated_and_what_was_just_chosen():
    # b and c look alike; b's kind is annotated, so the opposite comes first and the twins come last.
    assert ids("diversity", labelled=[(2.0, 0.0)]) == ["d", "a", "c", "b"]
    assert ids("diversity", labelled=[(-1.0, 0.0)])[0] in ("b", "c")
    begun = rank("diversity", [CANDIDATES[0], CANDIDATES[1], Candidate("m", descriptor=(0.7, 0.7))])
    assert begun[0].id == "m" and "typical" in begun[0].reason
    assert ids("diversity", [*CANDIDATES, Candidate("z")])[-1] == "z"


def test_the_greedy_cover_is_within_twice_the_best():
    """The guarantee of greedy k-center: its radius is at most twice that of the best k centers."""
    from itertools import combinations

    generator = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(9, 3, generator=generator), dim=1)
    first, others = rows[:1], [Candidate(str(k), descriptor=row) for k, row in enumerate(rows[1:], 1)]
    chosen = [int(i) for i in ids("diversity", others, labelled=[first[0]])[:2]]
    distances = torch.cdist(rows, rows)
    radius = lambda centers: float(distances[:, [0, *centers]].amin(1).max())  # noqa: E731
    best = min(radius(pair) for pair in combinations(range(1, 9), 2))
    assert radius(chosen) <= 2 * best + 1e-6
    assert radius(chosen) < max(radius(pair) for pair in combinations(range(1, 9), 2))


def test_the_mix_averages_places():
    # places by uncertainty b1 c2 a3 d4; by committee a1 d2 b3 c4; by coverage (from a seen b) d1 a2 c3 b4
    ranking = rank("mix", CANDIDATES, [(2.0, 0.0)])
    assert ranking[0].id == "a" and "3 by uncertainty, 1 by disagreement, 2 by coverage (of 4)" in ranking[0].reason
    bare = [Candidate("x", 0.3), Candidate("y", 0.6)]
    assert ids("mix", bare) == ["y", "x"] == ids("uncertainty", bare), "criteria that know nothing do not count"
    level = [Candidate("x", 0.3, 5.0), Candidate("y", 0.3, 6.0)]
    assert ids("mix", level) == ["y", "x"], "equals share their place, so the other criterion decides"


def test_random_is_the_seeds_and_first_is_by_name():
    many = [Candidate(f"{k:02}") for k in range(20)]
    assert ids("random", many, seed=1) == ids("random", many, seed=1) != ids("random", many, seed=2)
    assert ids("first", many[::-1]) == [c.id for c in many]


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="choose one of uncertainty"):
        rank("epistemic", CANDIDATES)
    with pytest.raises(ValueError, match="same id"):
        rank("first", [Candidate("a"), Candidate("a")])
    with pytest.raises(ValueError, match="differ in length"):
        rank("diversity", CANDIDATES, [(1.0, 0.0, 0.0)])


@pytest.mark.parametrize("method", ["malenia", "zept"])
def test_a_descriptor_is_of_the_place_that_the_prompt_means(method):
    small = {"channels": (4, 4, 4, 8, 8), "mask_channels": 4, "patch": 32}
    model = build(method, {**small, "dim": 16, "tokens": 2} if method == "malenia" else {**small, "width": 16}).eval()
    image = torch.rand(2, 40, 32, 32)
    here, there = torch.zeros(2, 1, 40, 32, 32)
    here[0, 4:8, 4:8, 4:8], there[0, 30:34, 24:28, 24:28] = 1, 1
    prompts = parse("tumor")
    one, two, again = (descriptor(model, image, prompts, p)[0] for p in (here, there, here))
    assert one.shape == two.shape and torch.equal(one, again) and not torch.allclose(one, two, atol=1e-3)
    assert float(one.norm()) == pytest.approx(1, abs=1e-5)
    changed = image.clone()
    changed[:, 20:] = 0  # not in the window around `here` that counts: its weights are all elsewhere
    assert torch.isfinite(descriptor(model, changed, prompts, torch.zeros(1, 40, 32, 32))).all()
    assert descriptor(model, image, parse("tumor; cyst")).shape == (2, len(one))
