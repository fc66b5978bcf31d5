"""A digest is a dataset's name for its content: the same for the same, different for anything else."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.datasets import content_digest, ids_digest
from pipeline.datasets.arrays import ArrayDataset

DTYPES = st.sampled_from(["u1", "<i2", ">i2", "<i8", "<f4", ">f8", "?"])
INPUTS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
LABELLED = ArrayDataset(np.arange(24, dtype=np.int16).reshape(6, 2, 2), np.arange(6), np.array([0, 1, 2, 0, 1, -1]))


def _of(inputs: NDArray[np.generic]) -> ArrayDataset:
    return ArrayDataset(inputs, np.arange(len(inputs)), np.arange(len(inputs)) % 3)


@given(inputs=INPUTS, block_bytes=st.integers(1, 300))
def test_the_block_size_does_not_matter(inputs: NDArray[np.generic], block_bytes: int) -> None:
    """However the inputs are cut for hashing, the digest is that of the whole."""
    assert content_digest(_of(inputs), block_bytes=block_bytes) == content_digest(_of(inputs))


@given(inputs=INPUTS)
def test_the_byte_order_in_memory_does_not_matter(inputs: NDArray[np.generic]) -> None:
    """The same values have one digest, big-endian or little."""
    swapped = inputs.astype(inputs.dtype.newbyteorder("S"))
    assert content_digest(_of(swapped)) == content_digest(_of(inputs))


@given(data=st.data())
@settings(max_examples=200)
def test_any_changed_byte_changes_the_digest(data: st.DataObject) -> None:
    """One byte of one sample, or one label, and it is another dataset."""
    values = bytearray(LABELLED.array.tobytes())
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] ^= data.draw(st.integers(1, 255))
    changed = np.frombuffer(values, np.int16).reshape(LABELLED.array.shape)
    assert content_digest(replace(LABELLED, array=changed)) != content_digest(LABELLED)


@pytest.mark.parametrize("row", range(6))
def test_any_changed_label_changes_the_digest(row: int) -> None:
    """Labels are content."""
    assert LABELLED.labels is not None
    labels = LABELLED.labels.copy()
    labels[row] += 1
    assert content_digest(replace(LABELLED, labels=labels)) != content_digest(LABELLED)


def test_the_same_bytes_of_another_dtype_or_shape_have_another_digest() -> None:
    """Dtype, shape and the presence of labels are content: these eight share their bytes, and no digest."""
    zeros = np.zeros((4, 4), np.uint8)
    bare = [
        zeros,
        zeros.view(np.int8),
        zeros.view(np.uint16),
        zeros.view(np.float16),
        zeros.reshape(4, 2, 2),
        zeros.reshape(2, 8),
        zeros.reshape(16, 1),
    ]
    datasets = [ArrayDataset(array, np.arange(len(array))) for array in bare]
    datasets.append(replace(datasets[0], labels=np.zeros(0, np.int64)))
    assert len({content_digest(dataset) for dataset in datasets}) == len(datasets)


def test_the_ids_are_not_part_of_the_content() -> None:
    """Ids have a digest of their own; renaming samples does not change what they hold."""
    assert content_digest(replace(LABELLED, ids=np.arange(6) + 100)) == content_digest(LABELLED)


def test_the_content_digest_stays_what_it_is() -> None:
    """Caches on disk carry this digest: a change of its definition would refuse every one of them."""
    head = b'{"dtype": "<i2", "shape": [6, 2, 2], "labels": true}\n'
    labels = np.array([0, 1, 2, 0, 1, -1], "<i8").tobytes()
    assert content_digest(LABELLED) == hashlib.sha256(head + np.arange(24, dtype="<i2").tobytes() + labels).hexdigest()


@given(ids=hnp.arrays(np.int64, st.integers(0, 20)), big=st.booleans())
def test_the_ids_digest_is_over_little_endian_int64(ids: NDArray[np.int64], *, big: bool) -> None:
    """The definition, written with Python's own integers."""
    expected = hashlib.sha256(b"".join(int(i).to_bytes(8, "little", signed=True) for i in ids)).hexdigest()
    assert ids_digest(ids.astype(">i8") if big else ids) == expected
