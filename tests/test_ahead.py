"""What is loaded ahead comes in order, is bounded, and fails where it belongs."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.ahead import MOST_IN_A_RUN, MOST_WORKERS, RUN_SECONDS, ahead, loaders

MOSTS = 1, 3, MOST_IN_A_RUN


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Callable[[int], int]]:
    """How to load what takes so many seconds, by a clock that nothing else moves: for one thread."""
    now = [0.0]
    monkeypatch.setattr("pipeline.ahead.perf_counter", lambda: now[0])

    def load_in(seconds: float) -> Callable[[int], int]:
        def load(item: int) -> int:
            now[0] += seconds
            return item

        return load

    return load_in


@pytest.mark.parametrize("most", MOSTS)
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 30, 100])
def test_results_come_in_the_order_of_their_items(workers: int, count: int, most: int) -> None:
    """Law: `ahead` is `map`, whoever is faster."""
    slow = threading.Event()

    def load(item: int) -> int:
        slow.wait(0.002 if item % 3 == 0 else 0)
        return item * item

    assert list(ahead(range(count), load, workers, most)) == [n * n for n in range(count)]


@pytest.mark.parametrize("most", MOSTS)
@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_loaded_than_two_runs_a_worker(workers: int, most: int) -> None:
    """Law: whoever takes nothing stops the readers; memory is bounded by what is in flight."""
    begun: list[int] = []
    results = ahead(range(1000), lambda item: begun.append(item) or item, workers, most)
    for taken in range(1, 500):
        next(results)
        assert len(begun) < taken + (2 * workers + 1) * most
    results.close()
    assert len(begun) < 499 + (2 * workers + 1) * most


@pytest.mark.parametrize(
    ("seconds", "together"), [(2 * RUN_SECONDS, 1), (RUN_SECONDS / 4.5, 4), (RUN_SECONDS / 100, MOST_IN_A_RUN), (0, 16)]
)
def test_a_run_is_what_loads_in_two_milliseconds(
    seconds: float, together: int, taking: Callable[[float], Callable[[int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: as many items as take so long, one at least and 16 at most, once it is known how long they take."""
    runs: list[int] = []

    class Noting(ThreadPoolExecutor):
        def submit(self, function: Callable[..., object], run: list[object]) -> object:  # type: ignore[override]
            runs.append(len(run))
            found = super().submit(function, run)
            found.result()
            return found

    monkeypatch.setattr("pipeline.ahead.ThreadPoolExecutor", Noting)
    assert list(ahead(range(200), taking(seconds), 1, MOST_IN_A_RUN)) == list(range(200))
    assert runs[0] == 1
    assert set(runs[1:-1]) == {together}


@pytest.mark.parametrize("left", ["closed", "failed"])
def test_whoever_leaves_waits_for_no_more_than_what_is_being_loaded(
    left: str, taking: Callable[[float], Callable[[int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: the rest of a run is not begun once the walk is over, as when one is stopped while its bucket is slow."""
    begun, at_last, go_on = [], threading.Event(), threading.Event()
    quick = taking(0)

    class Leaving(ThreadPoolExecutor):
        def shutdown(self, *args: bool, **named: bool) -> None:  # type: ignore[override]
            go_on.set()
            super().shutdown(*args, **named)

    def load(item: int) -> int:
        begun.append(item)
        if item == 100:
            at_last.set()
            go_on.wait()
        return quick(item)

    def items() -> Iterator[int]:
        yield from range(101 + MOST_IN_A_RUN)
        at_last.wait()
        raise ValueError("no such row")

    monkeypatch.setattr("pipeline.ahead.ThreadPoolExecutor", Leaving)
    results = ahead(items() if left == "failed" else range(1000), load, 1, MOST_IN_A_RUN)
    if left == "failed":
        with pytest.raises(ValueError, match="no such row"):
            list(results)
    else:
        while not at_last.is_set() and next(results) < 99:
            pass
        at_last.wait()
        results.close()
    assert begun == list(range(101))


@pytest.mark.parametrize("most", MOSTS)
@pytest.mark.parametrize("place", [0, 3, 77])
@pytest.mark.parametrize("kind", [OSError, SystemExit])
def test_an_error_comes_where_its_result_would_have(kind: type[BaseException], place: int, most: int) -> None:
    """Law: what was loaded before it is delivered, nothing after it, and no thread is left."""

    def load(item: int) -> int:
        if item == place:
            raise kind("the disk is gone")
        return item

    results, before = ahead(range(100), load, 2, most), threading.active_count()
    assert [next(results) for _ in range(place)] == list(range(place))
    with pytest.raises(kind, match="the disk is gone"):
        next(results)
    assert threading.active_count() == before


def test_what_is_quick_is_loaded_together(taking: Callable[[float], Callable[[int], int]]) -> None:
    """Law: a run at once, its results in their order."""
    runs: list[list[int]] = []
    load = taking(0)

    def together(run: Sequence[int]) -> list[int]:
        runs.append(list(run))
        return [load(item) for item in run]

    assert list(ahead(range(50), load, 1, MOST_IN_A_RUN, together=together)) == list(range(50))
    items = [item for run in runs for item in run]
    assert items == list(range(items[0], items[0] + len(items)))
    assert max(map(len, runs)) == MOST_IN_A_RUN


@pytest.mark.parametrize("kind", [MemoryError, SystemExit, ValueError])
@pytest.mark.parametrize("place", [0, 20, 49, None])
def test_what_fails_together_fails_where_it_belongs(
    place: int | None, kind: type[BaseException], taking: Callable[[float], Callable[[int], int]]
) -> None:
    """Law: all before it is delivered; where each can be loaded by itself, nothing is lost, and that is how it goes on.

    It fails too where it makes fewer results than there are items.
    """
    quick, tries = taking(0), []

    def load(item: int) -> int:
        if item == place:
            raise OSError("the disk is gone")
        return quick(item)

    def together(run: Sequence[int]) -> list[int]:
        tries.append(len(run))
        if kind is ValueError:
            return [quick(item) for item in run[1:]]
        raise kind("too much at once")

    results, good = ahead(range(50), load, 1, MOST_IN_A_RUN, together=together), 50 if place is None else place
    assert [next(results) for _ in range(good)] == list(range(good))
    with pytest.raises(StopIteration if place is None else OSError):
        next(results)
    assert len(tries) == (place != 0)


def test_each_thread_begins_as_it_is_told() -> None:
    """Law: before it loads anything."""
    begun: set[int] = set()
    loaded = ahead(
        range(20), lambda _: threading.get_ident() in begun, 3, begin=lambda: begun.add(threading.get_ident())
    )
    assert all(loaded)


@pytest.mark.parametrize("most", MOSTS)
def test_an_error_of_the_plan_itself_ends_the_walk(most: int) -> None:
    """And leaves no thread behind."""

    def plan() -> object:
        yield 1
        raise ValueError("no such row")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no such row"):
        list(ahead(plan(), lambda item: item, 2, most))
    assert threading.active_count() == before


def test_readers_are_as_many_as_asked_for_or_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one, and by itself no more than a few."""
    assert loaders(12) == 12
    for cores, expected in ((None, 1), (1, 1), (4, 4), (64, MOST_WORKERS)):
        monkeypatch.setattr("pipeline.ahead.cpu_count", lambda cores=cores: cores)
        assert loaders(None) == expected
