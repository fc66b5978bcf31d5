"""Classes whose samples are left out, and rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets import content_digest, ids_digest, open_dataset
from pipeline.datasets.arrays import ArrayDataset
from pipeline.datasets.checks import CheckedDataset, checked
from pipeline.datasets.subset import beginning_with, between, leave_out
from pipeline.errors import DatasetError

LABELS = np.array([0, 2, -1, 1, 2, 0])
SIX = ArrayDataset(np.arange(12, dtype=np.float32).reshape(6, 2), np.array([3, 1, 4, 15, 9, 2]), LABELS)


def opened(labels: np.ndarray | None = LABELS, classes: int | None = None) -> CheckedDataset:
    """Six samples with these labels."""
    return checked(ArrayDataset(SIX.array, SIX.ids, labels), "toy", classes, None)


@given(without=st.lists(st.integers(0, 2), max_size=3))
def test_what_is_left_is_the_source_without_the_samples_of_these_classes(without: list[int]) -> None:
    """Inputs, ids and labels are those of the other samples, in their order; what has no label stays."""
    dataset, left = leave_out(opened(), without), [row for row, label in enumerate(LABELS) if label not in without]
    assert len(dataset) == len(left)
    np.testing.assert_array_equal(dataset.inputs(np.arange(len(left))), SIX.array[left], strict=True)
    np.testing.assert_array_equal(dataset.ids, SIX.ids[left], strict=True)
    np.testing.assert_array_equal(dataset.labels, LABELS[left], strict=True)


def test_the_digests_are_those_of_a_dataset_that_never_had_them() -> None:
    """Law: a cache's fingerprint says what is in the dataset, and not how it came to be so."""
    dataset, left = leave_out(opened(), [2]), np.flatnonzero(LABELS != 2)
    never = ArrayDataset(SIX.array[left], SIX.ids[left], LABELS[left])
    assert (content_digest(dataset), ids_digest(dataset.ids)) == (content_digest(never), ids_digest(never.ids))
    assert content_digest(dataset) != content_digest(opened())


def test_the_classes_are_those_of_the_whole() -> None:
    """Law: leaving out the last class does not take its logit away, be the classes counted, given or named."""
    assert leave_out(opened(), [2]).classes == 3
    assert leave_out(opened(classes=7), [6]).classes == 7
    named = leave_out(checked(SIX, "toy", None, ("a", "b", "c")), [2])
    assert (named.classes, named.class_names) == (3, ("a", "b", "c"))


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("labels", [None, np.full(6, -1)], ids=["no labels", "all unlabelled"])
def test_without_labels_no_class_can_be_left_out(labels: np.ndarray | None, classes: int | None) -> None:
    """Nobody knows which samples they are."""
    message = (
        r"^toy: without = \[1\] leaves out samples by their labels, and this dataset has none\. Give it labels, or"
    )
    with pytest.raises(DatasetError, match=message):
        leave_out(opened(labels, classes), [1])


@pytest.mark.parametrize("unknown", [3, -1])
def test_a_class_that_is_none_is_refused(unknown: int) -> None:
    """A slip of the pen would leave nothing out, or what has no label."""
    message = rf"^toy: without names the class {unknown}, expected classes in \[0, 3\)\. Correct `without`\.$"
    with pytest.raises(DatasetError, match=message):
        leave_out(opened(), [0, unknown])


def test_a_dataset_of_which_nothing_is_left_is_refused() -> None:
    """There is no empty dataset."""
    message = r"^toy: without = \[0, 1, 2\] leaves no sample, expected at least one\. Leave out fewer classes\.$"
    with pytest.raises(DatasetError, match=message):
        leave_out(opened(np.array([0, 1, 2, 0, 1, 2])), [0, 1, 2])


def test_a_kind_of_dataset_is_opened_without_a_class() -> None:
    """Every kind takes the same key; an error names the kind and its arguments."""
    dataset = open_dataset("digits", {"part": "test"}, without=(3,))
    assert dataset.labels is not None
    assert (sorted(set(dataset.labels.tolist())), dataset.classes) == ([0, 1, 2, 4, 5, 6, 7, 8, 9], 10)
    with pytest.raises(DatasetError, match=r"^digits\(part=test\): without names the class 10"):
        open_dataset("digits", {"part": "test"}, without=(10,))


@given(st.integers(0, 5), st.integers(1, 6))
def test_a_part_is_what_is_between_two_rows(start: int, stop: int) -> None:
    """Law: a split into parts has each sample once; ids, labels and inputs are the whole's; what is no part is none."""
    if start >= stop:
        with pytest.raises(DatasetError, match=rf"^toy: rows = \[{start}, {stop}\] is from one row on .* there are 6"):
            between(opened(), start, stop)
        return
    part, rest = between(opened(), start, stop), slice(start, stop)
    np.testing.assert_array_equal(part.inputs(np.arange(stop - start)), SIX.array[rest], strict=True)
    np.testing.assert_array_equal(part.ids, SIX.ids[rest], strict=True)
    np.testing.assert_array_equal(part.labels, LABELS[rest], strict=True)
    assert part.classes == 3


def test_rows_are_counted_before_classes_are_left_out() -> None:
    """Law: a part is of the source, whatever is left out of it; a stop beyond the end is refused."""
    part = open_dataset("digits", {"part": "test"}, rows=(100, 200))
    both = open_dataset("digits", {"part": "test"}, rows=(100, 200), without=(3,))
    assert part.labels is not None
    np.testing.assert_array_equal(both.ids, part.ids[part.labels != 3])
    with pytest.raises(
        DatasetError, match=r"rows = \[0, 400\] .*there are 359\. Name a start below a stop, and a stop"
    ):
        open_dataset("digits", {"part": "test"}, rows=(0, 400))


@given(st.permutations(range(6)), st.integers(0, 6))
def test_a_dataset_that_begins_with_others_is_the_same_samples(order: list[int], count: int) -> None:
    """Law: those named come first, as they are named, the others after them in their order; each with what it had."""
    first = order[:count]
    rows = [*first, *sorted(order[count:])]
    dataset = beginning_with(opened(), SIX.ids[first])
    np.testing.assert_array_equal(dataset.ids, SIX.ids[rows], strict=True)
    np.testing.assert_array_equal(dataset.inputs(np.arange(6)), SIX.array[rows], strict=True)
    np.testing.assert_array_equal(dataset.labels, LABELS[rows], strict=True)


def test_a_dataset_without_one_of_those_named_stays_as_it_is() -> None:
    """Law: also where the name is below or beyond all."""
    for names in ([3, 99], [3, -1], [100]):
        dataset = opened()
        assert beginning_with(dataset, np.array(names)) is dataset
