"""Fills a cache, shard by shard, so that it can be killed at any moment and go on from its last receipt.

The order of a commit is the proof: the shard's files are durable before its receipt exists, and a receipt is never
replaced. A shard file without a receipt proves nothing, whoever left it, and is simply written again.
"""

import hashlib
import platform
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from pipeline.errors import IncompleteError, MismatchError, StorageError
from pipeline.labels import ArraySpec
from pipeline.store import files
from pipeline.store.arrays import refuse_other_arrays
from pipeline.store.documents import Job, Made, Receipt, Seal, parse_job
from pipeline.store.group import metadata_documents, refuse_other_metadata
from pipeline.store.layout import Shard, shard_file_bytes
from pipeline.store.lock import WriterLock, refuse_locked
from pipeline.store.shards import chain_of, encode_shard, ids_sha256
from pipeline.store.state import (
    GROUP,
    JOB,
    LOCK,
    RECEIPTS,
    SEAL,
    State,
    read_state,
    receipt_path,
    refuse_lost_files,
    refuse_other_job,
    shard_path,
)

Block = Mapping[str, NDArray[np.generic]]


class CacheWriter:
    """The one writer of a cache. Made by `open`; a context manager, which holds the writers' lock.

    Args:
        root: the cache's directory.
        state: how far it is.
        lock: the writers' lock; None over a sealed cache, to which nothing is written.
        versions: the tools at work, for the receipts.

    """

    def __init__(self, root: Path, state: State, lock: WriterLock | None, versions: Mapping[str, str]) -> None:
        self.root, self.job, self.layout = root, state.job, state.job.layout
        self.attempt = 1 + max((receipt.made.attempt for receipt in state.receipts.values()), default=0)
        self._fingerprint = state.job.fingerprint
        self._receipts = dict(state.receipts)
        self._seal = state.seal
        self._lock = lock
        self._versions = dict(versions)
        self._lasting: set[Path] = {root}

    @classmethod
    def open(cls, path: Path, job: Job, versions: Mapping[str, str]) -> Self:
        """Begin a cache, go on with one, or find it sealed.

        Raises:
            MismatchError: the cache there is of another job; nothing was written.
            LockedError: another writer is at it.
            CorruptError: a document there is not what was written.
            StorageError: the disk refuses, or the place is taken by something that is no cache.

        """
        path = path.absolute()
        if _available(path, job) and (state := read_state(path)).seal:
            return cls(path, state, None, versions)
        files.make_directory(path)
        lock = WriterLock(path / LOCK)
        try:
            _prepare(path, job)
            return cls(path, read_state(path), lock, versions)
        except BaseException:
            lock.release(remove=False)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.release(remove=self.sealed)

    @property
    def sealed(self) -> bool:
        """Whether the cache is whole, and nothing is left to do."""
        return self._seal is not None

    def missing(self) -> list[Shard]:
        """The shards without a receipt, by number."""
        return [shard for shard in self.layout.all_shards() if shard.number not in self._receipts]

    def commit(self, shard: Shard, arrays: Block, seconds: float) -> Receipt:
        """Make a shard durable, then its receipt.

        Args:
            shard: one of `missing()`.
            arrays: each array of the job, `[shard.rows, *row_shape]`, in its very dtype.
            seconds: how long its labels took.

        Raises:
            MismatchError: other arrays than the job's, or sample ids that are negative, repeated or another view's.
            StorageError: the shard has its receipt already, or the disk refuses; the shard is then still missing.

        """
        self._refuse_committed(shard)
        refuse_other_arrays(self.job.arrays, arrays, shard.rows)
        digest = self._checked_ids(shard, arrays["sample_id"])
        proofs = {spec.name: self._write(spec, shard, arrays[spec.name]) for spec in self.job.arrays}
        receipt = Receipt.signed(
            shard=shard.number,
            view=shard.view,
            start=shard.start,
            stop=shard.stop,
            arrays=proofs,
            ids_sha256=digest,
            job=self._fingerprint,
            made=self._made(seconds),
        )
        path = receipt_path(self.root, shard.number)
        if not files.create_exclusively(path, receipt.to_bytes()):
            raise _committed(path)
        self._receipts[shard.number] = receipt
        return receipt

    def seal(self, about: Mapping[str, JsonValue]) -> Seal:
        """Close the cache once every shard has its receipt; `about` are figures to keep with it.

        Raises:
            IncompleteError: shards are missing.
            CorruptError: a shard file is gone or has another size than was written.
            StorageError: the disk refuses.

        """
        if self._seal:
            return self._seal
        if missing := len(self.missing()):
            raise IncompleteError(
                f"{self.root} cannot be sealed: {missing} of its {self.layout.shards} shards have no receipt. Run the "
                "same `softlabels generate` again to make them."
            )
        refuse_lost_files(self.root, self.job)
        # A run killed between naming a receipt and syncing its directory leaves a name that may not last.
        files.sync_directory(self.root / RECEIPTS)
        receipts = [self._receipts[number] for number in range(self.layout.shards)]
        made = self._made(sum(receipt.made.seconds for receipt in receipts))
        seal = Seal.of(self.job, metadata_documents(self.job), receipts, made, about)
        if not files.create_exclusively(self.root / SEAL, seal.to_bytes()):
            raise _committed(self.root / SEAL)
        self._seal = seal
        return seal

    def _refuse_committed(self, shard: Shard) -> None:
        if shard != self.layout.shard(shard.number):
            raise MismatchError(f"{shard} is not a shard of {self.root}. Commit one of those that are missing.")
        if self._seal or shard.number in self._receipts:
            raise _committed(receipt_path(self.root, shard.number))

    def _checked_ids(self, shard: Shard, ids: NDArray[np.generic]) -> str:
        """The digest of a shard's ids; MismatchError if they name no samples, or others than the other views do."""
        if np.any(np.less(ids, 0)) or np.unique(ids).size < ids.size:
            raise MismatchError(
                f"Shard {shard.number} of {self.root} has negative or repeated sample ids; an id is what a row is "
                "found by. Give every sample an id of its own, from 0 on."
            )
        digest = ids_sha256(ids)
        per_view = self.layout.shards_per_view
        for number in range(shard.number % per_view, self.layout.shards, per_view):
            if number in self._receipts and self._receipts[number].ids_sha256 != digest:
                raise MismatchError(
                    f"Shard {shard.number} of {self.root} holds other samples in view {shard.view} than rows "
                    f"{shard.start} to {shard.stop} do in shard {number}; every view has the same samples in the same "
                    "order. Make the cache anew from a dataset whose order does not change."
                )
        return digest

    def _write(self, spec: ArraySpec, shard: Shard, block: NDArray[np.generic]) -> dict[str, JsonValue]:
        path = shard_path(self.root, spec, self.layout, shard)
        files.refuse_links(self.root, *path.relative_to(self.root).parts[:-1])
        self._make_lasting(path.parent)
        pieces, digest = encode_shard(block, spec, self.layout), hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        files.write_durably(path, pieces)
        size = shard_file_bytes(spec, self.layout, shard)
        return {"bytes": size, "chain": chain_of(pieces), "sha256": digest.hexdigest()}

    def _make_lasting(self, directory: Path) -> None:
        """Make and sync each level below the root once: a killed run may have made it and not synced it."""
        if directory not in self._lasting:
            self._make_lasting(directory.parent)
            files.make_directory(directory)
            self._lasting.add(directory)

    def _made(self, seconds: float) -> Made:
        return Made(
            seconds=seconds,
            host=platform.node(),
            attempt=self.attempt,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=self._versions,
        )


