"""Two programs timed side by side on a machine whose speed drifts."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

TURN = 0.5  # seconds


class Turns:
    """Two programs that run by turns, each in a thread of its own, and the time that each has had.

    A turn is half a second. So a machine whose speed drifts within a minute, as shared ones do, slows both alike.
    """

    def __init__(self) -> None:
        self._holder, self._ended, self._changed = 0, [False, False], threading.Condition()
        self.clocks = Clock(self, 0), Clock(self, 1)

    def race(self, *programs: Callable[["Clock"], object]) -> tuple[float, float]:
        """Run both to their ends; the seconds of each."""
        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(self._run, *pair) for pair in zip(self.clocks, programs, strict=True)]:
                done.result()
        return self.clocks[0].seconds, self.clocks[1].seconds

    def _run(self, clock: "Clock", program: Callable[["Clock"], object]) -> None:
        try:
            self.wait(clock.who)
            program(clock)
        finally:
            self._ended[clock.who] = True
            self._holder = 1 - clock.who
            with self._changed:
                self._changed.notify_all()

    def over(self, who: int, since: float) -> bool:
        """Whether it is the other's turn."""
        return perf_counter() - since > TURN and not self._ended[1 - who]

    def pass_on(self, who: int) -> None:
        """Let the other run, and wait."""
        with self._changed:
            self._holder = 1 - who
            self._changed.notify_all()
        self.wait(who)

    def wait(self, who: int) -> None:
        """Return when it is one's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._holder == who)
            self.clocks[who].turn = perf_counter()


class Clock:
    """The time that one of two programs has had, between its steps."""

    def __init__(self, turns: Turns | None = None, who: int = 0) -> None:
        self.seconds, self.who, self.turn = 0.0, who, 0.0
        self._turns, self._since = turns, 0.0

    def step(self) -> None:
        """Count the time since the last step, if there was one; then it may be the other's turn."""
        if self._since:
            self.seconds += perf_counter() - self._since
        if self._turns and self._turns.over(self.who, self.turn):
            self._turns.pass_on(self.who)
        self._since = perf_counter()

    def drop(self) -> None:
        """Do not count the time until the next step."""
        self._since = 0.0
