"""Partial labels: classes that a data set does not annotate teach nothing."""

import torch

from zerotumor.attention import LazyMasks, masks_of
from zerotumor.zept.classes import ANY, class_set
from zerotumor.zept.criterion import ZeptLoss, choice_loss, dice_loss, grouping_loss, organ_loss, partial_loss
from zerotumor.zept.samples import COMPLETE, KINDS, annotation, truth_of

STARTER = class_set("starter")


def label(annotated, kind="kidney cyst"):
    organs, lesions = torch.zeros(1, 8, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    organs[:, :4], organs[:, 4:6] = 1, 2  # liver, left kidney
    lesions[:, 4:6, :2, :2] = 1
    kinds = torch.tensor([KINDS.index(kind)], dtype=torch.int16)
    return {"organs": organs, "lesions": lesions, "kinds": kinds, "annotated": annotated}


def outputs(batch=1):
    return {
        "organs": torch.randn(batch, 33, 8, 8, 8, requires_grad=True),
        "responses": [torch.randn(batch, 33, n, n, n, requires_grad=True) for n in (1, 2, 4, 8)],
        "grouping": [torch.randn(batch, 33, n, n, n, requires_grad=True) for n in (1, 2, 4, 8)],
        "tumors": torch.randn(batch, 8, 8, 8, 8, requires_grad=True),
        "aligned": torch.randn(batch, 40, 16),
        "knowledge": torch.randn(40, 16),
        "temperature": torch.tensor(0.07),
    }


def taught(gradient):
    return {k for k in range(gradient.shape[1]) if gradient[:, k].abs().sum() > 0}


def test_only_annotated_classes_get_a_gradient():
    known = annotation(["liver", "spleen", "kidney cyst"])
    out, truth = outputs(), truth_of([label(known)], STARTER)
    ZeptLoss()(out, truth).backward()
    organs = {STARTER.organs.index("liver"), STARTER.organs.index("spleen")}
    assert taught(out["organs"].grad) == organs
    assert all(taught(r.grad) == organs for r in out["responses"])
    assert taught(out["tumors"].grad) == {STARTER.tumors.index("kidney cyst")}


def test_each_sample_has_its_own_template():
    out = outputs(2)
    truth = truth_of([label(annotation(["liver"])), label(COMPLETE)], STARTER)
    ZeptLoss()(out, truth).backward()
    assert taught(out["organs"].grad[:1]) == {STARTER.organs.index("liver")}
    assert taught(out["organs"].grad[1:]) == set(range(33))  # the background too
    assert taught(out["tumors"].grad[:1]) == set()


def test_unseen_tumors_get_no_loss_even_where_they_are_annotated():
    out = outputs()
    ZeptLoss()(out, truth_of([label(COMPLETE, kind="pancreatic tumor")], STARTER)).backward()
    assert taught(out["tumors"].grad) == set(STARTER.trained)


def test_nothing_annotated_costs_nothing():
    out = outputs()
    del out["tumors"]
    loss = ZeptLoss()(out, truth_of([label(annotation([]))], STARTER))
    assert loss == 0


def test_slots_of_a_lesion():
    truth = truth_of([label(COMPLETE), label(COMPLETE, kind="abstract lesion")], STARTER)
    filled = truth.tumors.flatten(2).any(2)
    assert filled[0].nonzero()[:, 0].tolist() == [STARTER.tumors.index("kidney cyst"), STARTER.tumors.index(ANY)]
    assert filled[1].nonzero()[:, 0].tolist() == [STARTER.tumors.index(ANY)]


def test_a_lesion_of_no_kind_says_nothing_about_kinds():
    truth = truth_of([label(COMPLETE), label(COMPLETE, kind="abstract lesion")], STARTER)
    slots = truth.annotated[:, len(STARTER.organs) + 1 :]
    assert slots[0].nonzero()[:, 0].tolist() == list(STARTER.trained)
    assert slots[1].nonzero()[:, 0].tolist() == [STARTER.tumors.index(ANY)]
    assert truth.annotated[1, : len(STARTER.organs)].all()


def test_a_part_of_an_organ_counts_as_the_whole_only_where_the_whole_is_a_class():
    one = label(COMPLETE)
    one["organs"][:] = 101  # the duodenum
    starter, paper = (truth_of([one], class_set(name)).organs.unique().tolist() for name in ("starter", "paper"))
    assert starter == [STARTER.organs.index("small bowel")] and paper == [13]


def test_dice_of_an_absent_class_is_one_without_gradient():
    logits = torch.randn(1, 4, 4, 4, requires_grad=True)
    loss = dice_loss(logits, torch.zeros(1, 4, 4, 4))
    loss.sum().backward()
    assert loss == 1 and logits.grad.abs().sum() == 0


def test_right_organs_cost_nearly_nothing():
    truth = truth_of([label(COMPLETE)], STARTER)
    right = torch.full((1, 33, 8, 8, 8), -12.0)
    right[0, 0, :4], right[0, 1, 4:6], right[0, 32, 6:] = 12.0, 12.0, 12.0
    assert organ_loss(right, truth, 32) < 0.01 < organ_loss(-right, truth, 32)


def test_masks_that_are_not_computed_are_not_missed():
    """Lazy masks cost and teach what whole ones do, with and without an offset."""
    labels = [label(COMPLETE), label(annotation(["liver", "spleen"])), label(annotation([]))]
    truth = truth_of(labels, STARTER)
    for width in (6, 7):
        queries, features = (
            torch.randn(3, 33, width, requires_grad=True),
            torch.randn(3, 6, 8, 8, 8, requires_grad=True),
        )
        lazy = LazyMasks(queries, features)
        losses = organ_loss(lazy, truth, 32), organ_loss(masks_of(queries, features), truth, 32)
        assert lazy.shape == (3, 33, 8, 8, 8) and torch.allclose(*losses, atol=1e-5)
        first, second = (torch.autograd.grad(loss, (queries, features)) for loss in losses)
        assert all(torch.allclose(a, b, atol=1e-5) and a.abs().sum() > 0 for a, b in zip(first, second, strict=True))


def test_the_paper_has_no_loss_on_coarse_levels_none_on_the_grouping_and_none_on_the_choice():
    out = outputs()
    loss = ZeptLoss(deep=0.0, grouping=0.0, choice=0.0)
    loss(out, truth_of([label(COMPLETE)], STARTER)).backward()
    assert not {"deep", "grouping", "choice"} & set(loss.last)
    assert all(r.grad is None for r in (*out["responses"], *out["grouping"]))


def test_grouping_wants_each_voxel_at_its_organ():
    truth = truth_of([label(COMPLETE)], STARTER)
    right = torch.zeros(1, 33, 8, 8, 8)
    right[0, 0, :4], right[0, 1, 4:6], right[0, 32, 6:] = 20.0, 20.0, 20.0
    assert grouping_loss(right, truth, 32) < 0.01 < 3 < grouping_loss(right.roll(1, 1), truth, 32)
    without_background = right[:, :32]  # as in the paper: what is no organ may go to any query
    assert grouping_loss(without_background, truth, 32) < 0.01


def test_grouping_is_told_of_annotated_voxels_alone():
    logits = torch.randn(1, 33, 8, 8, 8, requires_grad=True)
    grouping_loss(logits, truth_of([label(annotation(["liver"]))], STARTER), 32).backward()
    assert logits.grad[:, :, :4].abs().sum() > 0 and logits.grad[:, :, 4:].abs().sum() == 0
    assert grouping_loss(logits, truth_of([label(annotation([]))], STARTER), 32) == 0


def test_the_choice_wants_the_right_organ_most_probable_and_rare_ones_more():
    truth = truth_of([label(COMPLETE)], STARTER)
    right = torch.full((1, 33, 8, 8, 8), -9.0)
    right[0, 0, :4], right[0, 1, 4:6], right[0, 32, 6:] = -4.0, -4.0, -4.0  # most probable, and far below one half
    assert choice_loss(right, truth, 32) < 0.2 < 3 < choice_loss(right.roll(1, 1), truth, 32)
    lazy = LazyMasks(torch.eye(33)[None], right)
    assert torch.allclose(choice_loss(lazy, truth, 32), choice_loss(right, truth, 32))
    large, small = right.clone(), right.clone()
    large[0, 0, :1], small[0, 1, 4:5] = -9.0, -9.0  # as many voxels of the liver lost as of the kidney, half as large
    assert choice_loss(large, truth, 32) < choice_loss(small, truth, 32)


def test_the_choice_is_among_annotated_classes():
    logits = torch.randn(1, 33, 8, 8, 8, requires_grad=True)
    choice_loss(logits, truth_of([label(annotation(["liver", "spleen"]))], STARTER), 32).backward()
    assert taught(logits.grad) == {STARTER.organs.index("liver"), STARTER.organs.index("spleen")}
    assert logits.grad[:, :, 4:].abs().sum() == 0
    assert choice_loss(logits, truth_of([label(annotation([]))], STARTER), 32) == 0


def test_a_tumor_drawn_in_a_patch_without_one_costs_dice_in_the_batch_alone():
    truth = torch.zeros(2, 1, 8, 8, 8, dtype=torch.bool)
    truth[0, 0, :4] = True
    present, annotated = truth.flatten(2).any(2), torch.ones(2, 1, dtype=torch.bool)
    wrong, right = (torch.where(truth, 9.0, -9.0) for _ in range(2))
    wrong[1] = 9.0  # the second patch is painted from end to end
    masks = [truth[0, 0]]

    def dice(logits, batch):
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.float())
        return float(partial_loss(logits, masks, present, annotated, batch) - entropy)

    assert abs(dice(wrong, batch=False) - dice(right, batch=False)) < 1e-4
    # 256 of 768 painted voxels are tumor: the batch's Dice is 2 * 256 / (768 + 256), and half of the loss
    assert abs(dice(wrong, batch=True) - dice(right, batch=True) - 0.25) < 1e-2
    assert abs(dice(right, batch=True)) < 1e-2
