"""A directory of a file system as the place of a cache."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.errors import LockedError, StorageError
from pipeline.store import files
from pipeline.store.files import MOST_DOCUMENT_BYTES, Piece
from pipeline.store.lock import Lock, WriterLock, refuse_locked
from pipeline.store.places import LOCK, Place


class Directory(Place):
    """A directory of a file system.

    Args:
        root: its path, absolute; it need not exist yet.

    """

    exclusive = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lasting: set[Path] = set()

    def __reduce__(self) -> tuple[type["Directory"], tuple[Path]]:
        return type(self), (self.root,)

    def __str__(self) -> str:
        return str(self.root)

    def where(self, name: str) -> Path:
        """The path of a file."""
        return self.root / name

    def refuse_taken(self, advice: str) -> None:
        """Raise StorageError, with what to do, if a file lies there."""
        with files.explained("look at this path", self.root):
            if self.root.exists() and not self.root.is_dir():
                raise StorageError(f"{self.root} is a file, and a label cache is a directory. {advice}")

    def refuse_links(self, folder: str) -> None:
        """Raise CorruptError if a folder, or one on the way to it, is a symbolic link to elsewhere."""
        files.refuse_links(self.root, *Path(folder).parts)

    def entries(self) -> list[str]:
        """The names of files and folders right at the top, without unfinished work."""
        with files.explained("look at this path", self.root):
            names = [item.name for item in self.root.iterdir()] if self.root.exists() else []
        return [name for name in names if not files.is_leftover(name)]

    def names(self, under: str) -> Iterator[str]:
        """The names of all files in a folder and below; a symbolic link counts as one, whatever it leads to."""
        with files.explained("list what is in this directory", self.root / under):
            for folder, folders, found in os.walk(self.root / under):
                path = Path(folder)
                links = [name for name in folders if (path / name).is_symlink()]
                yield from (str((path / name).relative_to(self.root)) for name in sorted(found + links))

    def sizes(self, under: str) -> dict[str, int]:
        """The size of each file in a folder and below."""
        with files.explained("look at what is in this directory", self.root / under):
            return {name: (self.root / name).stat().st_size for name in self.names(under) if self._is_file(name)}

    def read(self, name: str, most: int = MOST_DOCUMENT_BYTES) -> bytes | None:
        """The content of a file; None if there is none."""
        self.refuse_links(str(Path(name).parent))
        return files.read(self.root / name, most)

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """Write a file that is either whole or not there; replace one that is there."""
        self._make_way(name)
        files.write_durably(self.root / name, pieces)

    def create(self, name: str, data: Piece) -> bool:
        """Write a file if there is none; return False, with nothing changed, if there is one."""
        self._make_way(name)
        return files.create_exclusively(self.root / name, data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        files.remove(self.root / name)

    def prepare(self) -> None:
        """Make the directory, so that it lasts."""
        files.make_directory(self.root)
        self._lasting.add(self.root)

    def tidy(self) -> None:
        """Remove what killed writers left unfinished, and the locks that no one holds any more."""
        files.remove_leftovers(self.root)
        for name in self.entries():
            if name.startswith(f"{LOCK}."):
                with suppress(LockedError), self.alone(name.removeprefix(f"{LOCK}.")):
                    pass  # its file goes with it

    def settle(self, folder: str) -> None:
        """Sync a directory."""
        files.sync_directory(self.root / folder)

    def lock(self) -> Lock:
        """The writers' lock, held."""
        return WriterLock(self.root / LOCK)

    def refuse_locked(self) -> None:
        """Raise LockedError if a writer holds the lock."""
        refuse_locked(self.root / LOCK)

    def alone(self, name: str) -> WriterLock:
        """A lock of its own for a name, held; its file is removed with it."""
        return WriterLock(self.root / f"{LOCK}.{name}", passing=True)

    def _make_way(self, name: str) -> None:
        """Make and sync each folder on the way once: a killed run may have made it and not synced it."""
        self.refuse_links(str(Path(name).parent))
        self._make_lasting((self.root / name).parent)

    def _make_lasting(self, directory: Path) -> None:
        if directory not in self._lasting:
            if directory != self.root:
                self._make_lasting(directory.parent)
            files.make_directory(directory)
            self._lasting.add(directory)

    def _is_file(self, name: str) -> bool:
        path = self.root / name
        return path.is_file() and not path.is_symlink()
