"""Datasets of one HDF5 file, named by their keys. The only module that imports h5py."""

from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.contract import check_inputs, integer_vector
from pipeline.datasets.handles import PerProcess
from pipeline.errors import DatasetError

KEYS_SHOWN = 20


class Hdf5Dataset:
    """The inputs stay in the file, opened lazily in each process; labels and ids are read once."""

    classes: int | None = None
    class_names: tuple[str, ...] | None = None

    def __init__(self, path: str | Path, inputs: str, labels: str | None, ids: str | None) -> None:
        with _open(path) as file:
            found = _dataset(file, path, inputs)
            check_inputs(found.shape, found.dtype, f"{path}: {inputs}")
            self.input_shape: tuple[int, ...] = found.shape[1:]
            self.input_dtype: np.dtype[np.generic] = found.dtype.newbyteorder("=")
            self.labels = None if labels is None else _vector(file, path, labels)
            self.ids = np.arange(len(found), dtype=np.int64) if ids is None else _vector(file, path, ids)
            self._length = len(found)
        self._path, self._key = path, inputs
        self._file = PerProcess(partial(_open, path))

    def __len__(self) -> int:
        return self._length

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`: the samples at these positions."""
        # h5py takes rising positions only, each once.
        unique, places = np.unique(rows, return_inverse=True)
        values = _read(_dataset(self._file.get(), self._path, self._key), unique, self._path)
        return np.ascontiguousarray(values[places], dtype=self.input_dtype)


class Hdf5Vector:
    """One dataset of a file, read by stretches of its first axis; the file is opened lazily in each process."""

    def __init__(self, path: str | Path, key: str) -> None:
        with _open(path) as file:
            found = _dataset(file, path, key)
            self.shape: tuple[int, ...] = found.shape or ()
            self.dtype: np.dtype[np.generic] = found.dtype
        self._path, self._key = path, key
        self._file = PerProcess(partial(_open, path))

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """What lies from `start` to before `stop`."""
        return _read(_dataset(self._file.get(), self._path, self._key), slice(start, stop), self._path)


def from_hdf5(path: str | Path, inputs: str, labels: str | None = None, ids: str | None = None) -> Hdf5Dataset:
    """The inputs, labels and ids that these keys of an HDF5 file hold; without ids, the position is the id.

    Not for random access to large compressed chunks: a row costs the decoding of its whole chunk, every time. And not
    for many reading threads: HDF5 answers one at a time.
    """
    return Hdf5Dataset(path, inputs, labels, ids)


def _open(path: str | Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file; expected an HDF5 file. Correct the path.") from None
    except OSError as error:
        raise DatasetError(
            f"{path}: this cannot be opened as an HDF5 file: {error}. It is another format, cut short, or still being "
            "written: point at a finished HDF5 file."
        ) from error


def _dataset(file: h5py.File, path: str | Path, key: str) -> h5py.Dataset:
    found = file.get(key) if key else None
    if isinstance(found, h5py.Dataset):
        return found
    problem = "is a group" if isinstance(found, h5py.Group) else "does not exist"
    raise DatasetError(
        f"{path}: the key {key!r} {problem}; the datasets of this file are: {_keys(file)}. Name one of those."
    )


def _keys(file: h5py.File) -> str:
    keys: list[str] = []
    file.visititems(lambda key, node: keys.append(key) if isinstance(node, h5py.Dataset) else None)
    more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    return ", ".join(keys[:KEYS_SHOWN]) + more or "none"


def _vector(file: h5py.File, path: str | Path, key: str) -> NDArray[np.int64]:
    return integer_vector(_read(_dataset(file, path, key), (), path), f"{path}: {key}")


def _read(
    dataset: h5py.Dataset, selection: NDArray[np.int64] | slice | tuple[()], path: str | Path
) -> NDArray[np.generic]:
    try:
        return np.asarray(dataset[selection])
    except OSError as error:
        raise DatasetError(
            f"{path}: {dataset.name} cannot be read: {error}. The file is damaged, or its "
            "compression filter is not installed."
        ) from error
