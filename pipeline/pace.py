"""How fast the shards of a cache were made and on which host, by its receipts: what shows who is slow.

Not for the speed of a run that goes on: its bar has that. And nothing to decide by: how a shard came about is no part
of what it is, and stands in receipts as whoever wrote them would have it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from statistics import median

from pipeline.store.documents import Receipt

SLOW = 2  # times the median time a row
TICK = 1e-9  # seconds: nothing less was measured


@dataclass(frozen=True)
class Step:
    """A shard that is done."""

    shard: int
    view: int
    host: str
    rows: int
    seconds: float
    finished: float | None  # seconds since 1970; None, if what the receipt says is no time

    @property
    def rate(self) -> float | None:
        """Rows a second; None where no time is said to have gone by."""
        return _rate(self.rows, self.seconds)


@dataclass(frozen=True)
class Pace:
    """All that a host did."""

    host: str
    shards: int
    rows: int
    seconds: float
    slowest: Step

    @property
    def rate(self) -> float | None:
        """Rows a second, over all its shards."""
        return _rate(self.rows, self.seconds)


def steps(receipts: Iterable[Receipt]) -> list[Step]:
    """A step for each receipt, in their order."""
    return [
        Step(
            each.shard, each.view, each.made.host, each.stop - each.start, each.made.seconds, _time(each.made.finished)
        )
        for each in receipts
    ]


def paces(done: Iterable[Step]) -> list[Pace]:
    """One for each host, the slowest first."""
    by_host: dict[str, list[Step]] = {}
    for step in done:
        by_host.setdefault(step.host, []).append(step)
    found = [
        Pace(host, len(its), sum(step.rows for step in its), sum(step.seconds for step in its), min(its, key=_slowness))
        for host, its in by_host.items()
    ]
    return sorted(found, key=_slowness)


def slow(done: Sequence[Step]) -> list[Step]:
    """The shards that took more than twice the median time a row, the slowest first."""
    known = [(step.seconds / step.rows, step) for step in done if step.rate is not None]
    most = SLOW * median(each for each, _ in known) if known else inf
    return sorted((step for each, step in known if each > most), key=_slowness)


def course(done: Sequence[Step]) -> dict[str, list[tuple[float, float]]]:
    """For each host when its shards were done, in seconds since the first of all, and at how many rows a second.

    The slowest host comes first. Shards of which either is not known are left out.
    """
    known = [(step.host, step.finished, step.rate) for step in done]
    first = min((finished for _, finished, _ in known if finished is not None), default=0.0)
    found: Mapping[str, list[tuple[float, float]]] = {pace.host: [] for pace in paces(done)}
    for host, finished, rate in known:
        if finished is not None and rate is not None:
            found[host].append((finished - first, rate))
    return {host: points for host, points in found.items() if points}


def _rate(rows: int, seconds: float) -> float | None:
    return rows / seconds if seconds >= TICK else None


def _slowness(of: Step | Pace) -> float:
    return inf if of.rate is None else of.rate


def _time(text: str) -> float | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
