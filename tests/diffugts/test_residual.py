"""Pixel and feature residual, their fusion, and Otsu's threshold."""

import torch
from skimage.filters import threshold_otsu

from zerotumor.diffugts.residual import (
    FeatureResidual,
    Fusion,
    combine,
    difference,
    otsu_probability,
    pixel_residual,
    spread,
)


def box(size=12, low=4, high=8, prompts=1):
    mask = torch.zeros(1, prompts, size, size, size, dtype=torch.bool)
    mask[..., low:high, low:high, low:high] = True
    return mask


def test_what_the_autoencoder_cannot_draw_cancels():
    """|D(E(I)) - H|, not |I - H|: noise that no decoder draws is no residual."""
    scan, reconstruction = torch.rand(1, 1, 8, 8, 8), torch.full((1, 1, 8, 8, 8), 0.5)
    healthy, hole = reconstruction.clone(), torch.ones(1, 1, 8, 8, 8)
    assert pixel_residual(reconstruction, healthy, hole).sum() == 0 < pixel_residual(scan, healthy, hole).sum()


def test_there_is_no_residual_outside_the_hole():
    residual = pixel_residual(torch.rand(1, 1, 12, 12, 12), torch.rand(1, 1, 12, 12, 12), box())
    assert (residual[~box()] == 0).all() and (residual[box()] > 0).any()


def test_feature_residual_is_a_cosine_with_each_text_on_the_images_grid():
    module = FeatureResidual(4, 16)
    z, h, texts = torch.randn(2, 4, 3, 3, 3), torch.randn(2, 4, 3, 3, 3), torch.randn(2, 5, 2, 16)
    scored = module(z, h, texts, (12, 12, 12))
    assert scored.shape == (2, 5, 2, 12, 12, 12) and scored.abs().max() <= 1 + 1e-5
    coarse = module(z, h, texts, (3, 3, 3))
    expected = torch.cosine_similarity(module.phi(z - h)[1, :, 0, 2, 1], texts[1, 4, 1], dim=0)
    assert torch.allclose(coarse[1, 4, 1, 0, 2, 1], expected, atol=1e-5)
    assert torch.equal(difference(scored), scored[:, :, 1] - scored[:, :, 0])


def test_no_change_of_the_latent_scores_exactly_zero():
    for hidden in (0, 8):
        z = torch.randn(1, 4, 3, 3, 3)
        assert (FeatureResidual(4, 16, hidden)(z, z, torch.randn(1, 1, 2, 16), (3, 3, 3)) == 0).all()


def test_the_projection_is_learned():
    module = FeatureResidual(4, 16)
    z, texts = torch.randn(1, 4, 3, 3, 3), torch.randn(1, 1, 2, 16)
    difference(module(z, torch.zeros_like(z), texts, (6, 6, 6))).sum().backward()
    assert module.phi[0].weight.grad.abs().sum() > 0


def test_text_decides_the_feature_residual():
    module, z = FeatureResidual(4, 16), torch.randn(1, 4, 3, 3, 3)
    texts = torch.randn(1, 2, 2, 16)
    scored = difference(module(z, torch.zeros_like(z), texts, (3, 3, 3)))
    assert not torch.allclose(scored[:, 0], scored[:, 1], atol=1e-3)
    swapped = difference(module(z, torch.zeros_like(z), texts.flip(2), (3, 3, 3)))
    assert torch.allclose(swapped, -scored, atol=1e-6)


def test_spread_is_from_0_to_1_inside_each_hole():
    hole = box(prompts=2)
    hole[:, 1] = False
    hole[:, 1, :2] = True
    values = spread(10 * torch.randn(1, 2, 12, 12, 12), hole)
    for p in range(2):
        assert values[0, p][hole[0, p]].min() == 0 and abs(values[0, p][hole[0, p]].max() - 1) < 1e-5
    assert (values[~hole] == 0).all()


def test_betas_weigh_the_residuals():
    pixel, feature, hole = torch.rand(1, 1, 12, 12, 12), torch.randn(1, 1, 12, 12, 12), box()
    alone = combine(pixel, None, hole)
    assert torch.allclose(alone, spread(pixel, hole))
    both = combine(pixel, feature, hole, 0.25, 0.75)
    assert torch.allclose(both, 0.25 * spread(pixel, hole) + 0.75 * spread(feature, hole))


def test_otsu_is_scikit_images_and_lies_at_one_half():
    hole, residual = box(), torch.rand(1, 1, 12, 12, 12) * 0.2
    residual[..., 5:7, 5:7, 5:7] += 0.7
    probability = otsu_probability(residual, hole)
    cut = threshold_otsu(residual[hole].numpy())
    assert torch.equal(probability >= 0.5, (residual > cut) & hole)
    order = residual[hole].argsort()
    assert (probability[hole][order].diff() >= 0).all() and (probability[~hole] == 0).all()


def test_otsu_finds_nothing_in_what_does_not_vary_or_is_not_there():
    assert (otsu_probability(torch.full((1, 1, 12, 12, 12), 0.3), box()) == 0).all()
    assert (otsu_probability(torch.rand(1, 1, 12, 12, 12), torch.zeros_like(box())) == 0).all()


def fusion_inputs(prompts=2):
    shape = (1, prompts, 12, 12, 12)
    return (torch.randn(1, 1, 12, 12, 12), torch.rand(1, 1, 12, 12, 12), torch.randn(shape), torch.randn(shape),
            box(prompts=prompts))  # fmt: skip


def test_fusion_starts_as_the_attention_and_can_learn():
    module, inputs = Fusion(8), fusion_inputs()
    assert torch.allclose(module(*inputs), inputs[3])
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    target = (inputs[0].abs().expand(-1, 2, -1, -1, -1) > 0.7).float()
    course = []
    for _ in range(12):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(module(*inputs)[inputs[4]], target[inputs[4]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(float(loss))
    assert course[-1] < 0.8 * course[0]


def test_prompts_are_fused_each_by_itself():
    module, (signed, change, feature, logits, hole) = Fusion(8), fusion_inputs()
    torch.nn.init.normal_(module.net[-1].weight)
    both = module(signed, change, feature, logits, hole)
    second = module(signed, change, feature[:, 1:], logits[:, 1:], hole[:, 1:])
    assert torch.allclose(both[:, 1:], second, atol=1e-5)
