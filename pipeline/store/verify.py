"""Holds every byte of a cache against its proof, and goes on after a problem to name them all.

Shard files are held against receipts, receipts against the seal, the Zarr documents against the job. So is the digest
of the sample ids in each shard: files put in each other's place are whole, and wrong.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar

from pipeline.ahead import ahead, loaders
from pipeline.errors import CorruptError, MismatchError, StorageError
from pipeline.labels import ArraySpec
from pipeline.store import files
from pipeline.store.addresses import Where, place_of
from pipeline.store.documents import Job, Receipt, Seal, parse_receipt, parse_seal, proven, sealed
from pipeline.store.group import documents_ever, refuse_other_metadata
from pipeline.store.layout import Layout, Shard, shard_file_bytes
from pipeline.store.places import LOCK, Place
from pipeline.store.shards import REPAIR, check_chain, check_index, chunk_is_whole, decoded, ids_sha256, rows_in
from pipeline.store.state import (
    GROUP,
    JOB,
    RECEIPTS,
    SEAL,
    read_job,
    read_sealed,
    receipt_name,
    receipt_names,
    refuse_broken_seal,
    refuse_foreign_receipt,
    shard_name,
)

LEAST_PARTS, DIGITS = 5, 19  # of a shard file: group, array, "c", view, place; and of a number of either
MOST_BYTES = 2**30  # of shard files in memory at once, if one has no more
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file."""

    path: Path | str
    what: str


@dataclass(frozen=True)
class Report:
    """What was verified: shards with a receipt, and the bytes of their files, of a whole cache or of one being made."""

    sealed: bool
    shards: int
    bytes: int
    problems: tuple[Problem, ...]
    grows_to: str | None = None  # of a cache that is being extended


