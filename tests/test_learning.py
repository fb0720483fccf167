"""Learning from corrected scans: it learns, and goes on where it was stopped."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import RandFlipd

from zerotumor import held_out, learning
from zerotumor.adaptation import EMPTY, THETA, TOGETHER, chosen
from zerotumor.annotation import LabelError
from zerotumor.examples import REPLAY_SEED, Example, example, method_logits, place_of, replay
from zerotumor.held_out import PARTS, HeldOut, leave_out, means, scope, soft_dice
from zerotumor.learning import KEPT, VOXEL_MM, RandPatch, changes, fresh, learn
from zerotumor.pipeline import encode_scan
from zerotumor.prompts import parse

FAST = {"steps": 60, "learning_rate": 3e-2, "kept": 1.0}  # a network of a thousand weights learns quickly
EPOCH = 4  # here: how many steps lie between two checkpoints is of no interest


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch):
    monkeypatch.setattr(learning, "EPOCH", EPOCH)


@pytest.fixture(scope="module")
def model(tiny_malenia):
    return tiny_malenia()


@pytest.fixture(scope="module")
def sarcoma(model):
    return parse("soft tissue sarcoma", encoder=model.encoder)[0]


def scan_with(center, seed=0, lesion=0.9, size=(32, 32, 32), name=""):
    """A gray body with a ball in it, of which the method says nothing."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.4 + 0.05 * torch.randn((2, *size), generator=generator)
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    ball = sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) < 36
    image[:, ball] += lesion - 0.4
    return Example(image.half(), ball.half(), 4.0, torch.full(size, -2.0).half(), name=name)


def examples(count, lesion=0.9):
    centers = [(10, 12, 16), (20, 20, 12), (12, 22, 20), (22, 10, 18), (16, 16, 16), (20, 12, 12)]
    return [scan_with(centers[k], k, lesion, name=f"scan{k}") for k in range(count)]


def dice_of(specialist, one):
    mask, truth = specialist.answer(one.image.float()) > 0, one.truth > 0.5
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()).clamp_min(1))


@pytest.fixture(scope="module")
def taught(model, sarcoma):
    return learn(model, sarcoma, "CT", examples(2), **{**FAST, "steps": 100})


def test_it_learns_what_two_scans_show_and_a_third_has_it_too(model, sarcoma, taught):
    unseen = examples(5)[-1]
    assert dice_of(fresh(model, sarcoma, "CT"), unseen) < 0.3
    assert dice_of(taught, unseen) > 0.8
    assert taught.learned.prompt == "soft tissue sarcoma" and taught.learned.where == TOGETHER


def test_what_is_kept_lies_between_what_was_and_what_was_learned(model, sarcoma):
    old = fresh(model, sarcoma, "CT").network.state_dict()
    new, half, default = (
        learn(model, sarcoma, "CT", examples(2), steps=3, **kept).network.state_dict()
        for kept in ({"kept": 1.0}, {"kept": KEPT}, {})
    )
    assert 0 < KEPT < 1 and any(not torch.equal(old[k], v) for k, v in new.items())
    for k, v in half.items():
        assert torch.allclose(v, (1 - KEPT) * old[k] + KEPT * new[k], atol=1e-6) and torch.equal(v, default[k])


