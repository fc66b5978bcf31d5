"""Begins a cache, fills it and seals it, so that it can be killed at any moment and go on from its last receipt."""

import shutil
from collections.abc import Mapping
from typing import Self

from pydantic import JsonValue

from pipeline.errors import IncompleteError, LockedError, MismatchError, StorageError
from pipeline.store import files
from pipeline.store.addresses import Where, place_of
from pipeline.store.committer import Block, Committer, committed
from pipeline.store.directories import Directory
from pipeline.store.documents import Job, Receipt, Seal, parse_job
from pipeline.store.group import documents_ever, metadata_documents, refuse_other_metadata
from pipeline.store.layout import Shard
from pipeline.store.lock import Lock
from pipeline.store.places import LOCK, Place
from pipeline.store.state import (
    GROUP,
    JOB,
    RECEIPTS,
    SEAL,
    State,
    read_job,
    read_receipts,
    read_seal,
    read_state,
    receipt_name,
    refuse_lost_files,
    refuse_other_job,
)


class CacheWriter:
    """The one writer of a cache. Made by `open`; a context manager, which holds the writers' lock.

    Args:
        place: where the cache lies.
        state: how far it is.
        lock: the writers' lock; None over a sealed cache, to which nothing is written.
        versions: the tools at work, for the receipts.

    """

    def __init__(self, place: Place, state: State, lock: Lock | None, versions: Mapping[str, str]) -> None:
        self.place, self.job, self.layout = place, state.job, state.job.layout
        attempt = 1 + max((receipt.made.attempt for receipt in state.receipts.values()), default=0)
        self._committer = Committer(place, state.job, versions, attempt, among=not place.exclusive)
        self._receipts = dict(state.receipts)
        self._seal = state.seal
        self._lock = lock

    @classmethod
    def open(cls, where: Where, job: Job, versions: Mapping[str, str]) -> Self:
        """Begin a cache, go on with one, or find it sealed.

        Raises:
            MismatchError: the cache there is of another job; nothing was written.
            LockedError: another writer is at it.
            CorruptError: a document there is not what was written.
            StorageError: the disk refuses, or the place is taken by something that is no cache.

        """
        place = place_of(where)
        if _available(place, job) and (state := read_state(place)).seal:
            return cls(place, state, None, versions)
        place.prepare()
        lock = place.lock()
        try:
            begin(place, job)
            return cls(place, read_state(place), lock, versions)
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

    @property
    def attempt(self) -> int:
        """Which run this is: the first is 1, each that resumed one more."""
        return self._committer.attempt

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
        if self._lock:
            self._lock.refuse_lost()
        receipt = self._committer.commit(shard, arrays, seconds)
        self._receipts[shard.number] = receipt
        return receipt

    def look_again(self) -> None:
        """Take note of the shards that other processes have committed.

        Raises:
            CorruptError: a receipt is not what was written.

        """
        self._receipts = read_receipts(self.place, self.job)

    def clear_up(self) -> None:
        """Remove what other processes that were killed have left unfinished. None is at work any more."""
        self.place.tidy()

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
                f"{self.place} cannot be sealed: {missing} of its {self.layout.shards} shards have no receipt. Run the "
                "same `softlabels generate` again to make them."
            )
        if self._lock:
            self._lock.refuse_lost()
        refuse_lost_files(self.place, self.job)
        # A run killed between naming a receipt and syncing its directory leaves a name that may not last.
        self.place.settle(RECEIPTS)
        receipts = [self._receipts[number] for number in range(self.layout.shards)]
        made = self._committer.made(sum(receipt.made.seconds for receipt in receipts))
        seal = Seal.of(self.job, metadata_documents(self.job), receipts, made, about)
        if self.job.stages:
            self._replace(seal)
        elif not self.place.create(SEAL, seal.to_bytes()):
            first = read_seal(self.place, self.job)
            if first is None or first.cache_id != seal.cache_id:
                raise committed(self.place.where(SEAL))
            seal = first  # another writer of the same labels was done before
        self._seal = seal
        return seal

    def _replace(self, seal: Seal) -> None:
        """Of a cache that was extended: readers find the one before until the new one is there, whole.

        Raises:
            LockedError: it is being extended further.

        """
        if self.place.read(JOB) != self.job.to_bytes():
            raise LockedError(
                f"{self.place} is being extended by another process: its {JOB} is not the one that this one began "
                "with. What is done is kept. Run `softlabels extend` with the number of views that it is to have."
            )
        for name, document in metadata_documents(self.job).items():
            self.place.write(f"{GROUP}/{name}", [document])
        self.place.write(SEAL, [seal.to_bytes()])

    def _refuse_committed(self, shard: Shard) -> None:
        if shard != self.layout.shard(shard.number):
            raise MismatchError(f"{shard} is not a shard of {self.place}. Commit one of those that are missing.")
        if self._seal or shard.number in self._receipts:
            raise committed(self.place.where(receipt_name(shard.number)))


