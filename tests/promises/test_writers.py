"""The same command resumes, one writer at a time fills a cache, and readers see one snapshot of it."""

import random
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ledger import Attack
from promise_cases import ended, forked
from store_cases import VERSIONS, block, content, fill, job_of, tree

from pipeline.errors import IncompleteError, LockedError
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
        with forked(lambda: fill(path, MANY, seal=False)) as process:
            time.sleep(dice.uniform(0, 0.02))
            ended(process, signal.SIGKILL)
    with attack.attempt(kills):
        fill(path, MANY)
        assert shards_of(path) == shards_of(memory / "whole")
        assert read_state(path).seal.cache_id == read_state(memory / "whole").seal.cache_id
    attack.assert_kept()


def race(path: Path) -> None:
    """Be one of several who want to fill a cache: write as soon as nobody else does, until it is sealed."""
    while True:
        try:
            with CacheWriter.open(path, MANY, VERSIONS) as writer:
                for shard in writer.missing()[:7]:  # then another may have a turn
                    writer.commit(shard, block(MANY, shard), 0.0)
                if writer.sealed:
                    return
                if not writer.missing():
                    writer.seal({})
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
            codes = [ended(process) for process in racers]
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
    with CacheWriter.open(path, MANY, VERSIONS) as writer:
        writer.commit(writer.missing()[0], block(MANY, writer.missing()[0]), 0.0)
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
    readers: list[tuple[LabelCache, frozenset[int]]] = []
    with CacheWriter.open(path, job, VERSIONS) as writer:
        order = writer.missing()
        random.Random(0).shuffle(order)  # noqa: S311 - chance, not a secret
        rows = {
            shard.number: {name: array[0, shard.start : shard.stop] for name, array in truth.items()} for shard in order
        }
        for generation, shard in enumerate(order):
            writer.commit(shard, rows[shard.number], 0.0)
            if generation < attack.planned:
                done = frozenset(each.number for each in order[: generation + 1])
                readers.append((LabelCache.open(path, allow_partial=True), done))
        writer.seal({})
    for cache, done in readers:
        with attack.attempt(len(done)):
            for shard in job.layout.all_shards():
                wanted = np.arange(shard.start, shard.stop)
                if shard.number in done:
                    np.testing.assert_array_equal(cache.gather(0, wanted)["logits"], truth["logits"][0, wanted])
                else:
                    with pytest.raises(IncompleteError, match="were not done when it was opened"):
                        cache.gather(0, wanted)
            assert cache.rows_of(truth["sample_id"][0, [2 * number for number in done]]).size == len(done)
    attack.assert_kept(at_least=12)
