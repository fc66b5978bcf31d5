"""Arrays in NumPy's own files, mapped: what a large dataset is fastest and smallest in memory from."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.contract import check_inputs, integer_vector
from pipeline.datasets.handles import PerProcess
from pipeline.errors import DatasetError


class NpyDataset:
    """Nothing is read before it is asked for, labels and ids neither, if they are int64."""

    classes: int | None = None
    class_names: tuple[str, ...] | None = None

    def __init__(self, inputs: str | Path, labels: str | Path | None, ids: str | Path | None) -> None:
        self._array = PerProcess(partial(open_npy, inputs))
        array = self._array.get()
        self.input_shape: tuple[int, ...] = array.shape[1:]
        self.input_dtype: np.dtype[np.generic] = array.dtype.newbyteorder("=")
        self.labels = None if labels is None else integer_vector(open_npy(labels), str(labels))
        self.ids = np.arange(len(array)) if ids is None else integer_vector(open_npy(ids), str(ids))
        self._length = len(array)

    def __len__(self) -> int:
        return self._length

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`: the samples at these positions."""
        return np.ascontiguousarray(self._array.get()[rows], dtype=self.input_dtype)


def from_npy(inputs: str | Path, labels: str | Path | None = None, ids: str | Path | None = None) -> NpyDataset:
    """The inputs, labels and ids of these `.npy` files; without ids, the position is the id.

    Not for files that may change or shrink while they are read: they are mapped. And give `ids` where memory is to stay
    the same for any number of rows: positions take 8 bytes a row. A process that is spawned, not forked, is sent labels
    and ids whole.
    """
    return NpyDataset(inputs, labels, ids)


def open_npy(path: str | Path) -> NDArray[np.generic]:
    """The array of a `.npy` file, mapped.

    Raises:
        DatasetError: there is none, or it holds no numbers.

    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file; expected a .npy file. Correct the path.") from None
    except Exception as error:  # its header is parsed as Python: anything may come of it
        raise DatasetError(
            f"{path}: this cannot be read as a .npy file: {error}. It is another format (an .npz archive holds several "
            "arrays), cut short, or holds Python objects: write one array to it with numpy.save."
        ) from error
    check_inputs(array.shape, array.dtype, str(path))
    return np.asarray(array)
