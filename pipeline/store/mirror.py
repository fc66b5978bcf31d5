"""Shard files of caches in buckets, copied to a directory of this machine as they are first needed.

What is there already is not fetched again, by whichever process and after whichever end of the last one. All processes
of a machine share it: a file is fetched by one of them while the others wait. It is as large as it may be: before a
file comes, those make room that were mapped longest ago. A file that some process still has mapped leaves the disk once
that process has let go of it.

Nothing here is synced: a file is held against its proof when it comes, and once more whenever it is mapped; one that
does not hold is fetched again.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from crc32c import crc32c

from pipeline.errors import ConfigError, CorruptError
from pipeline.store import files
from pipeline.store.places import Place
from pipeline.store.shards import REPAIR

TOGETHER = 8  # files of one request fetched at a time
LOCKS = 64
FOLDER = "copies"  # of a directory that may hold other things, caches too
TAG, LEDGER = "CACHEDIR.TAG", "ledger"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n# Copies of label caches, made by softlabels.\n"


@dataclass(frozen=True)
class MirrorSettings:
    """Where the copies of what is in buckets go, and how many bytes of this machine's disk they may take."""

    path: Path
    most_bytes: int


DEFAULT = MirrorSettings(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "softlabels", 64 * 2**30)


class Mirror:
    """Copies of one cache's shard files.

    Args:
        place: where the cache lies.
        name: what tells it from all other caches.
        settings: where the copies go, and how many bytes those of all caches may take.

    Raises:
        StorageError: the directory cannot be made.

    """

    def __init__(self, place: Place, name: str, settings: MirrorSettings) -> None:
        self.place, self.settings = place, settings
        self._all = settings.path.absolute() / FOLDER
        self.root = self._all / name
        with files.explained("make this directory", self.root):
            self._all.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.refuse_links(self._all.parent, FOLDER, name)
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), (self._all / TAG).open("xb") as tag:
                tag.write(SIGNATURE)

    def fetch(self, wanted: Sequence[tuple[str, int]], refuse_damaged: Callable[[str, bytes], None]) -> None:
        """Make sure that files are here, each given by its name and size in bytes.

        Args:
            wanted: which.
            refuse_damaged: raises CorruptError over the bytes of a file if they are not what was written.

        Raises:
            CorruptError: a file is gone, or comes damaged a second time.
            ConfigError: a file is larger than all copies may be.
            StorageError: the server or this disk refuses.

        """
        missing = [(name, size) for name, size in wanted if not self._is_here(name, size)]
        if len(missing) <= 1:
            for name, size in missing:
                self._fetch(name, size, refuse_damaged)
            return
        with ThreadPoolExecutor(min(TOGETHER, len(missing)), "fetch") as pool:
            try:
                for done in [pool.submit(self._fetch, name, size, refuse_damaged) for name, size in missing]:
                    done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # after a refusal, what was not begun is not asked for

    def open(self, name: str, size: int, refuse_damaged: Callable[[str, bytes], None]) -> int:
        """A descriptor of a file, fetched if need be: it can be read whoever makes room now. Raises as `fetch`."""
        with self._alone(name):
            if not self._is_here(name, size):
                self._bring(name, size, refuse_damaged)
            descriptor = files.open_regular(self.root / name)
        if descriptor is None:  # someone made room just then
            return self.open(name, size, refuse_damaged)
        return descriptor

    def drop(self, name: str) -> None:
        """Forget a copy that is damaged."""
        with files.explained("remove this file", self.root / name), suppress(FileNotFoundError):
            (self.root / name).unlink()

    def keep(self, name: str, data: bytes) -> None:
        """Put a small document here, which no one makes room for."""
        path = self.root / name
        with files.explained("write this file", path):
            if path.exists() and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, data)

    def _is_here(self, name: str, size: int) -> bool:
        """Whether a file is here whole, as far as its size tells; it is then the one that was used last."""
        path = self.root / name
        try:
            if path.stat().st_size != size:
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def _fetch(self, name: str, size: int, refuse_damaged: Callable[[str, bytes], None]) -> None:
        with self._alone(name):
            if not self._is_here(name, size):
                self._bring(name, size, refuse_damaged)

    def _bring(self, name: str, size: int, refuse_damaged: Callable[[str, bytes], None]) -> None:
        data = self._read(name, size)
        try:
            refuse_damaged(name, data)
        except CorruptError:
            data = self._read(name, size)  # it may have been the way here
            refuse_damaged(name, data)
        path = self.root / name
        with files.explained("write this file", path), self._room_for(size):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, data)

    def _read(self, name: str, size: int) -> bytes:
        data = self.place.read(name, size)
        if data is None:
            raise CorruptError(f"{self.place.where(name)} is gone; its receipt says that it was written. {REPAIR}")
        return data

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        beside = path.with_name(f"{files.PREFIX}{uuid4().hex}-{path.name}{files.SUFFIX}")
        try:
            with beside.open("xb") as file:
                file.write(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)  # on a disk that is full, too

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """While inside, no thread or process of this machine is inside for the same name."""
        path = self.root / "locks" / f"{crc32c(name.encode()) % LOCKS:02d}"
        with files.explained("lock this file", path), _opened(path) as file, _locked(file):
            yield

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        """While inside, there is room for a file, and nobody else writes one; those go that were used longest ago."""
        most, ledger = self.settings.most_bytes, self._all / LEDGER
        if size > most:
            raise ConfigError(
                f"One file of {self.place} has {size} bytes, and cache.mirror_bytes allows {most} for all. Raise it."
            )
        with _opened(ledger) as file, _locked(file):
            file.seek(0)
            said = file.read(32)
            file.truncate(0)  # if it ends here, nobody knows how much there is
            total = int(said) if said.isdigit() else most + 1
            if total + size > most:
                total = self._evict(most - size)
            yield
            file.write(str(total + size).encode())
            file.flush()

    def _evict(self, most: int) -> int:
        """Remove what was used longest ago until the rest has seven eighths of so many bytes; how many it has.

        Whoever writes here holds the ledger: what is unfinished was left by the dead.
        """
        found = []
        for path in self._all.glob("*/labels.zarr/*/c/**/*"):
            with suppress(OSError):
                about = path.lstat()
                if stat.S_ISREG(about.st_mode):
                    found.append((about.st_mtime_ns, about.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= most:
            return total
        for _, size, path in sorted(found):
            if total <= most - most // 8:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            total -= size
        return total


def _opened(path: Path) -> BinaryIO:
    """A file of the mirror's own, made if it is not there; a link to elsewhere is not followed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "a+b")


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """While inside, no one else is. Unlocked by name: a process that was forked meanwhile has the file open too."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
