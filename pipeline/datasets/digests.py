"""What a dataset holds, as sha256: the dataset's part of a job's fingerprint."""

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.contract import Dataset

BLOCK_BYTES = 8 << 20


def content_digest(dataset: Dataset, rows: int | None = None, *, block_bytes: int = BLOCK_BYTES) -> str:
    """sha256, in hex, over the inputs with their dtype and shape, and the labels; of all samples, or the first `rows`.

    The inputs stream through in blocks of about `block_bytes`, which decide the memory it takes and nothing else. All
    values count in little-endian order, so that a dataset has one digest on every machine. The ids have their own.
    """
    count = len(dataset) if rows is None else rows
    labels, dtype = dataset.labels, dataset.input_dtype.newbyteorder("<")
    head = {"dtype": dtype.str, "shape": [count, *dataset.input_shape], "labels": labels is not None}
    digest = hashlib.sha256(json.dumps(head).encode() + b"\n")
    row_bytes = dtype.itemsize * int(np.prod(dataset.input_shape, dtype=np.int64))
    size = max(1, block_bytes // max(1, row_bytes))
    for start in range(0, count, size):
        block = dataset.inputs(np.arange(start, min(start + size, count), dtype=np.int64))
        digest.update(_bytes(block, dtype))
    if labels is not None:
        digest.update(_bytes(labels[:count], np.dtype("<i8")))
    return digest.hexdigest()


def ids_digest(ids: NDArray[np.int64]) -> str:
    """sha256, in hex, over the ids as little-endian int64, in their order.

    >>> ids_digest(np.arange(3)) == hashlib.sha256(b"".join(i.to_bytes(8, "little") for i in range(3))).hexdigest()
    True
    """
    return hashlib.sha256(_bytes(ids, np.dtype("<i8"))).hexdigest()


def _bytes(values: NDArray[np.generic], dtype: np.dtype[np.generic]) -> memoryview:
    return np.ascontiguousarray(values, dtype=dtype).reshape(-1).view(np.uint8).data
