"""The Zarr side of a cache: the documents that make it a plain Zarr v3 group, and the one door to zarr itself.

The documents are written here and not by zarr: their bytes are part of the cache id, and another version of zarr is
free to word them differently, which would make every older cache look damaged. That zarr writes and reads them just so
is a test. Importing zarr takes a fifth of a second, so only those who read a foreign array do.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptError, DatasetError
from pipeline.labels import ArraySpec
from pipeline.store.arrays import fill_value
from pipeline.store.canonical import canonical
from pipeline.store.documents import Job
from pipeline.store.places import Place
from pipeline.store.shards import REPAIR

Json = dict[str, object]


def metadata_documents(job: Job) -> dict[str, bytes]:
    """Every `zarr.json` of a cache, by its path inside the group, sorted."""
    labels = json.loads(canonical(job.labels))  # in the order that a job read from disk has, whoever made this one
    about = {"format": job.format, "job": job.fingerprint, "labels": labels}
    group: Json = {"attributes": {"softlabels": about}, "zarr_format": 3, "node_type": "group"}
    documents = {"zarr.json": group} | {f"{spec.name}/zarr.json": _array(spec, job) for spec in job.arrays}
    return {path: json.dumps(document, indent=2).encode() for path, document in sorted(documents.items())}


def documents_ever(job: Job) -> dict[str, tuple[bytes, ...]]:
    """For every `zarr.json` of a cache what it may be while the cache is extended: as of now, or of any stage."""
    jobs = (job, *(was for stage in job.stages if (was := job.at(stage.job))))
    of_each = [metadata_documents(each) for each in jobs]
    return {name: tuple(documents[name] for documents in of_each) for name in of_each[0]}


def refuse_other_metadata(place: Place, name: str, *expected: bytes) -> None:
    """Raise CorruptError unless a `zarr.json` is there, to the byte one of these."""
    if (found := place.read(name)) not in expected:
        state = "is gone" if found is None else "is not what was written"
        raise CorruptError(
            f"{place.where(name)} {state}; expected the Zarr document of this job. Delete it and seal.json, if they "
            "are there, and run the same `softlabels generate` again: it writes both anew, from job and receipts."
        )


def _array(spec: ArraySpec, job: Job) -> Json:
    """An array `[view, sample, *row_shape]`, sharded; dimensions of a row are named after the array."""
    checksum: Json = {"name": "crc32c"}
    one_byte = np.dtype(spec.dtype).itemsize == 1  # has no byte order, and zarr then states none
    little: Json = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [1, job.chunk_rows, *spec.row_shape],
        "codecs": [{"name": "bytes"} if one_byte else little, checksum],
        "index_codecs": [little, checksum],
        "index_location": "end",
    }
    grid = {"chunk_shape": [1, job.shard_rows, *spec.row_shape]}
    return {
        "shape": [job.view_count, job.layout.array_rows, *spec.row_shape],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": grid},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value(spec),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": ["view", "sample", *(f"{spec.name}_{place}" for place in range(len(spec.row_shape)))],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


class ArrayReader:
    """A Zarr array of any make, read by rows. Opened on first use and once more in every process it is sent to.

    Raises:
        DatasetError: on first use: there is no Zarr array at the path, or it cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type["ArrayReader"], tuple[Path]]:
        return type(self), (self.path,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of the array."""
        dtype: np.dtype[np.generic] = self._array.dtype
        return dtype

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """The rows at these places of the first axis, in any order, repeated or not."""
        try:
            return np.asarray(self._array.oindex[rows])
        except Exception as error:
            raise DatasetError(
                f"{self.path}: rows of this Zarr array cannot be read: {error}. Expected {len(rows)} rows between 0 "
                f"and {self.shape[0] - 1}, whole. Check the dataset's files."
            ) from error

    @cached_property
    def _array(self) -> Any:  # noqa: ANN401 - a zarr.Array; naming it here would import zarr
        import zarr  # noqa: PLC0415 - see the module's docstring

        try:
            return zarr.open_array(self.path, mode="r")
        except Exception as error:  # whatever zarr raises over bytes that are no array, the user has to see which path
            raise DatasetError(
                f"{self.path} holds no Zarr array that can be read: {error}. Give the path of an array (a folder with "
                "a zarr.json or .zarray), not of a group or a file."
            ) from error


class ShardedArray:
    """An array `[V, N, ...]` of a cache, read by zarr, which holds every chunk against its checksum.

    Zarr reads a file that is gone as filling: whoever asks has made sure that it is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def gather(self, views_N: NDArray[np.int64], rows_N: NDArray[np.int64]) -> NDArray[np.generic]:
        """The rows `[n, *row_shape]` at these views and positions, in any order, repeated or not.

        Raises:
            CorruptError: zarr cannot read them.

        """
        try:
            out = np.empty((rows_N.size, *self._array.shape[2:]), self._array.dtype)
            for view in np.unique(views_N).tolist():
                where = np.flatnonzero(views_N == view)
                out[where] = self._array.oindex[view, rows_N[where]]
        except Exception as error:  # a chunk without its checksum is a ValueError today; damage has no type of its own
            raise CorruptError(f"{self._path}: zarr cannot read rows of this array: {error}. {REPAIR}") from error
        return out

    @cached_property
    def _array(self) -> Any:  # noqa: ANN401 - a zarr.Array; naming it here would import zarr
        import zarr  # noqa: PLC0415 - see the module's docstring

        return zarr.open_array(self._path, mode="r")


def open_array(path: Path) -> ArrayReader:
    """A reader of the Zarr array at a path.

    Raises:
        DatasetError: there is none.

    """
    reader = ArrayReader(path)
    _ = reader.shape
    return reader
