"""Shards of a cache in a bucket, fetched in the order in which an epoch will need them, while it is walked.

Not for a cache on this machine's disk: there is nothing to fetch, and the kernel reads ahead by itself.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread

from pipeline.errors import SoftLabelsError
from pipeline.store.mapped import LabelCache, Rows


@contextmanager
def prefetching(cache: LabelCache | None, batches: Iterable[tuple[Rows | int, Rows]]) -> Iterator[Callable[[], None]]:
    """While inside, a thread fetches what coming batches need, as far ahead as half of the copies' room.

    Args:
        cache: what they are read from, if anything.
        batches: the views and the positions in the cache of each batch, from the next one on.

    Yields:
        What to call after each batch.

    """
    if cache is None or not cache.may_fetch:
        yield lambda: None
        return
    scout = _Scout(cache, max(1, cache.room // 2))
    thread = Thread(target=scout.run, args=(batches,), name="prefetch", daemon=True)
    thread.start()
    try:
        yield scout.walked
    finally:
        scout.stop()
        thread.join()


class _Scout:
    """Goes ahead of the walk, over no more shards that it did not know than there is room for.

    Args:
        cache: at an address.
        room: shards.

    """

    def __init__(self, cache: LabelCache, room: int) -> None:
        self._cache, self._room = cache, room
        self._new: deque[int] = deque()  # of each batch ahead of the walk, how many shards it was the first to need
        self._behind, self._stopped = 0, False
        self._changed = Condition()

    def run(self, batches: Iterable[tuple[Rows | int, Rows]]) -> None:
        """Until the last batch, or a refusal: who reads those rows is told of it then."""
        known: set[int] = set()
        for views, rows in batches:
            new = self._cache.shards_of(views, rows) - known
            if len(new) > self._room or not self._may_go(len(new)):
                return  # what has no room at once would have left before it is read
            for shard in sorted(new):
                try:
                    self._cache.fetch([shard])
                except SoftLabelsError:
                    return
                if self._stopped:
                    return
            known |= new

    def walked(self) -> None:
        """One more batch is done with."""
        with self._changed:
            if self._new:
                self._new.popleft()
            else:
                self._behind += 1  # the walk came first
            self._changed.notify()

    def stop(self) -> None:
        """Go no further."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _may_go(self, count: int) -> bool:
        """Wait until so many more shards have room; False if there is no use in it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._new or sum(self._new) + count <= self._room)
            if self._behind:
                self._behind -= 1
            else:
                self._new.append(count)
            return not self._stopped
