"""Reading rows: by position, by id, in other processes; and what is refused."""

import errno
import gc
import mmap
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import FrameType

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import STEADY, VERSIONS, block, content, fill, job_of

from pipeline.errors import CorruptError, IncompleteError, MismatchError, StorageError
from pipeline.labels import ArraySpec
from pipeline.seeds import generator
from pipeline.store import residence, windows
from pipeline.store.documents import Job, Seal, proven
from pipeline.store.layout import Layout
from pipeline.store.mapped import LabelCache
from pipeline.store.shards import chunk_is_whole
from pipeline.store.span import Span
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
    """No number wraps around to another row; the refusal names what there is and the reach of what was asked for."""
    asked = rf"asked for were rows {rows[0]} to {rows[0]} of views {view} to {view}$"
    with pytest.raises(IndexError, match=rf"has rows 0 to 20 of views 0 to 1; {asked}"):
        cache.gather(view, np.array(rows))


def test_a_refusal_names_the_smallest_and_the_largest(cache: LabelCache) -> None:
    """Law: whichever of them is the stranger; of no rows there is none."""
    with pytest.raises(IndexError, match=r"asked for were rows -1 to 5 of views 0 to 0$"):
        cache.gather(0, np.array([5, -1, 3]))
    with pytest.raises(IndexError, match=r"asked for were rows none of views 2 to 2$"):
        cache.gather(2, np.array([], np.int64))


@pytest.mark.parametrize(
    ("view", "rows", "text"),
    [
        (0, np.zeros(21, np.bool_), "rows of dtype bool; expected integers. A mask's positions are `np.flatnonzero"),
        (0, np.array([1.5]), "rows of dtype float64; expected integers"),
        (0, [0.0, 1.0], "rows of dtype float64; expected integers"),
        (0, np.array([[0, 1]]), r"rows of shape \(1, 2\); expected positions in one dimension"),
        (0, 3, r"rows of shape \(\); expected positions in one dimension"),
        (np.array([True, False]), [0, 1], "views of dtype bool; expected integers"),
        (np.array([0.9, 1.9]), [0, 1], "views of dtype float64; expected integers"),
    ],
)
def test_positions_that_are_no_list_of_integers_are_refused(
    view: int | np.ndarray, rows: np.ndarray, text: str, cache: LabelCache
) -> None:
    """Law: a mask is not read as rows 0 and 1, a fraction is not cut off, a table is not made a list."""
    with pytest.raises(IndexError, match=text):
        cache.gather(view, rows)


@pytest.mark.parametrize("ids", [np.array([3.5]), np.array([True])])
def test_ids_that_are_no_integers_are_refused(ids: np.ndarray, cache: LabelCache) -> None:
    """Law: as positions are."""
    with pytest.raises(IndexError, match=rf"sample ids of dtype {ids.dtype}; expected integers"):
        cache.rows_of(ids)


@pytest.mark.parametrize("rows", [[], [20, 3], np.array([20, 3], np.uint8), np.array([20, 3], np.int32)])
def test_positions_may_be_integers_of_any_size(rows: np.ndarray, cache: LabelCache) -> None:
    """Law: also a list, also an empty one, whose dtype says nothing."""
    expected = content(cache.job)["logits"][1, np.asarray(rows, np.int64)]
    np.testing.assert_array_equal(cache.gather(1, rows)["logits"], expected)


def test_no_arrays_of_some_rows_are_none(cache: LabelCache) -> None:
    """Law: choosing no array is a choice; the rows are looked at all the same."""
    assert cache.gather(0, np.array([0, 1]), []) == {}
    with pytest.raises(IndexError, match=r"asked for were rows 21 to 21"):
        cache.gather(0, np.array([21]), [])


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
    """Law: a flip of a byte of rows makes its chunk unreadable; of a checksum or of the index, the file."""
    spec, shard = job.arrays[3], job.layout.shard(1)
    path, expected = shard_path(sealed, spec, job.layout, shard), content(job)["logits"]
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        cache = LabelCache.open(sealed)
        for chunk in range(2):
            rows = np.arange(8 + 4 * chunk, 12 + 4 * chunk)
            if place // 28 == 1 - chunk and place % 28 < 24:
                np.testing.assert_array_equal(cache.gather(0, rows)["logits"], expected[0, rows])
            else:
                said = "chunk . does not have its|the index at its end|does not have the chunks that its receipt is for"
                with pytest.raises(CorruptError, match=f"logits/c/0/1/0:? ({said})"):
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
    assert len(pickle.dumps(cache)) < 1000


