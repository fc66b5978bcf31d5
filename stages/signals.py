"""SIGTERM and Ctrl-C as a question that long work asks now and then. A second signal stops at once.

Long work may be long in native code, where no handler of Python's runs: so a thread hears the second one, from a pipe
that the interpreter writes to as a signal comes. One that comes within half a second is an echo of the first: launchers
and terminals send a signal to a process and to whoever started it, which passes it on.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from time import monotonic
from types import FrameType

from pipeline.errors import StoppedError

AGAIN = "Run the same command again to go on."
ECHO_SECONDS = 0.5
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
KILLED = 128  # plus the signal's number: what a shell says of a process that it ended


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
    """Turn the first signal into a request; a second one ends the process where it is."""
    stop = Stop()

    def ask(number: int, _: FrameType | None) -> None:
        stop.asked = stop.asked or signal.Signals(number)

    before = {number: signal.signal(number, ask) for number in EXIT_CODES}
    with _second_signal_ends():
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _second_signal_ends() -> Iterator[None]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listener = Thread(target=_listen, args=(reading,), daemon=True)
    listener.start()
    _listening.append(writing)
    try:
        yield
    finally:
        _listening.remove(writing)
        signal.set_wakeup_fd(before)
        os.close(writing)
        listener.join()
        os.close(reading)


def _listen(reading: int) -> None:
    """End the process at the second signal that is no echo; return when the pipe is closed."""
    first = None
    while heard := os.read(reading, 1):
        number = heard[0]
        if number not in EXIT_CODES:
            continue
        first = first or monotonic()
        if monotonic() - first > ECHO_SECONDS:
            os._exit(KILLED + number)  # nothing that is proven is lost by that


def _turn_deaf() -> None:
    """A forked process shares the pipe: what it is sent is not for its parent."""
    if _listening:
        signal.set_wakeup_fd(-1)


_listening: list[int] = []
os.register_at_fork(after_in_child=_turn_deaf)
