"""Killed, out of space or without power at any call to the disk: no receipt ever lies, and the same command goes on."""

import contextlib
import errno
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from store_cases import LOGITS, Calls, fill, job_of, tree

from pipeline.errors import IncompleteError, StorageError
from pipeline.store import files
from pipeline.store.state import JOB, LOCK, RECEIPTS, SEAL, read_state
from pipeline.store.verify import verify

JOB_OF_THREE = job_of(rows=5, views=1, shard_rows=2, chunk_rows=1, arrays=(LOGITS,))


class Killed(BaseException):
    """What a process that is killed does not survive: no `except` and no `finally` of it can touch the disk again."""


@pytest.fixture(autouse=True)
def piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of a file by a call of its own, so that a run can be killed between any two."""
    monkeypatch.setattr(files, "MOST_PIECES", 1)


@pytest.fixture(scope="module")
def cache_id(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a cache of the job that nothing interrupted."""
    path = tmp_path_factory.mktemp("crashes") / "cache"
    fill(path, JOB_OF_THREE)
    return read_state(path).seal.cache_id


def assert_tells_no_lie(path: Path) -> None:
    """Law: all that has a receipt is whole; without a job there is no receipt."""
    try:
        assert verify(path).problems == ()
    except IncompleteError:
        assert not list(path.glob(f"{RECEIPTS}/*"))
        assert not (path / SEAL).exists()


def assert_goes_on(path: Path, cache_id: str) -> None:
    """Law: the same command ends with the same cache, and clears up after the killed run unless that had sealed it."""
    was_sealed = (path / SEAL).exists()
    fill(path, JOB_OF_THREE)
    report = verify(path)
    assert (report.sealed, report.shards, report.problems) == (True, 3, ())
    assert read_state(path).seal.cache_id == cache_id
    extra = [name for name in tree(path) if files.is_leftover(Path(name).name) or name == LOCK]
    assert was_sealed or extra == []


def test_a_run_killed_at_any_call_to_the_disk_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_id: str
) -> None:
    """Law: for every n, killed at the n-th call: what is proven is there, and the same command ends with the cache."""
    for at in itertools.count(1):
        path, dead = tmp_path / str(at), []

        def kill(count: int, _name: str, _args: object, at: int = at, dead: list[int] = dead) -> None:
            if count >= at:
                dead.append(count)
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(files, "os", Calls(kill))
            with contextlib.suppress(Killed):
                fill(path, JOB_OF_THREE)
        if not dead:
            break
        assert_tells_no_lie(path)
        assert_goes_on(path, cache_id)
    assert at > 100


def fail_at(at: int, number: int, failed: list[str], *call: Any) -> None:  # noqa: ANN401 - count, name, arguments
    """Fail the call of that count with an errno, and note which it was."""
    count, name, args = call
    if count == at:
        failed.append(name)
        raise OSError(number, os.strerror(number), str(args[0]))


def test_a_disk_that_fails_at_any_call_is_an_error_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_id: str
) -> None:
    """Law: for every n, a full or faulty disk at the n-th call is a StorageError that leaves nothing unfinished."""
    for at in itertools.count(1):
        path, failed, number = tmp_path / str(at), [], (errno.ENOSPC, errno.EIO)[at % 2]
        fail = partial(fail_at, at, number, failed)
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", Calls(fail))
            try:
                fill(path, JOB_OF_THREE)
            except StorageError as error:
                said = str(error)
            else:
                assert failed == []
                break
        assert errno.errorcode[number] in said
        assert failed == ["unlink"] or not [name for name in tree(path) if files.is_leftover(Path(name).name)]
        assert_tells_no_lie(path)
        assert_goes_on(path, cache_id)
    assert at > 100


class Disk:
    """What a power loss leaves: of a file the bytes last synced, of a directory the names last synced or later ones.

    Later, because the system may write a name at any time unasked; chance decides which it wrote.
    """

    def __init__(self, root: Path) -> None:
        self.content: dict[int, tuple[bytes, bytes]] = {}  # of a file: what it holds, what is synced of it
        self.names: dict[Path, list[dict[str, int | None]]] = {root: [{}]}  # of a directory: since its last sync
        self.open: dict[int, Path | int] = {}

    def change(self, directory: Path, name: str, file: int | None, *, gone: bool = False) -> None:
        """A directory gets or loses a name."""
        names = dict(self.names[directory][-1])
        names.pop(name, None) if gone else names.update({name: file})
        self.names[directory].append(names)

    def left(self, chance: random.Random | None) -> dict[str, bytes]:
        """A tree that may be left: only what is synced, or also some of the names that are not."""
        found: dict[str, bytes] = {}
        root = next(iter(self.names))
        stack = [(root, "")]
        while stack:
            directory, prefix = stack.pop()
            names = chance.choice(self.names[directory]) if chance else self.names[directory][0]
            for name, file in names.items():
                if file is None:
                    found[f"{prefix}{name}/"] = b""
                    stack.append((directory / name, f"{prefix}{name}/"))
                else:
                    found[prefix + name] = self.content[file][1]
        return found


