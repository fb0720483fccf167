"""Learning from corrected scans: it learns, and goes on where it was stopped."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from zerotumor import learning
from zerotumor.adaptation import EMPTY, EVERYWHERE, feature_count
from zerotumor.annotation import LabelError
from zerotumor.held_out import HeldOut, leave_one_out, means, scope, soft_dice
from zerotumor.learning import (
    EPOCH,
    Example,
    example,
    fresh,
    learn,
    method_maps,
    replay,
)
from zerotumor.pipeline import encode_scan
from zerotumor.prompts import parse


@pytest.fixture(scope="module")
def model(tiny_malenia):
    return tiny_malenia()


@pytest.fixture(scope="module")
def sarcoma(model):
    return parse("soft tissue sarcoma", encoder=model.encoder)[0]


def examples(count, seed=0, offset=2.0):
    """Places whose third feature tells what they are, and whose answer tells nothing."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for k in range(count):
        truth = (torch.rand(4000, generator=generator) < 0.1).float()
        features = torch.randn(4000, feature_count(2), generator=generator)
        features[:, 2] += offset * (2 * truth - 1)
        out.append(Example(features, torch.full((4000,), -2.0), truth, f"scan{k}"))
    return out


def found(adapter, one):
    with torch.inference_mode():
        return adapter(one.features, one.said) > 0


def dice_of(adapter, one):
    mask = found(adapter, one)
    return float(2 * (mask & (one.truth > 0.5)).sum() / (mask.sum() + (one.truth > 0.5).sum()))


def test_it_learns_what_two_scans_show_and_a_third_has_it_too(model, sarcoma):
    *seen, unseen = examples(3)
    assert dice_of(fresh(model, sarcoma, "CT"), unseen) == 0
    assert dice_of(learn(model, sarcoma, "CT", seen), unseen) > 0.85


def test_replayed_phantoms_hold_it_back(model, sarcoma):
    """The same sign in phantoms, where it is not the lesion: less is found."""
    seen = examples(2, offset=0.7)
    against = [Example(e.features, e.said, torch.zeros_like(e.truth)) for e in examples(6, seed=5, offset=0.7)]
    free = learn(model, sarcoma, "CT", seen)
    held = learn(model, sarcoma, "CT", seen, against)
    wrong = [sum(int(found(a, e).sum()) for e in against) for a in (free, held)]
    assert wrong[1] < wrong[0]


def test_the_same_seed_gives_the_same_adapter_and_leaves_other_randomness_alone(model, sarcoma):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, two = (learn(model, sarcoma, "CT", examples(2), steps=EPOCH, seed=1) for _ in range(2))
    assert torch.equal(torch.rand(4), expected)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    other = learn(model, sarcoma, "CT", examples(2), steps=EPOCH, seed=2)
    assert not torch.equal(one.head[0].weight, other.head[0].weight)


def test_a_stopped_run_goes_on_from_its_checkpoint(model, sarcoma, tmp_path):
    epochs = []

    def stop(k, total):
        epochs.append(k)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(model, sarcoma, "CT", examples(2), checkpoints=tmp_path, progress=stop)
    assert list(tmp_path.glob("checkpoint_epoch=*.pt"))
    adapter = learn(model, sarcoma, "CT", examples(2), checkpoints=tmp_path, progress=lambda k, total: epochs.append(k))
    assert epochs[:2] == [1, 2] and epochs[2] > 1 and epochs[-1] == 4 and len(epochs) < 6
    assert dice_of(adapter, examples(3)[-1]) > 0.85


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", {"network": {}}])
def test_a_run_with_a_damaged_checkpoint_starts_anew(model, sarcoma, tmp_path, content, caplog):
    path, epochs = tmp_path / "checkpoint_epoch=3.pt", []
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    options = {"steps": 2 * EPOCH, "checkpoints": tmp_path, "progress": lambda k, total: epochs.append((k, total))}
    adapter = learn(model, sarcoma, "CT", examples(2), **options)
    assert epochs == [(1, 2), (2, 2)] and "starts anew" in caplog.text and not path.exists()
    untouched = learn(model, sarcoma, "CT", examples(2), steps=2 * EPOCH)
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), untouched.parameters(), strict=True))


@pytest.fixture
def taken(monkeypatch):
    """Steps of training so far."""
    steps, loss = [], learning._Loss.__call__
    monkeypatch.setattr(learning._Loss, "__call__", lambda *a: steps.append(1) or loss(*a))
    return steps


@pytest.mark.parametrize("steps", [1, EPOCH - 1, EPOCH, EPOCH + 10, 2 * EPOCH])
def test_it_takes_the_steps_that_are_asked_for(model, sarcoma, taken, steps):
    learn(model, sarcoma, "CT", examples(2), steps=steps)
    assert len(taken) == steps


@pytest.mark.parametrize("steps", [2 * EPOCH, 2 * EPOCH + 5])
def test_what_was_learned_to_a_checkpoint_is_not_learned_again(model, sarcoma, tmp_path, taken, steps):
    options = {"steps": steps, "checkpoints": tmp_path}
    whole = learn(model, sarcoma, "CT", examples(2), **options)
    again = learn(model, sarcoma, "CT", examples(2), **options)
    assert len(taken) == steps + steps % EPOCH
    if steps % EPOCH == 0:
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("count", [0, 1])
def test_too_little_to_learn_from(model, sarcoma, count):
    with pytest.raises(ValueError, match="correct and save at least 2"):
        learn(model, sarcoma, "CT", examples(count))


