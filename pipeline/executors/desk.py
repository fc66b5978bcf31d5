"""Where a worker labels the shards of a run: a desk, set up by the first task that needs it, so once in a process.

What a run is about comes once, as an order; a task brings only numbers. Two tasks may be at a desk: while one asks the
teacher, the other reads what it will ask, or writes what it was told. The teacher answers one at a time, and a dataset
that is to be read by one thread is read by one.

A desk outlives no run whose driver ends it. One whose driver was killed lets go of its teacher when the next run comes.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch

from pipeline.config import Experiment
from pipeline.errors import ClusterError
from pipeline.executors.inline import cuts, run_inline
from pipeline.job import check_at_hand, known_spec
from pipeline.labeller import Labeller, Loaded, Pending
from pipeline.provenance import figures, tools
from pipeline.settings import Settings
from pipeline.sources import open_own, open_test, readers
from pipeline.store.addresses import place_of
from pipeline.store.committer import Committer
from pipeline.store.documents import Job
from pipeline.teachers import load_teacher
from pipeline.views import Viewed

Table = TypeVar("Table", bound=Settings)


@dataclass(frozen=True)
class Order:
    """What the workers of a run are told, once.

    Args:
        token: the number of the run.
        experiment: its paths absolute: a worker may have another working directory.
        job: what the cache holds.
        threads: that torch computes with in each worker; None: as many as the worker has for tasks.
        readers: threads that read a shard; None: as many as the worker's machine has cores, up to a few.

    """

    token: int
    experiment: Experiment
    job: Job
    threads: int | None = None
    readers: int | None = None


def rooted(table: Table) -> Table:
    """A table of an experiment with every path in it absolute. What a user's own options say is left as it is."""
    rooted_paths: dict[str, object] = {}
    for name, value in table:
        if isinstance(value, Path):
            rooted_paths[name] = value.absolute()
        elif isinstance(value, Settings):
            rooted_paths[name] = rooted(value)
        elif isinstance(value, tuple):
            rooted_paths[name] = tuple(rooted(each) if isinstance(each, Settings) else each for each in value)
    return table.model_copy(update=rooted_paths)


@dataclass(frozen=True)
class TurnByTurn(Labeller):
    """A labeller for several threads: one at a time reads, where that is asked for, and one asks the teacher."""

    reading: AbstractContextManager[object]
    asking: Lock
    turn: AbstractContextManager[object] = field(default_factory=nullcontext)

    def in_turn(self, turn: "Turn") -> "TurnByTurn":
        """The same for one shard, which asks when its turn has come."""
        mine = copy(self)
        object.__setattr__(mine, "turn", turn)
        return mine

    def load(self, start: int, stop: int, view: int = 0) -> Loaded:
        """As any labeller does."""
        with self.reading:
            return super().load(start, stop, view)

    def launch(self, batch: Loaded) -> Pending:
        """As any labeller does."""
        with self.turn:
            return super().launch(batch)


class Turn:
    """A turn at the teacher: from a shard's first batch to its last, so that it is written while the next is labelled.

    By turns of a batch, two shards would be done at the same time, and the teacher idle until both are written.

    Args:
        lock: whose holder may ask.
        batches: how many the shard has.

    """

    def __init__(self, lock: Lock, batches: int) -> None:
        self._lock, self._left, self._held = lock, batches, False

    def __enter__(self) -> None:
        if not self._held:
            self._held = self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._left -= 1
        if not self._left:
            self.end()

    def end(self) -> None:
        """Let the next shard ask, also where this one came to an early end."""
        if self._held:
            self._held = False
            self._lock.release()


