"""Query-knowledge alignment: the two target matrices, the similarity, the loss."""

import pytest
import torch

from zerotumor.contrast import clamped_temperature, multi_positive_cross_entropy
from zerotumor.zept.alignment import alignment_loss, alignment_targets, similarity
from zerotumor.zept.classes import CLASS_SETS, class_set

PAIRS = [
    (1, 25),
    (2, 25),
    (5, 26),
    (10, 27),
    (14, 28),
    (14, 26),
    (15, 29),
    (16, 29),
    (17, 30),
    (1, 31),
    (2, 31),
    (25, 31),
]


def test_targets_as_described():
    knowledge, queries = alignment_targets(class_set("paper"))
    assert torch.equal(knowledge, torch.eye(32)) and torch.equal(queries, queries.T)
    assert (queries[25:, 25:] == 1).all() and (queries.diag() == 1).all()
    for i, j in PAIRS:
        assert queries[i, j] == 1
    organ_pairs = {(i, j) for i, j in queries[:25, 25:].nonzero().tolist()}
    assert organ_pairs == {(i, j - 25) for i, j in PAIRS if i < 25}
    assert torch.equal(queries[:25, :25], torch.eye(25))


def test_aliased_targets_are_one_matrix():
    knowledge, queries = alignment_targets(class_set("paper"), aliased=True)
    assert knowledge is queries and knowledge[25, 26] == 1
    cloned, _ = alignment_targets(class_set("paper"), aliased=False)
    assert cloned[25, 26] == 0


@pytest.mark.parametrize("name", list(CLASS_SETS))
def test_every_tumor_is_paired_with_its_hosts(name):
    classes = class_set(name)
    assert all((organ, tumor) in classes.pairs for tumor, hosts in classes.hosts.items() for organ in hosts)


def test_cosine_does_not_depend_on_length_and_the_dot_product_does():
    a, b, t = torch.randn(4, 8), torch.randn(4, 8), torch.tensor(0.1)
    assert torch.allclose(similarity(a, b, t), similarity(9 * a, b, t), atol=1e-4)
    assert torch.allclose(9 * similarity(a, b, t, "raw"), similarity(9 * a, b, t, "raw"), atol=1e-3)


def test_the_raw_loss_starts_in_the_thousands():
    classes = class_set("paper")
    embedded, knowledge = torch.randn(1, 32, 768), torch.randn(32, 768)
    targets, temperature = alignment_targets(classes), torch.tensor(0.07)
    raw = alignment_loss(embedded, knowledge, targets, temperature, kind="raw", normalize=False)
    ours = alignment_loss(embedded, knowledge, targets, temperature)
    assert raw > 1000 and ours < 30


def test_temperature_is_clamped():
    assert clamped_temperature(torch.tensor(-20.0)) == pytest.approx(0.01)
    assert clamped_temperature(torch.tensor(3.0)) == 0.5
    assert clamped_temperature(torch.tensor(0.07).log()) == pytest.approx(0.07)


def test_one_right_answer_is_cross_entropy_and_rows_weigh_alike():
    logits = torch.randn(3, 5)
    targets = torch.eye(3, 5)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(3))
    assert torch.allclose(multi_positive_cross_entropy(logits, targets), expected)
    several = targets.clone()
    several[0] = 1
    flat = torch.zeros(3, 5)
    assert torch.allclose(multi_positive_cross_entropy(flat, several), torch.tensor(5.0).log())
    assert multi_positive_cross_entropy(flat, several, normalize=False) > multi_positive_cross_entropy(flat, several)


def test_aligned_queries_cost_less():
    classes = class_set("starter")
    knowledge = torch.randn(len(classes.names), 64)
    targets, t = alignment_targets(classes), torch.tensor(0.07)
    right = alignment_loss(knowledge[None], knowledge, targets, t)
    wrong = alignment_loss(knowledge.roll(1, 0)[None], knowledge, targets, t)
    assert right < wrong
