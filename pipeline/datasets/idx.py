"""IDX files, plain or gzip: the format of MNIST and its family.

Two zero bytes, a byte for the dtype, a byte for the rank, then each dimension as a big-endian uint32, then the values,
big-endian, the last dimension fastest (described at the foot of Yann LeCun's MNIST page).
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.arrays import ArrayDataset
from pipeline.datasets.contract import integer_vector
from pipeline.errors import DatasetError

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
MAX_RANK = 64  # NumPy has no more dimensions
MAGICS = {bytes((0, 0, code, rank)) for code in DTYPES for rank in range(1, MAX_RANK + 1)}
VECTORS, IMAGES = 2, 3


@dataclass(frozen=True, eq=False)
class IdxDataset(ArrayDataset):
    """An `ArrayDataset` that is pickled as its paths: a worker maps the files itself instead of receiving a copy."""

    paths: tuple[str | Path, str | Path | None] = ("", None)

    def __reduce__(self) -> tuple[object, tuple[str | Path, str | Path | None]]:
        return from_idx, self.paths


def from_idx(inputs: str | Path, labels: str | Path | None = None) -> IdxDataset:
    """Inputs and labels of IDX files; an id is the sample's position in the file.

    `[N, H, W]` is given a channel axis, `[1, H, W]` a sample; vectors `[N, D]` and higher ranks stay as they are. A
    plain file is memory-mapped, a gzip file is decoded into memory once a process: not for a gzip file near the size
    of the memory (gunzip it first), nor for files that grow in front, which would rename every sample.
    """
    array = read_idx(inputs)
    if array.ndim < VECTORS:
        raise DatasetError(
            f"{inputs}: found IDX values of rank {array.ndim}, expected inputs of rank 2 or more, [N, ...]."
        )
    if array.ndim == IMAGES:
        array = array[:, None]
    vector = None if labels is None else integer_vector(read_idx(labels), f"labels {labels}")
    return IdxDataset(array, np.arange(len(array), dtype=np.int64), vector, paths=(inputs, labels))


def read_idx(path: str | Path) -> NDArray[np.generic]:
    """The values of an IDX file, in the file's byte order, read-only.

    Raises:
        DatasetError: the file is missing, is no IDX file, or is not as long as its header says.

    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(4 + 4 * MAX_RANK)
        if start.startswith(GZIP_MAGIC):
            return _decoded(path)
        dtype, shape, offset = _header(path, start)
        _check_length(path, dtype, shape, Path(path).stat().st_size - offset)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    except FileNotFoundError:
        raise DatasetError(_missing(path)) from None
    except OSError as error:
        raise DatasetError(
            f"{path}: this file cannot be read: {error}. Expected an IDX file, plain or gzip."
        ) from error


def _decoded(path: str | Path) -> NDArray[np.generic]:
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path}: this gzip file is cut short or damaged: {error}. Fetch it again.") from error
    dtype, shape, offset = _header(path, content)
    _check_length(path, dtype, shape, len(content) - offset)
    return np.frombuffer(content, dtype=dtype, offset=offset).reshape(shape)


def _header(path: str | Path, start: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    """The dtype, the shape and where the values start."""
    magic = start[:4]
    if magic not in MAGICS:
        codes = " ".join(f"{code:02x}" for code in DTYPES)
        raise DatasetError(
            f"{path}: this is no IDX file: it starts with {magic.hex(' ') or 'nothing'}, expected 00 00, a dtype "
            f"(one of {codes}) and a rank (01 to {MAX_RANK:02x}), plain or inside gzip. Point at the right file."
        )
    rank = magic[3]
    offset = 4 + 4 * rank
    if len(start) < offset:
        raise DatasetError(f"{path}: this IDX file ends inside its header of {offset} bytes. Fetch it again.")
    return np.dtype(DTYPES[magic[2]]), struct.unpack_from(f">{rank}I", start, 4), offset


def _check_length(path: str | Path, dtype: np.dtype[np.generic], shape: tuple[int, ...], found: int) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if found != expected:
        raise DatasetError(
            f"{path}: this IDX file is {'shorter' if found < expected else 'longer'} than its header says: {found} "
            f"bytes of values, expected {expected} for the shape {list(shape)} of {dtype.name}. Fetch it again."
        )


def _missing(path: str | Path) -> str:
    text = f"{path}: there is no such file; expected an IDX file, plain or gzip."
    if "fashion-mnist" in str(path):
        return (
            f"{text} Debian's package dataset-fashion-mnist installs Fashion-MNIST: apt install dataset-fashion-mnist."
        )
    if "data/mnist/" in str(path):
        return f"{text} `make mnist` fetches MNIST."
    return f"{text} Correct the path, or fetch the file first."