class Desk:
    """The dataset, the teacher and the labeller of a run.

    Args:
        order: what it is about.
        threads: that torch computes with.

    """

    def __init__(self, order: Order, threads: int) -> None:
        self.order, self.closed = order, False
        self.readers = order.readers or readers(order.experiment)
        self._threads, self._at_work, self._lock = threads, 0, Lock()
        self._labeller: TurnByTurn | None = None
        self._committer: Committer | None = None

    @contextmanager
    def labeller(self) -> Iterator["TurnByTurn"]:
        """The labeller, for one task. It is made by the first, which others wait for."""
        torch.set_num_threads(self._threads)  # torch has one such number a thread
        with self._lock:
            made = self._labeller = self._labeller or self._made()
            self._at_work += 1
        try:
            yield made
        finally:
            with self._lock:
                self._at_work -= 1
            if self.closed:
                self.rest()

    def committer(self, labeller: Labeller, attempt: int) -> Committer:
        """Makes shards durable; the same for all tasks of a run, for it remembers which folders last."""
        with self._lock:
            if self._committer is None:
                place, versions = place_of(self.order.experiment.cache.path), tools(labeller)
                self._committer = Committer(place, self.order.job, versions, attempt, among=True)
            return self._committer

    def close(self) -> None:
        """Let tasks that are at work end at their next batch, and the teacher go once they have."""
        self.closed = True
        self.rest()

    def rest(self) -> None:
        """Let go of the teacher, unless a task is at work. The next task loads it again."""
        if self._lock.acquire(blocking=False):  # whoever holds it is at work
            try:
                if not self._at_work:
                    self._labeller = None
            finally:
                self._lock.release()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()

    def _made(self) -> TurnByTurn:
        experiment, job = self.order.experiment, self.order.job
        dataset = open_own(experiment)
        check_at_hand(job, experiment, dataset)
        views = Viewed(dataset, experiment.views, self.readers)
        views.prove()
        teacher = load_teacher(experiment.teacher, experiment.views, views.input_shape, dataset.classes or 0)
        reading = nullcontext() if self.readers > 1 else Lock()
        return TurnByTurn(views, teacher, known_spec(experiment, dataset, job), reading, Lock())


_desks: dict[int, Desk] = {}


def begin(order: Order, threads: int) -> None:
    """Take an order. Desks of other runs, at which no one is at work, let go of their teachers."""
    for other in list(_desks.values()):
        other.rest()
    _desks[order.token] = Desk(order, order.threads or threads)


def end(token: int) -> None:
    """Clear the desk of a run."""
    if desk := _desks.pop(token, None):
        desk.close()


def greet(token: int, number: int) -> dict[str, str]:
    """The tools of a run; with a shard's number (else -1), TeacherError if its first batch cannot be stored."""
    with _desk(token).labeller() as labeller:
        if number >= 0:
            cut = next(cuts([_desk(token).order.job.layout.shard(number)], labeller.batch_size))
            labeller.label(labeller.load(cut.start, cut.stop, cut.shard.view))
        return tools(labeller)


def label(token: int, number: int, attempt: int) -> None:
    """Make a shard durable, unless it is."""
    desk = _desk(token)
    with desk.labeller() as labeller:
        committer = desk.committer(labeller, attempt)
        if committer.receipt(number):
            return
        shard = desk.order.job.layout.shard(number)
        turn = Turn(labeller.asking, -(-shard.rows // labeller.batch_size))
        try:
            whole = run_inline(
                [shard],
                labeller.in_turn(turn),
                committer.commit,
                stopped=lambda: desk.closed,
                progress=lambda _: None,
                workers=desk.readers,
            )
        finally:
            turn.end()
    if not whole:
        raise ClusterError(f"Shard {number} was dropped: its run has ended.")


def about(token: int) -> dict[str, object]:
    """Figures of the teacher, for the seal."""
    with _desk(token).labeller() as labeller:
        experiment = _desk(token).order.experiment
        return dict(figures(labeller.teacher, open_test(experiment, labeller.dataset)))


def device() -> str | None:
    """The name of the GPU that a teacher would be on, the same in every process; None if there is none."""
    return str(torch.cuda.get_device_properties(0).uuid) if torch.cuda.is_available() else None


def _desk(token: int) -> Desk:
    desk = _desks.get(token)
    if desk is None:
        raise ClusterError("This worker was not told what the run is about: it has ended, or the worker has just come.")
    return desk