class _Problems(list[Problem]):
    """The problems so far."""

    def attempt(self, path: Path | str, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What a step returns; if it refuses, None, and the refusal is noted as a problem of the path."""
        try:
            return step(*args, **kwargs)
        except (CorruptError, MismatchError, StorageError) as error:
            self.append(Problem(path, str(error)))
            return None


def verify(where: Where, progress: Callable[[int], object] | None = None) -> Report:
    """Verify a cache, sealed or not, as far as it is.

    Args:
        where: the cache's place.
        progress: told the size of each shard file once it is done with; the receipts say how many bytes there are in
        all.

    Raises:
        IncompleteError: there is no cache at the place.
        StorageError: the path is a file, or may not be read.

    """
    place = place_of(where)
    place.refuse_taken("Give the path of a label cache.")
    there = SEAL in place.entries()
    try:
        job = read_job(place)
    except (CorruptError, MismatchError) as error:  # nothing tells what the rest should be
        return Report(there, 0, 0, (Problem(place.where(JOB), str(error)),))
    problems = _Problems()
    seal = problems.attempt(place.where(SEAL), _seal, place, job)
    was = job.at(seal.job) if seal else None  # the job that is sealed: while a cache is extended, what it was before
    receipts = _receipts(place, problems)
    job = _as_it_is_now(place, job)
    sealed = there and (was is None or was == job)
    if owner := _other_owner(job, seal, receipts):  # all the rest would be held against the wrong job
        what = f"is the job {job.fingerprint[:12]}, and what it should prove is of the job {owner[:12]}. {Job.remedy}"
        return Report(sealed, 0, 0, (*problems, Problem(place.where(JOB), what)))
    receipts = _of_job(place, job, receipts, problems)
    documents = {f"{GROUP}/{name}": each[:1] if sealed else each for name, each in documents_ever(job).items()}
    for name, each in documents.items() if receipts or sealed else ():  # a cache just begun may not have them yet
        problems.attempt(place.where(name), refuse_other_metadata, place, name, *each)
    size = 0
    parts = ((spec, receipt) for receipt in receipts.values() for spec in job.arrays)
    whole = max(shard_file_bytes(spec, job.layout, job.layout.largest) for spec in job.arrays)
    workers = min(loaders(None), max(1, MOST_BYTES // whole))
    for (spec, receipt), (read, found) in ahead(parts, partial(_checked, place, job.layout), workers):
        size += read
        problems += found
        if progress:
            progress(receipt.arrays[spec.name].bytes)
    if seal:
        problems += _seal_problems(place, was or job, receipts, seal)
    problems += _strays(place, _as_it_is_now(place, job), documents)
    return Report(sealed, len(receipts), size, tuple(problems), None if sealed or not seal else job.extent)


def _as_it_is_now(place: Place, job: Job) -> Job:
    """The job, or what it grew to since it was read: its new shards and receipts are no strays."""
    with suppress(CorruptError, MismatchError, StorageError):
        if (now := read_job(place)).at(job.fingerprint):
            return now
    return job


def _seal(place: Place, job: Job) -> Seal | None:
    data = place.read(SEAL)
    seal = None if data is None else parse_seal(data, place.where(SEAL))
    return read_sealed(place, job)[1] if seal and job.at(seal.job) else seal


def _receipts(place: Place, problems: _Problems) -> dict[int, Receipt]:
    """The receipts that are receipts, whoever's."""
    names = receipt_names(place)
    found = {number: problems.attempt(place.where(name), _receipt, place, name) for number, name in names.items()}
    return {number: receipt for number, receipt in found.items() if receipt}


def _receipt(place: Place, name: str) -> Receipt:
    return parse_receipt(place.read(name) or b"", place.where(name))


def _other_owner(job: Job, seal: Seal | None, receipts: Mapping[int, Receipt]) -> str | None:
    """The job that the seal, or else every receipt, belongs to, if it is another: then it is job.json that changed."""
    owners = {seal.job} if seal else {receipt.job for receipt in receipts.values()}
    ours = {job.fingerprint, *(stage.job for stage in job.stages)}
    return min(owners) if owners and not owners & ours else None


def _of_job(place: Place, job: Job, receipts: Mapping[int, Receipt], problems: _Problems) -> dict[int, Receipt]:
    """The receipts that are this job's."""
    owner, before = job.owners(), len(problems)
    own = {}
    for number, receipt in receipts.items():
        file = place.where(receipt_name(number))
        problems.attempt(file, refuse_foreign_receipt, file, receipt, job, owner(number), number)
        if len(problems) == before:
            own[number] = receipt
        before = len(problems)
    return own


Part = tuple[ArraySpec, Receipt]


def _checked(place: Place, layout: Layout, part: Part) -> tuple[Part, tuple[int, _Problems]]:
    """How many bytes of a shard file are as they were written, and what is wrong; hashing is most of it, in threads."""
    spec, receipt = part
    problems, file = _Problems(), place.where(shard_name(spec, layout, layout.shard(receipt.shard)))
    return part, (problems.attempt(file, _check_file, place, spec, layout, receipt) or 0, problems)


def _check_file(place: Place, spec: ArraySpec, layout: Layout, receipt: Receipt) -> int:
    """The size of a shard file, or CorruptError over all that is wrong with it."""
    shard = layout.shard(receipt.shard)
    name = shard_name(spec, layout, shard)
    data, file = place.read(name, shard_file_bytes(spec, layout, shard)), place.where(name)
    if data is None:
        raise CorruptError(f"{file} is gone; its receipt says that it was written. {REPAIR}")
    refuse_damaged(data, file, spec, layout, receipt)
    return len(data)


def refuse_damaged(data: bytes, file: Path | str, spec: ArraySpec, layout: Layout, receipt: Receipt) -> None:
    """Raise CorruptError unless these are the bytes of a shard's file that its receipt is for."""
    shard, content = layout.shard(receipt.shard), memoryview(data)
    whole = hashlib.sha256(content).hexdigest() == receipt.arrays[spec.name].sha256
    check_index(content, spec, layout, shard, file)
    bad = [str(chunk) for chunk in range(layout.chunks_in(shard)) if not chunk_is_whole(content, chunk, spec, layout)]
    if bad:
        raise CorruptError(f"{file}: chunks without their checksum: {', '.join(bad)}. {REPAIR}")
    check_chain(content, spec, layout, receipt.arrays[spec.name].chain, file)
    if not whole:
        raise CorruptError(f"{file} does not have the SHA-256 that its receipt states. {REPAIR}")
    if spec.name == "sample_id" and _stored_ids_sha256(content, spec, layout, shard) != receipt.ids_sha256:
        raise CorruptError(f"{file} holds other samples than its receipt is for. {REPAIR}")


def _stored_ids_sha256(content: memoryview, spec: ArraySpec, layout: Layout, shard: Shard) -> str:
    return ids_sha256(decoded(rows_in(content, spec, layout, shard).reshape(-1)[: shard.rows], spec))


def _seal_problems(place: Place, job: Job, receipts: Mapping[int, Receipt], seal: Seal) -> Iterator[Problem]:
    """What a seal promises and is not there; a receipt that is there and damaged has been named already."""
    there = set(place.names(RECEIPTS))
    absent = [name for number in range(job.layout.shards) if (name := receipt_name(number)) not in there]
    for path in map(place.where, absent):
        yield Problem(path, f"{path} is gone, and the cache is sealed. {REPAIR}")
    receipts = {number: receipt for number, receipt in receipts.items() if number < job.layout.shards}
    chains, kept = proven(job, receipts), sealed(job, seal)
    others = [number for number in receipts if any(chains[name][number] != kept[name][number] for name in chains)]
    for path in map(place.where, map(receipt_name, others)):
        yield Problem(path, f"{path} is for other files than the cache was sealed with. {Receipt.remedy}")
    if len(receipts) == job.layout.shards and not others:
        problems = _Problems()
        problems.attempt(place.where(SEAL), refuse_broken_seal, place, job, receipts, seal)
        yield from problems


def _strays(place: Place, job: Job, documents: Iterable[str]) -> Iterator[Problem]:
    """Files that have no place in a cache. A shard without a receipt has one: it is work going on."""
    known = {JOB, SEAL, LOCK, *documents, *receipt_names(place).values()}
    for name in place.names(""):
        if name in known or _is_shard(name, job) or _is_passing(name):
            continue
        path = place.where(name)
        yield Problem(path, f"{path} is no part of the cache, and nothing reads it. Move it elsewhere, or delete it.")


def _is_passing(name: str) -> bool:
    """Whether a file is work going on, or was when its process was killed."""
    return (
        files.is_leftover(PurePosixPath(name).name)
        or re.fullmatch(rf"{LOCK}\.([0-9]{{9}}|probe-[0-9a-f]{{32}})", name) is not None
    )


def _is_shard(name: str, job: Job) -> bool:
    """Whether a name is that of some shard file of the job: asked of what is there, not of all that may be."""
    parts = PurePosixPath(name).parts
    specs = [spec for spec in job.arrays if parts[:3] == (GROUP, spec.name, "c")]
    if not specs or len(parts) < LEAST_PARTS or not all(part.isascii() and part.isdigit() for part in parts[3:5]):
        return False
    view, place = (int(part[:DIGITS]) for part in parts[3:5])
    if view >= job.view_count or place >= job.layout.shards_per_view:
        return False
    shard = job.layout.shard(job.layout.number(view, place))
    return name == shard_name(specs[0], job.layout, shard)
