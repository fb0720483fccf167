"""Uncertainty is zero where an answer is sure, and one where it is a toss."""

import pytest
import torch

from zerotumor.uncertainty import binary_entropy, case_uncertainty


def test_entropy_in_bits():
    values = binary_entropy(torch.tensor([0.0, 0.5, 1.0, 0.25]))
    assert torch.allclose(values, torch.tensor([0.0, 1.0, 0.0, 0.8113]), atol=1e-3)


def test_sure_and_unsure_cases():
    sure, unsure = torch.zeros(8, 8, 8), torch.zeros(8, 8, 8)
    sure[2:5, 2:5, 2:5], unsure[2:5, 2:5, 2:5] = 0.999, 0.45
    assert case_uncertainty(sure, 0.9) < 0.05 < 0.9 < case_uncertainty(unsure, 0.9)


@pytest.mark.parametrize(("score", "expected"), [(0.5, 1.0), (0.0, 0.0), (1.0, 0.0)])
def test_where_nothing_may_be_lesion_the_score_decides(score, expected):
    assert case_uncertainty(torch.zeros(4, 4, 4), score) == pytest.approx(expected, abs=1e-3)
