"""Loading ahead: what comes next is read by threads while the network works on what came before."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from time import perf_counter
from typing import TypeVar

from threadpoolctl import threadpool_limits

MOST_WORKERS = 8
RUN_SECONDS, MOST_IN_A_RUN = 0.002, 16  # of what is quick to load

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def loaders(asked: int | None) -> int:
    """How many threads read: as many as asked for, or as there are cores, up to a few."""
    return asked or min(MOST_WORKERS, cpu_count() or 1)


def ahead(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    workers: int,
    most: int = 1,
    together: Callable[[Sequence[Item]], Sequence[Loaded]] | None = None,
) -> Iterator[Loaded]:
    """`map(load, items)`, in order, up to two runs a worker before they are asked for.

    The first error of `load` is raised where its result would have come; what was ahead of it is dropped. No thread
    outlives the iterator, and none begins a load once it is left.

    What a network does between two loads leaves nothing of theirs in the processor's caches: to find a small batch then
    takes several times as long as to copy it, and of loads in a row only the first pays for that. Hence runs: of so
    many items as lately took two milliseconds, and at least one.

    Args:
        items: what to load.
        load: how; called in threads.
        workers: how many threads.
        most: items of a run. Up to (2 workers + 1) most results wait to be taken.
        together: how several are loaded at once, where that is quicker. If it fails, each is loaded by itself.

    """
    left, length, over = iter(items), 1, False
    runs: deque[deque[Future[Loaded]]] = deque()

    def load_run(run: list[tuple[Item, Future[Loaded]]]) -> None:
        nonlocal length
        begun = perf_counter()
        if not (together and len(run) > 1 and not over and _at_once(run, together)):
            for item, loaded in run:
                if over:
                    return
                try:
                    loaded.set_result(load(item))
                except BaseException as error:  # noqa: BLE001 - raised where its result is taken
                    loaded.set_exception(error)
                    return
        length = max(1, int(min(most, RUN_SECONDS * len(run) / max(perf_counter() - begun, 1e-9))))

    with ThreadPoolExecutor(workers, "loader", initializer=_alone) as pool:
        try:
            while run := [(item, Future[Loaded]()) for item in islice(left, length)]:
                pool.submit(load_run, run)
                runs.append(deque(loaded for _, loaded in run))
                if len(runs) > 2 * workers:
                    yield from _taken(runs.popleft())
            while runs:
                yield from _taken(runs.popleft())
        finally:
            over = True  # within the pool, which waits for its threads


def _alone() -> None:
    """Let this thread compute by itself.

    OpenMP starts a team of threads for each thread that asks for one, and torch asks for any array of 32,768 numbers.
    With more of them than cores, every team waits in the kernel and no longer at work: a network's epoch takes a third
    longer.
    """
    if torch := sys.modules.get("torch"):  # programs that do without it start sooner
        torch.get_num_threads()  # else it would set them anew at its first call in this thread
        threadpool_limits(1, user_api="openmp")


def _at_once(
    run: Sequence[tuple[Item, Future[Loaded]]], together: Callable[[Sequence[Item]], Sequence[Loaded]]
) -> bool:
    """Load a run; False, and nothing loaded, if that fails."""
    try:
        results = together([item for item, _ in run])
    except Exception:  # noqa: BLE001 - whose it is, is found by loading each
        return False
    for (_, loaded), result in zip(run, results, strict=True):
        loaded.set_result(result)
    return True


def _taken(run: deque[Future[Loaded]]) -> Iterator[Loaded]:
    while run:
        yield run.popleft().result()
