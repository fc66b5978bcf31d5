"""Copies a cache from one place to another, shard by shard, each held against its receipt on the way.

The copy has the same receipts and the same seal, so the same cache id: it is the cache. Its seal comes last, and what
of it is there already is not copied again, so that a copy that was cut short goes on.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pipeline.ahead import ahead
from pipeline.errors import CorruptError, MismatchError, StorageError
from pipeline.store.addresses import Where, place_of
from pipeline.store.committer import Committer
from pipeline.store.documents import Job, Receipt, Seal, parse_job
from pipeline.store.group import metadata_documents
from pipeline.store.layout import shard_file_bytes
from pipeline.store.places import Place
from pipeline.store.shards import REPAIR
from pipeline.store.state import GROUP, JOB, RECEIPTS, SEAL, State, read_sealed, read_state, receipt_name, shard_name
from pipeline.store.verify import refuse_damaged
from pipeline.store.writer import begin, missing_shards

WORKERS = 8  # shards under way at a time


@dataclass(frozen=True)
class Copied:
    """What a copy came to: the state of the whole, and what of it was copied now."""

    state: State
    shards: int
    bytes: int


def copy(
    source: Where,
    dest: Where,
    progress: Callable[[int, int], object] = lambda *_: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Copied | None:
    """Copy a cache, sealed or as far as it is.

    Args:
        source: where it lies.
        dest: where the copy goes; what of it is there is kept.
        progress: told the bytes of each shard that is done, and of all that are not.
        stopped: asked before each shard.

    Returns:
        What was copied; None if stopped. The same call goes on.

    Raises:
        IncompleteError: there is no cache at the source.
        CorruptError: a file of the source is gone or damaged; what was copied before is whole.
        MismatchError: another cache lies at the destination, or one of the same job with other labels.
        LockedError: a writer is at work at the destination.
        StorageError: a disk or a server refuses.

    """
    there, here = place_of(source), place_of(dest)
    state = read_state(there)
    _refuse_other_cache(here, state.job)
    here.prepare()
    lock, whole = here.lock(), False
    try:
        if grows(here, state.job):  # an older copy: it grows as the cache itself did
            here.write(JOB, [state.job.to_bytes()])
        begin(here, state.job)
        done = read_state(here)
        _refuse_other_labels(here, done, state)
        left = [receipt for number, receipt in state.receipts.items() if number not in done.receipts]
        total = sum(map(_bytes, left))
        committer = Committer(here, state.job, {}, 1, among=not here.exclusive)
        for receipt in ahead(left, partial(_unless, stopped, partial(_copy_shard, there, committer)), WORKERS):
            if receipt is None:
                return None
            progress(_bytes(receipt), total)
        was, seal = read_sealed(there, state.job)  # of one that is growing, what it was
        if seal:
            here.settle(RECEIPTS)
            _put_seal(here, state.job, was, seal)
            whole = state.seal is not None
    finally:
        lock.release(remove=whole)
    return Copied(state, len(left), total)


def _unless(stopped: Callable[[], bool], copy_shard: Callable[[Receipt], object], receipt: Receipt) -> Receipt | None:
    if stopped():
        return None
    copy_shard(receipt)
    return receipt


def _copy_shard(there: Place, committer: Committer, receipt: Receipt) -> None:
    shard, content = committer.layout.shard(receipt.shard), {}
    for spec in committer.job.arrays:
        name = shard_name(spec, committer.layout, shard)
        data = there.read(name, shard_file_bytes(spec, committer.layout, shard))
        if data is None:
            raise CorruptError(f"{there.where(name)} is gone; its receipt says that it was written. {REPAIR}")
        refuse_damaged(data, there.where(name), spec, committer.layout, receipt)
        content[spec.name] = [data]
    _refuse_other_receipt(committer.place, committer.put(receipt, content), receipt)


def _refuse_other_labels(here: Place, done: State, state: State) -> None:
    """Refuse to mix the shards of two runs of one job: their labels may differ in the last bits."""
    for number in done.receipts.keys() & state.receipts.keys():
        _refuse_other_receipt(here, done.receipts[number], state.receipts[number])
    if more := done.receipts.keys() - state.receipts.keys():
        raise MismatchError(
            f"{here} has {len(more)} shards more than the cache that is copied: it is further than that. Copy it the "
            "other way, or name another place for the copy."
        )


def _refuse_other_receipt(here: Place, found: Receipt, receipt: Receipt) -> None:
    if found.fixed_part() != receipt.fixed_part():
        raise MismatchError(
            f"{here.where(receipt_name(receipt.shard))} is not of the cache that is copied, though of the same job: it "
            "comes from another run. Name another place for the copy."
        )


def _refuse_other_cache(here: Place, job: Job) -> None:
    """Refuse a cache that is neither of this job nor of a stage of it."""
    if not grows(here, job):
        missing_shards(here, job)


def grows(here: Place, job: Job) -> bool:
    """Whether a cache is there that is what this job was before it was extended."""
    data = None
    with suppress(StorageError):  # a file in its place, say: whoever writes there says so better
        data = here.read(JOB)
    there = None if data is None else parse_job(data, here.where(JOB))
    return there is not None and there != job and job.at(there.fingerprint) == there


def _put_seal(here: Place, job: Job, was: Job, seal: Seal) -> None:
    if here.create(SEAL, seal.to_bytes()):
        return
    found_of, found = read_sealed(here, job)
    if found and found_of.smaller_than(was):  # that of an older copy
        for name, document in metadata_documents(job).items():
            here.write(f"{GROUP}/{name}", [document])
        here.write(SEAL, [seal.to_bytes()])
    elif found is None or found.cache_id != seal.cache_id:
        raise MismatchError(
            f"{here.where(SEAL)} seals another cache than the one that is copied, though of the same job. Name another "
            "place for the copy, and run `softlabels verify` on this one."
        )


def _bytes(receipt: Receipt) -> int:
    return sum(proof.bytes for proof in receipt.arrays.values())