def opposites():
    """A lesion that is bright, and one that is dark; the method is right of both already, if not sure."""
    out = []
    for k, one in enumerate(examples(2, offset=0)):
        sign = 2 * one.truth - 1
        one.features[:, 2] += (4, -4)[k] * sign
        out.append(Example(one.features, sign, one.truth, one.name))
    return out


def test_soft_dice():
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert soft_dice(torch.tensor([9.0, 9.0, -9.0, -9.0]), truth) == pytest.approx(1, abs=0.01)
    assert soft_dice(torch.zeros(4), truth) == pytest.approx(0.5)
    assert soft_dice(torch.full((4,), -9.0), torch.zeros(4)) == 0


@pytest.mark.parametrize("count", [2, 4])
def test_what_all_share_helps_those_that_are_left_out(model, sarcoma, count):
    seen = []
    held = leave_one_out(model, sarcoma, "CT", examples(count), progress=lambda k, n: seen.append((k, n)))
    assert [h.name for h in held] == [f"scan{k}" for k in range(count)] and seen[-1] == (count, count)
    assert scope(held) == EMPTY  # the method found nothing in any of them
    assert all(h.everywhere == h.empty > 0.7 > h.before for h in held)


def test_what_each_has_for_itself_is_not_said_where_the_method_finds_something(model, sarcoma):
    held = leave_one_out(model, sarcoma, "CT", opposites())
    assert scope(held) == EMPTY and means(held)["everywhere"] <= means(held)["before"]


@pytest.mark.parametrize(
    "overlaps, expected",
    [
        ([(0.1, 0.4, 0.4), (0.5, 0.5, 0.7)] * 2, EVERYWHERE),  # better in both kinds of scans
        ([(0.1, 0.4, 0.4), (0.5, 0.5, 0.7), (0.5, 0.5, 0.7)], EMPTY),  # the same, and too few to believe it
        ([(0.5, 0.5, 0.9), (0.5, 0.5, 0.3)] * 2, EMPTY),  # better on the mean, and for half of them only
        ([(0.1, 0.4, 0.4), (0.5, 0.5, 0.3)] * 2, EMPTY),  # better where nothing is found, worse where something is
        ([(0.1, 0.4, 0.4), (0.1, 0.4, 0.4)] * 2, EMPTY),  # nothing is known of scans where something is found
        ([(0.5, 0.5, 0.3), (0.5, 0.5, 0.3)] * 2, EMPTY),  # and nothing of those where nothing is
        ([(0.3, 0.27, 0.27), (0.5, 0.5, 0.5)], EMPTY),  # nothing can get much worse there
        ([(0.3, 0.1, 0.1), (0.5, 0.5, 0.5)], None),
    ],
)
def test_where_an_adapter_is_to_speak(overlaps, expected):
    assert scope([HeldOut(f"scan{k}", *values) for k, values in enumerate(overlaps)]) == expected


def test_one_scan_cannot_be_left_out(model, sarcoma):
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(model, sarcoma, "CT", examples(1))


def scan(size=(40, 36, 32), seed=0):
    values = torch.randn((1, *size), generator=torch.Generator().manual_seed(seed)) * 30 + 40
    values[:, :6] = -1000
    return MetaTensor(values, affine=np.diag([-3.0, -3.0, 4.0, 1.0]), meta={"modality": "CT"})


def test_an_example_has_the_label_where_the_scan_has_it(model, sarcoma):
    """In another orientation and spacing than the method's."""
    encoded = encode_scan(model, scan())
    mask = torch.zeros(40, 36, 32)
    mask[20:32, 10:22, 8:17] = 1
    one = example(model, encoded, sarcoma, mask)
    assert one.features.shape == (len(one.said), feature_count(1 + len(model.evidence)))
    per_place = (2 * model.spacing) ** 3
    assert float(one.truth.sum()) * per_place == pytest.approx(float(mask.sum()) * 36, rel=0.15)
    assert method_maps(model, encoded, sarcoma).shape == (1 + len(model.evidence), *encoded.prepared.shape[1:])


def test_a_label_that_would_teach_something_wrong_is_refused(model, sarcoma):
    encoded = encode_scan(model, scan())
    for mask in (torch.zeros(40, 36, 32), torch.ones(40, 36, 32), torch.ones(39, 36, 32)):
        with pytest.raises(LabelError):
            example(model, encoded, sarcoma, mask)


def test_replay_holds_no_lesion_of_the_kind_and_always_the_same(model, sarcoma):
    some, again = (replay(model, sarcoma, "CT", 3) for _ in range(2))
    assert [e.name for e in some] == [e.name for e in again] and len({e.name for e in some}) == 3
    assert all(torch.equal(a.features, b.features) for a, b in zip(some, again, strict=True))
    assert all(float(e.truth.sum()) == 0 for e in some)
    anything = parse("tumor", encoder=model.encoder)[0]
    several = replay(model, anything, "CT", 6)
    assert any(float(e.truth.sum()) > 0 for e in several[1::2]) and all(float(e.truth.sum()) == 0 for e in several[::2])
