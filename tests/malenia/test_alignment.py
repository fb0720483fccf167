"""MP-NCE: what makes it neither InfoNCE nor SupCon."""

import torch

from zerotumor.malenia.alignment import alignment_loss, mp_nce, positives_and_negatives
from zerotumor.malenia.attributes import NAMES, SLICES, VALUES, value_index

ROW = {
    "location": "liver", "shape": "round-like", "density": "hypodense", "density_variation": "homogeneous",
    "enhancement": "non-contrast", "surface": "well-defined", "relation": "not-close", "specific": "none",
}  # fmt: skip


def row(**changed):
    values = {**ROW, **changed}
    return [value_index(n, values[n]) if values[n] else -1 for n in NAMES]


def test_one_positive_is_info_nce():
    similarity = torch.randn(1, 5)
    positives = torch.tensor([[True, False, False, False, False]])
    expected = torch.nn.functional.cross_entropy(similarity, torch.tensor([0]))
    assert torch.allclose(mp_nce(similarity, positives, ~positives), expected)


def test_a_second_positive_leaves_the_term_of_the_first_unchanged():
    similarity = torch.randn(1, 5)
    negatives = torch.tensor([[False, False, True, True, True]])
    first, second, both = (torch.zeros(1, 5, dtype=torch.bool) for _ in range(3))
    first[0, 0] = second[0, 1] = True
    both[0, :2] = True
    mean = (mp_nce(similarity, first, negatives) + mp_nce(similarity, second, negatives)) / 2
    assert torch.allclose(mp_nce(similarity, both, negatives), mean)


def test_own_values_are_positive_and_other_values_of_the_same_attribute_negative():
    positives, negatives = positives_and_negatives(torch.tensor([row()]))
    assert positives.sum() == 8
    assert positives[0, value_index("shape", "round-like")] and negatives[0, value_index("shape", "irregular")]
    assert not (positives & negatives).any()


def test_texts_that_two_lesions_share_are_never_negatives():
    positives, negatives = positives_and_negatives(torch.tensor([row(), row(shape="irregular")]))
    assert not negatives[:, value_index("density", "hypodense")].any()
    assert negatives[0, value_index("shape", "irregular")] and negatives[1, value_index("shape", "round-like")]


def test_only_places_of_the_batch_are_negative_places():
    _, negatives = positives_and_negatives(torch.tensor([row(), row(location="spleen")]))
    places = negatives[0, SLICES["location"]]
    assert places.sum() == 1 and negatives[0, value_index("location", "spleen")]


def test_an_attribute_that_is_not_recorded_stays_out():
    positives, negatives = positives_and_negatives(torch.tensor([row(density=None)]))
    part = SLICES["density"]
    assert not positives[0, part].any() and not negatives[0, part].any()


def test_perfect_alignment_has_less_loss_than_a_wrong_one():
    values = torch.tensor([row(), row(shape="irregular", density="hyperdense")])
    positives, _ = positives_and_negatives(values)
    right = torch.where(positives, 1.0, -1.0) / 0.07
    assert alignment_loss(right, values) < 1e-3 < alignment_loss(-right, values)


def test_no_lesion_gives_zero_with_a_gradient():
    similarity = torch.randn(0, len(VALUES), requires_grad=True)
    loss = alignment_loss(similarity, torch.zeros(0, 8, dtype=torch.long))
    loss.backward()
    assert loss == 0
