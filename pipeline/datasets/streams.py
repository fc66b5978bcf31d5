"""Long vectors of integers on disk, read by stretches: the tokens of all documents, and what lies beside them.

Whatever holds one, no more of it is in memory than was asked for.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.handles import PerProcess
from pipeline.datasets.hdf5 import Hdf5Vector
from pipeline.datasets.npy import open_npy
from pipeline.datasets.zarr_pair import ZarrVector
from pipeline.errors import DatasetError

BLOCK = 2**20
RAW_DTYPES = ("uint16", "uint32", "int32", "int64")
MARKS = "uint8"

_HDF5 = re.compile(r"(.+\.(?:h5|hdf5)):(.+)")


class Vector(Protocol):
    """An array of one axis, read by any number of threads at once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How long it is, where it is a vector."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """What it holds, as it is stored."""

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """What lies from `start` to before `stop`."""


class MappedVector:
    """A `.npy` file, or a raw one of this dtype, mapped anew in each process."""

    def __init__(self, path: Path, dtype: str | None = None) -> None:
        self._array = PerProcess(partial(open_npy, path) if dtype is None else partial(_raw, path, dtype))
        array = self._array.get()
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[np.generic] = array.dtype

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """What lies from `start` to before `stop`: the mapped file itself."""
        return self._array.get()[start:stop]

    def whole(self) -> NDArray[np.generic]:
        """All of it, of which nothing is read yet."""
        return self._array.get()


def open_vector(path: str | Path, dtype: str | None = None, *, what: str = "tokens") -> Vector:
    """The vector of integers at a place: X.npy, X.bin (of this dtype), X.h5:KEY or a Zarr array X.zarr.

    Raises:
        DatasetError: there is none, or it is something else.

    """
    found = _opened(Path(path), dtype, what)
    if len(found.shape) != 1 or found.dtype.kind not in "biu":
        raise DatasetError(
            f"{path}: found {found.dtype} of shape {list(found.shape)}, expected a vector of integers, all {what} one "
            "after the other. Write it flat."
        )
    return found


def blocks(vector: Vector, size: int = BLOCK) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """All of a vector, block by block, and where each begins."""
    length = vector.shape[0]
    return ((start, vector.read(start, min(start + size, length))) for start in range(0, length, size))


def _opened(path: Path, dtype: str | None, what: str) -> Vector:
    if path.suffix == ".bin":
        if dtype not in (*RAW_DTYPES, MARKS):
            raise DatasetError(
                f"{path}: found dtype = {dtype!r}, expected one of {', '.join(RAW_DTYPES)}: a .bin file holds numbers "
                "and nothing that says which. Say what it was written as."
            )
        return MappedVector(path, dtype)
    if dtype is not None:
        raise DatasetError(f"{path}: found dtype = {dtype!r}, which is of .bin files: this says itself. Leave it out.")
    if path.suffix == ".npy":
        return MappedVector(path)
    if parts := _HDF5.fullmatch(str(path)):
        return Hdf5Vector(parts[1], parts[2])
    if path.suffix == ".zarr" or any((path / each).is_file() for each in ("zarr.json", ".zarray")):
        return ZarrVector(path)
    problem = "this is no array of a known kind" if path.exists() else "there is no such file or folder"
    raise DatasetError(
        f"{path}: {problem}; expected {what} as X.npy, X.bin, X.h5:KEY or X.zarr, or the folder that `softlabels "
        "tokenize` wrote. Correct the path."
    )


def _raw(path: Path, dtype: str) -> NDArray[np.generic]:
    stored: np.dtype[np.generic] = np.dtype(dtype).newbyteorder("<")
    try:
        size = path.stat().st_size
        if size % stored.itemsize:
            raise DatasetError(
                f"{path}: found {size} bytes, expected a multiple of {stored.itemsize}, the bytes of one {dtype}. It "
                "is cut short, or of another dtype: correct `dtype`, or write the file again."
            )
        return np.asarray(np.memmap(path, stored, "r")) if size else np.empty(0, stored)
    except OSError as error:
        raise DatasetError(
            f"{path}: this file cannot be read: {error.strerror or error}; expected raw numbers. Correct the path."
        ) from error
