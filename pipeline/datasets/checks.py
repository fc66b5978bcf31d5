"""What is true of every dataset once it is open, whichever kind it came from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.contract import Dataset, check_inputs, integer_vector
from pipeline.errors import DatasetError, SoftLabelsError

UNLABELLED = -1
BLOCK_ROWS = 2**20
SEQUENCE_ROWS = 3  # see `pipeline.sequences`, which loads torch
DUPLICATES_SHOWN = 3
FEWEST_CLASSES, MOST_CLASSES = 2, 2**31 - 1  # one is nothing to tell apart; a label is stored in 32 bits


@dataclass(frozen=True, eq=False)
class CheckedDataset:
    """A dataset that passed `checked`, with the classes settled on; each batch is held to what the source declares."""

    source: Dataset
    name: str
    ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    classes: int | None
    class_names: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    input_dtype: np.dtype[np.generic]

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names of what the source left out, as it could not be decoded."""
        return tuple(getattr(self.source, "skipped", ()))

    @property
    def positions(self) -> int | None:
        """How many positions of a sample have an answer of their own; None where a sample has one answer."""
        positions: int | None = getattr(self.source, "positions", None)
        return positions

    @property
    def target_count(self) -> int | None:
        """How many of all these positions have a target."""
        found: int | None = getattr(self.source, "target_count", None)
        return found

    @property
    def tokenizer_sha256(self) -> str | None:
        """The digest of what made tokens of texts, where that is known."""
        digest: str | None = getattr(self.source, "tokenizer_sha256", None)
        return digest

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`: the samples at these positions.

        Raises:
            IndexError: a row outside 0..N-1; NumPy would silently count a negative one from the end.
            DatasetError: the source gave something else than it declared.

        """
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"{self.name}: rows {rows.min()}..{rows.max()} asked for, there are 0..{len(self) - 1}")
        try:
            # A copy: others are still at work on this batch when a source that has one buffer refills it for the next.
            batch = np.array(self.source.inputs(rows), order="C")
        except SoftLabelsError:
            raise
        except Exception as error:  # the user's code: anything may come of it
            raise DatasetError(f"{self.name}: inputs() raised {type(error).__name__}: {error}.") from error
        expected = (len(rows), *self.input_shape)
        if batch.shape != expected or batch.dtype != self.input_dtype:
            raise DatasetError(
                f"{self.name}: inputs() gave {batch.dtype} of shape {list(batch.shape)}, expected {self.input_dtype} "
                f"of shape {list(expected)}, as the dataset declares. Mend its input_shape, input_dtype or inputs()."
            )
        return batch


def checked(source: Dataset, name: str, classes: int | None, class_names: tuple[str, ...] | None) -> CheckedDataset:
    """The same dataset, if it holds together; `name` is what its errors call it.

    The number of classes is the given one, else the number of class names, else the dataset's own, else the largest
    label plus one.

    Raises:
        DatasetError: it is empty; its ids repeat or are negative; ids, labels or class names are not as many as they
            must be; a label is outside the classes; its inputs are not numbers.

    """
    ids = _checked_ids(source, name)
    labels = None if source.labels is None else integer_vector(source.labels, f"{name}: labels")
    names = source.class_names if class_names is None else class_names
    classes = _settled(classes, names, source.classes, labels)
    if classes is not None and not FEWEST_CLASSES <= classes <= MOST_CLASSES:
        raise DatasetError(
            f"{name}: found {classes} classes, expected {FEWEST_CLASSES} to {MOST_CLASSES}. Correct the labels or "
            "`classes`."
        )
    _check_names(name, names, classes)
    if labels is not None:
        _check_labels(name, ids, labels, classes)
    check_inputs((len(ids), *source.input_shape), source.input_dtype, name)
    positions = getattr(source, "positions", None)
    if positions is not None and tuple(source.input_shape) != (SEQUENCE_ROWS, positions):
        raise DatasetError(
            f"{name}: found positions = {positions!r} and samples of shape {list(source.input_shape)}, expected "
            f"[{SEQUENCE_ROWS}, positions]: tokens, their places and their targets. Mend its samples or its positions."
        )
    if not source.input_dtype.isnative or source.input_dtype.itemsize > 8:  # noqa: PLR2004 - float64
        raise DatasetError(
            f"{name}: found inputs of dtype {source.input_dtype!r}, which no tensor can hold; expected numbers of at "
            "most 64 bits in this machine's byte order. Convert them in the dataset."
        )
    return CheckedDataset(source, name, ids, labels, classes, names, source.input_shape, source.input_dtype)


def _checked_ids(source: Dataset, name: str) -> NDArray[np.int64]:
    if not len(source):
        raise DatasetError(
            f"{name}: this dataset is empty, expected at least one sample. Point at one that holds samples."
        )
    ids = integer_vector(source.ids, f"{name}: ids")
    if len(ids) != len(source):
        raise DatasetError(f"{name}: found {len(ids)} ids for {len(source)} inputs, expected one id a sample.")
    if ids.min() < 0:
        raise DatasetError(f"{name}: found the id {ids.min()}, expected ids of 0 or more. Renumber the samples.")
    if not _rise(ids):
        _refuse_repeated(name, ids)
    return ids


def _rise(ids: NDArray[np.int64]) -> bool:
    """Whether each id is larger than the one before it, as most are: told without a copy of them."""
    starts = range(0, len(ids), BLOCK_ROWS)
    return all((np.diff(ids[start : start + BLOCK_ROWS + 1]) > 0).all() for start in starts)


def _refuse_repeated(name: str, ids: NDArray[np.int64]) -> None:
    values, counts = np.unique(ids, return_counts=True)
    repeated = values[counts > 1]
    if len(repeated):
        first = ", ".join(map(str, repeated[:DUPLICATES_SHOWN])) + (", …" if len(repeated) > DUPLICATES_SHOWN else "")
        raise DatasetError(
            f"{name}: {len(repeated)} ids name more than one sample ({first}), expected unique ids: soft labels are "
            "found by id. Renumber the samples."
        )


def _settled(
    given: int | None, names: tuple[str, ...] | None, own: int | None, labels: NDArray[np.int64] | None
) -> int | None:
    if given is not None:
        return given
    if names is not None:
        return len(names)
    if own is not None:
        return own
    largest = UNLABELLED if labels is None else int(labels.max(initial=UNLABELLED))
    return None if largest == UNLABELLED else largest + 1


def _check_names(name: str, names: tuple[str, ...] | None, classes: int | None) -> None:
    if names is not None and len(names) != classes:
        raise DatasetError(
            f"{name}: found {len(names)} class names for {classes} classes, expected one name a class. "
            "Correct one of the two."
        )


def _check_labels(name: str, ids: NDArray[np.int64], labels: NDArray[np.int64], classes: int | None) -> None:
    if len(labels) != len(ids):
        raise DatasetError(
            f"{name}: found {len(labels)} labels for {len(ids)} inputs, expected one label a sample. "
            "Point both at the same part of the dataset."
        )
    stop, expected = (0, "0 or more") if classes is None else (classes, f"in [0, {classes})")
    if labels.min() >= UNLABELLED and labels.max() < max(stop, 0):
        return
    wrong = np.flatnonzero((labels < UNLABELLED) | (labels >= stop) & (labels != UNLABELLED))
    if len(wrong):
        raise DatasetError(
            f"{name}: sample {ids[wrong[0]]} has the label {labels[wrong[0]]}, expected a class {expected}, or "
            f"{UNLABELLED} for unlabelled ({len(wrong)} labels in all are outside). Correct the labels or `classes`."
        )
