"""Training in pieces: where a run stops, and where it does not."""

import pytest
from ignite.engine import Engine

from zerotumor import pause
from zerotumor.pause import PAUSED, Pause


def run(handler, epochs, monkeypatch, seconds=10.0):
    """A run whose epochs take so many seconds of a clock that nobody else turns; the epochs it came to."""
    now = [0.0]
    monkeypatch.setattr(pause.time, "time", lambda: now[0])

    def step(engine, batch):
        now[0] += seconds

    engine = Engine(step)
    handler.attach(engine)
    return engine.run([0], max_epochs=epochs).epoch


@pytest.mark.parametrize("until, epochs, reached", [(35.0, None, 3), (5.0, None, 1), (None, 2, 2), (35.0, 1, 1)])
def test_a_run_ends_after_the_last_epoch_that_fits(monkeypatch, until, epochs, reached):
    handler = Pause(until, epochs)
    assert run(handler, 9, monkeypatch) == reached
    with pytest.raises(SystemExit) as left:
        handler.leave()
    assert left.value.code == PAUSED


@pytest.mark.parametrize("until, epochs", [(None, None), (95.0, None), (5.0, 4), (None, 4)])
def test_a_run_that_comes_to_its_end_is_not_paused(monkeypatch, until, epochs):
    handler = Pause(until, epochs)
    total = 1 if until == 5.0 else 4
    assert run(handler, total, monkeypatch) == total
    handler.leave()
