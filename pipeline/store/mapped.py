"""Reads rows of a cache from its mapped shard files, in any order, each chunk held against its checksum once.

A shard file is mapped when a row of it is first asked for. Pages are the kernel's: workers on one machine share them,
and nothing is read that no one asks for.
"""

import mmap
import os
import resource
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptError, IncompleteError, MismatchError
from pipeline.labels import ArraySpec
from pipeline.store import files
from pipeline.store.documents import Job, Seal
from pipeline.store.group import metadata_documents, refuse_other_metadata
from pipeline.store.layout import row_bytes
from pipeline.store.shards import REPAIR, check_index, chunk_is_whole, decoded, rows_in
from pipeline.store.state import GROUP, read_job, read_receipts, read_seal, shard_path

Rows = NDArray[np.int64]
NAMED = 5
MOST_MAPS = 4096


class LabelCache:
    """A label cache to read. Made by `open`; may be pickled, and read by forked processes and by threads.

    Args:
        root: the cache's directory.
        job: what it holds.
        seal: the proof that it is whole; None for a partial one.
        done: the numbers of the shards with a receipt; None for all.

    """

    def __init__(self, root: Path, job: Job, seal: Seal | None, done: frozenset[int] | None) -> None:
        self.root, self.job, self.seal, self.layout = root, job, seal, job.layout
        self._done = done
        self._specs = {spec.name: spec for spec in job.arrays}
        self._whole: dict[tuple[str, int], NDArray[np.bool_]] = {}  # which chunks have been held against their checksum
        self._index: tuple[Rows, Rows] | None = None
        # A map holds a descriptor, of which a process has few: the least used are given back.
        self._mapped: Callable[[str, int], tuple[memoryview, NDArray[np.void]]] = lru_cache(_most_maps())(self._map)

    def __reduce__(self) -> tuple[Callable[[Path, bool], "LabelCache"], tuple[Path, bool]]:
        return type(self).open, (self.root, self._done is not None)

    @classmethod
    def open(cls, path: Path, allow_partial: bool = False) -> Self:  # noqa: FBT001, FBT002 - pickle passes it by place
        """Open a sealed cache; with `allow_partial` also one that is still being made, as far as it is now.

        Raises:
            IncompleteError: no cache is there, or it has no seal.
            CorruptError: a document is not what was written.
            MismatchError: another format version.
            StorageError: it cannot be read.

        """
        path = path.absolute()
        job = read_job(path)
        seal = read_seal(path, job)
        done = None if seal else frozenset(read_receipts(path, job))
        if done is not None and not allow_partial:
            raise IncompleteError(
                f"{path} has no seal: {len(done)} of its {job.layout.shards} shards are done. Finish it with the "
                "`softlabels generate` that began it, or ask for a partial cache by name."
            )
        for name, document in metadata_documents(job).items():
            refuse_other_metadata(path / GROUP / name, document)
        return cls(path, job, seal, done)

    @property
    def cache_id(self) -> str | None:
        """What the cache is, for those who keep what they made of it; None for a partial one."""
        return self.seal.cache_id if self.seal else None

    def gather(self, view: int, rows: Rows, names: Sequence[str] | None = None) -> dict[str, NDArray[np.generic]]:
        """Rows of a view, by position.

        Args:
            view: which view.
            rows: positions `[n]` in any order, repeated or not; `rows_of` gives those of sample ids.
            names: which arrays; left out, all.

        Returns:
            For each array its rows, `[n, *row_shape]`.

        Raises:
            CorruptError: a shard file is gone or damaged.
            IncompleteError: a row of a partial cache that is not done.
            MismatchError: an array that the cache does not have.

        """
        rows = np.asarray(rows, np.int64)
        if not 0 <= view < self.layout.views or (rows.size and (rows.min() < 0 or rows.max() >= self.layout.rows)):
            raise IndexError(
                f"view {view} of {self.layout.views}, rows up to {rows.max(initial=0)} of {self.layout.rows}"
            )
        specs = [self._spec(name) for name in (self._specs if names is None else names)]
        out = {spec.name: np.empty(rows.size, np.dtype((np.void, row_bytes(spec)))) for spec in specs}
        for number, where in self._by_shard(view, rows):
            places = rows[where] % self.layout.shard_rows
            for spec in specs:
                out[spec.name][where] = self._rows(spec, number, places)
        return {spec.name: decoded(out[spec.name], spec) for spec in specs}

    def rows_of(self, sample_ids: Rows) -> Rows:
        """The positions of samples, by id.

        Raises:
            MismatchError: the cache does not have them; names up to five.
            CorruptError: two rows of the cache share an id, or as `gather`.

        """
        wanted = np.asarray(sample_ids, np.int64)
        if self._index is None:
            self._index = self._read_ids()
        ids, positions = self._index
        found = np.minimum(np.searchsorted(ids, wanted), ids.size - 1) if ids.size else np.zeros(wanted.size, np.int64)
        unknown = ids[found] != wanted if ids.size else np.ones(wanted.size, np.bool_)
        if unknown.any():
            strangers = np.unique(wanted[unknown])
            raise MismatchError(
                f"{self.root} has no labels for {strangers.size} of the samples asked for: "
                f"{', '.join(map(str, strangers[:NAMED]))}{', …' if strangers.size > NAMED else ''}. It holds "
                f"{ids.size} samples. Train on the dataset it was made from, or make a cache of this one."
            )
        return positions[found]

    def _read_ids(self) -> tuple[Rows, Rows]:
        """The ids of all rows that are done, sorted, and their positions. All views have the same: any will do."""
        per_view = self.layout.shards_per_view
        everywhere = range(self.layout.shards) if self._done is None else sorted(self._done)
        first = {number % per_view: number for number in reversed(everywhere)}
        shards = [self.layout.shard(first[place]) for place in sorted(first)]
        positions = [np.arange(shard.start, shard.stop) for shard in shards]
        parts = [
            self.gather(shard.view, rows, ["sample_id"])["sample_id"]
            for shard, rows in zip(shards, positions, strict=True)
        ]
        ids, places = (
            np.concatenate([np.empty(0, np.int64), *parts]),
            np.concatenate([np.empty(0, np.int64), *positions]),
        )
        if np.any(np.diff(ids) <= 0):
            order = np.argsort(ids, kind="stable")
            ids, places = ids[order], places[order]
        if np.any(twice := np.diff(ids) == 0):
            raise CorruptError(
                f"{self.root} holds the sample {ids[:-1][twice][0]} in two rows, and an id stands for one. Make the "
                "cache again from a dataset whose ids differ."
            )
        return ids, places

    def _by_shard(self, view: int, rows: Rows) -> list[tuple[int, Rows]]:
        """For each shard that holds some of the rows: its number, and which of the rows."""
        places = rows // self.layout.shard_rows
        order = np.argsort(places, kind="stable")
        numbers, starts = np.unique(places[order], return_index=True)
        first = view * self.layout.shards_per_view
        return list(zip((numbers + first).tolist(), np.split(order, starts[1:]), strict=True)) if rows.size else []

    def _spec(self, name: str) -> ArraySpec:
        if name not in self._specs:
            raise MismatchError(
                f"{self.root} has no array {name!r}; it has {', '.join(self._specs)}. Ask for one of these."
            )
        return self._specs[name]

    def _rows(self, spec: ArraySpec, number: int, places: Rows) -> NDArray[np.void]:
        content, rows = self._mapped(spec.name, number)
        chunks, offsets = np.divmod(places, self.layout.chunk_rows)
        whole = self._whole[spec.name, number]
        for chunk in np.unique(chunks[~whole[chunks]]).tolist():
            if not chunk_is_whole(content, chunk, spec, self.layout):
                path = shard_path(self.root, spec, self.layout, self.layout.shard(number))
                raise CorruptError(f"{path}: chunk {chunk} does not have its checksum: its bytes changed. {REPAIR}")
            whole[chunk] = True
        picked: NDArray[np.void] = rows[chunks, offsets]
        return picked

    def _map(self, name: str, number: int) -> tuple[memoryview, NDArray[np.void]]:
        spec, shard = self._specs[name], self.layout.shard(number)
        if self._done is not None and number not in self._done:
            raise IncompleteError(
                f"{self.root} is not whole: rows {shard.start} to {shard.stop} of view {shard.view} were not done "
                "when it was opened. Finish it with the `softlabels generate` that began it, or ask for rows that are "
                "done."
            )
        content = _content(shard_path(self.root, spec, self.layout, shard))
        check_index(content, spec, self.layout, shard, shard_path(self.root, spec, self.layout, shard))
        self._whole.setdefault((name, number), np.zeros(self.layout.chunks_in(shard), np.bool_))
        return content, rows_in(content, spec, self.layout, shard)


def _content(path: Path) -> memoryview:
    """A file, mapped. One that has no bytes cannot be mapped, and holds none."""
    descriptor = files.open_regular(path)
    if descriptor is None:
        raise CorruptError(f"{path} is gone; its receipt says that it was written. {REPAIR}")
    try:
        with files.explained("map this file", path):
            if not os.fstat(descriptor).st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def _most_maps() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_MAPS if soft == resource.RLIM_INFINITY else max(16, min(MOST_MAPS, soft // 4))
