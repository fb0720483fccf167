"""Both schedules: exact inversion, a perfect predictor, agreement with MONAI's own steps, jumps back."""

import pytest
import torch

from zerotumor.diffusion.schedules import Ddpm, Flow, schedule

KINDS = {"epsilon": Ddpm("epsilon"), "v_prediction": Ddpm("v_prediction"), "flow": Flow(), "plain flow": Flow(False)}
SHAPE = (2, 4, 3, 3, 3)


@pytest.fixture(params=list(KINDS))
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def pair():
    """A latent and noise."""
    return torch.randn(SHAPE), torch.randn(SHAPE)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_true_prediction_gives_the_latent_back(kind, pair):
    x0, noise = pair
    t = torch.tensor([3, 700])
    x = kind.add_noise(x0, noise, t)
    back, said = kind.split(kind.target(x0, noise, t), t, x)
    assert torch.allclose(back, x0, atol=1e-3) and torch.allclose(said, noise, atol=1e-3)
    assert torch.allclose(kind.x0_of(kind.target(x0, noise, t), t, x), x0, atol=1e-3)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_perfect_predictor_arrives_at_its_latent(kind, pair, steps, eta):
    x0, x = pair
    times = kind.timesteps(steps)
    for t, following in zip(times, [*times[1:], None], strict=True):
        a, b = kind._levels(t, x)
        prediction = kind.target(x0, (x - a * x0) / b, t)  # whatever noise leads from the latent to here
        x = kind.step(prediction, t, following, x, seeded(), eta=eta)
    assert torch.allclose(x, x0, atol=1e-3)


def test_times_fall_from_the_start_and_never_repeat(kind):
    for start in (None, 1.0, 0.5):
        times = kind.timesteps(20, start)
        assert len(times) == 20 and (times.diff() < 0).all() and float(times[-1]) >= 0
        assert float(times[0]) == pytest.approx(1000 * (start or 1.0), abs=1.01)
    assert float(kind.timesteps(1)[0]) >= 999


def test_nothing_is_left_of_the_latent_at_the_first_time(kind):
    """Not the fiftieth of a thousand levels, at which nine tenths are."""
    kept = kind.add_noise(torch.ones(()), torch.zeros(()), kind.timesteps(50)[0])
    assert float(kept) < 0.1


@pytest.mark.parametrize("steps, start", [(0, None), (1001, None), (5, 0.0), (5, 1.5)])
def test_impossible_grids_are_refused(kind, steps, start):
    with pytest.raises(ValueError, match="steps cannot|schedule can start"):
        kind.timesteps(steps, start)


def test_constants_are_the_published_ones():
    kept = Ddpm().scheduler.alphas_cumprod
    assert [round(float(kept[t]), d) for t, d in ((100, 3), (250, 3), (500, 3), (750, 4))] == [
        0.823,
        0.508,
        0.115,
        0.0083,
    ]


def test_ddim_steps_are_monais_on_its_grid(pair):
    x, prediction = pair
    ours, theirs = Ddpm(), Ddpm().scheduler
    theirs.set_timesteps(50)
    for k in (3, 30):
        t, following = theirs.timesteps[k], theirs.timesteps[k + 1]
        expected, x0 = theirs.step(prediction, int(t), x)
        assert torch.allclose(ours.step(prediction, t, following, x), expected, atol=1e-5)
        assert torch.allclose(ours.x0_of(prediction, t, x), x0, atol=1e-4)
        noisy = theirs.add_noise(x, prediction, torch.stack([t, t]))
        assert torch.allclose(ours.add_noise(x, prediction, t), noisy, atol=1e-6)


def test_flow_steps_are_monais_where_it_rounds_nothing(pair):
    x, prediction = pair
    ours, theirs = Flow(), Flow().scheduler
    theirs.set_timesteps(10, input_img_size_numel=32**3)
    t, following = torch.tensor(800.0), torch.tensor(700.0)
    expected, x0 = theirs.step(prediction, 800, x, 700)
    assert torch.allclose(ours.step(prediction, t, following, x), expected, atol=1e-5)
    assert torch.allclose(ours.x0_of(prediction, t, x), x0, atol=1e-5)
    assert torch.allclose(ours.add_noise(x, prediction, t), theirs.add_noise(x, prediction, torch.tensor([t, t])))


