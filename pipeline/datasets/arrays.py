"""A dataset whose inputs are one NumPy array, in memory or mapped from a file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """`array` is `[N, *input_shape]` in any byte order; a batch is always in the machine's own."""

    array: NDArray[np.generic]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.array.shape[1:]

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """The dtype of a batch."""
        return self.array.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return len(self.array)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`: the samples at these positions."""
        return np.ascontiguousarray(self.array[rows], dtype=self.input_dtype)
