"""Every tree that a power loss may leave, under the weakest rules that POSIX allows.

Of what is not synced, any subset lasts: each piece of a file by itself (whole, torn in the middle, or not at all, with
zeros in its place where a later one lasts), and each name of a directory by itself (as last synced, or as any change
since has left it). `rename` is two such changes: both names may last, or neither.
"""

import itertools
import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faulty_os import Calls, Killed

from pipeline.store import files

Tree = dict[str, bytes | None]
"""Of each name below the root its content; None for a directory."""
Entry = int | None
"""What a name stands for: the number of a file, DIRECTORY, or nothing."""
DIRECTORY = -1
Syncing = frozenset[str]
BOTH: Syncing = frozenset({"file", "directory"})


@dataclass
class File:
    """What was written to a file: pieces with their places, of which the first `synced` last whatever happens."""

    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    synced: int = 0

    @property
    def size(self) -> int:
        """Its length so far."""
        return max((place + len(piece) for place, piece in self.pieces), default=0)

    def content(self, kept: tuple[float, ...]) -> bytes:
        """Its bytes if of each piece that is not synced such a part has lasted."""
        lasting = self.pieces[: self.synced]
        loose = zip(self.pieces[self.synced :], kept, strict=True)
        lasting = lasting + [(place, piece[: math.ceil(len(piece) * part)]) for (place, piece), part in loose if part]
        whole = bytearray(max((place + len(piece) for place, piece in lasting), default=0))
        for place, piece in lasting:
            whole[place : place + len(piece)] = piece
        return bytes(whole)


class Disk:
    """A disk that knows what of it is synced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[int, File] = {}
        self.names: dict[Path, list[Entry]] = {}  # of each name: as last synced, and every change since

    def enter(self, path: Path, entry: Entry) -> None:
        """A name stands for something else now."""
        self.names.setdefault(path, [None]).append(entry)

    def sync(self, directory: Path) -> None:
        """The names in a directory last."""
        for path, history in self.names.items():
            if path.parent == directory:
                del history[:-1]

    def states(self, most: int, dice: random.Random) -> Iterator[Tree]:
        """The trees that may be left now: all of them, or a sample of so many."""
        loose = [path for path, history in self.names.items() if len(history) > 1]
        choices: list[list[Any]] = [self.names[path] for path in loose]
        unsynced = [number for number, file in self.files.items() if file.synced < len(file.pieces)]
        for number in unsynced:
            count = len(self.files[number].pieces) - self.files[number].synced
            parts = list(itertools.product((0.0, 0.5, 1.0), repeat=count)) if count < 5 else None
            # Of a file that no one reads, whole and empty are all that matters.
            choices.append(parts if parts and self._read(number) else [(0.0,) * count, (1.0,) * count])
        total = math.prod(map(len, choices))
        picks = (
            itertools.product(*choices) if total <= most else (tuple(map(dice.choice, choices)) for _ in range(most))
        )
        for pick in picks:
            entries = dict(zip(loose, pick[: len(loose)], strict=True))
            kept = dict(zip(unsynced, pick[len(loose) :], strict=True))
            yield self._tree(entries, kept)

    def _read(self, number: int) -> bool:
        """Whether any name of a file, now or before, is one that is read."""
        return any(number in history and not files.is_leftover(path.name) for path, history in self.names.items())

    def _tree(self, entries: dict[Path, Entry], kept: dict[int, tuple[float, ...]]) -> Tree:
        found: Tree = {}
        for path in sorted(self.names):
            entry = entries.get(path, self.names[path][-1])
            above = str(path.parent.relative_to(self.root))
            if entry is None or (above != "." and found.get(above, b"") is not None):
                continue
            name = str(path.relative_to(self.root))
            found[name] = None if entry == DIRECTORY else self.files[entry].content(kept.get(entry, ()))
        return found


class Recorder(Calls):
    """The module `os`, with a `Disk` that follows what is done through it; `after` is told of the disk after each call.

    Where `syncing` has not both, fsync of the other kind does nothing and says that it did: as if it had been left out.
    """

    def __init__(
        self, root: Path, after: Callable[[Disk], object], *, syncing: Syncing = BOTH, dies_at: int = 0
    ) -> None:
        super().__init__()
        self.disk, self._after, self._syncing, self.dies_at = Disk(root), after, syncing, dies_at
        self._held: dict[int, Path | int] = {}  # descriptors: of directories their path, of files their number
        self._numbers = itertools.count()

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - stands for any function of `os`
            self.count += 1
            if self.dies_at and self.count >= self.dies_at:
                raise Killed
            result = None if name == "fsync" else real(*args, **kwargs)
            getattr(self, f"_{name}")(result, *args)
            self._after(self.disk)
            return result

        return call

    def _open(self, descriptor: int, path: Path, flags: int, *_: object) -> None:
        path = Path(path)
        if flags & os.O_CREAT:
            number = next(self._numbers)
            self.disk.files[number] = File()
            self.disk.enter(path, number)
            self._held[descriptor] = number
        elif flags & os.O_DIRECTORY:
            self._held[descriptor] = path

    def _writev(self, count: int, descriptor: int, pieces: list[memoryview]) -> None:
        number = self._held[descriptor]
        assert isinstance(number, int)
        file = self.disk.files[number]
        file.pieces.append((file.size, b"".join(pieces)[:count]))

    def _fsync(self, _: object, descriptor: int) -> None:
        target = self._held[descriptor]
        if isinstance(target, Path):
            if "directory" in self._syncing:
                self.disk.sync(target)
        elif "file" in self._syncing:
            self.disk.files[target].synced = len(self.disk.files[target].pieces)

    def _close(self, _: object, descriptor: int) -> None:
        self._held.pop(descriptor, None)

    def _link(self, _: object, source: Path, target: Path) -> None:
        self.disk.enter(Path(target), self.disk.names[Path(source)][-1])

    def _replace(self, _: object, source: Path, target: Path) -> None:
        self._link(None, source, target)
        self._unlink(None, source)

    def _unlink(self, _: object, path: Path) -> None:
        self.disk.enter(Path(path), None)

    def _mkdir(self, _: object, path: Path, *_mode: object) -> None:
        self.disk.enter(Path(path), DIRECTORY)


def lay_out(tree: Tree, path: Path) -> None:
    """Put a tree on the disk."""
    path.mkdir()
    for name, content in sorted(tree.items()):
        (path / name).mkdir() if content is None else (path / name).write_bytes(content)
