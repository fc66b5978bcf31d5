"""The bytes of a shard file: Zarr v3's sharding codec, little-endian `bytes` and `crc32c` inside, its index at the end.

    chunk 0 | crc32c | chunk 1 | crc32c | ... | index | crc32c

The index gives offset and size of each inner chunk as little-endian uint64, or twice 2**64 - 1 for one that is not
stored. All chunks are of one size and stored in order, so the whole index follows from the layout: a reader need not
believe it, only compare it.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from pipeline.errors import CorruptError
from pipeline.labels import ArraySpec
from pipeline.store.layout import CHECKSUM_BYTES, Layout, Shard, chunk_bytes, index_bytes, row_bytes, shard_file_bytes

MISSING = 2**64 - 1
REPAIR = (
    "Run `softlabels verify` to see all that is damaged. Then restore the file from a copy; or delete seal.json and "
    "this shard's receipt, and run the same `softlabels generate` again: it makes this shard anew."
)


def stored_dtype(spec: ArraySpec) -> np.dtype[np.generic]:
    """An array's dtype on disk, on a machine of any byte order."""
    return np.dtype(spec.dtype).newbyteorder("<")


def encode_shard(block: NDArray[np.generic], spec: ArraySpec, layout: Layout) -> list[memoryview | bytes]:
    """The content of a shard file, in pieces.

    Args:
        block: the shard's rows of one array, `[n, *row_shape]`.
        spec: the array.
        layout: how many rows a chunk has; rows past the end of the last one hold the fill value.

    """
    rows = np.ascontiguousarray(block, stored_dtype(spec))
    pieces: list[memoryview | bytes] = []
    for start in range(0, len(rows), layout.chunk_rows):
        part = rows[start : start + layout.chunk_rows]
        if len(part) < layout.chunk_rows:
            part = _filled(part, spec, layout)
        data = part.reshape(-1).view(np.uint8).data
        pieces += [data, _checksum(data)]
    return [*pieces, _index(len(pieces) // 2, spec, layout)]


def chain_of(pieces: Sequence[memoryview | bytes]) -> int:
    """The chain of a shard file, from the pieces of its content: crc32c over the checksums of its chunks, in order.

    It tells one whole file from another and needs no chunk to be read; that a chunk is the one that was chained, its
    checksum says.
    """
    return int(crc32c(b"".join(pieces[1:-1:2])))


def check_chain(content: memoryview, spec: ArraySpec, layout: Layout, chain: int, path: Path | str) -> None:
    """Raise CorruptError unless a shard file, whose size is known to be right, has its chain; no chunk is read."""
    size = chunk_bytes(spec, layout)
    count = (len(content) - index_bytes(layout)) // size
    checksums = np.ndarray((count, CHECKSUM_BYTES), np.uint8, content, size - CHECKSUM_BYTES, (size, 1))
    if crc32c(checksums.tobytes()) != chain:
        raise CorruptError(
            f"{path} does not have the chunks that its receipt is for: it changed, or another file was put in its "
            f"place. {REPAIR}"
        )


def check_index(content: memoryview, spec: ArraySpec, layout: Layout, shard: Shard, path: Path | str) -> None:
    """Raise CorruptError unless a shard file has its size and its index, to the byte."""
    expected = shard_file_bytes(spec, layout, shard)
    if len(content) != expected:
        raise CorruptError(f"{path} has {len(content)} bytes, and {expected} were written. {REPAIR}")
    if content[-index_bytes(layout) :] != _index(layout.chunks_in(shard), spec, layout):
        raise CorruptError(f"{path}: the index at its end is not the one that was written. {REPAIR}")


def chunk_is_whole(content: memoryview, number: int, spec: ArraySpec, layout: Layout) -> bool:
    """Whether an inner chunk has its checksum."""
    size = chunk_bytes(spec, layout)
    chunk = content[number * size : (number + 1) * size]
    return chunk[-CHECKSUM_BYTES:] == _checksum(chunk[:-CHECKSUM_BYTES])


def rows_in(content: memoryview, spec: ArraySpec, layout: Layout, shard: Shard) -> NDArray[np.void]:
    """The rows of a shard file as opaque items, `[chunks, chunk_rows]`; nothing is copied or checked.

    Rows are opaque because the checksums between them leave most numbers at odd addresses, where NumPy gathers slowly.
    """
    width = row_bytes(spec)
    shape, strides = (layout.chunks_in(shard), layout.chunk_rows), (chunk_bytes(spec, layout), width)
    return np.ndarray(shape, np.dtype((np.void, width)), content, strides=strides)


def decoded(rows: NDArray[np.void], spec: ArraySpec) -> NDArray[np.generic]:
    """Opaque rows `[n]` as the numbers they hold, `[n, *row_shape]`, in this machine's byte order."""
    numbers = np.ascontiguousarray(rows).view(stored_dtype(spec)).reshape(len(rows), *spec.row_shape)
    return numbers.astype(spec.dtype, copy=False)


def ids_sha256(ids: NDArray[np.generic]) -> str:
    """The digest of sample ids `[n]` as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(ids, "<i8").tobytes()).hexdigest()


def _filled(part: NDArray[np.generic], spec: ArraySpec, layout: Layout) -> NDArray[np.generic]:
    chunk = np.full((layout.chunk_rows, *spec.row_shape), spec.fill, stored_dtype(spec))
    chunk[: len(part)] = part
    return chunk


def _index(chunks: int, spec: ArraySpec, layout: Layout) -> bytes:
    size = chunk_bytes(spec, layout)
    entries = np.full((layout.chunks_per_shard, 2), MISSING, "<u8")
    entries[:chunks, 0] = np.arange(chunks) * size
    entries[:chunks, 1] = size
    return entries.tobytes() + _checksum(entries.tobytes())


def _checksum(data: bytes | memoryview) -> bytes:
    return crc32c(data).to_bytes(CHECKSUM_BYTES, "little")
