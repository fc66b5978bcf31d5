"""What is loaded ahead comes in order, is bounded, and fails where it belongs."""

import threading
from collections.abc import Callable
from itertools import count

import pytest

from pipeline.ahead import MOST_IN_A_RUN, MOST_WORKERS, RUN_SECONDS, ahead, ahead_in_runs, loaders

Ahead = Callable[..., object]


@pytest.fixture
def each_takes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have it seem that a load takes so many seconds: the clock is looked at twice a run."""

    def takes(seconds: float) -> None:
        monkeypatch.setattr("pipeline.ahead.perf_counter", (n * seconds for n in count()).__next__)

    return takes


@pytest.mark.parametrize("ahead", [ahead, ahead_in_runs])
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 30, 100])
def test_results_come_in_the_order_of_their_items(ahead: Ahead, workers: int, count: int) -> None:
    """Law: `ahead` is `map`, whoever is faster."""
    slow = threading.Event()

    def load(item: int) -> int:
        slow.wait(0.002 if item % 3 == 0 else 0)
        return item * item

    assert list(ahead(range(count), load, workers)) == [n * n for n in range(count)]


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_loaded_than_two_a_worker(workers: int) -> None:
    """Law: whoever takes nothing stops the readers; memory is bounded by what is in flight."""
    begun: list[int] = []
    results = ahead(range(100), lambda item: begun.append(item) or item, workers)
    for taken in range(1, 50):
        next(results)
        assert len(begun) <= taken + 2 * workers
    results.close()
    assert len(begun) <= 49 + 2 * workers


def test_what_loads_slowly_is_loaded_one_by_one(each_takes: Callable[[float], None]) -> None:
    """Law: a run of what takes longer than a run may is one item, so no more is in flight than without runs."""
    each_takes(2 * RUN_SECONDS)
    begun: list[int] = []
    results = ahead_in_runs(range(100), lambda item: begun.append(item) or item, 1)
    for taken in range(1, 50):
        next(results)
        assert len(begun) <= taken + 2
    results.close()


def test_what_loads_quickly_is_loaded_in_runs_of_a_few(each_takes: Callable[[float], None]) -> None:
    """Law: as many as take two milliseconds, 16 at most; two runs a worker, and the one that is taken from."""
    each_takes(0)
    begun: list[int] = []
    results = ahead_in_runs(range(1000), lambda item: begun.append(item) or item, 1)
    ahead_by = []
    for taken in range(1, 500):
        next(results)
        ahead_by.append(len(begun) - taken)
    results.close()
    assert 2 * MOST_IN_A_RUN <= max(ahead_by) <= 3 * MOST_IN_A_RUN


def test_whoever_leaves_waits_for_no_more_than_what_is_being_loaded(each_takes: Callable[[float], None]) -> None:
    """Law: the rest of a run is not begun once the walk is over, as when a run is stopped while its bucket is slow."""
    each_takes(0)
    begun, slow, go_on = [], threading.Event(), threading.Event()

    def load(item: int) -> int:
        begun.append(item)
        if item == 100:
            slow.set()
            go_on.wait(10)
        return item

    results = ahead_in_runs(range(1000), load, 1)
    while not slow.wait(0.001):
        next(results)
    leaving = threading.Thread(target=results.close)
    leaving.start()
    leaving.join(0.05)
    go_on.set()
    leaving.join()
    assert begun == list(range(101))


@pytest.mark.parametrize("ahead", [ahead, ahead_in_runs])
@pytest.mark.parametrize("place", [0, 3, 77])
def test_an_error_comes_where_its_result_would_have(ahead: Ahead, place: int) -> None:
    """Law: what was loaded before it is delivered, nothing after it, and no thread is left."""

    def load(item: int) -> int:
        if item == place:
            raise OSError("the disk is gone")
        return item

    results, before = ahead(range(100), load, 2), threading.active_count()
    assert [next(results) for _ in range(place)] == list(range(place))
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [ahead, ahead_in_runs])
def test_an_error_of_the_plan_itself_ends_the_walk(ahead: Ahead) -> None:
    """And leaves no thread behind."""

    def plan() -> object:
        yield 1
        raise ValueError("no such row")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no such row"):
        list(ahead(plan(), lambda item: item, 2))
    assert threading.active_count() == before


def test_readers_are_as_many_as_asked_for_or_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one, and by itself no more than a few."""
    assert loaders(12) == 12
    for cores, expected in ((None, 1), (1, 1), (4, 4), (64, MOST_WORKERS)):
        monkeypatch.setattr("pipeline.ahead.cpu_count", lambda cores=cores: cores)
        assert loaders(None) == expected
