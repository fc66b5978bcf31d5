"""SIGTERM and Ctrl-C as a question that long work asks now and then. A second signal stops at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from pipeline.errors import StoppedError

AGAIN = "Run the same command again to go on."
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
    """Turn the first SIGTERM or SIGINT into a request; the second has its usual effect."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in EXIT_CODES}

    def ask(number: int, _: FrameType | None) -> None:
        stop.asked = signal.Signals(number)
        for each in EXIT_CODES:
            signal.signal(each, signal.SIG_DFL)

    for number in EXIT_CODES:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
