"""The same command resumes, one writer at a time fills a cache, and readers see one snapshot of it."""

import os
import pickle
import random
import shutil
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ledger import Attack
from promise_cases import forked
from store_cases import VERSIONS, block, content, fill, job_of, tree

from pipeline.errors import IncompleteError, LockedError, MismatchError
from pipeline.store import directories
from pipeline.store.documents import parse_receipt
from pipeline.store.mapped import LabelCache
from pipeline.store.state import RECEIPTS, read_state
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter

MANY = job_of(rows=160, views=1, shard_rows=4, chunk_rows=2)
"""40 shards."""


def shards_of(path: Path) -> dict[str, bytes]:
    """The shard files and Zarr documents of a cache."""
    return {name: data for name, data in tree(path).items() if name.startswith("labels.zarr/")}


@pytest.mark.promise("P5")
@pytest.mark.parametrize("kills", [1, 3, 10])
def test_a_cache_made_in_many_attempts_is_the_one_made_in_one(memory: Path, attack: Attack, kills: int) -> None:
    """Law: after so many SIGKILLs the shards and the cache id equal those of a run that nothing stopped."""
    fill(memory / "whole", MANY)
    path, dice = memory / "cache", random.Random(kills)  # noqa: S311 - chance, not a secret
    for _ in range(kills):
        done = len(list(path.glob(f"{RECEIPTS}/*.json")))
        with forked(lambda: fill(path, MANY, seal=False)) as process:
            while len(list(path.glob(f"{RECEIPTS}/*.json"))) <= done < 35:
                time.sleep(0.0005)
            time.sleep(dice.uniform(0, 0.003))
            process.kill()
    with attack.attempt(kills):
        fill(path, MANY)
        assert shards_of(path) == shards_of(memory / "whole")
        assert read_state(path).seal.cache_id == read_state(memory / "whole").seal.cache_id
        attempts = {receipt.made.attempt for receipt in read_state(path).receipts.values()}
        assert kills == 1 or len(attempts) > 1
    attack.assert_kept()


def race(path: Path) -> None:
    """Be one of several who want to fill a cache: write as soon as nobody else does, until it is sealed."""
    while True:
        try:
            with CacheWriter.open(path, MANY, VERSIONS) as racer:
                for shard in racer.missing()[:7]:  # then another may have a turn
                    racer.commit(shard, block(MANY, shard), 0.0)
                if racer.sealed:
                    return
                if not racer.missing():
                    racer.seal({})
        except LockedError:
            time.sleep(0.001)


@pytest.mark.promise("P8", tries=3, torture=50)
def test_writers_that_race_commit_each_shard_once(memory: Path, attack: Attack) -> None:
    """Law: of eight processes at one job each gets its turns; every shard is written once, with the same bytes."""
    fill(memory / "whole", MANY)
    for number, _ in attack.tries():
        path = memory / str(number)
        with ExitStack() as stack:
            racers = [stack.enter_context(forked(partial(race, path))) for _ in range(8)]
            codes = [racer.wait() for racer in racers]
        with attack.attempt(number):
            assert codes == [0] * 8
            assert verify(path).problems == ()
            assert shards_of(path) == shards_of(memory / "whole")
            receipts = [parse_receipt(file.read_bytes(), file) for file in sorted((path / RECEIPTS).iterdir())]
            assert [receipt.shard for receipt in receipts] == list(range(40))
            assert len({receipt.made.attempt for receipt in receipts}) > 1
    attack.assert_kept()


@pytest.mark.promise("P8")
def test_a_second_job_for_a_path_that_is_being_written_waits_for_the_lock(memory: Path) -> None:
    """Law: while a writer is at it, what a second one wants is refused by the lock: exit code 6, not the job's 5."""
    path, other = memory / "cache", job_of(teacher="teacher-2")
    with CacheWriter.open(path, MANY, VERSIONS) as first:
        first.commit(first.missing()[0], block(MANY, first.missing()[0]), 0.0)
        before = tree(path)
        with pytest.raises(LockedError, match="is being written by process") as refusal:
            CacheWriter.open(path, other, VERSIONS)
        assert refusal.value.exit_code == 6
        assert tree(path) == before


