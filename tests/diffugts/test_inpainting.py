"""Latent inpainting: what is known stays, what is not is drawn, both always at one noise level."""

import pytest
import torch

from zerotumor.diffugts.inpainting import QUALITIES, Quality, heal, inpaint_latent, median

SHAPE = (1, 4, 4, 4, 4)


def middle():
    mask = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    mask[..., 1:3, 1:3, 1:3] = True
    return mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Watching:
    """A prior that knows the healthy latent and says exactly what leads there; remembers what it was shown."""

    def __init__(self, schedule, healthy):
        self.schedule, self.healthy, self.shown = schedule, healthy, []

    def predict(self, latent, t, condition):
        self.shown.append((float(t), latent.clone()))
        # Whatever noise would lead from the healthy latent to what is shown.
        return oracle(self.schedule, latent, self.healthy, t)


def oracle(schedule, shown, healthy, t):
    """The prediction with which `x0_of` gives the healthy latent."""
    zero = torch.zeros_like(healthy)
    scale = schedule.add_noise(zero, torch.ones_like(zero), t)  # of noise at this level
    noise = (shown - schedule.add_noise(healthy, zero, t)) / scale.clamp_min(1e-6)
    return schedule.target(healthy, noise, t)


@pytest.mark.parametrize("resamplings", [1, 3])
def test_surroundings_stay_bit_for_bit_and_the_hole_is_drawn(schedule, resamplings):
    latent, healthy, mask = torch.randn(SHAPE), torch.randn(SHAPE), middle()
    prior = Watching(schedule, healthy)
    out = inpaint_latent(prior, latent, mask, None, Quality(6, 1, resamplings), generator=seeded())
    wide = mask.expand_as(latent)
    assert torch.equal(out[~wide], latent[~wide])
    assert torch.allclose(out[wide], healthy[wide], atol=1e-3)
    assert len(prior.shown) == 5 * resamplings + 1  # the last step leads to no noise, from which none is added again


def test_the_hole_starts_from_noise_and_steps_span_the_schedule(schedule):
    """Not from the fiftieth of a thousand levels, where hardly anything is hidden."""
    latent, mask = torch.full(SHAPE, 7.0), torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)
    prior = Watching(schedule, latent)
    inpaint_latent(prior, latent, mask, None, Quality(10, 1, 1), generator=seeded())
    times = [t for t, _ in prior.shown]
    first = prior.shown[0][1]
    assert abs(float(first.mean())) < 0.5 and 0.8 < float(first.std()) < 1.2  # nothing is left of seven
    assert times == sorted(times, reverse=True) and len(times) == 10
    kept = [float(schedule.add_noise(torch.ones(()), torch.zeros(()), torch.as_tensor(t))) for t in times]
    assert kept[0] < 0.1 and max(b - a for a, b in zip(kept, kept[1:], strict=False)) < 0.6


@pytest.mark.parametrize("resamplings", [1, 2])
def test_known_and_drawn_are_at_one_noise_level_at_every_step(schedule, resamplings):
    """With a constant latent in and around the hole, what the network is shown has one mean and one spread throughout."""
    latent, mask = torch.full((1, 4, 16, 16, 16), 3.0), torch.zeros(1, 1, 16, 16, 16, dtype=torch.bool)
    mask[:, :, :8] = True
    prior = Watching(schedule, latent)
    inpaint_latent(prior, latent, mask, None, Quality(5, 1, resamplings), generator=seeded())
    for t, shown in prior.shown[resamplings:]:
        parts = [shown[:, :, :8], shown[:, :, 8:]]
        level = schedule.add_noise(latent[:1, :1, :1, :1, :1], torch.zeros(1, 1, 1, 1, 1), torch.as_tensor(t))
        for part in parts:
            assert float(part.mean()) == pytest.approx(float(level), abs=0.12)
        assert float(parts[0].std()) == pytest.approx(float(parts[1].std()), rel=0.1, abs=0.02)


