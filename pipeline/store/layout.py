"""Which shards and inner chunks the arrays of a cache have. Integers only; nothing here touches a disk.

Every array is `[V, N, ...]`: V views of N rows. A shard holds `[1, S, ...]` of it and is one file; its inner chunks
hold `[1, R, ...]`. Shards are numbered view by view: all shards of view 0 first.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from pipeline.errors import ConfigError
from pipeline.labels import ArraySpec

SHARD_BYTES = 16 * 2**20
CHUNK_BYTES = 256 * 2**10
CHECKSUM_BYTES = 4
INDEX_ENTRY_BYTES = 16
MOST_ROWS = 2**48
MOST_SHARDS = 10**7  # a receipt's file name has nine digits; and a list of the shards has to fit in memory


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
class Layout:
    """How V views of N rows are cut into shards and inner chunks.

    Raises:
        ConfigError: a number that is not positive or far too large, or shards that are not whole chunks.

    >>> Layout(rows=100, views=2, shard_rows=32, chunk_rows=8).shard(7)
    Shard(number=7, view=1, start=96, stop=100)
    """

    rows: int
    views: int
    shard_rows: int
    chunk_rows: int

    def __post_init__(self) -> None:
        for field in fields(self):
            _refuse_outside(field.name, getattr(self, field.name))
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

    @property
    def shards_per_view(self) -> int:
        """How many shards a view is cut into."""
        return -(-self.rows // self.shard_rows)

    @property
    def shards(self) -> int:
        """How many shards there are in all: for each of them, one file an array and one receipt."""
        return self.views * self.shards_per_view

    @property
    def chunks_per_shard(self) -> int:
        """How many inner chunks the index of every shard counts, present or not."""
        return self.shard_rows // self.chunk_rows

    def shard(self, number: int) -> Shard:
        """The shard of a number."""
        if not 0 <= number < self.shards:
            raise IndexError(f"shard {number} of {self.shards}")
        view, place = divmod(number, self.shards_per_view)
        start = place * self.shard_rows
        return Shard(number, view, start, min(start + self.shard_rows, self.rows))

    def all_shards(self) -> Iterator[Shard]:
        """Every shard, by number."""
        return map(self.shard, range(self.shards))

    def chunks_in(self, shard: Shard) -> int:
        """How many inner chunks of a shard hold rows; the others are not stored."""
        return -(-shard.rows // self.chunk_rows)


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
