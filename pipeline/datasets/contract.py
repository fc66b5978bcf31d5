"""What every dataset promises, and the two checks that each kind makes on what it reads.

Shape legend
    N  samples
    B  rows asked for at once
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DatasetError


class Dataset(Protocol):
    """Samples by id: row r of N is the sample that is named `ids[r]`, whoever opens the dataset and whenever."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """`[N]`: the stable name of each sample, unique and >= 0."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """`[N]`: the true class of each sample, -1 where it has none; None when no sample has one."""

    @property
    def classes(self) -> int | None:
        """How many classes there are, if the dataset knows."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name a class, if the dataset knows."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """The dtype of the inputs as they are stored, in the machine's byte order: uint8 images stay uint8."""

    def __len__(self) -> int:
        """N."""

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`, C-contiguous: the samples at positions 0..N-1, in the order asked for."""


def check_inputs(shape: tuple[int, ...] | None, dtype: np.dtype[np.generic], what: str) -> None:
    """Refuse what cannot be a stack of N numeric inputs, `[N, ...]`."""
    if not shape:
        raise DatasetError(f"{what}: found a single value, expected an array of samples, [N, ...].")
    if dtype.kind not in "biuf":
        raise DatasetError(
            f"{what}: found inputs of dtype {dtype}, expected booleans, integers or floating-point numbers."
        )


def integer_vector(values: object, what: str) -> NDArray[np.int64]:
    """`[N]`: labels or ids as int64.

    Raises:
        DatasetError: `values` is not a vector of integers, or one of them needs more than 63 bits.

    """
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{what}: expected one integer a sample, [N], but this is no array: {error}.") from error
    if found.ndim != 1:
        raise DatasetError(f"{what}: found an array of shape {list(found.shape)}, expected one integer a sample, [N].")
    if found.size and found.dtype.kind not in "biu":
        raise DatasetError(f"{what}: found dtype {found.dtype}, expected integers.")
    if found.size and int(found.max()) >= 2**63:
        raise DatasetError(f"{what}: found {found.max()}, expected integers below 2**63. Drop the highest bit.")
    return np.ascontiguousarray(found, dtype=np.int64)