class WatchedDisk(Calls):
    """The module `os`, with a `Disk` that follows what is done through it."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.disk, self.states, self.killed_at, self._numbers = Disk(root), [], None, itertools.count()

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - stands for any function of `os`
            self.count += 1
            if self.killed_at and self.count >= self.killed_at:
                raise Killed
            result = None if name == "fsync" else real(*args, **kwargs)
            getattr(self, f"_{name}")(result, *args)
            if self.killed_at is None:
                chance = random.Random(self.count)  # noqa: S311 - chance, not a secret
                self.states += [self.disk.left(None), self.disk.left(chance), self.disk.left(chance)]
            return result

        return call

    def _open(self, descriptor: int, path: Path, flags: int, *_: object) -> None:
        path = Path(path)
        if flags & os.O_CREAT:
            number = next(self._numbers)
            self.disk.content[number] = (b"", b"")
            self.disk.change(path.parent, path.name, number)
            self.disk.open[descriptor] = number
        elif flags & os.O_DIRECTORY:
            self.disk.open[descriptor] = path

    def _writev(self, count: int, descriptor: int, pieces: list[memoryview]) -> None:
        number = self.disk.open[descriptor]
        held, synced = self.disk.content[number]
        self.disk.content[number] = (held + b"".join(pieces)[:count], synced)

    def _fsync(self, _: object, descriptor: int) -> None:
        target = self.disk.open[descriptor]
        if isinstance(target, int):
            self.disk.content[target] = (self.disk.content[target][0],) * 2
        elif target in self.disk.names:
            self.disk.names[target] = self.disk.names[target][-1:]

    def _close(self, _: object, descriptor: int) -> None:
        self.disk.open.pop(descriptor, None)

    def _link(self, _: object, source: Path, target: Path) -> None:
        self.disk.change(
            Path(target).parent, Path(target).name, self.disk.names[Path(source).parent][-1][Path(source).name]
        )

    def _replace(self, _: object, source: Path, target: Path) -> None:
        self._link(None, source, target)
        self._unlink(None, source)

    def _unlink(self, _: object, path: Path) -> None:
        self.disk.change(Path(path).parent, Path(path).name, None, gone=True)

    def _mkdir(self, _: object, path: Path, *_mode: object) -> None:
        self.disk.names[Path(path)] = [{}]
        if Path(path).parent in self.disk.names:
            self.disk.change(Path(path).parent, Path(path).name, None)


def lay_out(state: dict[str, bytes], path: Path) -> None:
    """Put a tree on the disk."""
    path.mkdir()
    for name, data in state.items():
        if name.endswith("/"):
            (path / name).mkdir(parents=True, exist_ok=True)
        else:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)


def test_a_power_loss_after_any_call_to_the_disk_leaves_no_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_id: str
) -> None:
    """Law: after every call, whatever unsynced names the system had written, what is proven is there to the byte."""
    watched = WatchedDisk(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", watched)
        fill(tmp_path / "cache", JOB_OF_THREE, commits=1)
        fill(tmp_path / "cache", JOB_OF_THREE)
    distinct = {tuple(sorted(state.items())): state for state in watched.states}
    for number, state in enumerate(distinct.values()):
        path = tmp_path / f"after-{number}"
        lay_out(state, path)
        assert_tells_no_lie(path / "cache")
        if number % 5 == 0 or (path / "cache" / SEAL).exists():
            assert_goes_on(path / "cache", cache_id)
    assert len(distinct) > 100


def test_a_sealed_cache_survives_a_power_loss_wherever_an_earlier_run_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: for every n, a run killed at the n-th call and its resumption leave nothing unsynced that is read."""
    for at in itertools.count(1):
        root = tmp_path / str(at)
        root.mkdir()
        watched = WatchedDisk(root)
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", watched)
            watched.killed_at = at
            try:
                fill(root / "cache", JOB_OF_THREE)
            except Killed:
                was_sealed = (root / "cache" / SEAL).exists()
            else:
                break
            watched.killed_at = 10**9
            fill(root / "cache", JOB_OF_THREE)
        lost = {SEAL} if was_sealed else set()  # killed while it sealed: the same command seals again
        left, real = ({**kept} for kept in (watched.disk.left(None), tree(root)))
        for kept in (left, real):
            for name in list(kept):
                if not is_read(name) or Path(name).name in lost:
                    del kept[name]
        assert left == real
    assert at > 100


def is_read(name: str) -> bool:
    """Whether anyone reads a file of a cache by this name."""
    return not name.endswith("/") and Path(name).name != LOCK and not files.is_leftover(Path(name).name)


RUN = """
import sys
sys.path.insert(0, sys.argv[2])
from functools import partial
from pathlib import Path
from store_cases import VERSIONS, block, job_of
from pipeline.store.writer import CacheWriter
with CacheWriter.open(Path(sys.argv[1]), job_of(rows=400, views=1, shard_rows=4), VERSIONS) as writer:
    for shard in writer.missing():
        writer.commit(shard, block(writer.job, shard), 0.0)
        print(shard.number, flush=True)
"""


def test_a_process_killed_with_sigkill_has_every_shard_it_said_was_committed(tmp_path: Path) -> None:
    """Law: what a killed process said is done is done, its lock is free, and the same command goes on."""
    path, said = tmp_path / "cache", set()
    chance = random.Random(0)  # noqa: S311 - chance, not a secret
    command = [sys.executable, "-c", RUN, str(path), str(Path(__file__).parent)]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(chance.randrange(1, 20)):
                said.add(int(process.stdout.readline()))
            process.send_signal(signal.SIGKILL)
            said |= {int(line) for line in process.stdout.read().split("\n")[:-1]}
        report = verify(path)
        assert report.problems == ()
        assert said <= set(read_state(path).receipts)
    assert (path / JOB).exists()
    fill(path, job_of(rows=400, views=1, shard_rows=4))
    assert verify(path).sealed
