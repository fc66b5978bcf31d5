"""One writer at a time, and a lock that dies with its holder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Never

import pytest

from pipeline.errors import LockedError, StorageError
from pipeline.store.lock import WriterLock

HOLD = """
import sys, time
from pathlib import Path
from pipeline.store.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_held_by_another_process_is_refused_and_names_it_and_freed_by_its_death(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Law: kill -9 leaves nothing to clean up."""
    with pytest.raises(LockedError, match=rf"is being written by process {holder.pid} on .*; a cache has one writer"):
        WriterLock(tmp_path / "lock")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with WriterLock(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.promise("P8")
def test_a_lock_whose_file_was_removed_before_it_was_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: who waited on the file of a writer that sealed the cache meanwhile does not hold a file that no one sees."""
    path, real, asked = tmp_path / "lock", fcntl.flock, []

    def late(descriptor: int, kind: int) -> None:
        if not asked:
            path.unlink()
        asked.append(kind)
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with WriterLock(path):
        assert (len(asked), path.exists()) == (2, True)
        with pytest.raises(LockedError, match="is being written by process"):
            WriterLock(path)


def test_a_lock_is_exclusive_within_a_process_too(tmp_path: Path) -> None:
    """Law: two writers in two threads are two writers; released, the lock can be taken again."""
    with WriterLock(tmp_path / "lock"), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        WriterLock(tmp_path / "lock")
    with WriterLock(tmp_path / "lock"):
        pass


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Law: a child that outlives a killed writer, as loaders' workers do, does not keep the next writer out."""
    lock = WriterLock(tmp_path / "lock")
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.write(ready[1], b".")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(LockedError):
        WriterLock(tmp_path / "lock")
    lock.release(remove=False)
    WriterLock(tmp_path / "lock").release(remove=True)
    os.write(done[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (*ready, *done):
        os.close(descriptor)
    assert not (tmp_path / "lock").exists()


def test_releasing_twice_closes_once(tmp_path: Path) -> None:
    """Law: a descriptor is given back once; its number may be another file's by then."""
    lock = WriterLock(tmp_path / "lock")
    lock.release(remove=False)
    with (tmp_path / "other").open("w") as other:
        lock.release(remove=True)
        other.write("still open")
    assert (tmp_path / "lock").exists()


def test_a_file_system_without_locks_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock nothing keeps two writers apart, so none begins."""

    def refuse(*_: object) -> Never:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"lock: could not lock this file: .*ENOLCK"):
        WriterLock(tmp_path / "lock")
