"""The order of an epoch: a shuffle that is computed where it is asked for, and how batches and ranks share it.

Nothing here grows with the dataset: any part of any epoch is known at once, in any process. So the same (seed, epoch)
gives the same order for every number of workers and ranks, and a walk can begin at any step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from pipeline.errors import ConfigError
from pipeline.seeds import generator, seed_of

Rows = NDArray[np.int64]
ROUNDS = 16  # with fewer, some of the 120 shuffles of five rows come up more often than others
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's step
LEAST = 4  # rows that can be cut into two batches
BLOCK_ROWS = 2**14  # computed at once: a shuffle costs a few hundred NumPy calls, whether of one row or of thousands


@dataclass(frozen=True)
class Shuffle:
    """A bijection of 0 … size - 1 that a seed picks.

    A Feistel network over Z_a x Z_b, the smallest such rectangle with room for all, whose few surplus places are walked
    out of. Source: Black and Rogaway, «Ciphers with Arbitrary Finite Domains», 2002, section 5 and method 2.

    >>> sorted(Shuffle(10, seed=3)(np.arange(10)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    size: int
    seed: int

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        return generator("shuffle", self.seed).integers(0, 2**64, ROUNDS, np.uint64)

    def __call__(self, places: Rows, turns: Rows | None = None) -> Rows:
        """What stands at some places of the shuffled row, `[n]`; in turn t, of another shuffle than in all others."""
        tweaks = np.zeros(1, np.uint64) if turns is None else _mixed(turns.astype(np.uint64) * GOLDEN)
        found = self._walked(places.astype(np.uint64), tweaks)
        while (outside := np.flatnonzero(found >= self.size)).size:
            found[outside] = self._walked(found[outside], tweaks if turns is None else tweaks[outside])
        return found.astype(np.int64)

    def _walked(self, places: NDArray[np.uint64], tweaks: NDArray[np.uint64]) -> NDArray[np.uint64]:
        width = np.uint64(isqrt(self.size - 1) + 1)
        height = np.uint64(-(-self.size // int(width)))
        column, row = np.divmod(places, height)
        for key in self._keys.reshape(-1, 2):
            column = (column + _mixed(row + (tweaks + key[0]))) % width
            row = (row + _mixed(column + (tweaks + key[1]))) % height
        return column * height + row


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, halved so that what is added to it cannot overflow."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)


@dataclass(frozen=True)
class Order:
    """The rows of one epoch, in order: all of a dataset, or its usable ones again and again until the epoch is full.

    An epoch is as long for a student that may see few samples as for one that sees all: both take as many steps.

    Args:
        length: rows of an epoch.
        seed: of the training.
        epoch: counted from 0.
        usable: the rows to draw from; None for 0 … length - 1.

    """

    length: int
    seed: int
    epoch: int
    usable: Rows | None = None

    def take(self, start: int, stop: int) -> Rows:
        """The rows at places `start` to `stop` (not included)."""
        size = self.length if self.usable is None else self.usable.size
        turns, places = np.divmod(np.arange(start, stop), size)
        rows = Shuffle(size, seed_of("order", self.seed, self.epoch))(places, turns if stop > size else None)
        return rows if self.usable is None else self.usable[rows]


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
    ) -> None:
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} of {world}: expected 0 to {world - 1}. Pass the process's own rank.")
        if min(batch_size, length) < 1 or (pad and batch_size % world):
            raise self._refused(length, batch_size, world)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.usable = rank, world, usable
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
        order, first, self.step = Order(self.length, self.seed, self.epoch, self.usable), self.step, 0
        many = max(1, BLOCK_ROWS // self.batch_size)
        for begun in range(first, self.steps, many):
            start, *ends = (self._end(step) for step in range(begun - 1, min(begun + many, self.steps)))
            for batch in np.split(order.take(start, ends[-1]), [end - start for end in ends[:-1]]):
                yield batch[self.rank :: self.world]

    def _end(self, step: int) -> int:
        """Where a batch ends in the epoch; step -1, where its first one begins."""
        left = self.steps - 1 - step
        return (step + 1) * self.batch_size if left > 1 or step < 0 else self.total - left * self._last
