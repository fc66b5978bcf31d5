"""Run a plan in this process: reading, the teacher and writing overlap, each in a thread of its own.

A loader thread keeps a few batches ahead, across shard boundaries too; the calling thread asks the teacher; a writer
thread makes the last shard durable. At most `AHEAD` batches and two shards are in memory. An error in any thread ends
the run with that error. Not for several devices, nor where decoding is slower than the teacher: one thread loads.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from pipeline.labeller import Block, Labeller, Loaded
from pipeline.store.layout import Shard

AHEAD = 4

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
) -> bool:
    """Label and commit each shard of a plan.

    Args:
        plan: the shards to make.
        labeller: reads a batch and labels it.
        commit: makes a shard's arrays durable, given its seconds; called in plan order, from one thread.
        stopped: asked before each batch; once true, the shard in flight is dropped and committed ones are kept.
        progress: told the number of rows done after each batch.

    Returns:
        Whether the plan was run to its end.

    """
    written: Future[object] | None = None
    parts: list[Block] = []
    begun = perf_counter()
    with ThreadPoolExecutor(1, "loader") as loader, ThreadPoolExecutor(1, "writer") as writer:
        for cut, batch in _ahead(loader, labeller, cuts(plan, labeller.batch_size)):
            if stopped():
                break
            parts.append(labeller.label(batch))
            progress(cut.stop - cut.start)
            if cut.stop == cut.shard.stop:
                if written:
                    written.result()
                now = perf_counter()
                written = writer.submit(commit, cut.shard, _joined(parts), now - begun)
                parts, begun = [], now
        else:
            if written:
                written.result()
            return True
        if written:
            written.result()
    return False


def _ahead(loader: ThreadPoolExecutor, labeller: Labeller, plan: Iterator[Cut]) -> Iterator[tuple[Cut, Loaded]]:
    """Each batch of the plan, loaded in the loader's thread while earlier ones are worked on."""
    queue: deque[tuple[Cut, Future[Loaded]]] = deque()
    try:
        for cut in plan:
            queue.append((cut, loader.submit(labeller.load, cut.start, cut.stop)))
            if len(queue) > AHEAD:
                done, batch = queue.popleft()
                yield done, batch.result()
        while queue:
            done, batch = queue.popleft()
            yield done, batch.result()
    finally:
        for _, batch in queue:
            batch.cancel()


def _joined(parts: list[Block]) -> Block:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
