"""One writer at a time: a lock that the kernel frees when its holder dies, however it dies."""

import fcntl
import os
import platform
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from pipeline.errors import LockedError
from pipeline.store.files import explained

LOOK_SECONDS = 0.01
_held: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


class Lock(Protocol):
    """What a writer holds while it lives; a context manager that gives it back."""

    def release(self, *, remove: bool) -> None:
        """Give it back; `remove` what it was made of only once no one has a use for it."""

    def refuse_lost(self) -> None:
        """Raise LockedError if it is held no more."""


class NoLock:
    """Held by anyone: where writers cannot do each other harm."""

    def release(self, *, remove: bool) -> None:
        """Nothing."""

    def refuse_lost(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class WriterLock:
    """An exclusive `flock` on a file that names its holder. Nothing in the file has to last: the lock is the kernel's.

    Args:
        path: the file.
        passing: whether the file is of no use to anyone once the lock is given back.

    Raises:
        LockedError: another writer holds it.
        StorageError: the file cannot be opened, or this file system has no locks.

    """

    def __init__(self, path: Path, *, passing: bool = False) -> None:
        self._path, self._passing = path, passing
        while not self._taken():
            pass  # its holder had sealed the cache and removed the file: what is locked then keeps no one out
        _held.add(self)

    def _taken(self) -> bool:
        """Whether the file at the path is locked; not if another has come in its place since it was opened."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with explained("open the writers' lock", self._path):
            self._descriptor = os.open(self._path, flags, 0o666)
        taken = False
        try:
            with explained("lock this file", self._path):
                self._lock()
                taken = _is_at(self._descriptor, self._path)
        finally:
            if not taken:
                os.close(self._descriptor)
        return taken

    def _lock(self) -> None:
        try:
            _flock(self._descriptor, fcntl.LOCK_EX, self._path)
        except LockedError:
            time.sleep(LOOK_SECONDS)  # someone may only have looked whether it is held
            _flock(self._descriptor, fcntl.LOCK_EX, self._path)
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)

    def release(self, *, remove: bool) -> None:
        """Give the lock back. `remove` its file only once the cache is sealed, when no one has a use for it."""
        if self not in _held:
            return
        _held.discard(self)
        try:
            if remove:
                with explained("remove the writers' lock", self._path):
                    self._path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    def refuse_lost(self) -> None:
        """Nothing: the kernel keeps it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release(remove=self._passing)


def refuse_locked(path: Path) -> None:
    """Raise LockedError if a writer holds the lock at a path, as far as can be told. Nothing is written."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _flock(descriptor, fcntl.LOCK_SH, path)
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _flock(descriptor: int, kind: int, path: Path) -> None:
    """Lock an open file; LockedError if a writer holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "a process that did not say"
        raise LockedError(
            f"{path.parent} is being written by {holder}; a cache has one writer at a time. Wait for it to end, or "
            "stop it, then run this command again: what it has done is kept."
        ) from None


def _forget() -> None:
    """A forked child shares the lock: a loader's worker that outlives a killed writer would keep the next one out."""
    for lock in list(_held):
        _held.discard(lock)
        os.close(lock._descriptor)  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_forget)
