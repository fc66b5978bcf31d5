"""Loading ahead: what comes next is read by threads while the network works on what came before."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from time import perf_counter
from typing import TypeVar

MOST_WORKERS = 8
RUN_SECONDS, MOST_IN_A_RUN = 0.002, 16

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def loaders(asked: int | None) -> int:
    """How many threads read: as many as asked for, or as there are cores, up to a few."""
    return asked or min(MOST_WORKERS, cpu_count() or 1)


def ahead(items: Iterable[Item], load: Callable[[Item], Loaded], workers: int) -> Generator[Loaded, None, None]:
    """`map(load, items)`, in order, up to two results a worker before they are asked for.

    The first error of `load` is raised where its result would have come; what was ahead of it is dropped. No thread
    outlives the iterator.
    """
    queue: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(workers, "loader") as pool:
        try:
            for item in items:
                queue.append(pool.submit(load, item))
                if len(queue) > 2 * workers:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for waiting in queue:
                waiting.cancel()


def ahead_in_runs(items: Iterable[Item], load: Callable[[Item], Loaded], workers: int) -> Iterator[Loaded]:
    """The same, where little is loaded at a time: a run of as many as take two milliseconds, 16 at most, at once.

    What a network does between two loads leaves nothing of theirs in the processor's caches. To find a small batch then
    takes several times as long as to copy it; in a run, only the first pays for that. Up to two runs a worker are
    loaded before they are asked for.
    """
    together, over = 1, False

    def runs() -> Iterator[list[Item]]:
        left = iter(items)
        while run := list(islice(left, together)):
            yield run

    def load_run(run: list[Item]) -> tuple[list[Loaded], Exception | None]:
        nonlocal together
        begun, loaded = perf_counter(), []
        for item in run:
            if over:
                break
            try:
                loaded.append(load(item))
            except Exception as error:  # noqa: BLE001 - raised where its result would have come
                return loaded, error
        seconds = (perf_counter() - begun) / len(run)
        together = max(1, int(min(MOST_IN_A_RUN, RUN_SECONDS / max(seconds, 1e-9))))
        return loaded, None

    coming = ahead(runs(), load_run, workers)
    try:
        for loaded, error in coming:
            yield from loaded
            if error is not None:
                raise error
    finally:
        over = True  # before who waits for the loaders: nobody wants the rest of their runs
        coming.close()
