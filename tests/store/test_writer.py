"""What is committed is what is read, by this store and by zarr; and what is refused."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from faulty_os import Calls
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import STEADY, VERSIONS, block, content, fill, job_of, tree

from pipeline.errors import CorruptError, IncompleteError, LockedError, MismatchError, StorageError
from pipeline.labels import ArraySpec
from pipeline.store import files
from pipeline.store.documents import Job
from pipeline.store.layout import shard_file_bytes
from pipeline.store.mapped import LabelCache
from pipeline.store.state import read_state, receipt_path, shard_path
from pipeline.store.writer import CacheWriter, human, missing_shards, require_space

SPECS = st.builds(
    lambda dtype, shape: ArraySpec("extra", dtype, shape, 0.0 if dtype.startswith("float") else 0),
    st.sampled_from(["float16", "float32", "int8", "uint8", "uint16", "uint32", "int32", "int64"]),
    st.sampled_from([(), (1,), (5,), (2, 3)]),
)
JOBS = st.builds(
    lambda rows, views, chunks, chunk_rows, spec: job_of(
        rows=rows, views=views, shard_rows=chunks * chunk_rows, chunk_rows=chunk_rows, arrays=(spec,)
    ),
    st.integers(1, 12),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 4),
    SPECS,
)


@settings(STEADY, max_examples=40)
@given(job=JOBS, seed=st.integers(0, 99), data=st.data())
def test_what_is_committed_is_what_is_gathered_and_what_zarr_reads(job: Job, seed: int, data: st.DataObject) -> None:
    """Law: for all layouts, dtypes, rows and repetitions, cache and zarr give the very values committed."""
    rows = np.array(data.draw(st.lists(st.integers(0, job.rows - 1), max_size=20)), np.int64)
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, job.rows)] * 2)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache"
        fill(path, job, seed=seed)
        cache, group = LabelCache.open(path), zarr.open_group(path / "labels.zarr", mode="r")
        for name, expected in content(job, seed).items():
            assert group[name].dtype == expected.dtype
            np.testing.assert_array_equal(group[name][:], expected)
            np.testing.assert_array_equal(group[name][:, low:high], expected[:, low:high])
            for view in range(job.view_count):
                np.testing.assert_array_equal(cache.gather(view, rows, [name])[name], expected[view, rows])
                if rows.size:
                    np.testing.assert_array_equal(group[name][view, rows[0]], expected[view, rows[0]])


def test_all_zero_rows_and_filled_rows_are_stored(tmp_path: Path) -> None:
    """Law: rows equal to the fill value are on the disk like any other: an absent file never means a value."""
    job = job_of(rows=5, views=1, arrays=(ArraySpec("zeros", "uint8", (2,), 0),))
    zeros = {"zeros": np.zeros((5, 2), "uint8"), "sample_id": np.arange(5), "label": np.zeros(5, "int32")}
    with CacheWriter.open(tmp_path / "cache", job, VERSIONS) as writer:
        writer.commit(writer.missing()[0], {**zeros, "input_crc32c": np.zeros(5, "uint32")}, 0.0)
        writer.seal({})
    assert (tmp_path / "cache/labels.zarr/zeros/c/0/0/0").stat().st_size == 2 * (8 + 4) + 2 * 16 + 4
    np.testing.assert_array_equal(
        zarr.open_group(tmp_path / "cache/labels.zarr", mode="r")["zeros"][:], np.zeros((1, 5, 2))
    )


def test_files_have_the_size_of_the_layout_and_nothing_else_is_there(sealed: Path, job: Job) -> None:
    """Law: a sealed cache is job, seal, Zarr documents, each shard's files and receipt; no lock, no leftovers."""
    sizes = {
        str(shard_path(sealed, spec, job.layout, shard).relative_to(sealed)): shard_file_bytes(spec, job.layout, shard)
        for spec in job.arrays
        for shard in job.layout.all_shards()
    }
    found = {name: len(data) for name, data in tree(sealed).items()}
    assert {name: size for name, size in found.items() if name in sizes} == sizes
    rest = sorted(name for name in found if name not in sizes)
    documents = [f"labels.zarr/{name}zarr.json" for name in ("", *(f"{spec.name}/" for spec in job.arrays))]
    assert rest == sorted(["job.json", "seal.json", *documents, *(f"receipts/00000000{n}.json" for n in range(6))])


