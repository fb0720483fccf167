"""Samples that are cut as scans are."""

import pytest
import torch

from zerotumor.field_of_view import RandFieldOfView
from zerotumor.transforms import normalize

EDGE = 32


@pytest.fixture
def sample() -> dict:
    """An MR of noise, a lesion in it, and organs everywhere."""
    lesions = torch.zeros(1, EDGE, EDGE, EDGE, dtype=torch.uint8)
    lesions[:, 10:16, 12:20, 20:24] = 1
    image = normalize(torch.rand(1, EDGE, EDGE, EDGE) + 0.5, "MR").half()
    organs = torch.randint(1, 30, lesions.shape, dtype=torch.uint8)
    return {"image": image, "lesions": lesions, "organs": organs, "ct": torch.tensor(False)}


def kept(sample: dict) -> torch.Tensor:
    """Corners of the box that is left, (2, 3)."""
    inside = (sample["organs"][0] > 0).nonzero()
    low, high = inside.amin(0), inside.amax(0)
    assert len(inside) == int((high - low + 1).prod())  # a box, and nothing else
    return torch.stack([low, high])


def test_outside_the_box_there_is_nothing_and_inside_the_truth_is_as_it_was(sample):
    transform, boxes = RandFieldOfView(prob=1.0, around=0.0, smallest=8), set()
    before = {name: value.clone() for name, value in sample.items()}
    for seed in range(40):
        after = transform.set_random_state(seed)(sample)
        low, high = kept(after)
        part = (slice(None), *(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)))
        assert int((high - low + 1).min()) >= 8
        for name in ("lesions", "organs"):
            assert torch.equal(after[name][part], before[name][part])
            assert int((after[name] > 0).sum()) == int((before[name][part] > 0).sum())
        assert after["image"].dtype == before["image"].dtype
        assert float(after["image"].sum()) == pytest.approx(float(after["image"][part].sum()))
        boxes.add(tuple(torch.cat([low, high]).tolist()))
    assert len(boxes) > 30
    assert all(torch.equal(before[name], value) for name, value in sample.items())


def test_a_box_round_the_lesion_holds_all_of_it_and_no_more_than_the_margin(sample):
    transform = RandFieldOfView(prob=1.0, around=1.0, margin=(2, 6))
    for seed in range(20):
        after = transform.set_random_state(seed)(sample)
        assert torch.equal(after["lesions"], sample["lesions"])
        low, high = kept(after)
        assert ((torch.tensor([10, 12, 20]) - low) <= 5).all() and ((high - torch.tensor([15, 19, 23])) <= 5).all()


def test_what_holds_no_lesion_is_cut_anywhere(sample):
    sample["lesions"] = torch.zeros_like(sample["lesions"])
    after = RandFieldOfView(prob=1.0, around=1.0).set_random_state(0)(sample)
    assert 0 < int((after["organs"] > 0).sum()) < EDGE**3


def test_brightness_of_mr_is_that_of_what_is_left_and_hounsfield_units_stay(sample):
    sample["image"][0, :, :, :8] = 1.2  # fat, which the box leaves out
    sample["image"][0, :, :, 8:] *= 0.25
    transform = RandFieldOfView(prob=1.0, around=1.0, margin=(2, 6))
    after = transform.set_random_state(0)(sample)
    assert float(after["image"][0].max()) > 0.95 and float(sample["image"][0, :, :, 8:].max()) < 0.4
    sample["ct"] = torch.tensor(True)
    inside = transform.set_random_state(0)(sample)
    where = inside["organs"].expand(2, -1, -1, -1) > 0
    assert torch.equal(inside["image"][where], sample["image"][where])


def test_most_samples_may_be_left_as_they_are(sample):
    transform = RandFieldOfView(prob=0.3)
    whole = sum(torch.equal(transform.set_random_state(seed)(sample)["organs"], sample["organs"]) for seed in range(50))
    assert 25 < whole < 45
