"""Which shards and inner chunks the arrays of a cache have. Integers only; nothing here touches a disk.

Every array is `[V, N, ...]`: V views of N rows. A shard holds `[1, S, ...]` of it and is one file; its inner chunks
hold `[1, R, ...]`. Shards are numbered view by view: all shards of view 0 first.

A cache that grows keeps the shards it has, with their numbers. Rows that join it begin a shard of their own: where the
last one before them is not full, the arrays have a gap, and row r of the dataset is no longer row r of an array.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.labels import ArraySpec

SHARD_BYTES = 16 * 2**20
CHUNK_BYTES = 256 * 2**10
CHECKSUM_BYTES = 4
INDEX_ENTRY_BYTES = 16
MOST_ROWS = 2**48
MOST_SHARDS = 10**7  # a receipt's file name has nine digits; and a list of the shards has to fit in memory

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` (not included) of one view: what one receipt proves."""

    number: int
    view: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has: fewer than `shard_rows` in the last shard of a view."""
        return self.stop - self.start


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` (not included), which came together, and the place of their first shard in a view."""

    start: int
    stop: int
    place: int
    places: int


@dataclass(frozen=True)
class _Block:
    """Shards that were added together: some views of a part, from `view` on, numbered from `first` on."""

    first: int
    view: int
    views: int
    part: Part


