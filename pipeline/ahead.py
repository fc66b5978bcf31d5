"""Loading ahead: what comes next is read by threads while the network works on what came before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from time import perf_counter
from typing import TypeVar

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
    *,
    together: Callable[[Sequence[Item]], Sequence[Loaded]] | None = None,
    begin: Callable[[], object] | None = None,
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
        together: how several are loaded at once, where that is quicker. Where that fails, each is loaded by itself, and
            so is all that follows.
        begin: what each thread does first.

    """
    left, length, over = iter(items), 1, False
    runs: deque[deque[Future[Loaded]]] = deque()

    def load_run(run: list[tuple[Item, Future[Loaded]]]) -> None:
        nonlocal length, together
        begun = perf_counter()
        if together and len(run) > 1 and not over and not _at_once(run, together):
            together = None
        _one_by_one(run, load, lambda: over)
        length = max(1, int(min(most, RUN_SECONDS * len(run) / max(perf_counter() - begun, 1e-9))))

    with ThreadPoolExecutor(workers, "loader", initializer=begin) as pool:
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


def _at_once(
    run: Sequence[tuple[Item, Future[Loaded]]], together: Callable[[Sequence[Item]], Sequence[Loaded]]
) -> bool:
    """Load a run; False, and nothing loaded, where that fails: whose error it is, is found by loading each."""
    try:
        results = list(zip(run, together([item for item, _ in run]), strict=True))
    except BaseException:  # noqa: BLE001 - raised where its result is taken, if one by itself raises it
        return False
    for (_, loaded), result in results:
        loaded.set_result(result)
    return True


def _one_by_one(
    run: Sequence[tuple[Item, Future[Loaded]]], load: Callable[[Item], Loaded], over: Callable[[], bool]
) -> None:
    """Load what of a run is not, up to the first error, or until the walk is over."""
    for item, loaded in run:
        if loaded.done():
            continue
        if over():
            return
        try:
            loaded.set_result(load(item))
        except BaseException as error:  # noqa: BLE001 - raised where its result is taken
            loaded.set_exception(error)
            return


def _taken(run: deque[Future[Loaded]]) -> Iterator[Loaded]:
    while run:
        yield run.popleft().result()
