"""Whose turn it is: which shard goes to which worker, and what becomes of those that fail.

A shard whose labelling raised is tried again at another worker. One whose worker died may have killed it, or may have
been beside the one that did: so it is tried again alone, and only a death then counts against it. What has failed three
times is set aside, and the rest goes on.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.store.layout import Shard

IN_FLIGHT = 2  # at a worker: one that its teacher is at, one that is read or written meanwhile
FAILURES = 3  # of a shard, before it is set aside
HOPELESS = 3  # shards set aside with none done, before the rest is given up
NAMED = 10
MEMORY = "was it killed for its memory?"


@dataclass
class Effort:
    """A shard, and what has become of it so far."""

    shard: Shard
    suspect: bool = False
    causes: list[str] = field(default_factory=list)
    failed_at: set[str] = field(default_factory=set)


class Rota:
    """The shards of a plan, each waiting, at a worker, done or set aside.

    Args:
        plan: the shards to make.
        proven: whether others of this job were made before, so that it is known to work.

    """

    def __init__(self, plan: Sequence[Shard], *, proven: bool = False) -> None:
        self.done: list[Shard] = []
        self.aside: list[Effort] = []
        self._proven = proven
        self._fresh = deque(map(Effort, plan))
        self._again: list[Effort] = []
        self._at: dict[str, dict[int, Effort]] = {}

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._at)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do, or nothing more is worth a try: none was ever done, and several failed."""
        if not (self._fresh or self._again or any(self._at.values())):
            return True
        return not self.done and not self._proven and len(self.aside) >= HOPELESS

    def join(self, worker: str) -> None:
        """A worker has come."""
        self._at.setdefault(worker, {})

    def leave(self, worker: str, *, expected: bool) -> list[Shard]:
        """A worker has gone; the shards that it was at. What it left as it was told to is under no suspicion."""
        left = list(self._at.pop(worker, {}).values())
        for effort in left:
            if effort.suspect and not expected:
                self._fail(effort, f"the process of {worker} ended while it was at this shard alone ({MEMORY})")
            else:
                effort.suspect |= not expected
                self._again.append(effort)
        return [effort.shard for effort in left]

    def finish(self, number: int) -> Shard | None:
        """A shard is done; None if that was known. It may have been given up for lost before."""
        for held in self._at.values():
            if effort := held.pop(number, None):
                self.done.append(effort.shard)
                return effort.shard
        for effort in self._again:
            if effort.shard.number == number:
                self._again.remove(effort)
                self.done.append(effort.shard)
                return effort.shard
        return None

    def fail(self, number: int, cause: str) -> None:
        """The labelling of a shard has raised."""
        for worker, held in self._at.items():
            if effort := held.pop(number, None):
                effort.failed_at.add(worker)
                effort.suspect = False
                self._fail(effort, cause)
                return

    def give(self) -> Iterator[tuple[str, Shard]]:
        """What each worker is to do now: first one shard for each that has none, then the second ones."""
        for load in range(IN_FLIGHT):
            for worker, held in self._at.items():
                if len(held) == load and (effort := self._next(worker, held)):
                    held[effort.shard.number] = effort
                    yield worker, effort.shard

    def _next(self, worker: str, held: dict[int, Effort]) -> Effort | None:
        if any(effort.suspect for effort in held.values()):
            return None
        for effort in self._again:
            if held if effort.suspect else self._failed_here(effort, worker):
                continue
            self._again.remove(effort)
            return effort
        return self._fresh.popleft() if self._fresh else None

    def _failed_here(self, effort: Effort, worker: str) -> bool:
        """Whether it failed at this worker, and there is another to try."""
        return worker in effort.failed_at and not effort.failed_at >= self._at.keys()

    def _fail(self, effort: Effort, cause: str) -> None:
        effort.causes.append(cause)
        if len(effort.causes) < FAILURES:
            self._again.append(effort)
        else:
            self.aside.append(effort)

    def causes(self) -> str:
        """What was set aside, and why."""
        efforts = sorted(self.aside, key=lambda effort: effort.shard.number)
        listed = "; ".join(
            f"shard {effort.shard.number} (rows {effort.shard.start:,} to {effort.shard.stop - 1:,}): "
            + effort.causes[-1].strip().rstrip(".")
            for effort in efforts[:NAMED]
        )
        return listed + (f"; and {len(efforts) - NAMED} more" if len(efforts) > NAMED else "")
