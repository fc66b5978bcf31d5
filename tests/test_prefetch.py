"""Shards come in the order in which an epoch needs them, and no further ahead than there is room for."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from store_cases import fill, job_of

from pipeline.errors import StorageError
from pipeline.prefetch import prefetching
from pipeline.store.mapped import LabelCache, Rows
from pipeline.store.mirror import MirrorSettings

JOB = job_of(rows=160, views=1)
PATIENCE_SECONDS = 20


@pytest.fixture
def url() -> str:
    """A cache of twenty shards in memory."""
    made = f"memory://{uuid4().hex}"
    fill(made, JOB)
    return made


def opened(url: str, folder: Path, shards: int) -> LabelCache:
    """With room for so many shards."""
    return LabelCache.open(url, settings=MirrorSettings(folder, shards * JOB.bytes_of([JOB.layout.shard(0)])))


def batches() -> Iterator[tuple[int, Rows]]:
    """A shard each, in turn."""
    yield from ((0, rows) for rows in np.split(np.arange(160), 20))


def come(cache: LabelCache) -> int:
    """How many shards are here."""
    return len(list(cache.root.glob("labels.zarr/logits/c/0/*")))


def until(cache: LabelCache, count: int) -> None:
    """Wait until so many are here."""
    end = time.monotonic() + PATIENCE_SECONDS
    while come(cache) < count:
        assert time.monotonic() < end, f"{come(cache)} of {count} shards came"
        time.sleep(0.005)


def test_shards_come_ahead_of_the_walk_and_no_further_than_half_of_the_room(url: str, tmp_path: Path) -> None:
    """Law: with room for twelve, six are ahead of what is walked, and each batch lets one more come."""
    cache = opened(url, tmp_path, 12)
    with prefetching(cache, batches()) as walked:
        for done in range(6):
            until(cache, 6 + done)
            time.sleep(0.02)
            assert come(cache) == 6 + done
            walked()


def test_a_walk_that_overtakes_is_caught_up_with(url: str, tmp_path: Path) -> None:
    """Law: batches that were done before their shards were fetched ahead take no room: the later ones still come."""
    cache = opened(url, tmp_path, 12)
    with prefetching(cache, batches()) as walked:
        for _ in range(14):
            walked()
        until(cache, 12)


def test_what_has_no_room_at_once_is_not_fetched_in_vain(url: str, tmp_path: Path) -> None:
    """Law: a batch over more shards than half of the room ends what goes ahead, before it has begun."""
    cache = opened(url, tmp_path, 6)
    with prefetching(cache, iter([(0, np.arange(160))])):
        pass
    assert not (cache.root / "labels.zarr/logits/c").exists()


def test_a_walk_that_ends_early_ends_what_goes_ahead(url: str, tmp_path: Path) -> None:
    """Law: no thread outlives the walk."""
    with prefetching(opened(url, tmp_path, 2), batches()):
        pass
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_a_refusal_is_left_to_who_reads(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what goes ahead ends quietly; the walk is told when it comes to those rows."""
    cache = opened(url, tmp_path, 20)

    def refuse(*_: object) -> None:
        raise StorageError("the server is gone")

    monkeypatch.setattr(cache.place, "read", refuse)
    with prefetching(cache, batches()), pytest.raises(StorageError, match="the server is gone"):
        cache.gather(0, np.arange(4))


def test_nothing_goes_ahead_where_nothing_has_to_come(url: str, tmp_path: Path) -> None:
    """Law: not without a cache, not for one on this disk, not for one of which all is here."""
    fill(tmp_path / "cache", JOB)
    whole = opened(url, tmp_path / "copies", 20)
    whole.gather(0, np.arange(160))
    for cache in (None, LabelCache.open(tmp_path / "cache"), whole):
        with prefetching(cache, batches()) as walked:
            assert "prefetch" not in {thread.name for thread in threading.enumerate()}
            walked()
