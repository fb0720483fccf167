"""Training in pieces: stop after a checkpoint before all that was asked for is trained; the next call goes on from there."""

from __future__ import annotations

import logging
import time

from ignite.engine import Engine, Events

PAUSED = 75
"""Exit status of a run that stopped in time and is not at its end (EX_TEMPFAIL of sysexits.h)."""


class Pause:
    """Handler that ends a run after the epoch that is the last to fit; `leave` then ends the process, with PAUSED.

    Attach it after the saver, so that the epoch's checkpoint is written. At its schedule's end, a run is never paused.

    Args:
        until: time.time() when all has to be over; None for no end. epochs: at most so many in this process.
    """

    def __init__(self, until: float | None = None, epochs: int | None = None) -> None:
        self.until, self.epochs = until, epochs
        self.seen, self.started, self.paused = 0, time.time(), False

    def attach(self, engine: Engine) -> None:
        """Look at the clock after every epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start(self, engine: Engine) -> None:
        """Note when an epoch begins."""
        self.started = time.time()

    def __call__(self, engine: Engine) -> None:
        now = time.time()
        self.seen += 1
        # The first epoch makes the phantoms that later ones read: only the last one tells how long the next will take.
        last = now - self.started
        over = self.until is not None and now + last > self.until
        if self.epochs is not None and self.seen >= self.epochs:
            over = True
        if over and engine.state.epoch < engine.state.max_epochs and not engine.should_terminate:
            logging.getLogger(__name__).info(f"paused after epoch {engine.state.epoch} of {engine.state.max_epochs}")
            self.paused = True
            engine.terminate()

    def leave(self) -> None:
        """After the run: end the process if it was paused, before anything is exported."""
        if self.paused:
            raise SystemExit(PAUSED)