def test_the_method_itself_learns_nothing(model, sarcoma):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    learn(model, sarcoma, "CT", examples(2), steps=2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_replayed_phantoms_hold_it_back(model, sarcoma):
    """The same sign in phantoms, where it is no lesion: less is found."""
    against = examples(3)
    for one in against:
        one.truth = torch.zeros_like(one.truth)
    free, held = (learn(model, sarcoma, "CT", examples(2), some, **FAST) for some in ((), against))
    balls = [one.truth > 0.5 for one in examples(3)]
    wrong = [
        sum(float(s.network.probability(e.image)[ball].mean()) for e, ball in zip(against, balls, strict=True))
        for s in (free, held)
    ]
    assert wrong[1] < wrong[0] - 0.1


def test_the_same_seed_gives_the_same_specialist_and_leaves_other_randomness_alone(model, sarcoma):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, two = (learn(model, sarcoma, "CT", examples(2), steps=EPOCH, seed=1) for _ in range(2))
    assert torch.equal(torch.rand(4), expected)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    other = learn(model, sarcoma, "CT", examples(2), steps=EPOCH, seed=2)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_stopped_run_goes_on_from_its_checkpoint(model, sarcoma, tmp_path):
    epochs = []

    def stop(k, total):
        epochs.append(k)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(model, sarcoma, "CT", examples(2), checkpoints=tmp_path, progress=stop, **FAST)
    assert list(tmp_path.glob("checkpoint_epoch=*.pt"))
    specialist = learn(
        model, sarcoma, "CT", examples(2), checkpoints=tmp_path, progress=lambda k, total: epochs.append(k), **FAST
    )
    last = FAST["steps"] // EPOCH
    assert epochs[:2] == [1, 2] and epochs[2] > 1 and epochs[-1] == last and len(epochs) < last + 2
    assert dice_of(specialist, examples(5)[-1]) > 0.5


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", {"network": {}}])
def test_a_run_with_a_damaged_checkpoint_starts_anew(model, sarcoma, tmp_path, content, caplog):
    path, epochs = tmp_path / "checkpoint_epoch=3.pt", []
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    options = {"steps": 2 * EPOCH, "checkpoints": tmp_path, "progress": lambda k, total: epochs.append((k, total))}
    specialist = learn(model, sarcoma, "CT", examples(2), **options)
    assert epochs == [(1, 2), (2, 2)] and "starts anew" in caplog.text and not path.exists()
    untouched = learn(model, sarcoma, "CT", examples(2), steps=2 * EPOCH)
    assert all(torch.equal(a, b) for a, b in zip(specialist.parameters(), untouched.parameters(), strict=True))


@pytest.fixture
def taken(monkeypatch):
    """Steps of training so far."""
    steps, loss = [], learning._Loss.__call__
    monkeypatch.setattr(learning._Loss, "__call__", lambda *a: steps.append(1) or loss(*a))
    return steps


@pytest.mark.parametrize("steps", [1, EPOCH - 1, EPOCH, 2 * EPOCH + 2])
def test_it_takes_the_steps_that_are_asked_for(model, sarcoma, taken, steps):
    learn(model, sarcoma, "CT", examples(2), steps=steps)
    assert len(taken) == steps


@pytest.mark.parametrize("steps", [EPOCH, EPOCH + 1])
def test_what_was_learned_to_a_checkpoint_is_not_learned_again(model, sarcoma, tmp_path, taken, steps):
    options = {"steps": steps, "checkpoints": tmp_path}
    whole = learn(model, sarcoma, "CT", examples(2), **options)
    again = learn(model, sarcoma, "CT", examples(2), **options)
    assert len(taken) == steps + steps % EPOCH  # a last epoch that was cut short has left no checkpoint
    if steps % EPOCH == 0:
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("count", [0, 1])
def test_too_little_to_learn_from(model, sarcoma, count):
    with pytest.raises(ValueError, match="correct and save at least 2"):
        learn(model, sarcoma, "CT", examples(count))


def test_every_batch_ends_with_a_phantom_and_scans_take_turns():
    scans, phantoms = examples(3), [scan_with((9, 9, 9), 9, name=f"phantom{k}") for k in range(2)]
    names = [one.name for one in learning._order(scans, phantoms, 6)]
    last = names[3::4]
    assert len(names) == 24 and all(n.startswith("phantom") for n in last) and set(last) == {"phantom0", "phantom1"}
    rest = [n for k, n in enumerate(names) if k % 4 != 3]
    assert all(rest.count(f"scan{k}") == 6 for k in range(3))
    assert {one.name for one in learning._order(scans, [], 6)} == {f"scan{k}" for k in range(3)}


def test_a_patch_shows_image_and_lesion_at_one_place():
    """Whatever it is turned and zoomed by: the lesion of these scans is what is bright."""
    transform = RandPatch(32).set_random_state(0)
    shares = []
    for _ in range(12):
        patch = transform(scan_with((16, 12, 20), lesion=1.4, size=(40, 36, 44)))
        assert patch["image"].shape == (2, 32, 32, 32) and set(patch["label"].unique().tolist()) <= {0.0, 1.0}
        bright = patch["image"][:1] > 0.9
        both = (bright & (patch["label"] > 0)).sum()
        assert float(both) >= 0.9 * float(bright.sum().clamp_min(1)) or int(bright.sum()) < 30
        shares.append(float(patch["label"].sum()) * 4**3 / (904 * 4**3))
    sizes = [s for s in shares if s > 0.5]
    assert len(sizes) > 5 and max(sizes) / min(sizes) > 1.5, "voxels of many sizes"
    assert VOXEL_MM[0] < 4 < VOXEL_MM[1]


@pytest.mark.parametrize("text, mirrored", [("kidney tumor", True), ("left kidney tumor", False)])
def test_a_prompt_that_names_a_side_is_not_learned_from_mirrored_scans(model, monkeypatch, text, mirrored):
    made = []
    monkeypatch.setattr(learning, "changes", lambda *a: made.append(changes(*a)) or made[-1])
    learn(model, parse(text, encoder=model.encoder)[0], "CT", examples(2), steps=1)
    axes = {t.flipper.spatial_axis for t in made[0].transforms if isinstance(t, RandFlipd)}
    assert axes == ({0, 1, 2} if mirrored else {1, 2})


def test_outside_of_a_scan_is_air():
    transform = RandPatch(48).set_random_state(1)
    small = scan_with((4, 4, 4), size=(8, 8, 8))
    patches = [transform(small) for _ in range(4)]
    assert all(0 < float((p["image"][0] > 0.1).float().mean()) < 0.05 for p in patches)


def test_patches_are_cut_and_shaded_anew():
    transform = changes(32).set_random_state(2)
    whole = Example(torch.full((2, 64, 64, 64), 0.5).half(), torch.zeros(64, 64, 64).half(), 4.0)
    patches = [transform(whole)["image"] for _ in range(10)]
    empty = [float((p[0].abs() < 0.2).float().mean()) for p in patches]
    assert sum(e > 0.2 for e in empty) >= 2 and len({round(float(p.amax()), 3) for p in patches}) > 4


def test_soft_dice():
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert soft_dice(torch.tensor([9.0, 9.0, -9.0, -9.0]), truth) == pytest.approx(1, abs=0.01)
    assert soft_dice(torch.zeros(4), truth) == pytest.approx(0.5)
    assert soft_dice(torch.full((4,), -9.0), torch.zeros(4)) == 0


@pytest.mark.parametrize("count", [2, PARTS + 1])
def test_scans_are_left_out_in_parts(model, sarcoma, count, monkeypatch):
    seen, trained, fit = [], [], held_out.fit

    def one_step(*args, **options):
        trained.append(([one.name for one in args[3]], options["steps"]))
        return fit(*args, **{**options, "steps": 1})

    monkeypatch.setattr(held_out, "fit", one_step)
    held = leave_out(model, sarcoma, "CT", examples(count), steps=9, progress=lambda k, n: seen.append((k, n)))
    parts = min(PARTS, count)
    assert [h.name for h in held] == [f"scan{k}" for k in range(count)] and seen[-1] == (parts, parts)
    assert [steps for _, steps in trained] == [4] * parts  # half of them
    for k, (names, _) in enumerate(trained):
        assert names == [f"scan{n}" for n in range(count) if n % parts != k]


def test_what_all_share_helps_those_that_are_left_out(model, sarcoma, monkeypatch):
    fit = held_out.fit
    monkeypatch.setattr(held_out, "fit", lambda *args, **options: fit(*args, **{**options, **FAST, "steps": 40}))
    held = leave_out(model, sarcoma, "CT", examples(2), steps=9)
    assert scope(held) == EMPTY  # the method found nothing in any of them
    assert all(h.together == h.empty > 2 * h.before for h in held)


@pytest.mark.parametrize(
    "overlaps, expected",
    [
        ([(0.1, 0.4, 0.4), (0.5, 0.5, 0.6)], TOGETHER),  # better in both kinds of scans
        ([(0.1, 0.4, 0.4), (0.5, 0.5, 0.4)], EMPTY),  # better where nothing is found, worse where something is
        ([(0.1, 0.4, 0.4), (0.1, 0.4, 0.4)], EMPTY),  # nothing is known of scans where something is found
        ([(0.5, 0.5, 0.3), (0.5, 0.5, 0.3)], EMPTY),  # and nothing of those where nothing is
        ([(0.3, 0.27, 0.27), (0.5, 0.5, 0.5)], EMPTY),  # nothing can get much worse there
        ([(0.3, 0.1, 0.1), (0.5, 0.5, 0.5)], None),
        ([(0.3, 0.1, 0.1), (0.5, 0.5, 0.75)], TOGETHER),  # what is lost in one scan is gained in another
    ],
)
def test_where_a_specialist_is_to_speak(overlaps, expected):
    held = [HeldOut(f"scan{k}", *values) for k, values in enumerate(overlaps)]
    assert scope(held) == expected
    assert means(held)["before"] == pytest.approx(sum(o[0] for o in overlaps) / len(overlaps))


def test_one_scan_cannot_be_left_out(model, sarcoma):
    with pytest.raises(ValueError, match="at least 2"):
        leave_out(model, sarcoma, "CT", examples(1))


def scan(size=(40, 36, 32), seed=0):
    values = torch.randn((1, *size), generator=torch.Generator().manual_seed(seed)) * 30 + 40
    values[:, :6] = -1000
    return MetaTensor(values, affine=np.diag([-3.0, -3.0, 4.0, 1.0]), meta={"modality": "CT"})


def test_an_example_has_the_label_where_the_scan_has_it(model, sarcoma):
    """In another orientation and spacing than the method's."""
    encoded = encode_scan(model, scan())
    mask = torch.zeros(40, 36, 32)
    mask[20:32, 10:22, 8:17] = 1
    one = example(model, encoded, sarcoma, mask, "a")
    assert one.image.shape[1:] == one.truth.shape == one.said.shape == encoded.prepared.shape[1:]
    assert float(one.truth.float().sum()) * model.spacing**3 == pytest.approx(float(mask.sum()) * 36, rel=0.15)
    assert torch.equal(one.said, method_logits(model, encoded, sarcoma).half()) and one.name == "a"
    assert torch.equal(one.place, place_of(model, encoded, sarcoma).half()) and one.place.shape == one.truth.shape
    anything = parse("tumor", encoder=model.encoder)[0]
    assert example(model, encoded, anything, mask).place is None
    assert torch.equal(chosen(model, one.said, one.truth), one.truth) and 0 < THETA < 0.5


def test_a_label_that_would_teach_something_wrong_is_refused(model, sarcoma):
    encoded = encode_scan(model, scan())
    for mask in (torch.zeros(40, 36, 32), torch.ones(40, 36, 32), torch.ones(39, 36, 32)):
        with pytest.raises(LabelError):
            example(model, encoded, sarcoma, mask)


def test_replay_is_always_the_same_and_every_third_phantom_is_healthy(model, sarcoma):
    some, again = (replay(sarcoma, "MR", 6) for _ in range(2))
    assert [e.name for e in some] == [f"phantom-{REPLAY_SEED + k}" for k in range(6)]
    assert all(torch.equal(a.image, b.image) for a, b in zip(some, again, strict=True))
    assert [bool(e.truth.any()) for e in some[2::3]] == [False] * 2
    assert sum(bool(e.truth.any()) for e in some) >= 2 and all(e.said is None for e in some)
    anything = parse("exophytic mass", encoder=model.encoder)[0]
    assert anything.lesion is None and len(replay(anything, "CT", 2)) == 2
