"""Masks that follow the image."""

import torch

from zerotumor.edges import INSIDE, OUTSIDE, along_edges
from zerotumor.inferer import segment_volume
from zerotumor.metrics import dice
from zerotumor.phantom.imaging import blur
from zerotumor.prompts import parse

EDGE = 24


def ball(center, radius):
    axes = torch.meshgrid(*(torch.arange(EDGE).float() - c for c in center), indexing="ij")
    return torch.stack(axes).square().sum(0).sqrt() <= radius


def blurred(mask, sigma=2.5):
    return blur(mask.float(), (sigma,) * 3)


def scene(contrast=0.4):
    """A bright ball, and a blob of probability that is smoother and two voxels off."""
    torch.manual_seed(0)
    truth = ball((12, 12, 12), 6)
    image = (0.3 + contrast * truth + 0.02 * torch.randn(EDGE, EDGE, EDGE)).expand(2, -1, -1, -1)
    return image, truth, blurred(ball((13, 11, 12), 7))[None].clamp(0, 0.9)


def test_the_outline_moves_to_the_edge_of_the_image():
    image, truth, blob = scene()
    after = along_edges(image, blob, 1.0)[0]
    assert dice(blob[0] >= 0.5, truth) < 0.85 and dice(after >= 0.5, truth) > 0.95
    assert float((after[truth] >= INSIDE).float().mean()) > 0.95


def test_without_weight_nothing_changes():
    image, _, blob = scene()
    assert torch.equal(along_edges(image, blob, 0.0), blob)


def test_far_from_a_mask_nothing_changes_and_an_empty_one_stays_empty():
    image, _, blob = scene()
    faint = blob * 0.5
    assert torch.equal(along_edges(image, faint, 1.0), faint)
    after = along_edges(image, torch.cat([blob, faint]), 1.0)
    assert torch.equal(after[1], faint[0]) and torch.equal(after[0, :3, :3, :3], blob[0, :3, :3, :3])


def test_a_part_without_edges_is_not_cut_away():
    image = torch.full((2, EDGE, EDGE, EDGE), 0.5)
    weak = 0.6 * ball((12, 12, 12), 4).float()[None]
    assert torch.equal(along_edges(image, weak, 50.0), weak)


def test_each_part_has_a_cut_of_its_own():
    torch.manual_seed(0)
    truth = ball((6, 6, 6), 4) | ball((17, 17, 17), 4)
    image = (0.3 + 0.4 * truth + 0.02 * torch.randn(EDGE, EDGE, EDGE)).expand(2, -1, -1, -1)
    blob = (0.9 * (blurred(ball((7, 6, 6), 4), 1.0) + blurred(ball((17, 17, 18), 4), 1.0)))[None].clamp(0, 0.9)
    assert dice(along_edges(image, blob, 1.0)[0] >= 0.5, truth) > dice(blob[0] >= 0.5, truth) + 0.05


def test_both_sides_of_an_outline_are_as_far_from_one_half():
    image, truth, blob = scene()
    after = along_edges(image, blob, 1.0)[0]
    rim = torch.nn.functional.max_pool3d(truth[None, None].float(), 3, 1, 1)[0, 0].bool() & (after < 0.5)
    assert rim.any() and (after[rim] <= OUTSIDE).all() and INSIDE + OUTSIDE == 1


def test_masks_of_whole_scans_are_drawn_so_where_the_method_asks_for_it(tiny_malenia):
    model, image = tiny_malenia(), scene()[0].contiguous()
    # theta is moved so that three of ten voxels are painted
    counted = segment_volume(model, image, parse("tumor")).extras["ungated"].quantile(0.7)
    model.theta = float((torch.logit(counted) + torch.logit(torch.tensor(model.theta))).sigmoid())
    plain = segment_volume(model, image, parse("tumor")).probabilities
    model.edge_weight = 0.05  # more would cut most of the noise away that an untrained network paints, and is not done
    drawn = segment_volume(model, image, parse("tumor")).probabilities
    assert 0.2 < float((plain >= 0.5).float().mean()) < 0.4
    assert torch.equal(drawn, along_edges(image, plain, 0.05)) and not torch.equal(drawn, plain)
