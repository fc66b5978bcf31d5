"""The user's own dataset: `kind = "package.module:callable"`, or any map-style dataset that callable returns."""

import operator
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.contract import Dataset, check_inputs, integer_vector
from pipeline.errors import ConfigError, DatasetError, SoftLabelsError
from pipeline.references import resolve

PAIR = 2
REST = ("labels", "classes", "class_names", "input_shape", "input_dtype", "__len__")  # beside inputs() and ids


class Items(Protocol):
    """A map-style dataset, such as torch and torchvision have."""

    def __len__(self) -> int:
        """How many items."""

    def __getitem__(self, row: int, /) -> object:
        """An input, or an `(input, label)` pair."""


def from_factory(reference: str, arguments: Mapping[str, object]) -> Dataset:
    """Call `package.module:callable` with keyword arguments; what it returns is a `Dataset`, or is made one.

    A map-style dataset has `__len__` and `__getitem__`, and its items are an input or an `(input, label)` pair: torch
    tensors, NumPy arrays or PIL images, all of one shape and dtype. It may say more by its attributes: `ids`; `labels`
    or `targets`; `classes`, a number or a list of names; `class_names`. Pairs without `labels` or `targets` cost one
    pass over all items when the dataset is opened.

    Not for a dataset that augments at random: its inputs would differ from one look to the next, and so from those the
    teacher saw. Return the plain samples and ask for views.

    Raises:
        DatasetError: the callable cannot be imported, raises, or returns something else.

    """
    try:
        build = resolve(reference)
    except ConfigError as error:
        raise DatasetError(str(error)) from error
    try:
        made = build(**arguments)
    except SoftLabelsError:
        raise
    except Exception as error:  # the user's code: anything may come of it
        raise DatasetError(f"{reference}: calling it with {dict(arguments)} raised {_quoted(error)}.") from error
    if callable(getattr(made, "inputs", None)) and hasattr(made, "ids"):
        return _complete(made, reference)
    if not (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
        raise DatasetError(
            f"{reference}: it returned {type(made).__name__}, expected a map-style dataset, with __len__ and "
            "__getitem__. Wrap what you have in one."
        )
    return MapDataset(cast("Items", made), reference)


class MapDataset:
    """A map-style dataset as samples by id."""

    def __init__(self, items: Items, reference: str) -> None:
        if not _length(items, reference):
            raise DatasetError(f"{reference}: this dataset is empty, expected at least one sample.")
        self._items, self._reference = items, reference
        ids = self._vector("ids")
        self.ids = np.arange(len(items), dtype=np.int64) if ids is None else ids
        first = self._array(0)
        self.input_shape: tuple[int, ...] = first.shape
        self.input_dtype: np.dtype[np.generic] = first.dtype
        positions = getattr(items, "positions", None)  # by that name others may have what they like
        self.positions = positions if isinstance(positions, int) else None
        self.tokenizer_sha256: str | None = getattr(items, "tokenizer_sha256", None)
        self.labels = None if self.positions is not None else self._labels()
        self.classes, self.class_names = self._named_classes()

    def __len__(self) -> int:
        return len(self._items)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`: the samples at these positions."""
        batch = np.empty((len(rows), *self.input_shape), self.input_dtype)
        for place, row in enumerate(rows.tolist()):
            batch[place] = self._like_the_first(row)
        return batch

    def _like_the_first(self, row: int) -> NDArray[np.generic]:
        found = self._array(row)
        if (found.shape, found.dtype) != (self.input_shape, self.input_dtype):
            raise DatasetError(
                f"{self._sample(row)} is {found.dtype} of shape {list(found.shape)}, expected {self.input_dtype} of "
                f"shape {list(self.input_shape)} as the first sample is. Make all samples alike."
            )
        return found

    def _array(self, row: int) -> NDArray[np.generic]:
        item = self._item(row)
        value = item[0] if isinstance(item, tuple | list) else item
        try:
            array = np.asarray(value)
        except Exception as error:  # each library refuses in its own way: a tensor on a device, a broken image
            raise DatasetError(f"{self._sample(row)} cannot be made an array: {_quoted(error)}.") from error
        check_inputs((len(self), *array.shape), array.dtype, self._sample(row))
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _item(self, row: int) -> object:
        try:
            item = self._items[row]
        except Exception as error:  # the user's code: anything may come of it
            raise DatasetError(f"{self._sample(row)} cannot be read: {_quoted(error)}.") from error
        if isinstance(item, tuple | list) and len(item) != PAIR:
            raise DatasetError(
                f"{self._sample(row)} is a {type(item).__name__} of {len(item)}, expected an input or an "
                "(input, label) pair. Return one of those."
            )
        return item

    def _sample(self, row: int) -> str:
        return f"{self._reference}: sample {self.ids[row] if row < len(self.ids) else row}"

    def _labels(self) -> NDArray[np.int64] | None:
        for attribute in ("labels", "targets"):
            declared = self._vector(attribute)
            if declared is not None:
                return declared
        if not isinstance(self._item(0), tuple | list):
            return None
        return integer_vector(
            [self._label(row) for row in range(len(self))], f"{self._reference}: the labels of its items"
        )

    def _label(self, row: int) -> int:
        item = self._item(row)
        try:
            return operator.index(cast("Sequence[int]", item)[1])
        except (TypeError, IndexError) as error:
            raise DatasetError(f"{self._sample(row)}: its label is not an integer: {_quoted(error)}.") from error

    def _vector(self, attribute: str) -> NDArray[np.int64] | None:
        values = getattr(self._items, attribute, None)
        return None if values is None else integer_vector(values, f"{self._reference}: its {attribute}")

    def _named_classes(self) -> tuple[int | None, tuple[str, ...] | None]:
        """What `classes` means: torchvision calls the list of names so, others their number."""
        classes, names = getattr(self._items, "classes", None), getattr(self._items, "class_names", None)
        if isinstance(classes, tuple | list):
            classes, names = None, classes if names is None else names
        if not isinstance(classes, int | None):
            raise DatasetError(
                f"{self._reference}: found classes = {classes!r}, expected their number or a list of their names."
            )
        return classes, None if names is None else tuple(map(str, names))


def _complete(made: object, reference: str) -> Dataset:
    missing = [name for name in REST if not hasattr(made, name)]
    if missing:
        raise DatasetError(
            f"{reference}: it returned {type(made).__name__}, which has inputs() and ids as a Dataset has but lacks "
            f"{', '.join(missing)}. Add them (None where unknown), or return a map-style dataset."
        )
    _length(cast("Dataset", made), reference)
    return cast("Dataset", made)


def _length(made: Dataset | Items, reference: str) -> int:
    try:
        return len(made)
    except Exception as error:  # the user's code: anything may come of it
        raise DatasetError(f"{reference}: its __len__ raised {_quoted(error)}.") from error


def _quoted(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