def missing_shards(path: Path, job: Job) -> list[Shard]:
    """The shards that a writer of this job would find missing at a path; nothing is written or locked.

    Raises:
        MismatchError: the cache there is of another job.
        LockedError: so it is, and a writer is at work on it.
        StorageError: the place is taken by something that is no cache.

    """
    done = read_state(path).receipts if _available(path, job) else {}
    return [shard for shard in job.layout.all_shards() if shard.number not in done]


def require_space(path: Path, bytes_needed: int) -> None:
    """Raise StorageError if the disk of a path, which need not exist yet, has less free space than that."""
    free = free_bytes(path)
    if free < bytes_needed:
        raise StorageError(
            f"{path} needs {human(bytes_needed)}, and its disk has {human(free)} left. Free some space, use another "
            "disk, or store less: fewer views, a smaller k, or float16."
        )


def free_bytes(path: Path) -> int:
    """The free space of the disk that a path lies on, or will."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    with files.explained("ask for the free space of this disk", place):
        return shutil.disk_usage(place).free


def human(size: float) -> str:
    """A number of bytes to read.

    >>> human(1536), human(7)
    ('1.5 KiB', '7 bytes')
    """
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(max(int(size).bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size / 1024**power:.{min(power, 1)}f} {units[power]}"


def _job_there(path: Path, job: Job) -> bool:
    """Whether this very job is at the path. Reads only.

    Raises:
        MismatchError: another job is.
        StorageError: no cache is, but something else.

    """
    with files.explained("look at this path", path):
        if path.exists() and not path.is_dir():
            raise StorageError(f"{path} is a file, and a label cache is a directory. Set another cache path.")
        names = [item.name for item in path.iterdir()] if path.exists() else []
    strangers = [name for name in names if name != LOCK and not files.is_leftover(name)]
    for name in (RECEIPTS, GROUP):
        files.refuse_links(path, name)
    data = files.read(path / JOB)
    if data is None and strangers:
        raise StorageError(
            f"{path} holds {strangers[0]} and no {JOB}: it is no label cache, and one is never mixed with other "
            "files. Set another cache path, or empty this directory."
        )
    if data is not None:
        refuse_other_job(path, parse_job(data, path / JOB), job)
    return data is not None


def _available(path: Path, job: Job) -> bool:
    """As `_job_there`, but while a writer is at another job there, LockedError: it is that one's turn."""
    try:
        return _job_there(path, job)
    except MismatchError:
        refuse_locked(path / LOCK)
        raise


def _prepare(path: Path, job: Job) -> None:
    """All of a cache but its shards, under the lock.

    A name that a killed run gave and did not sync is synced when a directory is made beside it: before any receipt.
    """
    files.remove_leftovers(path)
    if not files.create_exclusively(path / JOB, job.to_bytes()):
        _job_there(path, job)
    for name, document in metadata_documents(job).items():
        file = path / GROUP / name
        files.refuse_links(path, *file.relative_to(path).parts[:-1])
        files.make_directory(file.parent)
        if not files.create_exclusively(file, document):
            refuse_other_metadata(file, document)
    files.make_directory(path / RECEIPTS)


def _committed(path: Path) -> StorageError:
    return StorageError(
        f"{path} is there already: a shard is written once and never rewritten. Run the same `softlabels generate` "
        "again: it goes on with the shards that are missing."
    )
