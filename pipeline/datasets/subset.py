"""Some samples of a dataset, from one row to another, or all but those of some classes; or all in another order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.checks import UNLABELLED, CheckedDataset
from pipeline.datasets.contract import Dataset
from pipeline.errors import DatasetError


@dataclass(frozen=True, eq=False)
class Subset:
    """The samples at some positions of a dataset, each under its own id; the classes are those of the whole.

    A student of fewer classes hears of the others only by what the teacher says of those there are.

    Ids, labels and positions are in memory, 24 bytes a sample; the inputs stay where they are.
    """

    source: "CheckedDataset | Subset"
    kept: NDArray[np.int64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None

    @property
    def name(self) -> str:
        """What the whole dataset is called in errors."""
        return self.source.name

    @property
    def classes(self) -> int | None:
        """How many classes the whole dataset has."""
        return self.source.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of all these classes."""
        return self.source.class_names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.source.input_shape

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """The dtype of a batch."""
        return self.source.input_dtype

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names of what the source left out, as it could not be decoded."""
        return self.source.skipped

    @property
    def positions(self) -> int | None:
        """How many answers a sample has, where that is more than one."""
        return self.source.positions

    @property
    def tokenizer_sha256(self) -> str | None:
        """The digest of what made tokens of texts, where that is known."""
        return self.source.tokenizer_sha256

    def __len__(self) -> int:
        return len(self.kept)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`: the samples at these positions among those that are left.

        Raises:
            IndexError: a row outside 0..N-1; NumPy would silently count a negative one from the end.
            DatasetError: the source gave something else than it declared.

        """
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(
                f"{self.source.name}: rows {rows.min()}..{rows.max()} asked for, there are 0..{len(self) - 1}"
            )
        return self.source.inputs(self.kept[rows])


def head(dataset: Dataset, rows: int) -> Subset:
    """The first so many samples of a dataset that was opened by its kind."""
    assert isinstance(dataset, CheckedDataset | Subset)
    return between(dataset, 0, rows)


def between(dataset: CheckedDataset | Subset, start: int, stop: int) -> Subset:
    """The samples from one row on to before another.

    Raises:
        DatasetError: there are no such rows.

    """
    if not 0 <= start < stop <= len(dataset):
        raise DatasetError(
            f"{dataset.name}: rows = [{start}, {stop}] is from one row on to before another, and there are "
            f"{len(dataset):,}. Name a start below a stop, and a stop of at most {len(dataset)}."
        )
    labels = None if dataset.labels is None else dataset.labels[start:stop]
    return Subset(dataset, np.arange(start, stop), dataset.ids[start:stop], labels)


def beginning_with(dataset: Dataset, ids: NDArray[np.int64]) -> Dataset:
    """The samples of these ids first, in this order, then all others in theirs; as it is, if it has not all of them."""
    assert isinstance(dataset, CheckedDataset | Subset)
    order = np.argsort(dataset.ids)
    first = order[np.minimum(np.searchsorted(dataset.ids, ids, sorter=order), len(order) - 1)]
    if not np.array_equal(dataset.ids[first], ids):
        return dataset
    kept = np.concatenate([first, np.delete(np.arange(len(dataset)), first)])
    labels = None if dataset.labels is None else dataset.labels[kept]
    return Subset(dataset, kept, dataset.ids[kept], labels)


def leave_out(dataset: CheckedDataset | Subset, without: Sequence[int]) -> Subset:
    """The dataset without the samples of these classes; a sample that has no label stays.

    Raises:
        DatasetError: no sample has a label, or each position has an answer of its own; one of these is no class of
            it; or nothing would be left.

    """
    if dataset.positions is not None:
        raise DatasetError(
            f"{dataset.name}: without = {list(without)} leaves out samples by their labels, and here each of "
            f"{dataset.positions} positions of a sample has an answer of its own. Drop `without`."
        )
    labels = dataset.labels
    if labels is None or dataset.classes is None or not (labels != UNLABELLED).any():
        raise DatasetError(
            f"{dataset.name}: without = {list(without)} leaves out samples by their labels, and this dataset has none. "
            "Give it labels, or drop `without`."
        )
    unknown = [label for label in without if not 0 <= label < dataset.classes]
    if unknown:
        raise DatasetError(
            f"{dataset.name}: without names the class {unknown[0]}, expected classes in [0, {dataset.classes}). "
            "Correct `without`."
        )
    kept = np.flatnonzero(~np.isin(labels, without))
    if not kept.size:
        raise DatasetError(
            f"{dataset.name}: without = {list(without)} leaves no sample, expected at least one. Leave out fewer "
            "classes."
        )
    return Subset(dataset, kept, dataset.ids[kept], labels[kept])
