"""Loading ahead: what comes next is read by threads while the network works on what came before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count
from typing import TypeVar

MOST_WORKERS = 8

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def loaders(asked: int | None) -> int:
    """How many threads read: as many as asked for, or as there are cores, up to a few."""
    return asked or min(MOST_WORKERS, cpu_count() or 1)


def ahead(items: Iterable[Item], load: Callable[[Item], Loaded], workers: int) -> Iterator[Loaded]:
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
