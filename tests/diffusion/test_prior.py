"""The prior as one: latents, conditions, features, frozen."""

from copy import deepcopy

import pytest
import torch

from zerotumor.diffusion.conditions import REGIONS, TRUNK, Condition, region, tensors_of
from zerotumor.diffusion.networks import STARTER_AUTOENCODER
from zerotumor.diffusion.prior import DiffusionPrior
from zerotumor.transforms import ModalityError

EDGE = 32


@pytest.fixture
def image():
    return torch.rand(2, 1, EDGE, EDGE, EDGE)


@torch.no_grad()
def test_latents_are_the_scaled_mean_and_not_a_sample(make, image):
    prior = make(scale_factor=2.5)
    mean, sigma = prior.autoencoder.encode(image)
    latent = prior.encode(image)
    assert latent.shape == (2, 8, EDGE // 4, EDGE // 4, EDGE // 4) and prior.stride == 4 and prior.latent_channels == 8
    assert torch.equal(latent, mean * 2.5) and torch.equal(latent, prior.encode(image)) and float(sigma.min()) > 0
    assert torch.equal(prior.decode(latent), prior.reconstruct(image))
    assert torch.allclose(prior.decode(latent), prior.autoencoder.decode(mean), atol=1e-4)
    assert prior.reconstruct(image).shape == image.shape


@torch.no_grad()
def test_large_volumes_go_in_tiles_that_agree_with_the_whole(monkeypatch):
    # A tile is normed otherwise than the whole. A fresh starter's norms are silent, which leaves the tiling.
    prior, image = DiffusionPrior().eval(), torch.rand(1, 1, 48, 32, 16)
    latent = prior.encode(image)
    whole = prior.decode(latent)
    calls, encode = [], prior.autoencoder.encode
    monkeypatch.setattr(prior.autoencoder, "encode", lambda x: calls.append(x.shape[2:]) or encode(x))
    monkeypatch.setattr("zerotumor.diffusion.prior.TILED_FROM", 1)
    tiled = prior.encode(image)
    assert tiled.shape == latent.shape and torch.allclose(tiled, latent, atol=1e-5)  # one tile holds it all
    monkeypatch.setattr("zerotumor.diffusion.prior.TILE", 32)
    tiled = prior.encode(image)
    assert calls == [(48, 32, 16), (32, 32, 16), (32, 32, 16)] and torch.allclose(tiled, latent, atol=1e-5)
    decoded = prior.decode(latent)
    assert decoded.shape == whole.shape and torch.allclose(decoded, whole, atol=1e-5)


@torch.no_grad()
def test_the_modality_and_the_spacing_reach_the_network(make, condition):
    prior, latent = make(), torch.randn(2, 8, 8, 8, 8)
    plain = prior.predict(latent, torch.tensor(500.0), condition)
    assert plain.shape == latent.shape and torch.equal(plain, prior(latent, torch.tensor(500.0), condition))
    for other in (Condition("MR", 4.0), Condition("CT", 1.5)):
        assert not torch.allclose(plain, prior.predict(latent, torch.tensor(500.0), other))
    assert not torch.allclose(plain, prior.predict(latent, torch.tensor(100.0), condition))
    mixed = prior.predict(latent, torch.tensor([500.0, 500.0]), [condition, Condition("MR", 4.0)])
    assert torch.allclose(mixed[:1], plain[:1], atol=1e-5) and not torch.allclose(mixed[1:], plain[1:])
    with pytest.raises(ValueError, match="one each"):
        prior.predict(latent, torch.tensor(500.0), [condition])


@torch.no_grad()
def test_body_regions_reach_a_network_that_asks_for_them(make):
    regions = {
        "include_top_region_index_input": True,
        "include_bottom_region_index_input": True,
        "num_class_embeds": None,
    }
    prior, latent = make(regions), torch.randn(1, 8, 8, 8, 8)
    said = [Condition("CT", 4.0, r) for r in (None, TRUNK, region("head", "abdomen"), region("chest", "lower body"))]
    plain, trunk, head, lower = (prior.predict(latent, 10, c) for c in said)
    assert torch.equal(plain, trunk) and not torch.allclose(plain, head) and not torch.allclose(plain, lower)


@torch.no_grad()
def test_guidance_leads_away_from_what_is_unknown(make, condition):
    prior, latent = make(), torch.randn(1, 8, 8, 8, 8)
    plain = prior.predict(latent, 500.0, condition)
    prior.guidance = 1.0
    assert torch.allclose(prior.predict(latent, 500.0, condition), plain, atol=1e-5)
    prior.guidance = 3.0
    assert not torch.allclose(prior.predict(latent, 500.0, condition), plain, atol=1e-3)
    taps = prior.unet_taps(latent, 500.0, condition)
    assert taps[0].shape[0] == 1 and prior.guidance == 3.0


def test_conditions_are_numbers_as_the_published_models_expect_them():
    given = tensors_of(Condition("MR", (1.0, 1.5, 3.0), region("chest", "abdomen")), 2, torch.zeros(1))
    assert given.modality.tolist() == [8, 8] and given.spacing.tolist() == [[100, 150, 300]] * 2
    assert given.top.tolist() == [[0, 100, 0, 0]] * 2 and given.bottom.tolist() == [[0, 0, 100, 0]] * 2
    assert Condition("CT", 4).spacing == (4.0, 4.0, 4.0) and len(REGIONS) == 4
    with pytest.raises(ModalityError):
        Condition("PET")
    with pytest.raises(ValueError, match="head, chest"):
        region("arm", "head")


@pytest.mark.parametrize("finest", [True, False])
@torch.no_grad()
def test_encoder_taps_have_the_shapes_they_say(make, image, finest):
    prior = make(finest_taps=finest)
    taps = prior.encoder_taps(image)
    assert prior.encoder_tap_channels == (4, 4, 8) and prior.encoder_tap_strides == ((1, 2, 4) if finest else (2, 4, 4))
    for tap, channels, stride in zip(taps, prior.encoder_tap_channels, prior.encoder_tap_strides, strict=True):
        assert tap.shape == (2, channels, *[EDGE // stride] * 3)
    # The coarsest is the last before the latent: norm, convolution and the mean's projection lead from one to the other.
    tail = prior.autoencoder.encoder.blocks[prior.encoder_tap_blocks[-1] + 1 :]
    latent = taps[-1]
    for block in tail:
        latent = block(latent)
    assert torch.allclose(prior.autoencoder.quant_conv_mu(latent), prior.encode(image), atol=1e-5)


@torch.no_grad()
def test_unet_taps_have_the_shapes_they_say(make, image, condition):
    prior = make(preconditioned=False)
    latent = prior.encode(image)
    taps = prior.unet_taps(latent, 100.0, condition)
    assert prior.unet_tap_channels == (8, 8, 16) and prior.unet_tap_strides == (4, 4, 8)
    for tap, channels, stride in zip(taps, prior.unet_tap_channels, prior.unet_tap_strides, strict=True):
        assert tap.shape == (2, channels, *[EDGE // stride] * 3)
    assert torch.allclose(prior.unet.out(taps[0]), prior.predict(latent, 100.0, condition), atol=1e-5)


def test_hooks_do_not_stay(make, image, condition):
    prior = make()
    prior.encoder_taps(image)
    prior.unet_taps(torch.randn(1, 8, 8, 8, 8), 1.0, condition)
    with pytest.raises(ValueError, match="multiples"):
        prior.unet_taps(torch.randn(1, 8, 6, 8, 8), 1.0, condition)
    assert not [m for m in prior.modules() if m._forward_hooks]


@torch.no_grad()
def test_a_compiled_unet_draws_the_same_and_features_are_read_as_before(make, image, condition):
    prior = make()
    latent = prior.encode(image)
    before, taps = prior.predict(latent, 100.0, condition), prior.unet_taps(latent, 100.0, condition)
    calls = []
    torch._dynamo.reset()
    prior.compile_unet(lambda graph, inputs: calls.append(graph) or graph.forward)
    after = prior.unet_taps(latent, 100.0, condition)
    assert all(torch.equal(a, b) for a, b in zip(taps, after, strict=True)) and not calls
    assert prior.predict(latent, 100.0, condition).allclose(before, atol=1e-5) and calls


def test_edges_that_do_not_fit_are_refused(make):
    prior = make()
    assert prior.multiple == 16
    with pytest.raises(ValueError, match="multiples of 4"):
        prior.encode(torch.rand(1, 1, 30, 32, 32))
    with pytest.raises(ValueError, match="multiples of 4"):
        prior.predict(torch.rand(1, 8, 8, 8, 6), 1.0, Condition())


@torch.no_grad()
def test_the_starters_network_predicts_what_a_linear_guess_leaves_over(make, condition):
    ours, t = make(), torch.tensor([200.0, 900.0])
    theirs = DiffusionPrior(ours.autoencoder, ours.unet, preconditioned=False).eval()  # as published models do
    latent = torch.randn(2, 8, 8, 8, 8)
    skip, out, inward = ours.schedule.preconditioning(t, latent)
    guess = skip * latent + out * theirs.predict(inward * latent, t, condition)
    assert torch.allclose(ours.predict(latent, t, condition), guess, atol=1e-5)
    assert not torch.allclose(ours.predict(latent, t, condition), theirs.predict(latent, t, condition), atol=1e-2)


def test_frozen_is_for_good(make, image):
    prior = make().train()
    assert prior.training and prior.unet.training
    assert prior.freeze() is prior
    holder = torch.nn.ModuleList([prior]).train()
    assert holder.training and not any(m.training for m in prior.modules())
    assert not any(p.requires_grad for p in prior.parameters()) and not prior.encode(image).requires_grad
    twin = deepcopy(prior).train()
    assert not twin.training and torch.equal(twin.encode(image), prior.encode(image))


def test_the_starter_is_small():
    prior = DiffusionPrior()
    assert 2 * sum(p.numel() for p in prior.parameters()) < 20e6  # bytes in half precision
    assert (
        prior.stride == 2
        and prior.multiple == 8
        and prior.autoencoder.encoder.blocks[0].conv.in_channels == STARTER_AUTOENCODER["in_channels"]
    )