@pytest.mark.promise("P9", tries=12, torture=100)
def test_a_reader_of_a_partial_cache_sees_what_was_done_when_it_was_opened(memory: Path, attack: Attack) -> None:
    """Law: opened at generation n, it reads exactly n shards, while a hundred more are written under it."""
    job = job_of(rows=(attack.planned + 100) * 2, views=1, shard_rows=2, chunk_rows=1)
    path, truth = memory / "cache", content(job)
    readers: list[tuple[LabelCache, list[int]]] = []
    with CacheWriter.open(path, job, VERSIONS) as filling:
        order = filling.missing()
        random.Random(0).shuffle(order)  # noqa: S311 - chance, not a secret
        for generation, shard in enumerate(order):
            rows = {name: array[0, shard.start : shard.stop] for name, array in truth.items()}
            filling.commit(shard, rows, 0.0)
            done = [each.number for each in order[: generation + 1]]
            if generation < attack.planned:
                readers.append((LabelCache.open(path, allow_partial=True), done))
            elif generation % 25 == 0:  # while more are written
                for cache, seen in readers:
                    with attack.attempt((len(seen), generation)):
                        assert_sees(cache, set(seen), truth)
        filling.seal({})
    for cache, seen in readers:
        with attack.attempt(len(seen)):
            assert_sees(cache, set(seen), truth)
            assert_sees(pickle.loads(pickle.dumps(cache)), set(seen), truth)  # noqa: S301 - made here
    attack.assert_kept(at_least=2 * attack.planned)


def assert_sees(cache: LabelCache, done: set[int], truth: dict[str, np.ndarray]) -> None:
    """Law: the rows of these shards are read as they are, by position and by id, and all others are refused."""
    for shard in cache.layout.all_shards():
        wanted, ids = np.arange(shard.start, shard.stop), truth["sample_id"][0, shard.start : shard.stop]
        if shard.number in done:
            np.testing.assert_array_equal(cache.gather(0, wanted)["logits"], truth["logits"][0, wanted])
            np.testing.assert_array_equal(cache.rows_of(ids), wanted)
        else:
            with pytest.raises(IncompleteError, match="were not done when it was opened"):
                cache.gather(0, wanted)
            with pytest.raises(MismatchError, match="has no labels for 2 of the samples"):
                cache.rows_of(ids)


@pytest.mark.promise("P9")
@pytest.mark.parametrize("commits", [None, 5], ids=["sealed", "partial"])
def test_a_pickled_reader_is_of_the_very_cache_it_was_opened_on(memory: Path, commits: int | None) -> None:
    """Law: unpickled where another teacher's cache, or another run's, has taken the place, it is refused."""
    path = memory / "cache"
    fill(path, MANY, commits=commits)
    reader = pickle.dumps(LabelCache.open(path, allow_partial=True))
    for job, seed in ((job_of(teacher="teacher-2"), 0), (MANY, 1)):
        shutil.rmtree(path)
        fill(path, job, seed=seed)
        with pytest.raises(MismatchError, match="is another cache than the one that was opened"):
            pickle.loads(reader)  # noqa: S301 - made here


@pytest.mark.promise("P8")
def test_the_loser_of_a_race_between_two_jobs_is_told_of_the_job_not_of_its_own_lock(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: whoever takes the lock after another job's writer has left it finds that job: exit code 5, not 6."""
    path, real = memory / "cache", directories.WriterLock

    def late(lock: Path) -> object:
        monkeypatch.setattr(directories, "WriterLock", real)
        fill(path, MANY, commits=1)
        return real(lock)

    monkeypatch.setattr(directories, "WriterLock", late)
    with pytest.raises(MismatchError, match="was made by another job"):
        CacheWriter.open(path, job_of(teacher="teacher-2"), VERSIONS)


@pytest.mark.promise("P8")
def test_a_lock_that_is_no_file_hangs_no_one(memory: Path) -> None:
    """Law: whatever lies where the lock should, another job is refused at once."""
    path = memory / "cache"
    fill(path, MANY)
    os.mkfifo(path / "lock")
    with pytest.raises(MismatchError, match="was made by another job"):
        CacheWriter.open(path, job_of(teacher="teacher-2"), VERSIONS)
