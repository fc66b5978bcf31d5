"""Reads rows of a cache from its mapped shard files, in any order, each chunk held against its checksum once.

A shard file is mapped when a row of it is first asked for. Pages are the kernel's: workers on one machine share them,
and nothing is read that no one asks for.

A file that is gone, cut short, changed or put in another's place before it is mapped is refused. One that is cut short
afterwards ends the process (SIGBUS): nothing may write to a sealed cache while it is read. Deleting it is harmless, the
pages stay.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptError, IncompleteError, MismatchError, StorageError
from pipeline.labels import ArraySpec
from pipeline.store.addresses import Where, place_of
from pipeline.store.arrays import ROW_ARRAYS
from pipeline.store.directories import Directory
from pipeline.store.documents import Job, Seal, proven, sealed
from pipeline.store.group import documents_ever, metadata_documents, refuse_other_metadata
from pipeline.store.layout import Shard
from pipeline.store.mirror import DEFAULT, Mirror, MirrorSettings
from pipeline.store.places import Place
from pipeline.store.residence import Residence, UnmappableError
from pipeline.store.selection import Selection
from pipeline.store.state import GROUP, read_job, read_receipts, read_sealed
from pipeline.store.unmapped import Unmapped
from pipeline.store.windows import Out

Rows = NDArray[np.int64]
NAMED = 5
NAME_DIGITS = 32  # of a cache id, for the name of a directory


class LabelCache:
    """A label cache to read. Made by `open`; may be pickled, and read by forked processes and by threads.

    Args:
        where: where it lies.
        job: what it holds.
        seal: the proof that it is whole; None for a partial one.
        chains: of each array, what tells the file of a shard, `[shards]`; -1 for one without a receipt.
        settings: of a place that is no directory, where copies of its files go.

    """

    def __init__(
        self, where: Where, job: Job, seal: Seal | None, chains: Mapping[str, Rows], settings: MirrorSettings = DEFAULT
    ) -> None:
        self.job, self.seal, self.layout, self.chains = job, seal, job.layout, chains
        self.place, self._settings = place_of(where), settings
        self._done = np.flatnonzero(chains[job.arrays[0].name] >= 0)
        self._residence = self._resident()
        self._unmapped: Unmapped | None = None
        self._selections: dict[tuple[str, ...] | None, Selection] = {}
        self._index: tuple[Rows, Rows] | None = None

    def __reduce__(self) -> tuple[Callable[[Place, "Snapshot"], "LabelCache"], tuple[Place, "Snapshot"]]:
        done = None if self.seal else np.packbits(np.isin(np.arange(self.layout.shards), self._done)).tobytes()
        snapshot = Snapshot(self.job.fingerprint, _digest(self.chains), done, self._settings)
        return _reopened, (self.place, snapshot)

    @classmethod
    def open(
        cls,
        where: Where,
        allow_partial: bool = False,  # noqa: FBT001, FBT002 - pickle passes it by place
        settings: MirrorSettings = DEFAULT,
    ) -> Self:
        """Open a sealed cache; with `allow_partial` also one that is still being made, as far as it is now.

        Args:
            where: a directory, or an address in an object store.
            allow_partial: whether one that has no seal will do.
            settings: of an address, where copies of its files go, and how large they may be.

        Raises:
            IncompleteError: no cache is there, or it has no seal.
            CorruptError: a document is not what was written.
            MismatchError: another format version.
            StorageError: it cannot be read.

        """
        place = place_of(where)
        job = read_job(place)
        newest, (job, seal) = job, read_sealed(place, job)
        receipts = {} if seal else read_receipts(place, job)
        if not seal and not allow_partial:
            raise IncompleteError(
                f"{place} has no seal: {len(receipts)} of its {job.layout.shards} shards are done. Finish it with the "
                "`softlabels generate` that began it, or open it in Python with allow_partial=True."
            )
        begun = seal or receipts  # else its writer may not have come to the documents yet, and there is nothing to read
        for name, documents in documents_ever(newest).items() if begun else ():
            refuse_other_metadata(place, f"{GROUP}/{name}", *documents)
        return cls(place, job, seal, sealed(job, seal) if seal else proven(job, receipts), settings)

    def _resident(self) -> Residence:
        """What maps its files: those of a directory as they are, others from copies."""
        if isinstance(self.place, Directory):
            return Residence(self.place.root, self.job, self.chains)
        mirror = Mirror(self.place, (self.cache_id or self.job.fingerprint)[:NAME_DIGITS], self._settings)
        for name, document in metadata_documents(self.job).items():
            mirror.keep(f"{GROUP}/{name}", document)  # for zarr, where files cannot be mapped
        return Residence(mirror.root, self.job, self.chains, mirror)

    @property
    def root(self) -> Path:
        """The directory with its shard files; of an address, with the copies that are here so far."""
        return self._residence.root

    @property
    def cache_id(self) -> str | None:
        """What the cache is, for those who keep what they made of it; None for a partial one."""
        return self.seal.cache_id if self.seal else None

    def id_of(self, views: int | None) -> str | None:
        """What the first so many views are, for those who see no others: their id from before the cache was extended.

        Of None, and of a cache that was not extended since, the cache's own.
        """
        stages = zip(self.job.stages, self.layout.before, strict=True)
        whole = (stage for stage, (_, rows) in stages if rows == self.layout.rows)
        return next((stage.cache_id for stage in whole if views is not None and views <= stage.views), self.cache_id)

    def gather(
        self, view: int | Rows, rows: Rows, names: Sequence[str] | None = None, out: Out | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """Rows by position, copied.

        Args:
            view: which view, or which for each row, `[n]`.
            rows: positions `[n]` in any order, repeated or not; `rows_of` gives those of sample ids.
            names: which arrays; left out, all; of none, nothing is read.
            out: for each array where to put its rows, if not into new memory: an array `[n, *row_shape]` of its dtype
                in C order, such as one that a pinned tensor shares.

        Returns:
            For each array its rows, `[n, *row_shape]`.

        Raises:
            CorruptError: a shard file is gone or damaged.
            IncompleteError: a row of a partial cache that is not done.
            IndexError: rows or views that the cache does not have, or that are no integers.
            MismatchError: an array that the cache does not have.
            StorageError: a file may not be read, or the process has no maps left.

        """
        rows = _integers(rows, "rows")
        if rows.ndim != 1:
            raise IndexError(f"rows of shape {rows.shape}; expected positions in one dimension, such as `rows.ravel()`")
        selection = self._selection(None if names is None else tuple(names))
        places = self._places(view, rows)
        if not selection.specs:
            return {}
        if out is not None:
            _refuse_misfit(selection.specs, rows.size, out)
        if self._unmapped is None:
            try:
                return selection.gather(places, out)
            except UnmappableError as error:
                if self.room:  # zarr reads a copy that has left meanwhile as filling
                    raise StorageError(
                        f"{self.root} is on a disk that cannot map files, and copies of {self.place} have to be "
                        "mapped. Set cache.mirror to a directory on a disk of this machine."
                    ) from error
                self._unmapped = Unmapped(self._residence)
        found = {spec.name: self._unmapped.gather(spec.name, places) for spec in selection.specs}
        return found if out is None else _put(found, out)

    @property
    def room(self) -> int:
        """How many shards there is room for on this machine, of a cache at an address; 0 of one on its disk."""
        return 0 if isinstance(self.place, Directory) else self._residence.slots

    @property
    def may_fetch(self) -> bool:
        """Whether reading it may have to wait for a server."""
        return self._residence.may_fetch

    def shards_of(self, view: int | Rows, rows: Rows) -> set[int]:
        """The shards that rows are in. Raises as `gather`."""
        return set(np.unique(self._places(view, _integers(rows, "rows")) // self.layout.shard_rows).tolist())

    def fetch(self, shards: Iterable[int]) -> None:
        """Make sure that shards are on this machine. Raises as `gather`."""
        self._residence.fetch(range(len(self.job.arrays)), sorted(shards))

    def sample_ids(self) -> Rows:
        """The ids of all rows that are done, in their order, [N]. Raises as `gather`."""
        shards = self._first_shards()
        self._fetch_ids(shards)
        return np.concatenate([np.empty(0, np.int64), *(self._ids_in(shard) for shard in shards)])

    def rows_of(self, sample_ids: Rows) -> Rows:
        """The positions of samples, by id.

        Raises:
            IndexError: ids that are no integers.
            MismatchError: the cache does not have them; names up to five.
            CorruptError: two rows of the cache share an id, or as `gather`.

        """
        wanted = _integers(sample_ids, "sample ids")
        if self._index is None:
            self._index = self._read_ids()
        ids, positions = self._index
        found = np.minimum(np.searchsorted(ids, wanted), ids.size - 1) if ids.size else np.zeros(wanted.size, np.int64)
        unknown = ids[found] != wanted if ids.size else np.ones(wanted.size, np.bool_)
        if unknown.any():
            strangers = np.unique(wanted[unknown])
            raise MismatchError(
                f"{self.place} has no labels for {strangers.size} of the samples asked for: "
                f"{', '.join(map(str, strangers[:NAMED]))}{', …' if strangers.size > NAMED else ''}. It holds "
                f"{ids.size} samples. Train on the dataset it was made from, or make a cache of this one."
            )
        return positions[found]

    def holds_in_order(self, sample_ids: Rows) -> bool:
        """Whether the rows of the cache are those of these samples, in this order: then positions need no looking up.

        Read a shard at a time; nothing is kept. Raises as `gather`.
        """
        asked = np.asarray(sample_ids, np.int64)
        shards = self._first_shards()
        if asked.shape != (self.layout.rows,) or len(shards) < self.layout.shards_per_view:
            return False
        self._fetch_ids(shards)
        return all(np.array_equal(self._ids_in(shard), asked[shard.start : shard.stop]) for shard in shards)

    def _read_ids(self) -> tuple[Rows, Rows]:
        """The ids of all rows that are done, sorted, and their positions. All views have the same: any will do."""
        ids, nothing = self.sample_ids(), np.empty(0, np.int64)
        places = np.concatenate([nothing, *(np.arange(shard.start, shard.stop) for shard in self._first_shards())])
        if np.any(np.diff(ids) <= 0):
            order = np.argsort(ids, kind="stable")
            ids, places = ids[order], places[order]
        if np.any(twice := np.diff(ids) == 0):
            raise CorruptError(
                f"{self.place} holds the sample {ids[:-1][twice][0]} in two rows, and an id stands for one. Make the "
                "cache again from a dataset whose ids differ."
            )
        return ids, places

    def _first_shards(self) -> list[Shard]:
        """For each range of rows that is done in some view, the first shard that holds it, in order."""
        shards = map(self.layout.shard, reversed(self._done.tolist()))
        first = {self.layout.place(shard): shard for shard in shards}
        return [first[place] for place in sorted(first)]

    def _fetch_ids(self, shards: Sequence[Shard]) -> None:
        self._residence.fetch([self.job.arrays.index(ROW_ARRAYS[0])], [shard.number for shard in shards])

    def _ids_in(self, shard: Shard) -> NDArray[np.generic]:
        return self.gather(shard.view, np.arange(shard.start, shard.stop), ["sample_id"])["sample_id"]

    def _places(self, view: int | Rows, rows: Rows) -> Rows:
        """Where rows are if every shard counts as full; IndexError if they are nowhere."""
        views = self.layout.views
        inside = np.count_nonzero(rows.view(np.uint64) < self.layout.rows) == rows.size  # a negative one is huge
        if isinstance(view, int):
            if inside and 0 <= view < views:
                return self.layout.flattened(view, rows)
            raise self._stranger(np.array(view), rows)
        wanted = _integers(view, "views")
        if wanted.shape not in ((), rows.shape):
            raise IndexError(f"{wanted.shape} views for {rows.shape} rows; expected one for all, or one for each")
        if inside and np.count_nonzero(wanted.view(np.uint64) < views) == wanted.size:
            return self.layout.flattened(wanted, rows)
        raise self._stranger(wanted, rows)

    def _stranger(self, view: Rows, rows: Rows) -> IndexError:
        """The error that rows or views are not in the cache."""
        return IndexError(
            f"{self.place} has rows 0 to {self.layout.rows - 1} of views 0 to {self.layout.views - 1}; asked for were "
            f"rows {_reach(rows)} of views {_reach(view)}"
        )

    def _selection(self, names: tuple[str, ...] | None) -> Selection:
        if names not in self._selections:
            wanted = [spec.name for spec in self.job.arrays] if names is None else list(dict.fromkeys(names))
            self._selections[names] = Selection(self._residence, [self._spec(name) for name in wanted])
        return self._selections[names]

    def _spec(self, name: str) -> ArraySpec:
        spec = next((spec for spec in self.job.arrays if spec.name == name), None)
        if spec is None:
            known = ", ".join(spec.name for spec in self.job.arrays)
            raise MismatchError(f"{self.place} has no array {name!r}; it has {known}. Ask for one of these.")
        return spec


@dataclass(frozen=True)
class Snapshot:
    """What a reader that is pickled has to find again: the very cache, and of a partial one the shards it saw."""

    job: str
    chains: str  # the digest of those of the shards it saw
    done: bytes | None  # one bit a shard
    settings: MirrorSettings


def _reopened(place: Place, snapshot: Snapshot) -> LabelCache:
    """The cache of a pickled reader, in another process.

    Raises:
        MismatchError: another cache has taken its place.

    """
    cache = LabelCache.open(place, snapshot.done is not None, snapshot.settings)
    was = cache.job.at(snapshot.job)
    if was is not None and was != cache.job:  # it was extended since: what was seen of it is there, unchanged
        chains = {name: known[: was.layout.shards] for name, known in cache.chains.items()}
        cache = LabelCache(place, was, cache.seal, chains, snapshot.settings)
    same = was is not None
    if same and snapshot.done is not None:
        seen = np.unpackbits(np.frombuffer(snapshot.done, np.uint8), count=cache.layout.shards).astype(np.bool_)
        chains = {name: np.where(seen, known, -1) for name, known in cache.chains.items()}
        cache = LabelCache(place, cache.job, None, chains, snapshot.settings)
    if not same or _digest(cache.chains) != snapshot.chains:
        raise MismatchError(
            f"{place} is another cache than the one that was opened: its job or its shards have changed. Open it again "
            "where this reader was made."
        )
    return cache


def _digest(chains: Mapping[str, Rows]) -> str:
    return hashlib.sha256(b"".join(known.tobytes() for _, known in sorted(chains.items()))).hexdigest()


def _integers(numbers: Rows, what: str) -> Rows:
    """Numbers as int64; IndexError for a mask and for fractions, which would read as other positions than meant."""
    array = np.asarray(numbers)
    if array.dtype == np.int64:
        return array
    if array.size and array.dtype.kind not in "iu":
        raise IndexError(
            f"{what} of dtype {array.dtype}; expected integers. A mask's positions are `np.flatnonzero(mask)`"
        )
    return array.astype(np.int64)


def _reach(numbers: Rows) -> str:
    """From the smallest to the largest."""
    return f"{numbers.min()} to {numbers.max()}" if numbers.size else "none"


def _refuse_misfit(specs: Sequence[ArraySpec], count: int, out: Out) -> None:
    """Raise ValueError unless there is memory for the rows of each array, in the shape they have."""
    for spec in specs:
        array, shape = out.get(spec.name), (count, *spec.row_shape)
        fits = array is not None and array.shape == shape and array.dtype == spec.dtype
        if array is None or not fits or not array.flags.c_contiguous or not array.flags.writeable:
            found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise ValueError(
                f"out[{spec.name!r}] is {found}; expected {spec.dtype} of shape {shape}, in C order and writable"
            )


def _put(found: Mapping[str, NDArray[np.generic]], out: Out) -> dict[str, NDArray[np.generic]]:
    for name, array in found.items():
        out[name][...] = array
    return {name: out[name] for name in found}
