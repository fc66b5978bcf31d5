"""Run a plan in this process: reading, copies, the teacher, encoding and writing overlap, across shards too.

Loader threads keep a few batches ahead; the calling thread launches the teacher and fetches a batch's record only once
the next ones are launched; a writer thread makes the last shard durable. In memory are at most two batches a loader
thread, `LATE` and one more that are launched, with their logits, and two shards: one being filled, one being written.
Whoever is quicker waits for whoever is slower. An error in any thread ends the run with that error.

Loader threads read the dataset at the same time; one that cannot bear that needs `workers` = 1. Not for several
devices.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from pipeline.ahead import ahead, loaders
from pipeline.errors import DatasetError
from pipeline.labeller import Block, Labeller, Loaded, Pending
from pipeline.store.layout import Shard

LATE = 2  # batches launched on a GPU before the first of them is fetched: it has the next while the host is busy

Commit = Callable[[Shard, Block, float], object]


@dataclass(frozen=True)
class Cut:
    """One batch of a plan. A batch never straddles shards, so a shard's labels don't depend on how a run was cut."""

    shard: Shard
    start: int
    stop: int


def cuts(plan: Sequence[Shard], batch_size: int) -> Iterator[Cut]:
    """The batches of a plan, in order."""
    for shard in plan:
        for start in range(shard.start, shard.stop, batch_size):
            yield Cut(shard, start, min(start + batch_size, shard.stop))


def run_inline(
    plan: Sequence[Shard],
    labeller: Labeller,
    commit: Commit,
    *,
    stopped: Callable[[], bool],
    progress: Callable[[int], object],
    workers: int | None = None,
) -> bool:
    """Label and commit each shard of a plan.

    Args:
        plan: the shards to make.
        labeller: reads a batch and labels it.
        commit: makes a shard's arrays durable, given its seconds; called in plan order, from one thread.
        stopped: asked before each batch is launched; once true, the shard in flight is dropped and whole ones are kept.
        progress: told the number of rows done after each batch.
        workers: threads that read; None: as many as there are cores, up to a few.

    Returns:
        Whether the plan was run to its end.

    Raises:
        DatasetError: a loader thread was ended by the dataset it read.

    """
    missing = sum(shard.rows for shard in plan)
    with ThreadPoolExecutor(1, "writer") as thread:
        shards = _Shards(thread, commit)
        for cut, pending in _late(_launched(plan, labeller, stopped, loaders(workers)), LATE if labeller.late else 0):
            shards.put(cut, pending.result())
            progress(cut.stop - cut.start)
            missing -= cut.stop - cut.start
        shards.wait()
    return missing == 0


def _load(labeller: Labeller, cut: Cut) -> tuple[Cut, Loaded]:
    try:
        return cut, labeller.load(cut.start, cut.stop, cut.shard.view)
    except Exception:
        raise
    except BaseException as end:  # sys.exit() in a dataset: passed on, it would end the run as if that were asked for
        raise DatasetError(
            f"The thread that read rows {cut.start} to {cut.stop - 1} of the dataset was ended by {end!r}; expected a "
            "batch or an error. A dataset must not end the program that reads it: mend it, and run the same command "
            "again to go on."
        ) from end


def _launched(
    plan: Sequence[Shard], labeller: Labeller, stopped: Callable[[], bool], workers: int
) -> Iterator[tuple[Cut, Pending]]:
    """Each batch, at work on the device. No name holds the loaders' iterator: however this ends, their threads do."""
    for cut, batch in ahead(cuts(plan, labeller.batch_size), partial(_load, labeller), workers):
        if stopped():
            return
        yield cut, labeller.launch(batch)


def _late(launched: Iterator[tuple[Cut, Pending]], late: int) -> Iterator[tuple[Cut, Pending]]:
    """Each batch once so many more are launched; before an error comes what was launched before it."""
    held: deque[tuple[Cut, Pending]] = deque()
    failure = None
    try:
        for each in launched:
            held.append(each)
            if len(held) > late:
                yield held.popleft()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised below
        failure = error
    yield from held
    if failure:
        raise failure


class _Shards:
    """The shard that is being filled, and the one before it, on its way to the disk."""

    def __init__(self, thread: ThreadPoolExecutor, commit: Commit) -> None:
        self._thread, self._commit = thread, commit
        self._filling: Block = {}
        self._written: Future[object] | None = None
        self._begun = perf_counter()

    def put(self, cut: Cut, block: Block) -> None:
        """Copy a batch to its place, and hand a shard that is full to the writer once it has done the one before."""
        if self._written and self._written.done():
            self.wait()
        for name, part in block.items():
            if name not in self._filling:
                self._filling[name] = np.empty((cut.shard.rows, *part.shape[1:]), part.dtype)
            self._filling[name][cut.start - cut.shard.start : cut.stop - cut.shard.start] = part
        if cut.stop == cut.shard.stop:
            self.wait()
            now = perf_counter()
            self._written = self._thread.submit(self._commit, cut.shard, self._filling, now - self._begun)
            self._filling, self._begun = {}, now

    def wait(self) -> None:
        """Until the last shard handed over is durable; raises what its commit raised."""
        if self._written:
            self._written.result()
