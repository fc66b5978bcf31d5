"""Reading rows: by position, by id, in other processes; and what is refused."""

import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_cases import STEADY, VERSIONS, block, content, fill, job_of

from pipeline.errors import CorruptError, IncompleteError, MismatchError
from pipeline.store import mapped
from pipeline.store.documents import Job
from pipeline.store.mapped import LabelCache
from pipeline.store.state import read_state, shard_path
from pipeline.store.writer import CacheWriter


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LabelCache:
    """A whole cache to read."""
    path = tmp_path_factory.mktemp("mapped") / "cache"
    fill(path, job_of())
    return LabelCache.open(path)


@STEADY
@given(view=st.integers(0, 1), rows=st.lists(st.integers(0, 20), max_size=50))
def test_rows_come_in_the_order_asked_for_repeated_or_not(cache: LabelCache, view: int, rows: list[int]) -> None:
    """Law: gather is NumPy's indexing of what was committed."""
    expected = content(cache.job)
    for name, found in cache.gather(view, np.array(rows, np.int64)).items():
        assert found.dtype == expected[name].dtype
        np.testing.assert_array_equal(found, expected[name][view, rows])


@STEADY
@given(st.permutations(range(21)), st.integers(0, 21))
def test_samples_are_found_by_id_in_any_order(cache: LabelCache, order: list[int], count: int) -> None:
    """Law: the rows at the positions of ids hold these ids."""
    ids = content(cache.job)["sample_id"][0][np.array(order[:count], np.int64)]
    for view in range(2):
        found = cache.gather(view, cache.rows_of(ids), ["sample_id"])["sample_id"]
        np.testing.assert_array_equal(found, ids)


def test_ids_that_are_positions_are_found_too(tmp_path: Path) -> None:
    """Case: most datasets number their samples from 0."""
    job = job_of(views=1)
    with CacheWriter.open(tmp_path / "cache", job, VERSIONS) as writer:
        for shard in writer.missing():
            writer.commit(shard, block(job, shard) | {"sample_id": np.arange(shard.start, shard.stop)}, 0.0)
        writer.seal({})
    np.testing.assert_array_equal(LabelCache.open(tmp_path / "cache").rows_of(np.array([20, 0, 7])), [20, 0, 7])


def test_unknown_samples_are_refused_and_five_are_named(cache: LabelCache) -> None:
    """Law: a sample without labels is an error, not a row of filling."""
    with pytest.raises(
        MismatchError, match=r"no labels for 7 of the samples asked for: -1, 0, 1, 2, 4, …\. It holds 21"
    ):
        cache.rows_of(np.array([3, 0, 1, 2, 4, 5, -1, 2**62]))
    with pytest.raises(MismatchError, match=r"for 1 of the samples asked for: 4. It"):
        cache.rows_of(np.array([4]))


def test_an_id_that_two_rows_share_is_refused(tmp_path: Path) -> None:
    """Law: an id stands for one row, also across shards."""
    job = job_of(views=1)
    with CacheWriter.open(tmp_path / "cache", job, VERSIONS) as writer:
        for shard in writer.missing():
            writer.commit(shard, block(job, shard) | {"sample_id": np.arange(shard.rows)}, 0.0)
        writer.seal({})
    with pytest.raises(CorruptError, match="holds the sample 0 in two rows"):
        LabelCache.open(tmp_path / "cache").rows_of(np.array([0]))


def test_a_cache_tells_what_it_is(cache: LabelCache) -> None:
    """Law: job, seal and id are those on the disk."""
    state = read_state(cache.root)
    assert (cache.job, cache.seal, cache.cache_id) == (cache.job, state.seal, state.seal.cache_id)
    assert cache.layout == state.job.layout


@pytest.mark.parametrize(("view", "rows"), [(2, [0]), (-1, [0]), (0, [21]), (0, [-1])])
def test_rows_outside_the_cache_are_refused(cache: LabelCache, view: int, rows: list[int]) -> None:
    """No number wraps around to another row."""
    with pytest.raises(IndexError, match="of 2, rows up to"):
        cache.gather(view, np.array(rows))


def test_an_array_that_is_not_there_is_refused(cache: LabelCache) -> None:
    """The refusal lists what there is."""
    with pytest.raises(MismatchError, match="has no array 'tail'; it has sample_id, label, input_crc32c, logits"):
        cache.gather(0, np.array([0]), ["tail"])


def test_an_unsealed_cache_is_read_only_when_asked_for_by_name(partial: Path) -> None:
    """Law: the rows that are done are right; the others are refused; ids too."""
    with pytest.raises(
        IncompleteError, match=r"has no seal: 4 of its 6 shards are done. Finish it with the `softlabels gen"
    ):
        LabelCache.open(partial)
    cache, expected = LabelCache.open(partial, allow_partial=True), content(job_of())
    assert (cache.seal, cache.cache_id) == (None, None)
    np.testing.assert_array_equal(cache.gather(0, np.arange(21))["logits"], expected["logits"][0])
    np.testing.assert_array_equal(cache.gather(1, np.arange(8))["logits"], expected["logits"][1, :8])
    np.testing.assert_array_equal(cache.rows_of(expected["sample_id"][0]), np.arange(21))
    with pytest.raises(IncompleteError, match="rows 8 to 16 of view 1 were not done"):
        cache.gather(1, np.array([7, 8]))


