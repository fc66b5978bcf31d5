"""What is loaded ahead comes in order, is bounded, and fails where it belongs."""

import threading

import pytest

from pipeline.ahead import MOST_WORKERS, ahead, loaders


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_results_come_in_the_order_of_their_items(workers: int, count: int) -> None:
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


def test_an_error_comes_where_its_result_would_have() -> None:
    """Law: what was loaded before it is delivered, nothing after it, and no thread is left."""

    def load(item: int) -> int:
        if item == 3:
            raise OSError("the disk is gone")
        return item

    results, before = ahead(range(10), load, 2), threading.active_count()
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert threading.active_count() == before


def test_an_error_of_the_plan_itself_ends_the_walk() -> None:
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