@pytest.mark.parametrize("cuts", [(0,), (1,), (5,), (6,), (2, 3), (1, 1, 1, 1, 1)])
def test_a_run_cut_anywhere_ends_with_the_same_bytes_as_one_that_was_not(
    cuts: tuple[int, ...], sealed: Path, job: Job, tmp_path: Path
) -> None:
    """Law: shards, Zarr documents, the fixed part of receipts and the cache id do not depend on interruptions."""
    for commits in cuts:
        fill(tmp_path / "cut", job, commits, seal=False)
    fill(tmp_path / "cut", job)
    whole, cut = read_state(sealed), read_state(tmp_path / "cut")
    same = [{name: data for name, data in tree(path).items() if "zarr" in name} for path in (sealed, tmp_path / "cut")]
    assert same[0] == same[1]
    assert [receipt.fixed_part() for receipt in cut.receipts.values()] == [
        receipt.fixed_part() for receipt in whole.receipts.values()
    ]
    assert cut.seal.cache_id == whole.seal.cache_id


def test_each_run_that_commits_is_one_attempt_more(job: Job, tmp_path: Path) -> None:
    """Law: receipts tell which attempt made them, on which machine, with which tools."""
    for commits in (2, 1, 3):
        fill(tmp_path / "cache", job, commits)
    state = read_state(tmp_path / "cache")
    assert [receipt.made.attempt for receipt in state.receipts.values()] == [1, 1, 2, 3, 3, 3]
    assert state.receipts[0].made.versions == VERSIONS
    assert state.seal.made.seconds == 3.0


def test_a_sealed_cache_is_found_sealed_and_not_touched(sealed: Path, job: Job) -> None:
    """Law: the same job again does nothing, needs no lock, and seals to the same seal."""
    before = tree(sealed)
    with CacheWriter.open(sealed, job, VERSIONS) as writer, CacheWriter.open(sealed, job, VERSIONS) as other:
        assert (writer.sealed, other.sealed, writer.missing()) == (True, True, [])
        assert writer.seal({}) == read_state(sealed).seal
        with pytest.raises(StorageError, match=r"is never rewritten|never rewritten"):
            writer.commit(job.layout.shard(0), block(job, job.layout.shard(0)), 0.0)
    assert tree(sealed) == before


@pytest.mark.parametrize("commits", [2, None])
def test_another_job_is_refused_with_each_difference_and_nothing_is_written(
    tmp_path: Path, job: Job, commits: int | None
) -> None:
    """Law: field, what it was and what it is now; the tree is the same before and after, sealed or not."""
    path, other = tmp_path / "cache", job_of(teacher="teacher-2", rows=22)
    fill(path, job, commits)
    before = tree(path)
    with pytest.raises(MismatchError) as refusal:
        CacheWriter.open(path, other, VERSIONS)
    for text in (
        'teacher.sha256 was "teacher-1" and is now "teacher-2"',
        "rows was 21 and is now 22",
        "Nothing was written",
    ):
        assert text in str(refusal.value)
    assert tree(path) == before


def test_jobs_that_differ_only_in_shape_are_two_jobs(sealed: Path) -> None:
    """Law: equality is of the bytes, whatever the list of differences can say."""
    job = job_of()
    other = type(job).model_validate(
        {**job.model_dump(), "labels": {"encoding": "dense", "temperatures": [1.0, 2.0, []]}}
    )
    with pytest.raises(MismatchError, match=r"labels.temperatures\[2\] was nothing and is now \[\]"):
        CacheWriter.open(sealed, other, VERSIONS)


def test_a_long_list_of_differences_is_cut(sealed: Path) -> None:
    """Case: class names of another dataset are thousands of differences."""
    job = job_of()
    other = type(job).model_validate({**job.model_dump(), "dataset": {"names": [str(n) for n in range(100)]}})
    with pytest.raises(MismatchError, match=r"; and 82 more. Nothing was written"):
        CacheWriter.open(sealed, other, VERSIONS)