@dataclass(frozen=True)
class Layout:
    """How V views of N rows are cut into shards and inner chunks.

    Args:
        rows: N.
        views: V.
        shard_rows: S.
        chunk_rows: R.
        before: how many (views, rows) there were at first, and after each growth but the last.

    Raises:
        ConfigError: a number that is not positive or far too large, or shards that are not whole chunks.

    >>> Layout(rows=100, views=2, shard_rows=32, chunk_rows=8).shard(7)
    Shard(number=7, view=1, start=96, stop=100)
    >>> Layout(rows=130, views=2, shard_rows=32, chunk_rows=8, before=((2, 100),)).shard(9)
    Shard(number=9, view=1, start=100, stop=130)
    """

    rows: int
    views: int
    shard_rows: int
    chunk_rows: int
    before: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("rows", "views", "shard_rows", "chunk_rows"):
            _refuse_outside(name, getattr(self, name))
        if self.shard_rows % self.chunk_rows:
            raise ConfigError(
                f"shard_rows = {self.shard_rows} is not a multiple of chunk_rows = {self.chunk_rows}; a shard is made "
                "of whole chunks. Change one of them, or leave both out."
            )
        if self.shards > MOST_SHARDS:
            raise ConfigError(
                f"shard_rows = {self.shard_rows} cuts {self.views} views of {self.rows} rows into {self.shards} "
                f"shards, of which {MOST_SHARDS} are allowed. Set a larger shard_rows, or leave it out."
            )

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The rows that there were at first, and those of each growth, in order."""
        found, place = [], 0
        for start, stop in pairwise(sorted({0, self.rows, *(rows for _, rows in self.before)})):
            found.append(Part(start, stop, place, -(-(stop - start) // self.shard_rows)))
            place += found[-1].places
        return tuple(found)

    @property
    def shards_per_view(self) -> int:
        """How many shards a view is cut into."""
        return self.parts[-1].place + self.parts[-1].places

    @property
    def array_rows(self) -> int:
        """How long an array is in its second axis: the rows, and the gaps between parts."""
        last = self.parts[-1]
        return last.place * self.shard_rows + last.stop - last.start

    @property
    def shards(self) -> int:
        """How many shards there are in all: for each of them, one file an array and one receipt."""
        return self.views * self.shards_per_view

    @property
    def chunks_per_shard(self) -> int:
        """How many inner chunks the index of every shard counts, present or not."""
        return self.shard_rows // self.chunk_rows

    @cached_property
    def _blocks(self) -> tuple[_Block, ...]:
        found, first = [], 0
        for (views, rows), (more_views, more_rows) in pairwise(((0, 0), *self.before, (self.views, self.rows))):
            for part in self.parts:
                view = views if part.stop <= rows else 0
                if part.stop <= more_rows and view < more_views:
                    found.append(_Block(first, view, more_views - view, part))
                    first += found[-1].views * part.places
        return tuple(found)

    def shard(self, number: int) -> Shard:
        """The shard of a number."""
        if not 0 <= number < self.shards:
            raise IndexError(f"shard {number} of {self.shards}")
        block = self._blocks[bisect_right(self._blocks, number, key=lambda each: each.first) - 1]
        view, place = divmod(number - block.first, block.part.places)
        start = block.part.start + place * self.shard_rows
        return Shard(number, block.view + view, start, min(start + self.shard_rows, block.part.stop))

    def place(self, shard: Shard) -> int:
        """Where a shard stands in its view."""
        part = self.parts[bisect_right(self.parts, shard.start, key=lambda each: each.start) - 1]
        return part.place + (shard.start - part.start) // self.shard_rows

    def number(self, view: int, place: int) -> int:
        """The number of the shard at a place of a view; IndexError if there is none."""
        for block in self._blocks:
            row, column = view - block.view, place - block.part.place
            if 0 <= row < block.views and 0 <= column < block.part.places:
                return block.first + row * block.part.places + column
        raise IndexError(f"shard {place} of view {view}: there are {self.shards_per_view} of {self.views} views")

    def all_shards(self) -> Iterator[Shard]:
        """Every shard, by number."""
        return map(self.shard, range(self.shards))

    @property
    def largest(self) -> Shard:
        """A shard with as many rows as any."""
        return max((self.shard(block.first) for block in self._blocks), key=lambda shard: shard.rows)

    def chunks_in(self, shard: Shard) -> int:
        """How many inner chunks of a shard hold rows; the others are not stored."""
        return -(-shard.rows // self.chunk_rows)

    def array_rows_of(self, rows: Rows) -> Rows:
        """The second index into an array of some rows, `[n]`."""
        if len(self.parts) == 1:
            return rows
        starts, places = np.array([(part.start, part.place) for part in self.parts]).T
        part = np.searchsorted(starts, rows, "right") - 1
        shifts: Rows = places * self.shard_rows - starts
        return rows + shifts[part]

    def flattened(self, views: Rows | int, rows: Rows) -> Rows:
        """Where rows of views would be, `[n]`, if all shards stood in one line, by number, each of them full."""
        if len(self.parts) == 1:  # then the shards of a view have numbers in a row, whenever it came
            first = isinstance(views, int) and views == 0
            return rows if first else rows + views * (self.shards_per_view * self.shard_rows)
        places, inside = np.divmod(self.array_rows_of(rows), self.shard_rows)
        numbers: Rows = self._numbers[views, places]
        return numbers * self.shard_rows + inside

    def unflattened(self, places: Rows) -> tuple[Rows, Rows]:
        """The view and the second index into an array, `[n]` each, of what is there in that line."""
        if len(self.parts) == 1:
            views, rows = np.divmod(places, self.shards_per_view * self.shard_rows)
            return views, rows
        numbers, inside = np.divmod(places, self.shard_rows)
        views, places = np.divmod(np.argsort(self._numbers, axis=None)[numbers], self.shards_per_view)
        return views, places * self.shard_rows + inside

    @cached_property
    def _numbers(self) -> Rows:
        """The number of every shard, `[views, shards_per_view]`."""
        numbers = np.empty((self.views, self.shards_per_view), np.int64)
        for block in self._blocks:
            views, places = block.views, block.part.places
            these = block.first + np.arange(views * places).reshape(views, places)
            numbers[block.view : block.view + views, block.part.place : block.part.place + places] = these
        return numbers


def choose(row_bytes: int, rows: int, shard_rows: int | None, chunk_rows: int | None) -> tuple[int, int]:
    """Rows a shard and rows a chunk, where not both are asked for.

    Aims at 16 MiB a shard and 256 KiB a chunk of the widest array, and never at more than the rows need. Chunk rows
    left out make equal chunks: `shard_rows` then grows by less than one row a chunk, if it must, to be a whole number
    of them.

    Args:
        row_bytes: bytes of a row in the widest array.
        rows: rows of one view.
        shard_rows: what was asked for, or None.
        chunk_rows: what was asked for, or None.

    >>> choose(row_bytes=2000, rows=1_281_167, shard_rows=None, chunk_rows=None)
    (8384, 131)
    """
    for name, value in {"rows": rows, "shard_rows": shard_rows, "chunk_rows": chunk_rows}.items():
        if value is not None:
            _refuse_outside(name, value)
    if shard_rows and chunk_rows:
        return shard_rows, chunk_rows
    widest = chunk_rows or min(max(1, CHUNK_BYTES // row_bytes), rows)
    if shard_rows:
        chunks = math.ceil(shard_rows / widest)
        widest = math.ceil(shard_rows / chunks)
        return chunks * widest, widest
    chunks = min(max(1, SHARD_BYTES // (row_bytes * widest)), math.ceil(rows / widest))
    return chunks * widest, widest


def row_bytes(spec: ArraySpec) -> int:
    """Bytes of one row of an array."""
    return np.dtype(spec.dtype).itemsize * math.prod(spec.row_shape)


def chunk_bytes(spec: ArraySpec, layout: Layout) -> int:
    """Bytes of one inner chunk in a shard file, its checksum included."""
    return layout.chunk_rows * row_bytes(spec) + CHECKSUM_BYTES


def index_bytes(layout: Layout) -> int:
    """Bytes of the index that ends a shard file, its checksum included."""
    return layout.chunks_per_shard * INDEX_ENTRY_BYTES + CHECKSUM_BYTES


def shard_file_bytes(spec: ArraySpec, layout: Layout, shard: Shard) -> int:
    """The exact size of a shard's file: its chunks, each with a checksum, and the index."""
    return layout.chunks_in(shard) * chunk_bytes(spec, layout) + index_bytes(layout)


def _refuse_outside(name: str, value: int) -> None:
    if not 0 < value <= MOST_ROWS:
        raise ConfigError(f"{name} = {value}: expected a whole number from 1 to {MOST_ROWS}. Change it.")