@pytest.mark.parametrize("numel", [12**3, 32**3, 64**3])
def test_the_warp_is_monais_and_keeps_the_start(numel):
    flow, theirs = Flow(), Flow().scheduler
    theirs.set_timesteps(30, input_img_size_numel=numel)
    ours = flow.timesteps(30, numel=numel)
    assert torch.allclose(ours, theirs.timesteps.float(), atol=0.5)  # theirs are rounded to half precision
    assert float(flow.timesteps(30, 0.5, numel)[0]) == pytest.approx(500, abs=0.1)
    assert torch.equal(Flow(False).timesteps(30, numel=numel), Flow(False).timesteps(30))


def test_a_jump_back_has_the_mean_and_variance_of_its_level(kind):
    x0, noise = torch.full((200_000,), 2.0), torch.randn(200_000, generator=seeded(1))
    early, late = kind.timesteps(4)[1], kind.timesteps(4)[2]
    back = kind.renoise(kind.add_noise(x0, noise, late), late, early, seeded(2))
    a, b = kind.levels(early)
    assert float(back.mean()) == pytest.approx(2 * float(a), abs=0.02)
    assert float(back.std()) == pytest.approx(float(b), rel=0.02)
    clean = kind.renoise(x0, None, early, seeded(2))
    assert float(clean.mean()) == pytest.approx(2 * float(a), abs=0.02)


def test_a_generator_decides_what_is_drawn(kind, pair):
    x, prediction = pair
    t, following = kind.timesteps(4)[1:3]
    once, again, other = (kind.step(prediction, t, following, x, seeded(s), eta=1.0) for s in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(kind.step(prediction, t, following, x), kind.step(prediction, t, following, x, seeded()))
    assert torch.equal(*(kind.renoise(x, following, t, seeded(3)) for _ in range(2)))


def test_half_precision_leaves_the_table_alone(pair):
    """MONAI's own `add_noise` casts its table to the latents' type, and keeps it so."""
    ddpm, (x0, noise) = Ddpm(), pair
    t = torch.tensor([500, 900])
    before = ddpm.add_noise(x0, noise, t)
    assert ddpm.add_noise(x0.half(), noise.half(), t).dtype == torch.float16
    assert torch.equal(ddpm.add_noise(x0, noise, t), before)


def test_training_times_span_the_schedule(kind):
    times = kind.random_times(torch.zeros(500, 1, 8, 8, 8)).float()
    assert times.shape == (500,) and float(times.min()) >= 0 and float(times.max()) <= 1000
    assert float(times.max()) > 900 and float(times.min()) < 100


def test_unknown_schedules_are_named():
    assert isinstance(schedule("ddpm", prediction="v_prediction"), Ddpm) and isinstance(schedule(), Flow)
    with pytest.raises(ValueError, match="choose one of ddpm, flow"):
        schedule("cosine")


@pytest.mark.parametrize("schedule", [Flow(), Ddpm(), Ddpm("v_prediction")])
@pytest.mark.parametrize("t", [1.0, 300.0, 700.0, 999.0])
def test_preconditioned_inputs_and_what_is_left_to_predict_have_variance_one(schedule, t):
    torch.manual_seed(0)
    x0, noise, t = torch.randn(2, 1, 40, 40, 40), torch.randn(2, 1, 40, 40, 40), torch.tensor([t, t])
    x = schedule.add_noise(x0, noise, t)
    skip, out, inward = schedule.preconditioning(t, x)
    left = (schedule.target(x0, noise, t) - skip * x) / out
    assert (inward * x).var() == pytest.approx(1, abs=0.02) and left.var() == pytest.approx(1, abs=0.02)
    assert abs(float((left * x).mean())) < 0.02  # the linear guess has taken all that there was


def test_preconditioning_takes_one_time_for_all_as_well():
    x = torch.randn(2, 1, 4, 4, 4)
    many, one = (Flow().preconditioning(t, x) for t in (torch.tensor([400.0, 400.0]), torch.tensor(400.0)))
    assert all(torch.equal(m.expand_as(x), o.expand_as(x)) for m, o in zip(many, one, strict=True))
