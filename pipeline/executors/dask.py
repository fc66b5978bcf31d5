"""Run a plan on the workers of a Dask cluster, each with a teacher of its own, by the same function for one shard.

This is the driver's side: it decides which worker does what, no more than two shards in flight at each, and believes
receipts only. Workers may come, go and die at any time; what they were at goes back to the plan. `rota` says whose turn
it is, `cluster` is the way to the workers, and `desk` is what they do.

Not for one device: `inline` starts sooner, and ends with the same bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from pipeline.errors import IncompleteError
from pipeline.executors.rota import FAILURES, Rota
from pipeline.store.layout import Shard

LOOK_SECONDS = 0.5  # how soon a request to stop is heard
PATIENCE_SECONDS = 600.0  # without any worker; those of a batch system may come in turns

AGAIN = "Run the same command again to go on."


@dataclass(frozen=True)
class Joined:
    """A worker has come."""

    worker: str


@dataclass(frozen=True)
class Left:
    """A worker has gone; whether it was told to."""

    worker: str
    expected: bool


@dataclass(frozen=True)
class Done:
    """A shard has its receipt."""

    number: int


@dataclass(frozen=True)
class Failed:
    """The labelling of a shard has raised."""

    number: int
    cause: str


@dataclass(frozen=True)
class Gone:
    """The scheduler cannot be reached any more."""

    scheduler: str


News = Joined | Left | Done | Failed | Gone


class Workers(Protocol):
    """The way to the workers of a cluster."""

    def news(self, seconds: float) -> Iterable[News]:
        """What has happened, in order; waits for the first for so long at most."""

    def ask(self, worker: str, number: int, attempt: int) -> None:
        """Have a worker make a shard durable."""

    def recall(self, number: int) -> None:
        """Give up what a shard's worker was asked for."""


def run_dask(
    plan: Sequence[Shard],
    workers: Workers,
    *,
    attempt: int,
    shards: int,
    stopped: Callable[[], bool],
    progress: Callable[[int], object],
    told: Callable[[int, int], object] = lambda *_: None,
    patience: float = PATIENCE_SECONDS,
) -> bool:
    """Have each shard of a plan labelled and committed.

    Args:
        plan: the shards to make.
        workers: those that make them.
        attempt: which run this is, for the receipts.
        shards: how many the cache has, those included that are done.
        stopped: asked twice a second; once true, whole shards are kept, and the rest is not waited for.
        progress: told the number of rows done after each shard.
        told: told the number of shards of the plan that are done and of workers that there are, now and then.
        patience: how many seconds to wait for a worker while there is none.

    Returns:
        Whether the plan was run to its end.

    Raises:
        IncompleteError: shards were set aside after three failures, with their causes; or the scheduler is gone, or all
            workers are. What is done is kept.

    """
    rota = Rota(plan, proven=len(plan) < shards)
    seen = monotonic()
    while not rota.over:
        if stopped():
            return False
        for worker, shard in rota.give():
            workers.ask(worker, shard.number, attempt)
        for news in workers.news(LOOK_SECONDS):
            if isinstance(news, Gone):
                kept = _kept(rota, plan, shards)  # and perhaps more: of what was under way no one tells any more
                raise IncompleteError(f"The scheduler at {news.scheduler} is gone. At least {kept} {AGAIN}")
            _note(news, rota, workers, progress)
        told(len(rota.done), rota.workers)
        seen = monotonic() if rota.workers else seen
        if monotonic() - seen > patience:
            raise IncompleteError(
                f"There has been no worker for {patience:.0f} s. {_kept(rota, plan, shards)} See why they do not come, "
                f"or start some. {AGAIN}"
            )
    if rota.aside:
        raise IncompleteError(_set_aside(rota, plan, shards))
    return True


def _note(news: News, rota: Rota, workers: Workers, progress: Callable[[int], object]) -> None:
    match news:
        case Joined(worker):
            rota.join(worker)
        case Left(worker, expected):
            for shard in rota.leave(worker, expected=expected):
                workers.recall(shard.number)
        case Done(number):
            if done := rota.finish(number):
                progress(done.rows)
        case Failed(number, cause):
            rota.fail(number, cause)


def _kept(rota: Rota, plan: Sequence[Shard], shards: int) -> str:
    return f"{shards - len(plan) + len(rota.done):,} of {shards:,} shards are done and kept."


def _set_aside(rota: Rota, plan: Sequence[Shard], shards: int) -> str:
    left = len(plan) - len(rota.done) - len(rota.aside)
    rest = f" None could be made, so the other {left:,} were given up: the cause may be a common one." if left else ""
    return (
        f"{len(rota.aside):,} of {shards:,} shards were set aside, each after {FAILURES} failures: {rota.causes()}."
        f"{rest} {_kept(rota, plan, shards)} Mend what they name, and run the same command again: it tries them anew."
    )
