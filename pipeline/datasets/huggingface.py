"""Datasets of the library `datasets`, from a folder or by name. The only module that imports it, and only when asked.

Shape legend: N samples, B rows asked for at once.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.checks import UNLABELLED
from pipeline.datasets.contract import Dataset, check_inputs, integer_vector
from pipeline.datasets.encoded import REFUSE, Cut, from_shelf
from pipeline.errors import DatasetError

TRAIN = "train"


@dataclass(frozen=True, eq=False)
class Column:
    """Encoded pictures in a column, which gives their bytes or a path."""

    table: Any
    column: str
    what: str

    def __len__(self) -> int:
        return len(self.table)

    def name(self, place: int) -> str:
        """The dataset, the column and the row."""
        return f"{self.what}: row {place} of {self.column!r}"

    def content(self, place: int) -> bytes:
        """The bytes of this picture as they are stored."""
        try:
            cell = self.table[place][self.column] or {}
            content = cell.get("bytes")
            return bytes(content) if content is not None else Path(cell["path"]).read_bytes()
        except Exception as error:  # of another library, and of the files that it names
            raise DatasetError(
                f"{self.name(place)} cannot be read: {type(error).__name__}: {error}. Expected a picture in every row: "
                "save the dataset anew, without rows that have none."
            ) from error


@dataclass(frozen=True, eq=False)
class NumericDataset:
    """Numbers in a column, all of the shape of the first row."""

    table: Any
    column: str
    what: str
    input_shape: tuple[int, ...]
    input_dtype: np.dtype[np.generic]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None
    classes: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`: the samples at these positions."""
        if not len(rows):
            return np.empty((0, *self.input_shape), self.input_dtype)
        values = _numbers(self.table, self.column, rows, self.input_dtype, self.what)
        if values.shape[1:] != self.input_shape:
            raise _uneven(self.what, self.column, f"{list(values.shape[1:])} and {list(self.input_shape)}")
        return values


def from_huggingface(
    *,
    input: str,  # noqa: A002 - what the column is called in an experiment file
    path: str | Path | None = None,
    name: str | None = None,
    config: str | None = None,
    split: str | None = None,
    label: str | None = None,
    size: int | None = None,
    crop: float = 1.0,
    interpolation: str = "bilinear",
    damaged: str = REFUSE,
) -> Dataset:
    """A column of inputs of a dataset of Hugging Face's library, and one of labels; an id is the number of the row.

    `path` is where `save_to_disk` put it; `name` is what `load_dataset` knows it by, which may fetch it. A column of
    pictures is decoded to uint8 `[3, size, size]`; one of numbers stays as it is, and every row has the shape of the
    first. Labels are integers, or of the type `ClassLabel`, which names the classes.

    Not for a dataset whose rows may be sorted, filtered or published anew between two runs: a row's number is its name.
    And not for large arrays of numbers: they are converted row by row, where `kind = "npy"` maps them.
    """
    what = str(path) if name is None else name
    found = _opened(path, name, config, split, what)
    table = found if name is not None and split is not None else _split(found, split, what)
    for column in (input, *(() if label is None else (label,))):
        if column not in table.features:
            raise DatasetError(
                f"{what}: there is no column {column!r}, expected one of {', '.join(table.features)}. Name one of "
                "those."
            )
    ids = np.arange(len(table), dtype=np.int64)
    labels, names = (None, None) if label is None else _labels(table, label, what)
    if type(table.features[input]).__name__ != "Image":
        if size is not None:
            raise DatasetError(f"{what}: `size` is of pictures, and the column {input!r} holds none. Leave it out.")
        bare, dtype = table.select_columns([input]).with_format(None), _dtype(table.features[input], f"{what}: {input}")
        shape = _numbers(bare, input, ids[:1], dtype, what).shape[1:]
        return NumericDataset(bare, input, what, shape, dtype, ids, labels, names)
    if size is None:
        raise DatasetError(f"{what}: the column {input!r} holds pictures, which need a size. Say `size = 224`, or so.")
    cut = Cut(size, crop, interpolation, damaged)
    encoded = table.select_columns([input]).cast_column(input, _library().Image(decode=False))
    return from_shelf(Column(encoded, input, what), cut, ids, labels, names)


