"""How fast shards were made, by host."""

from pathlib import Path

import pytest
from river_cases import samples, write_cache

from pipeline.pace import Step, course, paces, slow, steps
from pipeline.store.state import read_state


def step(shard: int, host: str, seconds: float, finished: float | None = 0.0, rows: int = 10) -> Step:
    """A shard that is done."""
    return Step(shard, 0, host, rows, seconds, finished)


FAST = [step(number, "fast", 1.0, 3600.0 * number) for number in range(5)]
MIXED = [*FAST, step(5, "tired", 1.0, 7200.0), step(6, "tired", 5.0, -3600.0), step(7, "lame", 2.5, None)]
UNTIMED = step(8, "unknown", 0.0, 10.0)


def test_hosts_stand_by_their_rows_a_second_the_slowest_first() -> None:
    """Law: over all shards of a host; its slowest is named; one that says no time comes last."""
    found = [(each.host, each.shards, each.rows, each.rate, each.slowest.shard) for each in paces([UNTIMED, *MIXED])]
    assert found == [
        ("tired", 2, 20, 20 / 6, 6),
        ("lame", 1, 10, 4.0, 7),
        ("fast", 5, 50, 10.0, 0),
        ("unknown", 1, 10, None, 8),
    ]


def test_slow_shards_took_more_than_twice_the_median_time_a_row() -> None:
    """Law: a row, so that a shard of few rows is not fast for that; twice itself is not slow yet."""
    assert [each.shard for each in slow([*MIXED, UNTIMED])] == [6, 7]
    assert slow([*FAST, step(9, "edge", 2.0)]) == []
    assert [each.shard for each in slow([*FAST, step(9, "short", 1.0, rows=4)])] == [9]
    assert slow([step(0, "fast", 1.0), step(1, "tired", 10.0)]) == [], "twice the median of two is more than either"
    assert slow([UNTIMED]) == slow([]) == []


def test_the_course_counts_from_the_first_shard() -> None:
    """Law: in seconds; what has no time or no rate has no point, and a host without any no line."""
    assert course([*MIXED, UNTIMED]) == {
        "tired": [(10800.0, 10.0), (0.0, 2.0)],
        "fast": [(3600.0 * (number + 1), 10.0) for number in range(5)],
    }
    assert course([UNTIMED]) == course([]) == {}


@pytest.mark.parametrize(
    ("finished", "seconds"),
    [
        ("1970-01-01T00:01:00+00:00", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:01:00", 60.0),  # in UTC, as receipts are
        ("0001-01-01T00:00:00+14:00", -62135647200.0),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_receipt_may_say_anything_of_its_time(finished: str, seconds: float | None, tmp_path: Path) -> None:
    """Law: what is no time is not known, and the rest of the receipt counts."""
    write_cache(tmp_path / "cache", samples())
    receipts = list(read_state(tmp_path / "cache").receipts.values())
    made = receipts[1].made.model_copy(update={"finished": finished, "host": "h", "seconds": 2.0})
    found = steps([receipts[1].model_copy(update={"made": made})])
    assert found == [Step(1, 0, "h", 8, 2.0, seconds)]
