"""Which shard files of a cache are mapped, where, and which of their chunks have been held against their checksum.

The span has a slot for each shard; a slot has room for the shard's file of every array. A kernel grants a process only
so many maps: a cache of more shards has fewer slots, and the shard that came first leaves its slot to the next.

Reading what is ready takes no lock. A reader leaves a mark while it copies; whoever empties a slot first says that the
slot is no longer ready, and then waits for the marks that were there: no page goes from under a copy.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, get_ident
from typing import TypeVar
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptError, IncompleteError, StorageError
from pipeline.store import files
from pipeline.store.documents import Job
from pipeline.store.layout import CHECKSUM_BYTES, row_bytes, shard_file_bytes
from pipeline.store.mirror import Mirror
from pipeline.store.shards import REPAIR, check_chain, check_index, chunk_is_whole
from pipeline.store.span import HUGE_BYTES, UNMAPPABLE, Span, begins, map_whole, most_maps, whole_pages
from pipeline.store.state import GROUP, shard_name
from pipeline.store.windows import MOST_BYTES

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Result = TypeVar("Result")
COPIES = 3  # of a file at an address, before what is wrong with it counts
PATIENCE = 0.0002  # seconds between two looks at whether a copy has ended; one of 256 rows takes about 0.0001


class UnmappableError(Exception):
    """The file system cannot map files: what is in them has to be read in another way. Never shown to a user."""


class Residence:
    """The mapped shard files of a cache.

    Args:
        root: the cache's directory.
        job: what it holds.
        chains: of each array, what tells the file of a shard, `[shards]`; -1 for one without a receipt.
        mirror: where the files have to be fetched from; None if they are there.

    Raises:
        StorageError: not even one shard's addresses can be reserved.

    """

    def __init__(self, root: Path, job: Job, chains: Mapping[str, Rows], mirror: Mirror | None = None) -> None:
        self.specs, self.layout, self._mirror = job.arrays, job.layout, mirror
        self.root, self._chains = root, [chains[spec.name] for spec in job.arrays]
        self._room = [whole_pages(shard_file_bytes(spec, job.layout, job.layout.largest)) for spec in job.arrays]
        most_bytes = MOST_BYTES // max(map(row_bytes, job.arrays)) - len(job.arrays) * HUGE_BYTES
        visible = most_bytes // sum(self._room)
        if mirror:  # what is mapped and was removed from there takes of the disk as before
            visible = min(visible, max(2, mirror.settings.most_bytes // job.bytes_of([job.layout.largest])))
        most = max(1, min(job.layout.shards, most_maps() // len(self._room), visible))
        slots, self.span = _reserved(most, self._room, root)
        self.slots = slots
        self._begins = begins(self._room, slots)
        self._slot_of = None if slots == job.layout.shards else np.full(job.layout.shards, -1)
        self._held: dict[int, int] = {}  # shard -> slot, the first to come first
        self._files: set[tuple[int, int]] = set()  # (array, shard), mapped
        self._whole = [np.zeros(self.chunks, np.bool_) for _ in self.specs]
        self._ready: list[Flags] = []
        self.forget_others()
        _ALIVE.add(self)

    def forget_others(self) -> None:
        """Begin with no reader and a free lock: a forked process has the marks of threads that it does not have."""
        self._lock = Lock()
        self._reading: dict[int, object] = {}  # thread -> its mark

    @property
    def chunks(self) -> int:
        """How many chunks there are, counting every shard as full: all shards of view 0 first."""
        return self.layout.shards * self.layout.chunks_per_shard

    def new_flags(self) -> Flags:
        """Flags for each chunk, `[chunks]`, for one choice of arrays: whether their rows can be read as they lie."""
        ready = np.zeros(self.chunks, np.bool_)
        with self._lock:
            self._ready.append(ready)
        return ready

    def coefficients(self, array: int) -> list[float]:
        """What to multiply place, chunk, shard and 1 with, and sum up, to find where in the span a row begins.

        A fifth factor is the slot's, where a shard's slot may change. A row's place counts every shard as full, as its
        chunk does: then it is a sum of products, and those of all rows and arrays are one product of matrices, in
        float64, exact for integers below 2**53.
        """
        layout, width, room = self.layout, row_bytes(self.specs[array]), self._room[array]
        of_a_shard = layout.shard_rows * width + layout.chunks_per_shard * CHECKSUM_BYTES
        by_shard = (
            [-of_a_shard, self._begins[array], room] if self.may_evict else [room - of_a_shard, self._begins[array]]
        )
        return [width, CHECKSUM_BYTES, *by_shard]

    def slots_of(self, shards: Rows) -> Rows:
        """The slots of shards that are ready."""
        return self._slot_of.take(shards) if self._slot_of is not None else shards

    @property
    def may_evict(self) -> bool:
        """Whether the cache has more shards than slots, so that a reader has to say that it reads."""
        return self._slot_of is not None

    @property
    def may_fetch(self) -> bool:
        """Whether some file is not mapped yet, or may not be any more, that would have to be fetched."""
        everything = self.layout.shards * len(self.specs)
        return self._mirror is not None and (self.may_evict or len(self._files) < everything)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While inside, nothing that is ready at the entrance is unmapped.

        An interrupt may come just before the mark is taken away. The thread's next read then takes it away, and every
        reader reads so before it empties a slot: no thread waits for itself.
        """
        try:
            self._reading[get_ident()] = object()
            yield
        finally:
            self._reading.pop(get_ident(), None)

    def fetch(self, arrays: Sequence[int], shards: Sequence[int]) -> None:
        """Make sure that the files of these arrays and shards are on this machine. Raises as `Mirror.fetch`."""
        if self._mirror is None:
            return
        self.refuse_undone(*shards)
        wanted = [(array, shard) for shard in shards for array in arrays if (array, shard) not in self._files]
        self._mirror.fetch([(self._name(*each), self._size(*each)) for each in wanted], self._refuse_damaged(wanted))

    def _refuse_damaged(self, wanted: Sequence[tuple[int, int]]) -> Callable[[str, bytes], None]:
        """What refuses a file of these by its name, unless all of it is as it was written."""
        by_name = {self._name(*each): each for each in wanted}
        return lambda name, data: self._check(memoryview(data), *by_name[name], whole=True)

    def once_ready(self, arrays: Sequence[int], ready: Flags, chunks: Rows, read: Callable[[], Result]) -> Result:
        """Map the shards of these chunks and hold the chunks of these arrays against their checksums; then read.

        Args:
            arrays: which arrays, by number.
            ready: the flags of this choice of arrays.
            chunks: which chunks, `[n]`, of no more shards than there are slots.
            read: called while nobody else maps or unmaps.

        Raises:
            CorruptError: a shard file is gone or damaged.
            IncompleteError: a shard of a partial cache that is not done.
            StorageError: a file may not be read, or the process has no maps left.
            UnmappableError: the file system cannot map files.

        """
        self.fetch(arrays, np.unique(chunks[~ready[chunks]] // self.layout.chunks_per_shard).tolist())
        with self._lock:
            self._hold(np.unique(chunks // self.layout.chunks_per_shard).tolist())
            for chunk in np.unique(chunks[~ready[chunks]]).tolist():
                for array in arrays:
                    self._prove(array, chunk)
                ready[chunk] = True
            return read()

    def _hold(self, shards: list[int]) -> None:
        """Give each of these shards a slot.

        Ctrl-C may end this and `_evict` after any line, and the caller may go on reading: so what is held is written
        down in one place, from which the empty slots follow.
        """
        missing = [shard for shard in shards if shard not in self._held]
        if self._slot_of is None:
            self._held.update(zip(missing, missing, strict=True))
            return
        if len(missing) > (free := self.slots - len(self._held)):
            self._evict(len(missing) - free, set(shards))
        empty = sorted(set(range(self.slots)).difference(self._held.values())) if missing else []
        for shard, slot in zip(missing, empty, strict=False):
            self._slot_of[shard] = slot
            self._held[shard] = slot  # last: from here on the slot is taken

    def _evict(self, count: int, but: set[int]) -> None:
        """Empty some slots: the oldest shards', and an eighth at least, so that readers are seldom waited for."""
        oldest = [shard for shard in self._held if shard not in but][: max(count, self.slots // 8)]
        of_a_shard = self.layout.chunks_per_shard
        for ready in self._ready:
            for shard in oldest:
                ready[shard * of_a_shard : (shard + 1) * of_a_shard] = False
        marks = self._reading.copy()
        while any(self._reading.get(thread) is mark for thread, mark in marks.items()):
            time.sleep(PATIENCE)
        # Another file may be there when a shard is mapped again: what was proven of this one says nothing of it.
        for whole in self._whole:
            for shard in oldest:
                whole[shard * of_a_shard : (shard + 1) * of_a_shard] = False
        self._files -= {(array, shard) for array in range(len(self.specs)) for shard in oldest}
        for shard in oldest:  # last: from here on the slot is another's to take
            del self._held[shard]

    def _prove(self, array: int, chunk: int) -> None:
        """Map the file that a chunk is in, and hold the chunk against its checksum, unless that is done."""
        shard, place = divmod(chunk, self.layout.chunks_per_shard)
        if (array, shard) not in self._files:
            self._map(array, shard)
            self._files.add((array, shard))
        if not self._whole[array][chunk]:
            begin = self._begin(array, shard)
            content = self.span.bytes.data[begin : begin + self._room[array]]
            if self._mirror and not chunk_is_whole(content, place, self.specs[array], self.layout):
                self._drop(array, shard)
                self._map(array, shard)
            if not chunk_is_whole(content, place, self.specs[array], self.layout):
                raise _damaged(self.path_of(array, shard), place)
            self._whole[array][chunk] = True

    def _map(self, array: int, number: int) -> None:
        """Map a shard file into its slot, if its size, its index and its chain are those that were written."""
        self.refuse_undone(number)
        for left in reversed(range(COPIES if self._mirror else 1)):
            descriptor = self._opened(array, number)
            try:
                # Elsewhere first: a map that fails over its slot may leave a hole there for others to fall into.
                with _explained(self.path_of(array, number)):
                    content = map_whole(descriptor) if (size := os.fstat(descriptor).st_size) else b""
                self._check(memoryview(content), array, number)
                with _explained(self.path_of(array, number)):
                    self.span.place(self._begin(array, number), descriptor, size)
            except CorruptError:
                if not left:
                    raise
                self._drop(array, number)  # of a copy: the next is held against its proof before it is kept
            else:
                return
            finally:
                os.close(descriptor)

    def _opened(self, array: int, number: int) -> int:
        if self._mirror:
            check = self._refuse_damaged([(array, number)])
            return self._mirror.open(self._name(array, number), self._size(array, number), check)
        path = self.path_of(array, number)
        files.refuse_links(self.root, *path.relative_to(self.root).parts[:-1])
        descriptor = files.open_regular(path)
        if descriptor is None:
            raise CorruptError(f"{path} is gone; its receipt says that it was written. {REPAIR}")
        return descriptor

    def _drop(self, array: int, number: int) -> None:
        if self._mirror:
            self._mirror.drop(self._name(array, number))

    def _check(self, content: memoryview, array: int, number: int, *, whole: bool = False) -> None:
        """Raise CorruptError unless a file has its size, its index and its chain; `whole`, each chunk its checksum."""
        spec, shard, path = self.specs[array], self.layout.shard(number), self.path_of(array, number)
        check_index(content, spec, self.layout, shard, path)
        check_chain(content, spec, self.layout, self.chain_of(array, number), path)
        for chunk in range(self.layout.chunks_in(shard)) if whole else ():
            if not chunk_is_whole(content, chunk, spec, self.layout):
                raise _damaged(path, chunk)

    def _begin(self, array: int, shard: int) -> int:
        return self._begins[array] + self._held[shard] * self._room[array]

    def path_of(self, array: int, number: int) -> Path:
        """Where a shard file is on the disk."""
        return self.root / self._name(array, number)

    def _name(self, array: int, number: int) -> str:
        return shard_name(self.specs[array], self.layout, self.layout.shard(number))

    def _size(self, array: int, number: int) -> int:
        return shard_file_bytes(self.specs[array], self.layout, self.layout.shard(number))

    def folder_of(self, array: int) -> Path:
        """Where an array's Zarr document and files are on the disk."""
        return self.root / GROUP / self.specs[array].name

    def chain_of(self, array: int, number: int) -> int:
        """What tells a shard file from all others."""
        return int(self._chains[array][number])

    def refuse_undone(self, *numbers: int) -> None:
        """Raise IncompleteError if a shard had no receipt when the cache was opened."""
        for number in (number for number in numbers if self.chain_of(0, number) < 0):
            shard = self.layout.shard(number)
            raise IncompleteError(
                f"{self.root} is not whole: rows {shard.start} to {shard.stop} of view {shard.view} were not done "
                "when it was opened. Finish it with the `softlabels generate` that began it, or ask for rows that are "
                "done."
            )


def _damaged(path: Path, chunk: int) -> CorruptError:
    return CorruptError(f"{path}: chunk {chunk} does not have its checksum: its bytes changed. {REPAIR}")


def _reserved(slots: int, room: Sequence[int], root: Path) -> tuple[int, Span]:
    """A span for as many slots as asked for, or half of that, and so on, if so many addresses are not to be had."""
    try:
        return slots, Span(begins(room, slots)[-1])
    except (OSError, OverflowError) as error:
        if slots > 1:
            return _reserved(slots // 2, room, root)
        raise StorageError(
            f"{root}: could not reserve {sum(room)} bytes of addresses to map one of its shards: {error}. Raise this "
            "process's limit (`ulimit -v unlimited`), or read the cache on a machine with larger addresses."
        ) from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An OSError of a map as what it means."""
    with files.explained("map this file", path):
        try:
            yield
        except OSError as error:
            if error.errno in UNMAPPABLE:
                raise UnmappableError(path) from error
            if error.errno != errno.ENOMEM:
                raise
            raise StorageError(
                f"{path}: could not map this file: the process has no maps or addresses left (ENOMEM). Raise the "
                "kernel's limit (`sysctl vm.max_map_count`) or the process's (`ulimit -v unlimited`), or read from "
                "fewer caches at once."
            ) from error


_ALIVE: WeakSet[Residence] = WeakSet()


def _forget_others() -> None:
    for residence in list(_ALIVE):
        residence.forget_others()


os.register_at_fork(after_in_child=_forget_others)