def rows_of(name: str, config: str | None, split: str | None) -> Iterator[Mapping[str, object]]:
    """The rows of a dataset, one after the other: of a folder that `save_to_disk` made, or by name.

    Where there are several splits and none is asked for, "train" is meant.

    Raises:
        DatasetError: it cannot be opened or read, or has no such split; or the library is not there.

    """
    library = _library(f"hf:{name}")
    saved = any((Path(name) / each).is_file() for each in ("state.json", "dataset_dict.json"))
    try:
        if saved:
            found = library.load_from_disk(name)
            yield from _split(found, split or (TRAIN if hasattr(found, "keys") else None), name)
        else:
            yield from library.load_dataset(name, config, split=split or TRAIN, streaming=True)
    except DatasetError:
        raise
    except Exception as error:  # of a disk, a network or what is there
        raise DatasetError(
            f"hf:{name}: the split {split or TRAIN!r} cannot be read: {type(error).__name__}: {error}. Expected "
            "a folder that save_to_disk made, or the name of a published dataset, and one of its splits: correct them."
        ) from error


def _library(what: str = 'kind = "huggingface"') -> Any:  # noqa: ANN401 - the library is there for some only: no types
    try:
        found = importlib.import_module("datasets")
        # A folder of this name in the working directory is imported as well, as a package of nothing.
        missing = "" if hasattr(found, "load_from_disk") else "what is found by that name is a folder, and no library"
    except ImportError as error:
        missing = str(error)
    if missing:
        raise DatasetError(
            f"{what} needs the library `datasets`, which cannot be imported here: {missing}. Install it: "
            "pip install datasets"
        )
    return found


def _opened(path: str | Path | None, name: str | None, config: str | None, split: str | None, what: str) -> Any:  # noqa: ANN401
    library = _library()
    if (path is None) == (name is None):
        raise DatasetError("found both `path` and `name`, or none of the two, expected one. Leave the other out.")
    try:
        return library.load_from_disk(str(path)) if name is None else library.load_dataset(name, config, split=split)
    except Exception as error:  # of a disk, a network or what is there
        raise DatasetError(
            f"{what}: this dataset cannot be opened: {type(error).__name__}: {error}. Expected "
            f"{'a folder that save_to_disk made' if name is None else 'the name of a published dataset'}: correct it."
        ) from error


def _split(found: Any, split: str | None, what: str) -> Any:  # noqa: ANN401
    """The one table that is meant."""
    if not hasattr(found, "keys"):
        if split is not None and str(found.split) != split:
            raise DatasetError(
                f"{what}: found one table, of the split {found.split}, expected {split}. Correct `split`, or leave it "
                "out."
            )
        return found
    if split not in found:
        raise DatasetError(
            f"{what}: found the splits {', '.join(found)}, expected `split` to be one of these, not {split!r}. "
            "Name one."
        )
    return found[split]


def _labels(table: Any, column: str, what: str) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:  # noqa: ANN401
    values = table.select_columns([column]).with_format(None)[:][column]
    names = getattr(table.features[column], "names", None)
    vector = integer_vector([UNLABELLED if value is None else value for value in values], f"{what}: {column}")
    return vector, None if names is None else tuple(names)


def _dtype(feature: Any, what: str) -> np.dtype[np.generic]:  # noqa: ANN401
    """The dtype of the numbers in a column, however deep they are in lists."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    try:
        dtype: np.dtype[np.generic] = np.dtype(getattr(feature, "dtype", object))
    except TypeError:
        dtype = np.dtype(object)
    check_inputs((1,), dtype, what)
    return dtype


def _numbers(
    table: Any,  # noqa: ANN401
    column: str,
    rows: NDArray[np.int64],
    dtype: np.dtype[np.generic],
    what: str,
) -> NDArray[np.generic]:
    try:
        return np.array(table[rows.tolist()][column], dtype=dtype)
    except (TypeError, ValueError) as error:
        raise _uneven(what, column, str(error)) from error


def _uneven(what: str, column: str, found: str) -> DatasetError:
    return DatasetError(
        f"{what}: rows of {column!r} are not numbers of one shape: {found}. Expected every row like the first: mend "
        "the column, or name another."
    )
