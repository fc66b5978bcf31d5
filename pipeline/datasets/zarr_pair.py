"""A Zarr array of inputs and, beside it, arrays of labels and ids. Zarr itself is reached through the store's door."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.contract import check_inputs, integer_vector
from pipeline.datasets.handles import PerProcess

if TYPE_CHECKING:
    from pipeline.store.group import ArrayReader


class ZarrDataset:
    """The inputs stay in the array, opened lazily in each process; labels and ids are read once."""

    classes: int | None = None
    class_names: tuple[str, ...] | None = None

    def __init__(self, inputs: str | Path, labels: str | Path | None, ids: str | Path | None) -> None:
        self._array = PerProcess(partial(_open, inputs))
        array = self._array.get()
        check_inputs(array.shape, array.dtype, str(inputs))
        self.input_shape: tuple[int, ...] = array.shape[1:]
        self.input_dtype: np.dtype[np.generic] = array.dtype.newbyteorder("=")
        self.labels = None if labels is None else _vector(labels)
        self.ids = np.arange(array.shape[0], dtype=np.int64) if ids is None else _vector(ids)
        self._length = array.shape[0]

    def __len__(self) -> int:
        return self._length

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`: the samples at these positions."""
        return np.ascontiguousarray(self._array.get().gather(rows), dtype=self.input_dtype)


class ZarrVector:
    """One array, read by stretches of its first axis; opened lazily in each process."""

    def __init__(self, path: str | Path) -> None:
        self._array = PerProcess(partial(_open, path))
        array = self._array.get()
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[np.generic] = array.dtype

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """What lies from `start` to before `stop`."""
        return self._array.get().gather(np.arange(start, stop, dtype=np.int64))


def from_zarr(inputs: str | Path, labels: str | Path | None = None, ids: str | Path | None = None) -> ZarrDataset:
    """The inputs, labels and ids of these Zarr arrays; without ids, the position is the id.

    Not for training in random order from an array with many samples a chunk: every row costs the decoding of its whole
    chunk, a few thousand rows a second. Write such an array out as IDX, which is mapped.
    """
    return ZarrDataset(inputs, labels, ids)


def _open(path: str | Path) -> ArrayReader:
    from pipeline.store.group import open_array  # noqa: PLC0415  # loads zarr: only who reads Zarr arrays pays for it

    return open_array(Path(path))


def _vector(path: str | Path) -> NDArray[np.int64]:
    array = _open(path)
    check_inputs(array.shape, array.dtype, str(path))
    return integer_vector(array.gather(np.arange(array.shape[0], dtype=np.int64)), str(path))
