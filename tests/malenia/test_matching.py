"""Tokens find their lesions."""

import torch

from zerotumor.malenia.matching import mask_cost, match


def blobs():
    masks = torch.zeros(2, 12, 12, 12)
    masks[0, 1:5, 1:5, 1:5] = 1
    masks[1, 8:11, 8:11, 8:11] = 1
    return masks


def test_permuted_masks_are_matched_back():
    masks = blobs()
    logits = torch.full((4, 12, 12, 12), -6.0)
    logits[2], logits[1] = masks[0] * 12 - 6, masks[1] * 12 - 6
    tokens, lesions = match(logits, torch.zeros(4), masks)
    assert dict(zip(tokens.tolist(), lesions.tolist(), strict=True)) == {2: 0, 1: 1}


def test_small_lesions_are_matched_with_few_points():
    masks = torch.zeros(1, 40, 40, 40)
    masks[0, 20:22, 20:22, 20:22] = 1
    logits = torch.full((3, 40, 40, 40), -6.0)
    logits[1] = masks[0] * 12 - 6
    tokens, _ = match(logits, torch.zeros(3), masks, points=500)
    assert tokens.tolist() == [1]


def test_attributes_decide_between_equal_masks():
    logits = torch.zeros(2, 12, 12, 12)
    tokens, lesions = match(logits, torch.zeros(2), blobs(), attribute_cost=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert dict(zip(tokens.tolist(), lesions.tolist(), strict=True)) == {0: 1, 1: 0}


def test_more_lesions_than_tokens_leaves_some_unmatched():
    tokens, _ = match(torch.zeros(1, 12, 12, 12), torch.zeros(1), blobs())
    assert len(tokens) == 1


def test_cost_is_cross_entropy_and_dice():
    logits, truth = torch.randn(1, 50), (torch.rand(1, 50) > 0.5).float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    assert torch.allclose(mask_cost(logits, truth, bce=2, dice=3)[0, 0], 2 * entropy + 3 * dice, atol=1e-5)
