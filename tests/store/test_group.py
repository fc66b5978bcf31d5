"""The Zarr documents, held against zarr's own, and the reader of foreign arrays."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from store_cases import STEADY, content, fill, job_of
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from pipeline.errors import CorruptError, DatasetError
from pipeline.labels import ArraySpec
from pipeline.store.arrays import fill_value
from pipeline.store.directories import Directory
from pipeline.store.documents import parse_job
from pipeline.store.group import ShardedArray, metadata_documents, open_array, refuse_other_metadata

ARRAYS = (
    ArraySpec("logits", "float16", (10,), float("nan")),
    ArraySpec("scale", "float32", (), 0.0),
    ArraySpec("codes", "uint8", (2, 3), 255),
    ArraySpec("values", "int8", (3,), -128),
    ArraySpec("ids", "uint16", (4,), 0),
)


def test_the_documents_say_what_zarr_says_of_such_a_group() -> None:
    """Law: zarr, asked for the same group, writes the same JSON."""
    job, store = job_of(arrays=ARRAYS), MemoryStore()
    about = {"format": job.format, "job": job.fingerprint, "labels": job.labels}
    group = zarr.create_group(store, attributes={"softlabels": about})
    for spec in job.arrays:
        group.create_array(
            spec.name,
            shape=(job.view_count, job.rows, *spec.row_shape),
            dtype=spec.dtype,
            chunks=(1, job.chunk_rows, *spec.row_shape),
            shards=(1, job.shard_rows, *spec.row_shape),
            filters=None,
            compressors=[Crc32cCodec()],
            fill_value=spec.fill,
            dimension_names=["view", "sample", *(f"{spec.name}_{axis}" for axis in range(len(spec.row_shape)))],
        )
    stored = store._store_dict  # noqa: SLF001 - zarr lists a store only to those who await
    written = {path: json.loads(data.to_bytes()) for path, data in stored.items()}
    assert {path: json.loads(data) for path, data in metadata_documents(job).items()} == written


def test_the_documents_are_a_function_of_the_job() -> None:
    """Law: the same job, the same bytes, in the same order; another job, other attributes."""
    assert list(metadata_documents(job_of()).items()) == list(metadata_documents(job_of()).items())
    assert metadata_documents(job_of())["zarr.json"] != metadata_documents(job_of(teacher="x"))["zarr.json"]
    assert fill_value(ARRAYS[0]) == "NaN"


@STEADY
@given(order=st.permutations(["encoding", "classes", "dtype", "k", "temperatures"]))
def test_the_documents_do_not_depend_on_who_made_the_job(order: list[str]) -> None:
    """Law: a job and the same job read from disk have the same documents, whatever the order of its labels' keys."""
    said = {"encoding": "topk", "classes": 3, "dtype": "float16", "k": 2, "temperatures": [1.0, 2.0]}
    job = job_of().model_copy(update={"labels": {key: said[key] for key in order}})
    assert metadata_documents(job) == metadata_documents(parse_job(job.to_bytes(), Path("job.json")))


@pytest.mark.parametrize(("data", "text"), [(None, "is gone"), (b"{}", "is not what was written")])
def test_another_zarr_document_is_refused(data: bytes | None, text: str, tmp_path: Path) -> None:
    """Other shapes or codecs than the job's would make other numbers of the same bytes."""
    if data is not None:
        (tmp_path / "zarr.json").write_bytes(data)
    with pytest.raises(CorruptError, match=f"zarr.json {text}; expected the Zarr document of this job"):
        refuse_other_metadata(Directory(tmp_path), "zarr.json", b"{ }")


@pytest.fixture(scope="module")
def sealed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cache that no test changes."""
    path = tmp_path_factory.mktemp("group") / "cache"
    fill(path, job_of())
    return path


@pytest.fixture(scope="module", params=[2, 3])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A Zarr array of either format, as anyone writes it."""
    path = tmp_path_factory.mktemp("foreign") / "a.zarr"
    numbers = np.arange(60, dtype="int16").reshape(20, 3)
    zarr.create_array(path, data=numbers, chunks=(7, 2), zarr_format=request.param)
    return path, numbers


@STEADY
@given(rows=st.lists(st.integers(0, 19), max_size=12))
def test_a_foreign_array_gives_the_rows_asked_for(foreign: tuple[Path, np.ndarray], rows: list[int]) -> None:
    """Law: any rows, in any order, repeated or none: as NumPy gives them; a pickled reader gives the same."""
    path, numbers = foreign
    reader = open_array(path)
    wanted = np.array(rows, np.int64)
    assert (reader.shape, reader.dtype) == (numbers.shape, numbers.dtype)
    np.testing.assert_array_equal(reader.gather(wanted), numbers[wanted])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).gather(wanted), numbers[wanted])  # noqa: S301 - ours


def test_what_is_no_zarr_array_is_refused(tmp_path: Path) -> None:
    """A missing path, a file, an empty folder, a group and a damaged document are all DatasetErrors."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "zarr.json").write_bytes(b'{"zarr_format": 3, "node_type": "array"')
    zarr.create_group(tmp_path / "group")
    for name in ("missing", "file", "folder", "damaged", "group"):
        with pytest.raises(DatasetError, match=f"{name} holds no Zarr array that can be read"):
            open_array(tmp_path / name)
    assert not (tmp_path / "missing").exists()


def test_rows_that_cannot_be_read_are_refused(foreign: tuple[Path, np.ndarray]) -> None:
    """Rows outside the array end as a DatasetError that says how many there are."""
    with pytest.raises(DatasetError, match="Expected 1 rows between 0 and 19, whole"):
        open_array(foreign[0]).gather(np.array([20]))


@STEADY
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), max_size=12))
def test_an_array_of_a_cache_gives_the_rows_asked_for(sealed_once: Path, places: list[tuple[int, int]]) -> None:
    """Law: any views and rows, in any order, repeated or none: as NumPy gives them."""
    views, rows = np.array(places, np.int64).reshape(-1, 2).T
    for name, expected in content(job_of()).items():
        found = ShardedArray(sealed_once / "labels.zarr" / name).gather(views, rows)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected[views, rows])


def test_an_array_of_a_cache_that_zarr_cannot_read_is_corrupt(sealed: Path) -> None:
    """A document or a chunk that is damaged, with the array's path and what to do."""
    chunk = sealed / "labels.zarr/label/c/0/0"
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    (sealed / "labels.zarr/logits/zarr.json").write_bytes(b"{")
    for name in ("label", "logits"):
        with pytest.raises(CorruptError, match=f"{name}: zarr cannot read rows of this array: .*softlabels verify"):
            ShardedArray(sealed / "labels.zarr" / name).gather(np.array([0]), np.array([1]))
