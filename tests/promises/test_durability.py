"""Killed, out of space or without power at any moment: no receipt ever lies, and the same command goes on."""

import errno
import itertools
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from crash_states import BOTH, Disk, Recorder, Syncing, Tree, lay_out
from faulty_os import Calls, Killed, failing_at, killed_at
from ledger import Attack
from promise_cases import JOB_OF_THREE, assert_goes_on, assert_tells_no_lie, forked, unfinished
from store_cases import VERSIONS, block, content, fill, job_of, tree

from pipeline.errors import IncompleteError, StorageError
from pipeline.store import files
from pipeline.store.documents import Job
from pipeline.store.mapped import LabelCache
from pipeline.store.places import LOCK
from pipeline.store.state import SEAL, receipt_path
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter, missing_shards

MOST_STATES = 1024  # of one moment; where there are more, as many by chance


@pytest.fixture
def piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of a file by a call of its own, so that a run can be killed between any two."""
    monkeypatch.setattr(files, "MOST_PIECES", 1)


class Moments:
    """Every tree that a power loss may leave of a run, with the shards that were acknowledged before."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: dict[tuple[tuple[str, bytes | None], ...], frozenset[int]] = {}
        self.acknowledged: set[int] = set()
        self._dice = random.Random(0)  # noqa: S311 - chance, not a secret

    def __call__(self, disk: Disk) -> None:
        """Add those of this moment; of equal ones, that with the most acknowledged."""
        for state in disk.states(self.most, self._dice):
            key = tuple(state.items())
            self.found[key] = self.found.get(key, frozenset()) | self.acknowledged

    def sampled(self, count: int | None) -> Iterator[tuple[Tree, frozenset[int]]]:
        """All of them, or so many by chance."""
        keys = list(self.found)
        for key in keys if count is None or count >= len(keys) else self._dice.sample(keys, count):
            yield dict(key), self.found[key]


def acknowledging(path: Path, job: Job, acknowledged: set[int], commits: int | None = None) -> None:
    """Commit some of what is missing, noting each shard that is said to be done; seal the cache if nothing is."""
    with CacheWriter.open(path, job, VERSIONS) as writer:
        for shard in writer.missing()[:commits]:
            writer.commit(shard, block(job, shard), 0.5)
            acknowledged.add(shard.number)
        if not writer.missing():
            writer.seal({"accuracy": 0.5})


def moments(root: Path, monkeypatch: pytest.MonkeyPatch, most: int, syncing: Syncing = BOTH) -> Moments:
    """Of a run that stops after one shard, and another that goes on to the end."""
    found = Moments(most)
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", Recorder(root, found, syncing=syncing))
        acknowledging(root / "cache", JOB_OF_THREE, found.acknowledged, commits=1)
        acknowledging(root / "cache", JOB_OF_THREE, found.acknowledged)
    return found


