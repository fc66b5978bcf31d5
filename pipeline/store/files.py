"""The only place that writes to the disk what must be there tomorrow.

A file is written beside its place under a name of our own, synced, given its name, and then its directory is synced.
Left out, any one of these lets a power loss keep the name and lose the content, or lose the name of a file that others
rely on. A sync that failed is never tried again on the same file: the kernel reports a lost page once, so a second one
would succeed and prove nothing.
"""
# Every call to the system goes through `os` by name, where a test can make any one of them fail:
# ruff: noqa: PTH102, PTH105, PTH108, PTH123

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate, islice, takewhile
from pathlib import Path

from pipeline.errors import CorruptError, StorageError

Piece = bytes | bytearray | memoryview
MOST_DOCUMENT_BYTES = 2**28
MOST_PIECES, MOST_STROKE = 1024, 2**30  # of one stroke: IOV_MAX, and half of what macOS takes
PREFIX, SUFFIX = ".softlabels-", ".unfinished"

ADVICE = {
    errno.ENOSPC: "The disk is full: free some space, or use another disk.",
    errno.EDQUOT: "Your quota on this disk is used up: free some space, or use another disk.",
    errno.EACCES: "You may not do this here: change the permissions, or use another place.",
    errno.EPERM: "This is not permitted here (a disk without hard links refuses like this too): use another place.",
    errno.EROFS: "This disk can only be read: use another place.",
    errno.EIO: "The disk reports a fault: look into the system's log, and do not trust this disk until you know why.",
    errno.EMFILE: "Too many files are open: raise the limit with `ulimit -n`.",
    errno.ENOTDIR: "Something on this path is a file where a directory is needed: use another place.",
    errno.EISDIR: "A directory is where a file is needed: use another place.",
}


@contextmanager
def explained(attempt: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that says what was attempted, why it failed and what to do."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        advice = ADVICE.get(number, "Look into what the system says about this disk.")
        raise StorageError(
            f"{path}: could not {attempt}: {os.strerror(number)} ({errno.errorcode.get(number, number)}). {advice} "
            "Then run the same command again: what is already done is kept."
        ) from error


def write_durably(path: Path, pieces: Iterable[Piece]) -> None:
    """Write a file that is either whole or not there, whatever happens; replace one that is there.

    Args:
        path: the file; its directory has to be there.
        pieces: its content, in order.

    Raises:
        StorageError: the disk refused; nothing of ours is left beside the file.

    """
    with explained("write this file", path), _beside(path, pieces) as temporary:
        os.replace(temporary, path)
        _sync_directory(path.parent)


def create_exclusively(path: Path, data: Piece) -> bool:
    """Write a file durably if there is none; return False, with nothing changed, if there is one.

    Raises:
        StorageError: the disk refused.

    """
    with explained("create this file", path), _beside(path, [data]) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        try:
            _sync_directory(path.parent)
        except OSError:
            os.unlink(path)  # its name may not last: it must not be taken for a proof
            raise
    return True


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, so that they last; or make sure that the one there lasts.

    Raises:
        StorageError: the disk refused, or a file is in the way.

    """
    with explained("make this directory", path):
        if path.exists() and not path.is_dir():
            raise StorageError(
                f"{path} is a file, and a directory is needed. Use another place, or move the file away."
            )
        if not path.parent.exists():
            make_directory(path.parent)
        with suppress(FileExistsError):
            os.mkdir(path)
        _sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory last, also those that a killed run gave."""
    with explained("sync this directory", path):
        _sync_directory(path)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with explained("remove this file", path):
        _unlink(path)


def remove_leftovers(directory: Path) -> None:
    """Remove what killed writers left unfinished, in a directory and all below it. The caller holds the lock."""
    for folder, _, names in os.walk(directory):
        for name in filter(is_leftover, names):
            remove(Path(folder) / name)


def is_leftover(name: str) -> bool:
    """Whether a file of this name is unfinished work of ours."""
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def open_regular(path: Path) -> int | None:
    """A descriptor to read a file; None if there is none.

    Raises:
        CorruptError: it is a symbolic link or no regular file: the store makes neither, and neither can be proven.
        StorageError: it may not be read.

    """
    with explained("open this file", path):
        try:
            # O_NONBLOCK: opening a pipe must not wait for its writer. It means nothing to a regular file.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise CorruptError(
                f"{path} is a symbolic link; expected the file itself. Copy the file to its place."
            ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptError(f"{path} is not a regular file, and one was expected. Restore it from a copy of the cache.")
    return descriptor


def refuse_links(root: Path, *names: str) -> None:
    """Raise CorruptError if one of these directories, each in the one before, is a symbolic link to elsewhere."""
    directory = root
    with explained("look at this path", root):
        for name in names:
            directory /= name
            if directory.is_symlink():
                raise CorruptError(
                    f"{directory} is a symbolic link; expected the directory itself: what a cache holds is in it. Copy "
                    "it to its place."
                )


def read(path: Path, most: int = MOST_DOCUMENT_BYTES) -> bytes | None:
    """The content of a file; None if there is none.

    Raises:
        CorruptError: it has more bytes than `most`, or as `open_regular`.
        StorageError: it may not be read.

    """
    descriptor = open_regular(path)
    if descriptor is None:
        return None
    with explained("read this file", path), open(descriptor, "rb") as file:
        if (size := os.fstat(descriptor).st_size) > most:
            raise CorruptError(
                f"{path} has {size} bytes, and {most} at most were written. Restore it from a copy of the cache."
            )
        return file.read()


@contextmanager
def _beside(path: Path, pieces: Iterable[Piece]) -> Iterator[Path]:
    """A synced file beside `path` that holds the pieces; gone afterwards, unless it was given another name."""
    temporary = path.with_name(f"{PREFIX}{os.getpid()}-{path.name}{SUFFIX}")
    # A leftover of a process that had our number may be a second name of a finished file: truncating it would empty
    # that.
    _unlink(temporary)
    try:
        _write(temporary, pieces)
        yield temporary
    finally:
        _unlink(temporary)


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _write(path: Path, pieces: Iterable[Piece]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write_all(descriptor, deque(memoryview(piece).cast("B") for piece in pieces))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, rest: deque[memoryview]) -> None:
    """Write pieces in strokes as long as the system takes: a page of its cache is as large as the stroke it was for."""
    while rest:
        total = accumulate(map(len, islice(rest, 1, MOST_PIECES)), initial=min(len(rest[0]), MOST_STROKE))
        count = sum(1 for _ in takewhile(lambda size: size <= MOST_STROKE, total))
        written = os.writev(descriptor, [rest[0][:MOST_STROKE], *islice(rest, 1, count)])
        while rest and written >= len(rest[0]):
            written -= len(rest.popleft())
        if rest:
            rest[0] = rest[0][written:]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a directory, and need not
            raise
    finally:
        os.close(descriptor)
