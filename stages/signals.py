"""SIGTERM and Ctrl-C as a question that long work asks now and then. A second signal stops at once.

A second SIGTERM within a second does not: launchers send it to a process and to whoever started it, which passes it on.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from types import FrameType

from pipeline.errors import StoppedError

AGAIN = "Run the same command again to go on."
ECHO_SECONDS = 1.0
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


@dataclass
class Stop:
    """Whether a signal has asked to stop, and which."""

    asked: signal.Signals | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.asked is not None

    def error(self, kept: str, *, restart: bool = False) -> StoppedError:
        """The error to end with, given what is kept, and whether the command began by throwing away what there was."""
        asked = self.asked or signal.SIGTERM  # where another rank was asked, and told this one
        again = "Run the same command again, without --restart, to go on." if restart else AGAIN
        return StoppedError(f"Stopped by {asked.name}. {kept} {again}", EXIT_CODES[asked])


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the first signal into a request; a second one has its usual effect."""
    stop, asked_at = Stop(), 0.0
    before = {number: signal.getsignal(number) for number in EXIT_CODES}

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked_at
        if stop.asked and monotonic() - asked_at > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked_at = asked_at or monotonic()
        stop.asked = stop.asked or signal.Signals(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    for number in EXIT_CODES:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
