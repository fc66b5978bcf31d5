"""What is checked of every dataset, and how many classes it has."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.datasets import KINDS, open_dataset
from pipeline.datasets.arrays import ArrayDataset
from pipeline.datasets.checks import checked
from pipeline.errors import ConfigError, DatasetError

FOUR = ArrayDataset(np.zeros((4, 2), np.float32), np.array([3, 1, 4, 15]), np.array([0, 2, -1, 1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"array": np.zeros((0, 2)), "ids": np.zeros(0)}, "toy: this dataset is empty, expected at least one sample"),
        ({"ids": np.arange(3)}, "toy: found 3 ids for 4 inputs, expected one id a sample"),
        ({"ids": np.array([0, 1, -2, 3])}, "toy: found the id -2, expected ids of 0 or more"),
        ({"ids": np.array([7, 1, 7, 1])}, r"toy: 2 ids name more than one sample \(1, 7\), expected unique ids"),
        ({"labels": np.arange(5)}, "toy: found 5 labels for 4 inputs, expected one label a sample"),
        ({"labels": np.array([0, 1, 2, -2])}, r"toy: sample 15 has the label -2, expected a class in \[0, 3\), or -1"),
        ({"labels": np.array([-1, -5, -1, -1])}, "toy: sample 1 has the label -5, expected a class 0 or more, or -1"),
        ({"labels": np.array([0, 5, 9, 1]), "classes": 5}, r"sample 1 has the label 5, .* \[0, 5\).*\(2 labels in all"),
        ({"labels": np.array([0.5, 1, 2, 3])}, "toy: labels: found dtype float64, expected integers"),
        ({"labels": np.zeros(4, int)}, "toy: found 1 classes, expected 2 to 2147483647"),
        ({"labels": None, "classes": 0}, "toy: found 0 classes, expected 2 to 2147483647"),
        ({"classes": 2**31}, "toy: found 2147483648 classes, expected 2 to 2147483647"),
        ({"class_names": ("a", "b"), "classes": 2}, r"toy: sample 1 has the label 2, expected a class in \[0, 2\)"),
        ({"array": np.array(["a", "b", "c", "d"])}, "toy: found inputs of dtype <U1, expected booleans, integers or"),
    ],
)
def test_a_dataset_that_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    """Each refusal names the dataset, what was found and what was expected."""
    with pytest.raises(DatasetError, match=message):
        checked(replace(FOUR, **changes), "toy", None, None)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32).newbyteorder(), np.dtype(np.longdouble)])
def test_inputs_that_no_tensor_can_hold_are_refused(dtype: np.dtype[np.generic]) -> None:
    """Of the user's own dataset, when it is opened and not in the middle of a run; our own kinds convert them."""

    class Own(ArrayDataset):
        input_dtype = dtype

    own = Own(np.zeros((4, 2), dtype), np.arange(4), None, 3)
    with pytest.raises(
        DatasetError, match=r"^toy: found inputs of dtype .*, which no tensor can hold; expected numbers"
    ):
        checked(own, "toy", None, None)


def test_only_the_first_few_repeated_ids_are_named() -> None:
    """A million repeated ids make one line of error, not a million."""
    twice = ArrayDataset(np.zeros((10, 1)), np.repeat(np.arange(5), 2))
    with pytest.raises(DatasetError, match=r"5 ids name more than one sample \(0, 1, 2, …\)"):
        checked(twice, "toy", None, None)


def test_class_names_are_as_many_as_the_classes() -> None:
    """Names given for another number of classes are refused, both numbers named."""
    with pytest.raises(DatasetError, match="toy: found 2 class names for 3 classes, expected one name a class"):
        checked(FOUR, "toy", 3, ("a", "b"))


@pytest.mark.parametrize(
    ("given_classes", "given_names", "own_classes", "own_names", "settled"),
    [
        (7, None, 9, None, 7),
        (None, ("a", "b", "c"), 9, None, 3),
        (None, None, 9, None, 9),
        (None, None, None, ("a", "b", "c", "d"), 4),
        (None, None, None, None, 3),
    ],
    ids=["given", "given names", "own", "own names", "labels"],
)
def test_the_given_number_of_classes_wins(
    given_classes: int | None,
    given_names: tuple[str, ...] | None,
    own_classes: int | None,
    own_names: tuple[str, ...] | None,
    settled: int,
) -> None:
    """Given number, else names, else the dataset's own, else max label + 1."""
    source = replace(FOUR, classes=own_classes, class_names=own_names)
    dataset = checked(source, "toy", given_classes, given_names)
    assert dataset.classes == settled
    assert dataset.class_names == (given_names or own_names)