def test_without_a_hole_the_latent_itself_comes_back(prior, condition):
    latent = torch.randn(SHAPE)
    none = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    assert torch.equal(inpaint_latent(prior, latent, none, condition, QUALITIES["fast"]), latent)
    image = torch.rand(1, 1, 16, 16, 16)
    healed = heal(prior, image, torch.zeros_like(image) > 0, condition, QUALITIES["fast"])
    assert torch.equal(healed.healthy, prior.decode(prior.encode(image)))
    assert torch.equal(healed.latent_healthy, healed.latent)


def test_where_all_is_hole_nothing_is_left_of_the_image(prior, condition):
    everything = torch.ones(1, 1, 16, 16, 16, dtype=torch.bool)
    first, second = (
        heal(prior, image, everything, condition, Quality(3, 1, 2), generator=seeded())
        for image in (torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16))
    )
    assert torch.equal(first.healthy, second.healthy) and not torch.equal(first.reconstruction, second.reconstruction)


def test_a_late_start_keeps_a_trace(prior, condition):
    everything = torch.ones(1, 1, 16, 16, 16, dtype=torch.bool)
    first, second = (
        heal(prior, image, everything, condition, Quality(3, 1, 1), start=0.5, generator=seeded())
        for image in (torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16))
    )
    assert not torch.equal(first.healthy, second.healthy)


def test_a_guess_takes_the_place_of_what_was_there(prior, condition):
    everything, guess = torch.ones(1, 1, 16, 16, 16, dtype=torch.bool), torch.full((1, 1, 16, 16, 16), 0.5)
    settings = {"start": 0.5, "guess": guess}
    first, second, third = (
        heal(prior, image, everything, condition, Quality(3, 2, 1), generator=seeded(), **settings)
        for image in (torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16), guess)
    )
    assert torch.equal(first.healthy, second.healthy) and torch.equal(first.healthy, third.healthy)
    settings["guess"] = guess / 2
    other = heal(prior, guess, everything, condition, Quality(3, 2, 1), generator=seeded(), **settings)
    assert not torch.equal(other.healthy, first.healthy)


def test_a_seed_is_an_answer_and_samples_are_a_median(prior, condition):
    image, hole = torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16, dtype=torch.bool)
    hole[..., 5:9, 5:9, 5:9] = True
    once, again, other = (
        heal(prior, image, hole, condition, Quality(3, 1, 1), generator=seeded(s)).healthy for s in (1, 1, 2)
    )
    assert torch.equal(once, again) and not torch.equal(once, other)
    many = heal(prior, image, hole, condition, Quality(3, 3, 1), generator=seeded())
    assert many.healthy.shape == image.shape and many.latent_healthy.shape == many.latent.shape
    outside = torch.nn.functional.max_pool3d(hole.float(), prior.stride).expand_as(many.latent) == 0
    assert torch.equal(many.latent_healthy[outside], many.latent[outside])


def test_median_of_an_even_number_is_not_the_lower_one():
    assert median(torch.tensor([[1.0], [5.0]])).item() == 3 and median(torch.tensor([[1.0], [9.0], [2.0]])).item() == 2


def test_flows_return_to_more_noise_with_the_right_mean_and_variance(flow):
    x, noise = torch.full((200_000,), 2.0), torch.randn(200_000, generator=seeded(1))
    late, early = torch.tensor(flow.timesteps(4, 1.0)[2]), torch.tensor(flow.timesteps(4, 1.0)[1])
    back = flow.renoise(flow.add_noise(x, noise, late), late, early, seeded(2))
    straight = flow.add_noise(x, torch.randn(200_000, generator=seeded(3)), early)
    assert float(back.mean()) == pytest.approx(float(straight.mean()), abs=0.02)
    assert float(back.std()) == pytest.approx(float(straight.std()), abs=0.02)


def test_qualities_cost_more_and_more():
    costs = [q.steps * q.samples * q.resamplings for q in QUALITIES.values()]
    assert list(QUALITIES) == ["fast", "standard", "best"] and costs == sorted(costs)