@pytest.mark.usefixtures("piece_by_piece")
@pytest.mark.promise("P1", tries=200, torture=None)
def test_a_power_loss_at_any_moment_leaves_no_lie_and_costs_nothing_acknowledged(
    memory: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    """Law: after every call, whatever unsynced bytes and names have lasted, what has a receipt is there to the byte.

    What was acknowledged has its receipt, and the same command goes on.
    """
    (memory / "run").mkdir()
    known = moments(memory / "run", monkeypatch, MOST_STATES)
    for number, (state, acknowledged) in enumerate(known.sampled(attack.planned)):
        path = memory / str(number)
        lay_out(state, path)
        with attack.attempt(sorted(state)):
            assert_tells_no_lie(path / "cache")
            assert all(receipt_path(path / "cache", shard).exists() for shard in acknowledged)
            if number % 7 == 0 or (path / "cache" / SEAL).exists():
                assert_goes_on(path / "cache", JOB_OF_THREE)
    attack.assert_kept(at_least=attack.planned or 400)


@pytest.mark.parametrize("left_out", sorted(BOTH))
def test_without_syncs_the_same_attack_finds_lies(memory: Path, monkeypatch: pytest.MonkeyPatch, left_out: str) -> None:
    """Law: the attack can fail. Of a writer that leaves out either kind of sync, a power loss leaves false receipts."""
    (memory / "run").mkdir()
    lies = 0
    known = moments(memory / "run", monkeypatch, 2, BOTH - {left_out})
    for number, (state, acknowledged) in enumerate(known.sampled(150)):
        path = memory / str(number)
        lay_out(state, path)
        try:
            assert_tells_no_lie(path / "cache")
            assert all(receipt_path(path / "cache", shard).exists() for shard in acknowledged)
        except (AssertionError, StorageError):
            lies += 1
    assert lies > 5


@pytest.mark.usefixtures("piece_by_piece")
@pytest.mark.promise("P1")
def test_a_sealed_cache_survives_a_power_loss_wherever_an_earlier_run_was_killed(
    memory: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    """Law: for every n, a run killed at the n-th call and its resumption leave nothing unsynced that is read."""
    for at in itertools.count(1):
        root = memory / str(at)
        root.mkdir()
        recorder = Recorder(root, lambda _: None, dies_at=at)
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", recorder)
            try:
                fill(root / "cache", JOB_OF_THREE)
            except Killed:
                was_sealed = (root / "cache" / SEAL).exists()
            else:
                break
            recorder.dies_at = 0
            fill(root / "cache", JOB_OF_THREE)
        lost = {SEAL} if was_sealed else set()  # killed while it sealed: the same command seals again
        real = {name: data for name, data in tree(root).items() if is_read(name) and Path(name).name not in lost}
        with attack.attempt(at):
            for state in recorder.disk.states(MOST_STATES, random.Random(at)):  # noqa: S311 - chance, not a secret
                left = {name: data for name, data in state.items() if data is not None and name in real}
                assert left == real
    attack.assert_kept(at_least=100)


def is_read(name: str) -> bool:
    """Whether anyone reads a file of a cache by this name."""
    return Path(name).name != LOCK and not files.is_leftover(Path(name).name)


@pytest.mark.usefixtures("piece_by_piece")
@pytest.mark.promise("P2")
def test_a_run_killed_at_any_call_to_the_disk_is_resumed(
    memory: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    """Law: for every n, killed at the n-th call: what is proven is there, and the same command ends with the cache."""
    for at in itertools.count(1):
        path, dead = memory / str(at), []
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", killed_at(at, dead))
            with suppress(Killed):
                fill(path, JOB_OF_THREE)
        if not dead:
            break
        with attack.attempt(at):
            assert_tells_no_lie(path)
            assert_goes_on(path, JOB_OF_THREE)
    attack.assert_kept(at_least=100)


@pytest.mark.usefixtures("piece_by_piece")
@pytest.mark.promise("P10")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_a_disk_that_fails_at_any_call_is_an_error_and_the_same_command_goes_on(
    memory: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack, number: int
) -> None:
    """Law: for every n, a full or faulty disk at the n-th call is a StorageError that leaves nothing unfinished."""
    for at in itertools.count(1):
        path, failed, said = memory / str(at), [], None
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", failing_at(at, number, failed))
            try:
                fill(path, JOB_OF_THREE)
            except StorageError as error:
                said = error
        if not failed:
            break
        with attack.attempt(at):
            assert said is not None
            assert errno.errorcode[number] in str(said)
            assert said.exit_code == 7
            assert failed == ["unlink"] or [name for name in unfinished(path) if name != LOCK] == []
            assert_tells_no_lie(path)
            assert_goes_on(path, JOB_OF_THREE)
    attack.assert_kept(at_least=100)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount a file system, and not everywhere")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.promise("P10", tries=10, torture=110)
def test_a_disk_that_is_full_is_an_error_and_more_room_is_all_it_takes(small_disk: Path, attack: Attack) -> None:
    """Law: a real disk that fills up anywhere: StorageError, no lie, nothing unfinished; with room, the same cache."""
    job = job_of(rows=60, views=1, shard_rows=10, chunk_rows=5)
    for number, dice in attack.tries():
        path, ballast = small_disk / "cache", small_disk / "ballast"
        ballast.write_bytes(bytes(4096 * (64 - dice.randrange(2, 36))))  # all of a cache takes 37 pages
        with attack.attempt(number):
            with pytest.raises(StorageError, match="ENOSPC") as refusal:
                fill(path, job)
            assert refusal.value.exit_code == 7
            assert [name for name in unfinished(path) if name != LOCK] == []
            assert_tells_no_lie(path)
            ballast.unlink()
            assert_goes_on(path, job)
        shutil.rmtree(path)
        ballast.unlink(missing_ok=True)
    attack.assert_kept(at_least=10)


class OneSync(Calls):
    """A disk whose sync of the n-th file fails; it keeps in mind which files were synced after that."""

    def __init__(self, at: int) -> None:
        super().__init__(self._watch, sync=True)
        self._at, self._syncs, self.broken, self.again = at, 0, None, 0

    def _watch(self, _: int, name: str, args: tuple[int, ...]) -> None:
        if name != "fsync":
            return
        self._syncs += 1
        file = os.fstat(args[0]).st_ino
        self.again += file == self.broken
        if self._syncs == self._at:
            self.broken = file
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.promise("P10")
def test_a_sync_that_failed_is_never_tried_again_on_the_same_file(
    memory: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    """Law: for every n, the file whose sync failed is not synced again: that would succeed and prove nothing."""
    for at in itertools.count(1):
        disk = OneSync(at)
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", disk)
            with suppress(StorageError):
                fill(memory / str(at), JOB_OF_THREE)
        if disk.broken is None:
            break
        with attack.attempt(at):
            assert disk.again == 0
    attack.assert_kept(at_least=20)


MANY = job_of(rows=480, views=1, shard_rows=4, chunk_rows=2)
"""120 shards."""
LEAST_ROWS = 1000  # that a reader has to have seen


class Onlooker(Thread):
    """Opens a cache that is being made, again and again, and reads all of it that is done.

    Every attempt at the cache writes other content. So a shard must be that of one attempt, whole, and stay so.
    """

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__()
        self.path, self.job, self.attempts = path, job, [content(job, 0)]
        self.seen: dict[int, int] = {}  # shard -> the attempt that it is of
        self.rows = 0
        self.wrong: list[str] = []
        self._ended = Event()

    def run(self) -> None:
        """Until told to end."""
        try:
            while not self._ended.is_set():
                with suppress(IncompleteError):  # there is no job.json yet
                    self._look(LabelCache.open(self.path, allow_partial=True))
                time.sleep(0.002)
        except Exception as error:  # noqa: BLE001 - a thread's own would go unseen
            self.wrong.append(repr(error))

    def _look(self, cache: LabelCache) -> None:
        for shard in self.job.layout.all_shards():
            rows = np.arange(shard.start, shard.stop)
            with suppress(IncompleteError):
                found = cache.gather(0, rows)
                self.rows += rows.size
                whole = [number for number, truth in enumerate(self.attempts) if is_of(found, truth, rows)]
                if not whole or self.seen.setdefault(shard.number, whole[0]) != whole[0]:
                    self.wrong.append(f"shard {shard.number} is of {whole}, and was of {self.seen.get(shard.number)}")

    def end(self) -> None:
        """Let the last look end."""
        self._ended.set()
        self.join()


def is_of(found: dict[str, np.ndarray], truth: dict[str, np.ndarray], rows: np.ndarray) -> bool:
    """Whether rows of all arrays are those of one attempt."""
    return all(np.array_equal(array, truth[name][0, rows]) for name, array in found.items())


@pytest.mark.promise("P2", tries=20, torture=1000)
def test_a_writer_killed_at_random_moments_leaves_whole_shards_while_a_reader_looks_on(
    memory: Path, attack: Attack
) -> None:
    """Law: after SIGKILL at any moment every shard is whole or has no receipt, and the lock is free.

    A reader of the partial cache has seen each row as one of the attempts wrote it, and never otherwise.
    """
    onlookers = [Onlooker(memory / "0", MANY)]
    onlookers[0].start()
    for number, dice in attack.tries():
        onlooker = onlookers[-1]
        seed = len(onlooker.attempts)
        onlooker.attempts.append(content(MANY, seed))
        with forked(partial(fill, onlooker.path, MANY, seal=False, seed=seed)) as process:
            time.sleep(dice.uniform(0, 0.06))
            process.kill()
        with attack.attempt(number):
            assert_tells_no_lie(onlooker.path)
        if not missing_shards(onlooker.path, MANY):
            onlookers.append(Onlooker(memory / str(len(onlookers)), MANY))
            onlookers[-1].start()
            onlooker.end()
    last = onlookers[-1]
    last.attempts.append(content(MANY, len(last.attempts)))
    fill(last.path, MANY, seal=False, seed=len(last.attempts) - 1)
    while last.is_alive() and sum(onlooker.rows for onlooker in onlookers) <= LEAST_ROWS:
        time.sleep(0.002)
    last.end()
    for onlooker in onlookers:
        with attack.attempt(f"reader of {onlooker.path}"):
            assert onlooker.wrong == []
    assert sum(onlooker.rows for onlooker in onlookers) > LEAST_ROWS  # else nobody looked on
    attack.assert_kept(at_least=attack.planned)


@pytest.mark.promise("P8", tries=10, torture=50)
def test_a_process_killed_with_sigkill_has_every_shard_it_said_was_committed(memory: Path, attack: Attack) -> None:
    """Law: what a killed process said is done is done, its lock is taken over, and the same command goes on."""
    path, said = memory / "cache", set()
    for number, dice in attack.tries():
        reading, writing = os.pipe()

        def work(writing: int = writing) -> None:
            with CacheWriter.open(path, MANY, VERSIONS) as writer:
                for shard in writer.missing():
                    writer.commit(shard, block(MANY, shard), 0.0)
                    os.write(writing, shard.number.to_bytes(4, "little"))

        with forked(work) as process:
            os.close(writing)
            for _ in range(dice.randrange(1, 5)):
                said.add(os.read(reading, 4))
            process.kill()
        while rest := os.read(reading, 4):
            said.add(rest)
        os.close(reading)
        numbers = {int.from_bytes(each, "little") for each in said}
        with attack.attempt(number), CacheWriter.open(path, MANY, VERSIONS) as writer:
            assert numbers <= set(range(120)) - {shard.number for shard in writer.missing()}
    fill(path, MANY)
    assert verify(path).problems == ()
    attack.assert_kept()