def test_threads_read_the_same_cache(sealed: Path, job: Job) -> None:
    """Law: reading from several threads at once is reading."""
    cache, expected = LabelCache.open(sealed), content(job)["logits"]
    views = [0, 1] * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda view: cache.gather(view, np.arange(21))["logits"], views))
    for view, logits in zip(views, found, strict=True):
        np.testing.assert_array_equal(logits, expected[view])


def holds_in_fork(fact: Callable[[], bool]) -> bool:
    """Whether something is so in a forked process, which has this one's objects themselves and not their pickles."""
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(0 if fact() else 1))
    child.start()
    child.join(20)
    child.kill()
    child.join()
    return child.exitcode == 0


def maps_below(path: Path) -> int:
    """How many maps of files below a path this process has."""
    return sum(f"{path}/" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_more_shards_than_may_be_mapped_are_read(sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the number of maps is bounded by what the kernel grants, the number of shards is not; no file stays open."""
    monkeypatch.setattr(residence, "most_maps", lambda: 2 * len(job.arrays))
    before = len(list(Path("/proc/self/fd").iterdir()))
    cache = LabelCache.open(sealed)
    for view in (1, 0, 1):
        np.testing.assert_array_equal(cache.gather(view, np.arange(21))["logits"], content(job)["logits"][view])
        assert maps_below(sealed) <= 2 * len(job.arrays)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_threads_read_more_shards_than_may_be_mapped(sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a thread that needs a slot waits for those that copy from it: every row is right, and all come to an end."""
    monkeypatch.setattr(residence, "most_maps", lambda: 2 * len(job.arrays))
    cache, expected = LabelCache.open(sealed), content(job)["logits"]
    tasks = [(seed % 2, generator("rows", seed).integers(0, 21, 1 + seed % 9)) for seed in range(400)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda task: cache.gather(*task)["logits"], tasks))
    for (view, rows), logits in zip(tasks, found, strict=True):
        np.testing.assert_array_equal(logits, expected[view, rows])


def test_a_slot_is_not_emptied_while_it_is_read(sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: one who began to read before is waited for; one who begins later finds nothing ready."""
    monkeypatch.setattr(residence, "most_maps", lambda: len(job.arrays))
    cache = LabelCache.open(sealed)
    cache.gather(0, np.array([0]))
    waits: list[int] = []
    enough, left = Event(), Event()

    def leave_at_last(_: float) -> None:
        waits.append(maps_below(sealed))
        if len(waits) == 3:
            enough.set()
            left.wait(20)

    monkeypatch.setattr(residence.time, "sleep", leave_at_last)
    with ThreadPoolExecutor(1) as another:
        with cache._residence.reading():  # noqa: SLF001 - a reader that stands still
            gathered = another.submit(cache.gather, 0, np.array([8]))
            enough.wait(20)
        left.set()
        found = gathered.result()
    np.testing.assert_array_equal(found["logits"], content(job)["logits"][0, [8]])
    assert waits == [len(job.arrays)] * 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_readers_it_does_not_have(
    sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a fork in the middle of another thread's read leaves a cache that is read, and slots that are emptied."""
    monkeypatch.setattr(residence, "most_maps", lambda: len(job.arrays))
    cache = LabelCache.open(sealed)
    cache.gather(0, np.array([0]))
    inner = cache._residence  # noqa: SLF001 - what another thread would hold
    with inner.reading(), inner._lock:  # noqa: SLF001
        assert holds_in_fork(lambda: np.array_equal(read_elsewhere(cache)[0], content(job)["logits"][1]))


def test_rows_outlive_their_cache_and_maps_do_not(sealed: Path, job: Job) -> None:
    """Law: what is returned is a copy; with the cache go its maps."""
    cache = LabelCache.open(sealed)
    found = cache.gather(0, np.arange(21))
    assert maps_below(sealed) == 3 * len(job.arrays)
    del cache
    gc.collect()
    assert maps_below(sealed) == 0
    for name, array in content(job).items():
        np.testing.assert_array_equal(found[name], array[0])


def test_where_addresses_are_few_fewer_shards_are_mapped_at_once(
    sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: half as many slots, and half of that, until they fit; when not even one does, that is said."""

    def few(size: int, most: int) -> Span:
        if size > most:
            raise OSError(errno.ENOMEM, "no addresses")
        return Span(size)

    monkeypatch.setattr(residence, "Span", lambda size: few(size, len(job.arrays) * mmap.PAGESIZE))
    cache = LabelCache.open(sealed)
    np.testing.assert_array_equal(cache.gather(1, np.arange(21))["logits"], content(job)["logits"][1])
    assert maps_below(sealed) == len(job.arrays)
    monkeypatch.setattr(residence, "Span", lambda size: few(size, 0))
    with pytest.raises(StorageError, match=r"could not reserve 16384 bytes of addresses .*`ulimit -v unlimited`"):
        LabelCache.open(sealed)


def test_a_process_without_maps_left_says_so(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a refusal that names the limit to raise."""
    monkeypatch.setattr(residence, "map_whole", refusing(errno.ENOMEM))
    with pytest.raises(StorageError, match=r"no maps or addresses left \(ENOMEM\). Raise .*vm.max_map_count"):
        LabelCache.open(sealed).gather(0, np.array([0]))


def test_another_failure_to_map_is_a_storage_error(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: with the file's path and what the system said."""
    monkeypatch.setattr(residence, "map_whole", refusing(errno.EACCES))
    with pytest.raises(StorageError, match=r"c/0/0\S*: could not map this file: Permission denied"):
        LabelCache.open(sealed).gather(0, np.array([0]))


def refusing(number: int) -> Callable[[int], mmap.mmap]:
    """A map call that fails."""

    def refuse(_: int) -> mmap.mmap:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=[errno.ENODEV, errno.EOPNOTSUPP, errno.ENOSYS])
def no_maps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot map files."""
    monkeypatch.setattr(residence, "map_whole", refusing(request.param))


@pytest.mark.usefixtures("no_maps")
def test_where_files_cannot_be_mapped_zarr_reads_them(sealed: Path, job: Job) -> None:
    """Law: the same rows, for one view or many, in new memory or what is given; nothing is mapped."""
    cache, expected = LabelCache.open(sealed), content(job)
    views, rows = np.array([1, 0, 1, 1]), np.array([20, 3, 0, 20])
    for found in (cache.gather(views, rows), cache.gather(views, rows, out=memory_for(job, 4))):
        for name, array in found.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name][views, rows])
    assert (cache.rows_of(expected["sample_id"][0]) == np.arange(21)).all()
    assert maps_below(sealed) == 0


@pytest.mark.usefixtures("no_maps")
@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda path: path.unlink(), "is gone; its receipt says that it was written"),
        (lambda path: os.truncate(path, 0), "has 0 bytes, and 92 were written"),
        (lambda path: path.write_bytes(bytes(92)), "the index at its end is not the one"),
        (
            lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
            "zarr cannot read rows of this array.* Run `soft",
        ),
    ],
)
def test_where_files_cannot_be_mapped_damage_is_refused_all_the_same(
    harm: Callable[[Path], object], text: str, sealed: Path, job: Job
) -> None:
    """Law: nothing reads as filling, and no chunk without its checksum as values."""
    harm(shard_path(sealed, job.arrays[3], job.layout, job.layout.shard(1)))
    cache = LabelCache.open(sealed)
    with pytest.raises(CorruptError, match=f"logits.*{text}"):
        cache.gather(0, np.array([8]))
    cache.gather(0, np.array([0]))


@pytest.mark.usefixtures("no_maps")
def test_where_files_cannot_be_mapped_what_is_not_done_is_refused(partial: Path) -> None:
    """Law: as when mapped."""
    with pytest.raises(IncompleteError, match="rows 8 to 16 of view 1 were not done"):
        LabelCache.open(partial, allow_partial=True).gather(1, np.array([8]))


def memory_for(job: Job, rows: int) -> dict[str, np.ndarray]:
    """Memory for so many rows of every array."""
    return {spec.name: np.empty((rows, *spec.row_shape), spec.dtype) for spec in job.arrays}


def test_rows_go_straight_into_memory_that_is_given(cache: LabelCache) -> None:
    """Law: what comes back is what was given, filled; a batch after another may use it."""
    out = memory_for(cache.job, 3)
    for rows in ([0, 20, 7], [9, 9, 1]):
        found = cache.gather(1, np.array(rows), out=out)
        assert all(found[name] is array for name, array in out.items())
        np.testing.assert_array_equal(out["logits"], content(cache.job)["logits"][1, rows])


@pytest.mark.parametrize(
    ("given_memory", "found"),
    [
        ({}, "nothing"),
        ({"logits": np.empty((2, 3), np.float16)}, r"float16 of shape \(2, 3\)"),
        ({"logits": np.empty((3, 3), np.float32)}, r"float32 of shape \(3, 3\)"),
        ({"logits": np.empty((3, 3), np.float16).T}, r"float16 of shape \(3, 3\)"),
        ({"logits": np.frombuffer(bytes(18), np.float16).reshape(3, 3)}, r"float16 of shape \(3, 3\)"),
    ],
)
def test_memory_that_does_not_fit_is_refused(
    given_memory: dict[str, np.ndarray], found: str, cache: LabelCache
) -> None:
    """Law: other shapes, dtypes, orders and read-only memory, before anything is written."""
    with pytest.raises(ValueError, match=rf"out\['logits'\] is {found}; expected float16 of shape \(3, 3\), in C"):
        cache.gather(0, np.array([0, 1, 2]), ["logits"], given_memory)


def test_each_row_may_be_of_a_view_of_its_own(cache: LabelCache) -> None:
    """Law: views and rows pair up; a view for all may be any integer; other numbers of views are refused."""
    views, rows = np.array([1, 0, 1]), np.array([20, 20, 0])
    expected = content(cache.job)["logits"]
    np.testing.assert_array_equal(cache.gather(views, rows)["logits"], expected[views, rows])
    np.testing.assert_array_equal(cache.gather(np.int64(1), rows)["logits"], expected[1, rows])
    with pytest.raises(IndexError, match=r"\(2,\) views for \(3,\) rows; expected one for all, or one for each"):
        cache.gather(np.array([0, 1]), rows)
    for wrong in (-1, 2):
        reach = f"{min(wrong, 0)} to {max(wrong, 1)}"
        with pytest.raises(IndexError, match=f"asked for were rows 0 to 20 of views {reach}$"):
            cache.gather(np.array([0, 1, wrong]), rows)


def test_a_cache_tells_whether_it_holds_samples_in_an_order(cache: LabelCache, partial: Path) -> None:
    """Law: these and no others, in this order; a cache that lacks rows of every view does not."""
    ids = content(cache.job)["sample_id"][0]
    assert cache.holds_in_order(ids)
    assert not cache.holds_in_order(ids[:-1])
    assert not cache.holds_in_order(np.append(ids, 5))
    for place in range(20):
        swapped = ids.copy()
        swapped[[place, place + 1]] = swapped[[place + 1, place]]
        assert not cache.holds_in_order(swapped)
    assert LabelCache.open(partial, allow_partial=True).holds_in_order(ids)
    for receipt in (partial / "receipts").glob("*[12].json"):
        receipt.unlink()
    assert not LabelCache.open(partial, allow_partial=True).holds_in_order(ids)


def test_only_what_is_asked_for_is_read(sealed: Path, job: Job) -> None:
    """Law: opening touches no shard file, and reading one array touches no other."""
    for spec in job.arrays[1:]:
        shutil.rmtree(sealed / "labels.zarr" / spec.name / "c")
    cache = LabelCache.open(sealed)
    assert maps_below(sealed) == 0
    cache.gather(0, np.arange(21), ["sample_id"])
    assert maps_below(sealed) == 3
    with pytest.raises(CorruptError, match="is gone; its receipt says"):
        cache.gather(0, np.array([0]), ["label"])


def test_a_cache_that_was_just_begun_is_empty_and_not_damaged(tmp_path: Path, job: Job) -> None:
    """Law: between its job and its Zarr documents a partial cache opens, and has no row yet."""
    fill(tmp_path / "cache", job, commits=0)
    shutil.rmtree(tmp_path / "cache/labels.zarr")
    cache = LabelCache.open(tmp_path / "cache", allow_partial=True)
    with pytest.raises(IncompleteError, match="were not done when it was opened"):
        cache.gather(0, np.array([0]))


def test_opening_touches_no_shard_however_many_there_are(tmp_path: Path) -> None:
    """Law: a cache of 10,000 shards opens without any of their files, and reads those that it has."""
    job = job_of(rows=10_000, views=1, shard_rows=1, chunk_rows=1)
    with CacheWriter.open(tmp_path / "cache", job, VERSIONS) as writer:
        rows = block(job, job.layout.shard(9999))
        receipt = writer.commit(job.layout.shard(9999), rows, 0.0)
    seal = Seal.model_construct(job=job.fingerprint)
    chains = {name: np.maximum(known, 0) for name, known in proven(job, {9999: receipt}).items()}
    cache = LabelCache(tmp_path / "cache", job, seal, chains)
    np.testing.assert_array_equal(cache.gather(0, np.array([9999]))["logits"], rows["logits"])
    with pytest.raises(CorruptError, match=r"c/0/5\S* is gone"):
        cache.gather(0, np.array([5]))


def test_the_widest_rows_of_the_largest_cache_can_be_seen(tmp_path: Path) -> None:
    """Case: 17 TB in rows of 600 kB, which no array may show from every byte on; so fewer shards are mapped at once."""
    logits = ArraySpec("logits", "float16", (300_000,), 0)
    job = job_of(rows=28_672_000, views=1, shard_rows=16_384, chunk_rows=1, arrays=(logits,))
    chains = {spec.name: np.zeros(job.layout.shards, np.int64) for spec in job.arrays}
    cache = LabelCache(tmp_path / "cache", job, None, chains)
    with pytest.raises(CorruptError, match=r"logits/c/0/1749/0 is gone"):
        cache.gather(0, np.array([28_671_999]), ["logits"])


def test_each_chunk_is_held_against_its_checksum_once(sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: on first touch and never again, whatever arrays it is read with."""
    checked: list[tuple[str, int]] = []

    def counted(chunk: memoryview, number: int, spec: ArraySpec, layout: Layout) -> bool:
        checked.append((spec.name, number))
        return chunk_is_whole(chunk, number, spec, layout)

    monkeypatch.setattr(residence, "chunk_is_whole", counted)
    cache = LabelCache.open(sealed)
    for names in (["logits"], ["label", "logits"], None, None):
        cache.gather(0, np.array([0, 9, 20]), names)
    assert sorted(checked) == sorted((spec.name, chunk) for spec in job.arrays for chunk in (0, 0, 1))


def test_a_shard_that_is_mapped_again_is_proven_again(sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what was held against the checksum of a file is forgotten with its map: another file may be there."""
    monkeypatch.setattr(residence, "most_maps", lambda: len(job.arrays))
    cache = LabelCache.open(sealed)
    cache.gather(0, np.array([0]))
    cache.gather(0, np.array([8]))
    path = shard_path(sealed, job.arrays[3], job.layout, job.layout.shard(0))
    changed = path.read_bytes()
    path.unlink()
    path.write_bytes(bytes([changed[0] ^ 1]) + changed[1:])
    with pytest.raises(CorruptError, match="chunk 0 does not have its checksum"):
        cache.gather(0, np.array([0]))


class Interrupt:
    """Ctrl-C before one line of the code that gives and takes slots, the first time that it is reached.

    Args:
        place: which of the lines reached, from 0.

    """

    WATCHED = ("_hold", "_evict", "_prove", "_map", "reading")

    def __init__(self, place: int) -> None:
        self.left = place

    def __call__(self, frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        """A trace function, as `sys.settrace` takes it."""
        if frame.f_code.co_filename != residence.__file__ or frame.f_code.co_name not in self.WATCHED:
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted(place: int, act: Callable[[], object]) -> bool:
    """Whether something was interrupted, and had not ended before."""
    before = sys.gettrace()
    sys.settrace(Interrupt(place))
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_rows_are_right_after_an_interrupt_anywhere(sealed: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: Ctrl-C before any line of the eviction of shards leaves a cache that reads on, and reads what it holds."""
    monkeypatch.setattr(residence, "most_maps", lambda: 3 * len(job.arrays))
    expected, place = content(job)["logits"], 0
    pairs, views = np.array([0, 8, 16, 0, 8, 16]), np.array([0, 0, 0, 1, 1, 1])
    while True:
        cache = LabelCache.open(sealed)
        for first in (0, 1, 3):
            cache.gather(views[[first]], pairs[[first]])
        if not interrupted(place, lambda: cache.gather(views[[2, 4]], pairs[[2, 4]])):  # noqa: B023 - called here
            break
        for order in ([0, 4, 5], [3, 4], [1], [2, 0], [5, 4, 3], [0, 1, 2]):
            found = cache.gather(views[order], pairs[order])["logits"]
            np.testing.assert_array_equal(found, expected[views[order], pairs[order]])
        place += 1
    assert place > 40, "the lines of two shards' coming and two shards' going"


WIDTHS = st.sampled_from([(), (1,), (2,), (3,), (4,), (7,), (2, 2), (300,), (512,)])
DTYPES = st.sampled_from(["float16", "float32", "int8", "uint8", "uint16", "uint32", "int32", "int64"])


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Any layout, with up to three arrays of any dtype and shape."""
    chunk_rows = draw(st.integers(1, 5))
    shapes = draw(st.lists(st.tuples(DTYPES, WIDTHS), min_size=1, max_size=2))
    return job_of(
        rows=draw(st.integers(1, 20)),
        views=draw(st.integers(1, 2)),
        shard_rows=chunk_rows * draw(st.integers(1, 4)),
        chunk_rows=chunk_rows,
        arrays=tuple(ArraySpec(f"array_{place}", *each, 0) for place, each in enumerate(shapes)),
    )


@settings(STEADY, max_examples=30)
@given(jobs(), st.integers(1, 40), st.data())
def test_rows_are_those_that_zarr_reads(job: Job, most: int, data: st.DataObject) -> None:
    """Law: for any layout, choice of arrays, views and rows, mapped at once or in turn, the bytes are zarr-python's."""
    places = st.tuples(st.integers(0, job.view_count - 1), st.integers(0, job.rows - 1))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(residence, "most_maps", lambda: most)
        fill(Path(folder) / "cache", job)
        cache = LabelCache.open(Path(folder) / "cache")
        group = zarr.open_group(cache.root / "labels.zarr", mode="r")
        stored = {name: array[:] for name, array in group.arrays()}
        for _ in range(3):
            wanted = np.array(data.draw(st.lists(places, max_size=60)), np.int64).reshape(-1, 2)
            names = data.draw(st.lists(st.sampled_from(sorted(stored)), unique=True))
            chosen = cache.gather(wanted[:, 0], wanted[:, 1], names)
            assert list(chosen) == names
            for name, found in chosen.items():
                oracle = stored[name][wanted[:, 0], wanted[:, 1]]
                assert (found.dtype, found.shape, found.tobytes()) == (oracle.dtype, oracle.shape, oracle.tobytes())


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A cache of rows that torch's threads copy."""
    arrays = (ArraySpec("logits", "float16", (1000,), 0),)
    fill(tmp_path / "wide", job_of(rows=256, views=1, shard_rows=128, chunk_rows=64, arrays=arrays))
    return tmp_path / "wide"


def read_in_a_fork(path: Path) -> None:
    """Read wide rows by two threads, and again in a fork; what fails there fails here."""
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 tells of forks beside threads
    torch.set_num_threads(2)
    windows.LONG = float("inf")  # no copy counts as a wait for a core: that would send the threads away
    cache, rows = LabelCache.open(path), np.arange(256)
    for _ in range(2):  # the first reads what was not ready
        here = cache.gather(0, rows)["logits"]
    assert windows.crew.is_free()
    assert holds_in_fork(lambda: np.array_equal(cache.gather(0, rows)["logits"], here))
    assert windows.crew.is_free()


def test_wide_rows_are_read_after_a_fork(wide: Path) -> None:
    """Law: threads that copied in the parent are not waited for in a child, where they are not.

    In a process of its own: the others have one thread.
    """
    parent = multiprocessing.get_context("spawn").Process(target=read_in_a_fork, args=(wide,))
    parent.start()
    parent.join(40)
    parent.kill()
    parent.join()
    assert parent.exitcode == 0
