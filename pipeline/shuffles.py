"""Shuffles that are computed where they are asked for: of all rows, or of the rows within windows of blocks.

A shuffle is a function from places to rows. It says what stands at any place by itself, so every process that knows the
seed knows the whole of it, and holds none of it. Asked with turns, it is another shuffle in each of them.

Shape legend: B blocks of rows, n places.
"""

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from pipeline.seeds import generator, seed_of

Rows = NDArray[np.int64]
ROUNDS = 16  # with fewer, some of the 120 shuffles of five rows come up more often than others
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's step


@dataclass(frozen=True)
class Shuffle:
    """A bijection of 0 … size - 1 that a seed picks.

    A Feistel network over Z_a x Z_b, the smallest such rectangle with room for all, whose few surplus places are walked
    out of. Source: Black and Rogaway, «Ciphers with Arbitrary Finite Domains», 2002: their generalised Feistel cipher,
    with cycle walking.

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


@dataclass(frozen=True, eq=False)
class WindowShuffle:
    """A bijection of 0 … size - 1 in which the rows of a few blocks come before those of any other.

    The blocks are shuffled and cut into as few windows as hold so many blocks each, as even as can be, so that none at
    the end has hardly any; then the rows of each window are shuffled. One window is a shuffle of all rows. It takes
    memory for the blocks, not for the rows.

    >>> WindowShuffle(np.array([0, 3, 6, 9]), window=1, seed=0)(np.arange(9)).reshape(3, 3) // 3
    array([[2, 2, 2],
           [0, 0, 0],
           [1, 1, 1]])

    Args:
        bounds: where each block begins, and where the last one ends, `[B + 1]`; no block is empty.
        window: how many blocks a window has at most.
        seed: picks the shuffle.

    """

    bounds: Rows
    window: int
    seed: int

    @property
    def size(self) -> int:
        """How many rows there are."""
        return int(self.bounds[-1])

    @property
    def windows(self) -> int:
        """Into how many the blocks are cut."""
        return -(-(self.bounds.size - 1) // self.window)

    def __call__(self, places: Rows, turns: Rows | None = None) -> Rows:
        """What stands at some places, `[n]`; in turn t, of another shuffle than in all others."""
        if turns is None:
            return self._found(places, np.zeros(1, np.int64), self._blocks)
        shown, turn = np.unique(turns, return_inverse=True)  # the turns are laid end to end
        return self._found(places + turn * self.size, shown, self._shuffled_blocks(shown))

    @cached_property
    def _blocks(self) -> Rows:
        return self._shuffled_blocks(np.zeros(1, np.int64))

    def _shuffled_blocks(self, turns: Rows) -> Rows:
        """The numbers of the blocks in each turn, one turn after the other."""
        count = self.bounds.size - 1
        shuffle = Shuffle(count, seed_of("blocks", self.seed))
        return shuffle(np.tile(np.arange(count), turns.size), np.repeat(turns, count))

    def _found(self, places: Rows, turns: Rows, blocks: Rows) -> Rows:
        """What stands at places of some turns laid end to end, given the order of their blocks."""
        sizes, count = np.diff(self.bounds)[blocks], self.bounds.size - 1
        ends = np.cumsum(sizes)
        begins = ends - sizes
        first = np.arange(self.windows) * count // self.windows  # of the blocks of each window
        cuts = np.append(begins[np.add.outer(np.arange(turns.size) * count, first).ravel()], ends[-1:])
        window = np.searchsorted(cuts, places, "right") - 1
        turn, number = np.divmod(window, self.windows)
        moved = self._moved(places - cuts[window], np.diff(cuts)[window], turns[turn] * self.windows + number)
        moved += cuts[window]
        block = np.searchsorted(ends, moved, "right")
        found: Rows = self.bounds[blocks[block]] + moved - begins[block]
        return found

    def _moved(self, places: Rows, sizes: Rows, numbers: Rows) -> Rows:
        """What stands at places within windows of these sizes and numbers: all windows of a size are asked at once."""
        moved, seed = np.empty_like(places), seed_of("window", self.seed)
        for size in np.unique(sizes):
            here = np.flatnonzero(sizes == size)
            moved[here] = Shuffle(int(size), seed)(places[here], numbers[here])
        return moved
