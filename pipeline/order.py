"""The order of an epoch: a shuffle that is computed where it is asked for, and how batches and ranks share it.

Nothing here grows with the dataset: any part of any epoch is known at once, in any process. So the same (seed, epoch)
gives the same order for every number of workers and ranks, and a walk can begin at any step. Windows take memory for
the shards of the cache, and where its order is not the dataset's, eight bytes a row.

Shape legend: N rows, B shards that hold any of them, n places asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from torch.utils.data import Sampler

from pipeline.errors import ConfigError
from pipeline.seeds import generator, seed_of
from pipeline.shuffles import Rows, Shuffle, WindowShuffle

LEAST = 4  # rows that can be cut into two batches
BLOCK_ROWS = 2**14  # computed at once: a shuffle costs a few hundred NumPy calls, whether of one row or of thousands


@dataclass(frozen=True, eq=False)
class Windows:
    """Rows by the shards of a cache that hold them, to be shuffled within a few shards at a time.

    Not for rows that are sorted by class and few shards a window: batches are then of few classes (docs/buckets.md).

    Args:
        shards: how many make a window.
        bounds: where the rows of each shard begin, and where those of the last one end, `[B + 1]`.
        rows: the rows by their place in the cache, `[N]`; None where they are 0 … N - 1 and stand in order.

    """

    shards: int
    bounds: Rows
    rows: Rows | None = None

    @classmethod
    def cut(cls, shards: int, shard_rows: int, length: int, places: Rows | None = None) -> "Windows":
        """Windows of so many shards over the rows of a dataset; `places` are theirs in the cache, `[N]`, if others.

        >>> Windows.cut(2, shard_rows=3, length=4, places=np.array([8, 1, 7, 0])).rows
        array([3, 1, 2, 0])
        """
        if places is None:
            return cls(shards, np.append(np.arange(0, length, shard_rows), length))
        rows = np.argsort(places, kind="stable")
        begins = np.flatnonzero(np.diff(places[rows] // shard_rows)) + 1
        return cls(shards, np.concatenate([[0], begins, [length]]), rows)

    def among(self, usable: Rows) -> "Windows":
        """The same windows over some of the rows; a shard that holds none of them is no shard of theirs."""
        rows = np.arange(self.bounds[-1]) if self.rows is None else self.rows
        kept = np.isin(rows, usable)
        bounds = np.unique(np.append(0, np.cumsum(kept))[self.bounds])
        return Windows(self.shards, bounds, rows[kept])

    @cached_property
    def digest(self) -> bytes:
        """Stands for the order that these windows make of a seed."""
        parts = (np.array([self.shards]), self.bounds, np.empty(0) if self.rows is None else self.rows)
        return sha256(b"".join(sha256(part.tobytes()).digest() for part in parts)).digest()


@dataclass(frozen=True)
class Order:
    """The rows of one epoch, in order: all of a dataset, or its usable ones again and again until the epoch is full.

    An epoch is as long for a student that may see few samples as for one that sees all: both take as many steps.

    Args:
        length: rows of an epoch.
        seed: of the training.
        epoch: counted from 0.
        usable: the rows to draw from; None for 0 … length - 1.
        windows: within which the rows are shuffled; None for over all of them.

    """

    length: int
    seed: int
    epoch: int
    usable: Rows | None = None
    windows: Windows | None = None

    @cached_property
    def _drawn(self) -> Rows | None:
        return self.usable if self._cut is None else self._cut.rows

    @cached_property
    def _cut(self) -> Windows | None:
        return self.windows if self.windows is None or self.usable is None else self.windows.among(self.usable)

    @cached_property
    def _shuffle(self) -> Shuffle | WindowShuffle:
        seed = seed_of("order", self.seed, self.epoch)
        if self._cut is not None:
            return WindowShuffle(self._cut.bounds, self._cut.shards, seed)
        return Shuffle(self.length if self.usable is None else self.usable.size, seed)

    def take(self, start: int, stop: int) -> Rows:
        """The rows at places `start` to `stop` (not included)."""
        size = self._shuffle.size
        turns, places = np.divmod(np.arange(start, stop), size)
        rows = self._shuffle(places, turns if stop > size else None)
        return rows if self._drawn is None else self._drawn[rows]


@dataclass(frozen=True)
class ViewOrder:
    """Which view of a sample an epoch shows.

    Args:
        count: of so many views one after the other; None: each time a new one.
        shuffled: of each sample in an order of its own, drawn by its row's number, a new one each time all were shown.
        together: so many views of a sample side by side in a batch.

    """

    count: int | None = None
    shuffled: bool = False
    together: int = 1

    def views(self, rows: Rows, seed: int, shown: int | Rows) -> Rows | int:
        """The view of each row, `[n]`, or the one of all, given how many times it was shown before.

        >>> [ViewOrder(3).views(np.arange(4), seed=0, shown=epoch) for epoch in range(4)]
        [0, 1, 2, 0]
        """
        if self.count is None:
            return shown
        if not self.shuffled:
            return shown % self.count
        named = zip(*(each.tolist() for each in np.broadcast_arrays(rows, *np.divmod(shown, self.count))), strict=True)
        orders = (generator("views", seed, turn, row).permutation(self.count)[at] for row, turn, at in named)
        return np.fromiter(orders, np.int64, rows.size)


ONE_VIEW = ViewOrder(1)


class EpochSampler(Sampler[Rows]):
    """Batches of an epoch, each sample once: a `batch_sampler` for any loader, and this project's own.

    A batch is cut from the global order first and shared among the ranks then, so every rank takes the same number of
    steps, and together they see what one process would. Where a batch does not divide, some ranks get a row less;
    nothing is repeated unless `pad` asks for it. A remainder shares the rows of the batch before it, so that none is so
    short that batch norm could not learn from it.

    Args:
        length: rows of an epoch.
        batch_size: rows of a step, over all ranks.
        seed: of the order.
        rank: which share is this process's.
        world: among how many the batches are shared.
        pad: give every rank as many rows of each batch, with a few rows that come a second time.
        usable: the rows to draw from; None for 0 … length - 1.
        windows: within which the rows are shuffled; None for over all of them.
        views: which view of a row an epoch shows: view v of row r is v length + r.

    Raises:
        ConfigError: a batch, or an epoch, of fewer than two rows a rank; or to pad, of no multiple of the ranks.

    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        pad: bool = False,
        usable: Rows | None = None,
        windows: Windows | None = None,
        views: ViewOrder = ONE_VIEW,
    ) -> None:
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} of {world}: expected 0 to {world - 1}. Pass the process's own rank.")
        if min(batch_size, length) < 1 or (pad and batch_size % world):
            raise self._refused(length, batch_size, world)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.usable, self.views = rank, world, usable, views
        self.windows = windows if windows is None or usable is None else windows.among(usable)  # once for all epochs
        self.epoch = self.step = 0
        self.total = length + (-length % world if pad else 0)
        rest = self.total % batch_size
        single = 1 < batch_size < LEAST - rest  # two batches would leave one of them a single row
        self.steps = max(1, self.total // batch_size + (rest > 0 and not single))
        self._last = (batch_size + rest) // 2 if rest and self.steps > 1 and not single else batch_size
        self._last += -self._last % world if pad else 0
        if world > 1 and min(self.total, self._last) < 2 * world:
            raise self._refused(length, batch_size, world)

    @staticmethod
    def _refused(length: int, batch_size: int, world: int) -> ConfigError:
        return ConfigError(
            f"{length} rows in batches of {batch_size} cannot be shared among {world} ranks: expected at least two "
            "rows a rank in every batch (one, if it is the only rank), and to pad, a batch_size that is a multiple of "
            "the ranks. Set a batch_size, which counts the rows of all ranks, of four a rank or more, or use fewer."
        )

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Walk this epoch from now on; once, from a step in its middle: `step` batches of it are done already.

        Raises:
            ConfigError: more steps than an epoch has.

        """
        if not 0 <= step <= self.steps:
            raise ConfigError(f"step {step} of an epoch of {self.steps}. Go on from one that it has.")
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """How many batches the coming walk has."""
        return self.steps - self.step

    def rows(self, step: int) -> int:
        """How many rows a batch has, over all ranks."""
        return self._end(step) - self._end(step - 1)

    def __iter__(self) -> Iterator[Rows]:
        """The rank's rows of each batch, `[n]`."""
        first, self.step = self.step, 0
        yield from self.upcoming(self.epoch, first)

    def upcoming(self, epoch: int, step: int = 0) -> Iterator[Rows]:
        """The rank's rows of each batch from a step of an epoch on, `[n]`: whatever is walked, and without walking."""
        together = self.views.together
        group, part = divmod(epoch, together)  # of so many epochs, in which every row comes once
        order = Order(self.length, self.seed, group, None if self.windows else self.usable, self.windows)
        many = max(1, BLOCK_ROWS // self.batch_size)
        for begun in range(step, self.steps, many):
            start, *ends = (self._end(step) for step in range(begun - 1, min(begun + many, self.steps)))
            samples, sides = np.divmod(np.arange(start, ends[-1]) + part * self.total, together)
            rows = order.take(int(samples[0]), int(samples[-1]) + 1)[samples - samples[0]]
            for first, end in zip([start, *ends[:-1]], ends, strict=True):
                mine = slice(first - start + self.rank, end - start, self.world)
                shown = sides[mine] + group * together if together > 1 else epoch
                yield rows[mine] + self.length * self.views.views(rows[mine], self.seed, shown)

    def _end(self, step: int) -> int:
        """Where a batch ends in the epoch; step -1, where its first one begins."""
        left = self.steps - 1 - step
        return (step + 1) * self.batch_size if left > 1 or step < 0 else self.total - left * self._last
