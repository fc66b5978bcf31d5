"""Where the files of a cache lie, each under a name such as "receipts/000000012.json".

A place answers by name, and is a directory (`directories`) or a prefix of an object store (`buckets`). What it promises
is what a label cache stands on: a file is whole or not there, the first to create one wins, and what is written lasts.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.store.files import MOST_DOCUMENT_BYTES, Piece
from pipeline.store.lock import Lock

LOCK = "lock"


class Place(ABC):
    """Somewhere that a cache lies, or will.

    Every method raises StorageError where the disk or the server refuses, and CorruptError over what no writer of ours
    makes, such as a symbolic link.
    """

    shared: bool = True
    """Whether several processes may write here at once, as those of a cluster do."""
    exclusive: bool = False
    """Whether who holds the lock is alone, but for those it asks for help."""

    @abstractmethod
    def __str__(self) -> str:
        """What to call it in a message, and what opens it again."""

    @abstractmethod
    def where(self, name: str) -> Path | str:
        """What to call a file of it in a message."""

    @abstractmethod
    def refuse_taken(self, advice: str) -> None:
        """Raise StorageError, with what to do, if something lies there in which no cache can be, such as a file."""

    @abstractmethod
    def refuse_links(self, folder: str) -> None:
        """Raise CorruptError if a folder is a link to elsewhere."""

    @abstractmethod
    def entries(self) -> list[str]:
        """The names of files and folders right at the top, without unfinished work."""

    @abstractmethod
    def names(self, under: str) -> Iterator[str]:
        """The names of all files in a folder and below, "" for all there are."""

    @abstractmethod
    def sizes(self, under: str) -> dict[str, int]:
        """The size of each file in a folder and below."""

    @abstractmethod
    def read(self, name: str, most: int = MOST_DOCUMENT_BYTES) -> bytes | None:
        """The content of a file; None if there is none. CorruptError if it has more bytes than `most`."""

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Each name and its content, in order."""
        for name in names:
            yield name, self.read(name)

    @abstractmethod
    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """Write a file that is either whole or not there, whatever happens; replace one that is there."""

    @abstractmethod
    def create(self, name: str, data: Piece) -> bool:
        """Write a file if there is none; return False, with nothing changed, if there is one."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def prepare(self) -> None:
        """Make it a place to write to."""

    @abstractmethod
    def tidy(self) -> None:
        """Remove what killed writers left unfinished. The caller holds the lock."""

    @abstractmethod
    def settle(self, folder: str) -> None:
        """Make the names in a folder last, also those that a killed run gave."""

    @abstractmethod
    def lock(self) -> Lock:
        """The writers' lock, held: there is one writer, and those it asks.

        Raises:
            LockedError: another writer holds it.

        """

    @abstractmethod
    def refuse_locked(self) -> None:
        """Raise LockedError if a writer holds the lock, as far as can be told. Nothing is written."""

    @abstractmethod
    def alone(self, name: str) -> AbstractContextManager[object]:
        """While inside, no other process is inside for the same name.

        Raises:
            LockedError: another one is.

        """