@pytest.mark.parametrize("labels", [None, np.full(4, -1)], ids=["no labels", "all unlabelled"])
def test_without_a_label_the_number_of_classes_is_unknown(labels: NDArray[np.int64] | None) -> None:
    """No label says nothing about classes; -1 is no class."""
    assert checked(replace(FOUR, labels=labels), "toy", None, None).classes is None


@given(labels=st.lists(st.integers(-1, 9), min_size=1))
def test_every_label_within_the_classes_is_accepted(labels: list[int]) -> None:
    """Labels in [-1, classes) pass unchanged."""
    source = ArrayDataset(np.zeros((len(labels), 1)), np.arange(len(labels)), np.array(labels))
    kept = checked(source, "toy", 10, None).labels
    assert kept is not None
    assert kept.tolist() == labels


@dataclass(frozen=True, eq=False)
class _Liar(ArrayDataset):
    """Declares one thing, hands out another."""

    given: NDArray[np.generic] | None = None

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        return self.array[rows] if self.given is None else self.given[rows]


@pytest.mark.parametrize(
    ("given_inputs", "message"),
    [
        (np.zeros((4, 2)), r"toy: inputs\(\) gave float64 of shape \[2, 2\], expected float32 of shape \[2, 2\]"),
        (
            np.zeros((4, 3), np.float32),
            r"toy: inputs\(\) gave float32 of shape \[2, 3\], expected float32 of shape \[2, 2\]",
        ),
        (np.zeros((4, 2), ">f4"), r"toy: inputs\(\) gave >f4 of shape"),
    ],
)
def test_a_batch_other_than_declared_is_refused(given_inputs: NDArray[np.generic], message: str) -> None:
    """A batch has the declared dtype and shape, or there is no batch."""
    liar = _Liar(FOUR.array, FOUR.ids, given=given_inputs)
    with pytest.raises(DatasetError, match=message):
        checked(liar, "toy", None, None).inputs(np.arange(2))


@dataclass(frozen=True, eq=False)
class _Raiser(ArrayDataset):
    """Declares all there is, and hands out an error."""

    error: Exception | None = None

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        if self.error:
            raise self.error
        return super().inputs(rows)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("the disk is gone"), r"^toy: inputs\(\) raised OSError: the disk is gone\.$"),
        (KeyError("x"), r"^toy: inputs\(\) raised KeyError: 'x'\.$"),
        (DatasetError("mount the share"), "^mount the share$"),
    ],
)
def test_what_inputs_raises_is_quoted(error: Exception, message: str) -> None:
    """The user's own error in one line; an error of this tool passes through."""
    with pytest.raises(DatasetError, match=message):
        checked(_Raiser(FOUR.array, FOUR.ids, error=error), "toy", None, None).inputs(np.arange(2))


def test_the_kinds_are_those_an_experiment_file_can_name() -> None:
    """The table is frozen here: a new kind needs its schema in the config as well."""
    assert sorted(KINDS) == ["digits", "hdf5", "huggingface", "idx", "images", "npy", "tokens", "webdataset", "zarr"]


def test_an_unknown_kind_names_the_known_ones() -> None:
    """A slip of the pen is told the nearest kind."""
    message = (
        r"'hdf' is no kind of dataset: expected one of digits, hdf5, huggingface, idx, images, npy, tokens, "
        r"webdataset, zarr, or your own .* Did you mean hdf5\?"
    )
    with pytest.raises(ConfigError, match=message):
        open_dataset("hdf", {})


def test_an_error_of_a_check_names_the_kind_and_its_arguments() -> None:
    """Of two datasets in one experiment, the error says which."""
    with pytest.raises(DatasetError, match=r"digits\(part=test\): found 3 class names for 10 classes"):
        open_dataset("digits", {"part": "test"}, classes=10, class_names=("a", "b", "c"))