def test_a_place_with_other_files_is_refused_and_left_alone(tmp_path: Path, job: Job) -> None:
    """Law: a cache is never mixed with files of something else."""
    (tmp_path / "thesis.tex").write_bytes(b"x")
    with pytest.raises(StorageError, match=r"holds thesis.tex and no job.json: it is no label cache"):
        CacheWriter.open(tmp_path, job, VERSIONS)
    assert tree(tmp_path) == {"thesis.tex": b"x"}


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_a_cache_is_refused(place: str, tmp_path: Path, job: Job) -> None:
    """A cache is a directory."""
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match=r"is a file|ENOTDIR"):
        CacheWriter.open(tmp_path / place, job, VERSIONS)
    assert tree(tmp_path) == {"file": b"x"}


def test_a_place_without_permission_is_a_storage_error(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the system's answer is played."""

    def refuse(_: object, name: str, args: tuple[Any, ...]) -> None:
        if name in ("open", "mkdir"):
            raise PermissionError(errno.EACCES, "denied", str(args[0]))

    monkeypatch.setattr(files, "os", Calls(refuse))
    with pytest.raises(StorageError, match=r"Permission denied.*change the permissions"):
        CacheWriter.open(tmp_path / "cache", job, VERSIONS)
    assert tree(tmp_path) == {}


WRITE = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from store_cases import VERSIONS, job_of
from pipeline.errors import LockedError
from pipeline.store.writer import CacheWriter
try:
    CacheWriter.open(Path(sys.argv[1]), job_of(), VERSIONS)
except LockedError as error:
    print(error)
"""


@pytest.mark.promise("P8")
def test_a_second_writer_is_refused_in_another_process_and_in_this_one(tmp_path: Path, job: Job) -> None:
    """Law: one writer; the refusal names the one there is, and the one there is goes on."""
    path = tmp_path / "cache"
    with CacheWriter.open(path, job, VERSIONS) as writer:
        command = [sys.executable, "-c", WRITE, str(path), str(Path(__file__).parent)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"cache is being written by process {os.getpid()} on " in said
        with pytest.raises(LockedError, match="one writer at a time"):
            CacheWriter.open(path, job, VERSIONS)
        writer.commit(writer.missing()[0], block(job, writer.missing()[0]), 0.0)
    assert list(read_state(path).receipts) == [0]


@pytest.mark.promise("P2")
def test_a_committed_shard_is_never_rewritten(partial: Path, job: Job) -> None:
    """Law: readers map what has a receipt."""
    before = tree(partial)
    shard = job.layout.shard(0)
    with CacheWriter.open(partial, job, VERSIONS) as writer:
        with pytest.raises(
            StorageError, match=r"000000000.json is there already: a shard is written once and never rewritten"
        ):
            writer.commit(shard, block(job, shard, seed=1), 0.0)
        shutil.copy(receipt_path(partial, 0), receipt_path(partial, 4))
        with pytest.raises(StorageError, match=r"000000004.json is there already"):
            writer.commit(job.layout.shard(4), block(job, job.layout.shard(4)), 0.0)
    assert {name: data for name, data in tree(partial).items() if name in before} == before | {
        "lock": (partial / "lock").read_bytes()
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rows: {"logits": rows["logits"].astype("float32")}, "is float32 of shape"),
        (lambda rows: {"more": rows["label"]}, "and the job has none"),
        (lambda rows: {"sample_id": rows["sample_id"] - 1000}, "negative or repeated sample ids"),
        (lambda rows: {"sample_id": np.zeros_like(rows["sample_id"])}, "negative or repeated sample ids"),
        (
            lambda rows: {"sample_id": rows["sample_id"][::-1]},
            "holds other samples in view 1 than rows 8 to 16 do in another view",
        ),
    ],
)
def test_rows_that_do_not_belong_are_refused_and_nothing_is_written(
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], text: str, partial: Path, job: Job
) -> None:
    """Law: a commit is whole and right, or nothing."""
    shard = job.layout.shard(4)
    rows = block(job, shard)
    before = {name: data for name, data in tree(partial).items() if name != "lock"}
    with CacheWriter.open(partial, job, VERSIONS) as writer, pytest.raises(MismatchError) as refusal:
        writer.commit(shard, rows | change(rows), 0.0)
    assert text in str(refusal.value)
    assert {name: data for name, data in tree(partial).items() if name != "lock"} == before


def test_a_shard_of_another_layout_is_refused(partial: Path, job: Job) -> None:
    """Case: a plan made for another job."""
    other = job_of(rows=30).layout.shard(5)
    with CacheWriter.open(partial, job, VERSIONS) as writer, pytest.raises(MismatchError, match="is not a shard of"):
        writer.commit(other, {}, 0.0)


def test_an_unproven_shard_file_is_replaced(partial: Path, job: Job) -> None:
    """Law: without a receipt a file proves nothing, whatever it holds."""
    path = shard_path(partial, job.arrays[0], job.layout, job.layout.shard(4))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half a shard")
    fill(partial, job)
    assert read_state(partial).seal


def test_a_cache_with_shards_missing_is_not_sealed(partial: Path, job: Job) -> None:
    """The seal says that all is there."""
    with (
        CacheWriter.open(partial, job, VERSIONS) as writer,
        pytest.raises(IncompleteError, match="2 of its 6 shards have no"),
    ):
        writer.seal({})
    assert not (partial / "seal.json").exists()


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: os.truncate(path, 0)])
def test_a_cache_that_lost_a_file_is_not_sealed(harm: Callable[[Path], object], tmp_path: Path, job: Job) -> None:
    """A receipt proves that a file was written, not that it is still there."""
    fill(tmp_path / "cache", job, seal=False)
    harm(shard_path(tmp_path / "cache", job.arrays[0], job.layout, job.layout.shard(4)))
    with (
        CacheWriter.open(tmp_path / "cache", job, VERSIONS) as writer,
        pytest.raises(CorruptError, match="is gone or cut short"),
    ):
        writer.seal({})


def test_the_advice_over_a_lost_shard_mends_the_cache(sealed: Path, job: Job) -> None:
    """Law: deleting the seal and the receipt and running again gives the same cache id."""
    before = read_state(sealed).seal.cache_id
    shard_path(sealed, job.arrays[0], job.layout, job.layout.shard(4)).unlink()
    (sealed / "seal.json").unlink()
    receipt_path(sealed, 4).unlink()
    fill(sealed, job)
    assert read_state(sealed).seal.cache_id == before


@pytest.mark.parametrize("name", ["receipts/000000001.json", "labels.zarr/zarr.json", "labels.zarr/label/zarr.json"])
def test_a_damaged_document_stops_a_writer_and_is_named(name: str, partial: Path, job: Job) -> None:
    """Law: nothing is built on a document that is not what was written."""
    data = (partial / name).read_bytes()
    (partial / name).write_bytes(data.replace(b"1", b"2", 1))
    with pytest.raises(CorruptError, match=f"{name}.*(elete)"):
        CacheWriter.open(partial, job, VERSIONS)
    (partial / name).write_bytes(data)
    fill(partial, job)


def test_a_lost_zarr_document_is_written_again(partial: Path, job: Job) -> None:
    """Law: the documents follow from the job."""
    (partial / "labels.zarr/zarr.json").unlink()
    fill(partial, job)
    assert json.loads((partial / "labels.zarr/zarr.json").read_bytes())["node_type"] == "group"


@pytest.mark.parametrize("commits", [None, 0, 2, 6])
def test_what_is_missing_is_told_without_writing(commits: int | None, tmp_path: Path, job: Job) -> None:
    """Law: it is what a writer would find missing, of a cache that is not there, begun or whole; nothing changes."""
    path = tmp_path / "cache"
    if commits is not None:
        fill(path, job, commits)
    before = tree(tmp_path)
    assert [shard.number for shard in missing_shards(path, job)] == list(range(commits or 0, 6))
    assert (tree(tmp_path), path.exists()) == (before, commits is not None)
    if commits:
        with pytest.raises(MismatchError, match="was made by another job"):
            missing_shards(path, job_of(teacher="x"))


def test_space_is_asked_for_in_words(tmp_path: Path) -> None:
    """A run that cannot end on this disk is told before it begins."""
    require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(StorageError, match=r"there needs 1048576.0 TiB, and its disk has [\d.]+ .iB left"):
        require_space(tmp_path / "not" / "there", 2**60)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 * 2**29, "1.5 GiB"), (2**60, "1048576.0 TiB")],
)
def test_sizes_are_said_in_the_largest_fitting_unit(size: int, text: str) -> None:
    """Cases."""
    assert human(size) == text
