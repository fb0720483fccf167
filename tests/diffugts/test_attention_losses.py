"""The losses."""

import pytest
import torch
import torch.nn.functional as F

from zerotumor.diffugts.criterion import DiffuGTSLoss, anomaly_loss, batch_dice_loss, dice_loss, similarity_loss
from zerotumor.diffugts.samples import Truth


def truth(masks):
    return Truth([], masks, torch.ones(len(masks), dtype=torch.bool))


def outputs(batch=2, prompts=3, size=6, dim=8):
    return {
        "logits": torch.randn(batch, prompts, size, size, size, requires_grad=True),
        "score": torch.randn(batch, prompts, requires_grad=True),
        "embedded": torch.randn(batch, prompts, 2, dim, requires_grad=True),
        "texts": torch.randn(batch, prompts, 2, dim),
    }


def test_similarity_is_a_symmetric_info_nce_of_two():
    g, t = torch.randn(1, 1, 2, 8), torch.randn(1, 1, 2, 8)
    similarity = F.normalize(g[0, 0], dim=1) @ F.normalize(t[0, 0], dim=1).T / 0.07
    rows, columns = similarity.log_softmax(1).diagonal(), similarity.log_softmax(0).diagonal()
    assert similarity_loss(g, t) == pytest.approx(float(-(rows.mean() + columns.mean()) / 2), rel=1e-4)


def test_similarity_wants_each_embedding_at_its_own_text():
    texts = F.normalize(torch.randn(2, 3, 2, 32), dim=-1)
    assert similarity_loss(texts, texts) < 0.01 < 5 < similarity_loss(texts.flip(2), texts)


def test_anomaly_loss_is_cross_entropy_of_the_image():
    score, there = torch.tensor([[3.0, -3.0]]), torch.tensor([[True, False]])
    assert anomaly_loss(score, there) < 0.05 < 3 < anomaly_loss(score, ~there)


def test_dice_is_of_masks_that_are_not_empty_alone():
    mask = torch.zeros(1, 2, 4, 4, 4)
    mask[:, 0, :2] = 1
    probability = torch.rand(1, 2, 4, 4, 4, requires_grad=True)
    loss = dice_loss(probability, mask)
    loss.backward()
    assert probability.grad[:, 0].abs().sum() > 0 and probability.grad[:, 1].abs().sum() == 0
    p, g = probability.detach()[0, 0], mask[0, 0]
    assert float(loss) == pytest.approx(float(1 - 2 * (p * g).sum() / (p.sum() + g.sum())), abs=1e-4)
    assert dice_loss(torch.rand(1, 2, 4, 4, 4), torch.zeros(1, 2, 4, 4, 4)) == 0


def test_masks_reach_the_loss():
    """A truth that is loaded but never compared with would leave the segmentation untrained."""
    masks, out, loss = torch.rand(2, 3, 6, 6, 6) > 0.7, outputs(), DiffuGTSLoss()
    value = loss(out, truth(masks))
    assert set(loss.last) == {"dice", "batch", "bce", "ano", "sim"} and loss.last["dice"] > 0
    assert float(loss(out, truth(~masks))) != float(value)
    value.backward()
    assert all(out[name].grad.abs().sum() > 0 for name in ("logits", "score", "embedded"))


def test_the_reference_weighs_all_three_alike():
    masks, out = torch.rand(2, 3, 6, 6, 6) > 0.7, outputs()
    loss = DiffuGTSLoss(bce=0.0, batch=0.0)
    value = loss(out, truth(masks))
    assert float(value) == pytest.approx(sum(loss.last[n] for n in ("dice", "ano", "sim")), rel=1e-5)


def test_the_residual_stage_is_judged_inside_the_hole():
    hole = torch.zeros(1, 1, 6, 6, 6, dtype=torch.bool)
    hole[..., :3, :3, :3] = True
    mask = torch.rand(1, 1, 6, 6, 6) > 0.5
    logits = torch.randn(1, 1, 6, 6, 6, requires_grad=True)
    DiffuGTSLoss()({"logits": logits, "hole": hole}, truth(mask)).backward()
    assert (logits.grad[~hole] == 0).all() and logits.grad[hole].abs().sum() > 0


def test_an_empty_target_pushes_everything_in_its_hole_down():
    hole = torch.ones(1, 1, 6, 6, 6, dtype=torch.bool)
    logits = torch.zeros(1, 1, 6, 6, 6, requires_grad=True)
    DiffuGTSLoss()({"logits": logits, "hole": hole}, truth(torch.zeros_like(hole))).backward()
    assert (logits.grad > 0).all()


def test_painting_where_nothing_is_costs_the_batch():
    masks = torch.zeros(2, 2, 4, 4, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    right = masks.float()
    painted = right.clone()
    painted[1, 1, :2] = 1.0
    assert batch_dice_loss(right, masks) < 1e-4 and dice_loss(painted, masks) < 1e-4
    assert batch_dice_loss(painted, masks).item() == pytest.approx(1 - 2 * 32 / (64 + 32), abs=1e-4)
    assert batch_dice_loss(painted, torch.zeros_like(masks)).item() == 0