def test_a_shard_file_without_a_receipt_is_not_read(partial: Path, job: Job) -> None:
    """Law: a receipt is the only proof, also for a reader."""
    for spec in job.arrays:
        source = shard_path(partial, spec, job.layout, job.layout.shard(1))
        target = shard_path(partial, spec, job.layout, job.layout.shard(4))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    with pytest.raises(IncompleteError, match="rows 8 to 16 of view 1"):
        LabelCache.open(partial, allow_partial=True).gather(1, np.array([8]))


def test_ids_of_a_cache_without_any_shard_are_all_unknown(tmp_path: Path, job: Job) -> None:
    """Case: opened before the first commit."""
    fill(tmp_path / "cache", job, commits=0)
    with pytest.raises(MismatchError, match="It holds 0 samples"):
        LabelCache.open(tmp_path / "cache", allow_partial=True).rows_of(np.array([3]))


def test_rows_of_a_damaged_chunk_are_refused_and_the_others_are_read(sealed: Path, job: Job) -> None:
    """Law: a flip of any byte of a shard makes rows of its chunk unreadable, or of the file if it is in the index."""
    spec, shard = job.arrays[3], job.layout.shard(1)
    path, expected = shard_path(sealed, spec, job.layout, shard), content(job)["logits"]
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        cache = LabelCache.open(sealed)
        for chunk in range(2):
            rows = np.arange(8 + 4 * chunk, 12 + 4 * chunk)
            if place // 28 == 1 - chunk:
                np.testing.assert_array_equal(cache.gather(0, rows)["logits"], expected[0, rows])
            else:
                with pytest.raises(
                    CorruptError, match=r"logits/c/0/1/0: (chunk \d does not have its|the index at its end)"
                ):
                    cache.gather(0, rows)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda path: path.unlink(), "is gone; its receipt says that it was written"),
        (lambda path: os.truncate(path, 0), "has 0 bytes, and 92 were written"),
        (lambda path: os.truncate(path, 91), "has 91 bytes, and 92 were written"),
        (lambda path: path.write_bytes(bytes(92)), "the index at its end is not the one"),
        (lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")), "is a symbolic link"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is not a regular file"),
    ],
)
def test_a_shard_file_that_is_not_what_was_written_never_reads_as_values(
    harm: Callable[[Path], object], text: str, sealed: Path, job: Job
) -> None:
    """Law: what zarr reads as filling, this reader refuses; other shards are still read."""
    harm(shard_path(sealed, job.arrays[3], job.layout, job.layout.shard(1)))
    cache = LabelCache.open(sealed)
    with pytest.raises(CorruptError, match=text):
        cache.gather(0, np.array([0, 8]))
    cache.gather(0, np.array([0, 7, 16]))
    cache.gather(1, np.array([8]))


@pytest.mark.parametrize("name", ["labels.zarr/zarr.json", "labels.zarr/logits/zarr.json"])
def test_a_cache_whose_zarr_documents_differ_is_not_opened(name: str, sealed: Path) -> None:
    """Other readers would read other numbers."""
    (sealed / name).write_bytes((sealed / name).read_bytes() + b" ")
    with pytest.raises(CorruptError, match=f"{name} is not what was written"):
        LabelCache.open(sealed)


def read_elsewhere(cache: LabelCache) -> tuple[np.ndarray, np.ndarray]:
    """What another process reads."""
    return cache.gather(1, np.arange(21))["logits"], cache.rows_of(np.array([3]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_cache_is_read_in_other_processes(cache: LabelCache, method: str) -> None:
    """Law: forked or pickled, after being read here, it reads the same there."""
    cache.gather(0, np.arange(21))
    with multiprocessing.get_context(method).Pool(1) as pool:
        logits, rows = pool.apply(read_elsewhere, (cache,))
    np.testing.assert_array_equal(logits, content(cache.job)["logits"][1])
    np.testing.assert_array_equal(rows, cache.rows_of(np.array([3])))


def test_a_pickle_holds_no_maps(cache: LabelCache) -> None:
    """Law: the pickle is of a path, so it is small however much was read."""
    cache.gather(0, np.arange(21))
    assert len(pickle.dumps(cache)) < 500


def test_threads_read_the_same_cache(sealed: Path, job: Job) -> None:
    """Law: reading from several threads at once is reading."""
    cache, expected = LabelCache.open(sealed), content(job)["logits"]
    views = [0, 1] * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda view: cache.gather(view, np.arange(21))["logits"], views))
    for view, logits in zip(views, found, strict=True):
        np.testing.assert_array_equal(logits, expected[view])


def test_more_shards_than_may_be_mapped_are_read(sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the number of maps is bounded by what a process may open, the number of shards is not."""
    monkeypatch.setattr(mapped, "_most_maps", lambda: 2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    cache = LabelCache.open(sealed)
    for _ in range(2):
        np.testing.assert_array_equal(cache.gather(1, np.arange(21))["logits"], content(job)["logits"][1])
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