def missing_shards(where: Where, job: Job) -> list[Shard]:
    """The shards that a writer of this job would find missing at a place; nothing is written or locked.

    Raises:
        MismatchError: the cache there is of another job.
        LockedError: so it is, and a writer is at work on it.
        StorageError: the place is taken by something that is no cache.

    """
    place = place_of(where)
    done = read_state(place).receipts if _available(place, job) else {}
    return [shard for shard in job.layout.all_shards() if shard.number not in done]


def require_space(where: Where, bytes_needed: int) -> None:
    """Raise StorageError if the disk of a path, which need not exist yet, has less free space than that."""
    free = free_bytes(where)
    if free is not None and free < bytes_needed:
        raise StorageError(
            f"{where} needs {human(bytes_needed)}, and its disk has {human(free)} left. Free some space, use another "
            "disk, or store less: fewer views, a smaller k, or float16."
        )


def free_bytes(where: Where) -> int | None:
    """The free space of the disk that a path lies on, or will; None of an object store, which does not say."""
    directory = place_of(where)
    if not isinstance(directory, Directory):
        return None
    place = directory.root
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


def _job_there(place: Place, job: Job) -> bool:
    """Whether this very job is at the place. Reads only.

    Raises:
        MismatchError: another job is.
        StorageError: no cache is, but something else.

    """
    place.refuse_taken("Set another cache path.")
    strangers = [name for name in place.entries() if name.split(".")[0] != LOCK]
    for name in (RECEIPTS, GROUP):
        place.refuse_links(name)
    data = place.read(JOB)
    if data is None and strangers:
        raise StorageError(
            f"{place} holds {strangers[0]} and no {JOB}: it is no label cache, and one is never mixed with other "
            "files. Set another cache path, such as one below it, or empty this place."
        )
    if data is not None:
        refuse_other_job(place, parse_job(data, place.where(JOB)), job)
    return data is not None


def _available(place: Place, job: Job) -> bool:
    """As `_job_there`, but while a writer is at another job there, LockedError: it is that one's turn."""
    try:
        return _job_there(place, job)
    except MismatchError:
        place.refuse_locked()
        raise


def begin(place: Place, job: Job) -> None:
    """All of a cache but its shards, under the lock.

    A name that a killed run gave and did not sync is synced when a directory is made beside it: before any receipt.
    """
    place.tidy()
    if not place.create(JOB, job.to_bytes()):
        _job_there(place, job)
    for name, documents in documents_ever(standing(place, job)).items():
        if not place.create(f"{GROUP}/{name}", documents[0]):
            refuse_other_metadata(place, f"{GROUP}/{name}", *documents)


def standing(where: Where, job: Job) -> Job:
    """A job as it stands at a place, with the stages that it was extended from; itself, if it is not there.

    Raises:
        MismatchError: another job is.
        StorageError: no cache is, but something else.

    """
    place = place_of(where)
    return read_job(place) if _available(place, job) else job
