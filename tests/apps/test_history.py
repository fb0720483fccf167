"""What was clicked can be undone, and survives a restart."""

import torch
from lib.history import Histories, History, pack, unpack

from zerotumor.clicks import Click

A, B, C = Click((1, 1, 1), True), Click((2, 2, 2), False), Click((3, 3, 3), True)
KEY = ("digest", "client", "../../a name")


def mask(k):
    out = torch.zeros(5, 6, 7, dtype=torch.bool)
    out.view(-1)[: k + 1] = True
    return out


def history(*steps):
    made = History((5, 6, 7))
    made.add((), mask(0))
    for k, clicks in enumerate(steps, 1):
        made.add(clicks, mask(k))
    return made


def test_packing_loses_nothing():
    for k in (0, 3, 100, 209):
        assert torch.equal(unpack(pack(mask(k)), (5, 6, 7)), mask(k))


def test_new_clicks_go_on_from_the_last_step_in_any_order():
    made = history((A,), (A, B))
    step, new = made.agreeing((A, C, B))
    assert step.clicks == (A, B) and new == (C,) and len(made.steps) == 3


def test_a_click_taken_back_takes_its_step_back():
    made = history((A,), (A, B), (A, B, C))
    step, new = made.agreeing((A, C))
    assert step.clicks == (A,) and new == (C,) and len(made.steps) == 2


def test_undo_stops_at_the_start():
    made = history((A,), (A, B))
    assert torch.equal(unpack(made.undo().mask, made.shape), mask(1))
    assert torch.equal(unpack(made.undo().mask, made.shape), mask(0))
    assert torch.equal(unpack(made.undo().mask, made.shape), mask(0))


def test_a_restart_loses_nothing(tmp_path):
    Histories(tmp_path).put(KEY, history((A,), (A, B)))
    restored = Histories(tmp_path).get(KEY)
    assert restored.shape == (5, 6, 7) and [s.clicks for s in restored.steps] == [(), (A,), (A, B)]
    assert torch.equal(unpack(restored.steps[2].mask, restored.shape), mask(2))
    assert [f.parent for f in tmp_path.rglob("*.npz")] == [tmp_path], "a client's text must not become a path"


def test_a_damaged_file_is_ignored_and_a_full_disk_is_survived(tmp_path, monkeypatch):
    histories = Histories(tmp_path)
    histories.put(KEY, history((A,)))
    next(tmp_path.glob("*.npz")).write_bytes(b"PK damaged")
    assert Histories(tmp_path).get(KEY) is None

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    histories.put(KEY, history((A,), (A, B)))
    assert len(histories.get(KEY).steps) == 3


def test_proposals_are_kept_apart_by_scan_and_client(tmp_path):
    histories = Histories(tmp_path)
    histories.propose("scan", "me", mask(4))
    assert torch.equal(histories.proposed("scan", "me"), mask(4))
    assert histories.proposed("scan", "you") is None and histories.proposed("other", "me") is None


def test_dropping_forgets_the_file_too(tmp_path):
    histories = Histories(tmp_path)
    histories.put(KEY, history((A,)))
    histories.drop(KEY)
    assert histories.get(KEY) is None and not list(tmp_path.iterdir())
