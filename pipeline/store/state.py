"""What is where in a cache, what its documents say, and how far it is. Reads only.

NAME/job.json                           what was asked
NAME/labels.zarr/ARRAY/c/VIEW/SHARD/0   a shard file (one `0` for each axis of a row)
NAME/receipts/000000012.json            proof of shard 12
NAME/seal.json                          proof of all
NAME/lock                               held while a writer lives
NAME/lock.000000012                     held while one of several processes commits shard 12
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CorruptError, IncompleteError, MismatchError
from pipeline.labels import ArraySpec
from pipeline.store.addresses import Where, place_of
from pipeline.store.documents import Job, Receipt, Seal, parse_job, parse_receipt, parse_seal, proven, sealed
from pipeline.store.group import metadata_documents
from pipeline.store.layout import Layout, Shard, shard_file_bytes
from pipeline.store.places import Place

JOB, SEAL, RECEIPTS, GROUP = "job.json", "seal.json", "receipts", "labels.zarr"
LISTED = 20
MAY_GROW = {"view_count", "rows", "dataset.content", "dataset.ids_sha256"}
_RECEIPT = re.compile(rf"{RECEIPTS}/[0-9]{{9}}\.json")


@dataclass(frozen=True)
class State:
    """How far a cache is: its job, a receipt for each finished shard by number, and the seal once all are."""

    job: Job
    receipts: Mapping[int, Receipt]
    seal: Seal | None


def receipt_name(number: int) -> str:
    """What a shard's receipt is called."""
    return f"{RECEIPTS}/{number:09d}.json"


def shard_name(spec: ArraySpec, layout: Layout, shard: Shard) -> str:
    """What the file with a shard's rows of one array is called: Zarr's default chunk key."""
    place = str(layout.place(shard))
    return "/".join((GROUP, spec.name, "c", str(shard.view), place, *("0" for _ in spec.row_shape)))


def receipt_path(root: Path, number: int) -> Path:
    """Where a shard's receipt is in a directory."""
    return root / receipt_name(number)


def shard_path(root: Path, spec: ArraySpec, layout: Layout, shard: Shard) -> Path:
    """Where a shard's rows of one array are in a directory."""
    return root / shard_name(spec, layout, shard)


def read_state(where: Where) -> State:
    """The documents of a cache, each checked by itself and against the others; no shard is read.

    Raises:
        IncompleteError: there is no cache at the place.
        CorruptError: a document is not what was written.
        MismatchError: another format version.
        StorageError: it cannot be read.

    """
    place = place_of(where)
    job = read_job(place)
    seal = read_seal(place, job)  # first: it is written last, and a writer may be at work meanwhile
    receipts = read_receipts(place, job)
    if seal:
        refuse_broken_seal(place, job, receipts, seal)
    return State(job, receipts, seal)


def read_job(where: Where) -> Job:
    """The job of the cache at a place. Raises as `read_state`."""
    place = place_of(where)
    place.refuse_taken("Give the path of a label cache.")
    for folder in (RECEIPTS, GROUP):
        place.refuse_links(folder)
    data = place.read(JOB)
    if data is None:
        raise IncompleteError(
            f"{place} holds no label cache: it has no {JOB}. Give the path of a label cache, or run `softlabels "
            "generate` to make it."
        )
    return parse_job(data, place.where(JOB))


def receipt_names(place: Place) -> dict[int, str]:
    """What the receipts of a cache are called, by shard number, in order."""
    numbers = {int(name[-14:-5]): name for name in place.names(RECEIPTS) if _RECEIPT.fullmatch(name)}
    return dict(sorted(numbers.items()))


def read_receipts(where: Where, job: Job) -> dict[int, Receipt]:
    """The receipts of a cache by shard number, in order. Raises as `read_state`."""
    place, owner = place_of(where), job.owners()
    numbers = {name: number for number, name in receipt_names(place).items()}
    receipts = {}
    for name, data in place.read_many(numbers):
        receipt = parse_receipt(data or b"", place.where(name))
        refuse_foreign_receipt(place.where(name), receipt, job, owner(numbers[name]), numbers[name])
        receipts[receipt.shard] = receipt
    return receipts


def refuse_foreign_receipt(file: Path | str, receipt: Receipt, job: Job, fingerprint: str, number: int) -> None:
    """Raise CorruptError unless a file's receipt is that of this shard, of this job, whose fingerprint is given."""
    try:
        receipt.refuse_misfit(job, fingerprint, job.layout.shard(number))
    except (ValueError, IndexError) as error:
        raise CorruptError(f"{file} is no receipt of this cache: {error}. {Receipt.remedy}") from error


def read_seal(where: Where, job: Job) -> Seal | None:
    """The seal of a cache of this job, if it has one; that of a stage it was extended from is none.

    Raises as `read_state`.
    """
    _, seal = read_sealed(where, job)
    return seal if seal and seal.job == job.fingerprint else None


def read_sealed(where: Where, job: Job) -> tuple[Job, Seal | None]:
    """What a cache of this job is sealed as: while it is extended, as it was before. Raises as `read_state`."""
    place = place_of(where)
    data, path = place.read(SEAL), place.where(SEAL)
    if data is None:
        return job, None
    seal = parse_seal(data, path)
    was = job.at(seal.job)
    if was is None:
        raise CorruptError(
            f"{path} seals the job {seal.job[:12]}, and {JOB} beside it is the job {job.fingerprint[:12]}: one "
            "of them is not what was written. Restore both from one copy of the cache."
        )
    try:
        sealed(was, seal)
    except ValueError as error:
        raise CorruptError(f"{path} does not fit the {JOB} beside it: {error}. {Seal.remedy}") from error
    return was, seal


def refuse_broken_seal(where: Where, job: Job, receipts: Mapping[int, Receipt], seal: Seal) -> None:
    """Raise CorruptError unless the seal is the one that these receipts have."""
    place = place_of(where)
    if missing := job.layout.shards - len(receipts):
        raise CorruptError(
            f"{place} is sealed, yet {missing} of its {job.layout.shards} receipts are gone. Restore them from a copy; "
            f"or delete {SEAL} and run the same `softlabels generate` again: it makes those shards anew."
        )
    chains, kept = proven(job, receipts), sealed(job, seal)
    for number in range(job.layout.shards):
        if any(chains[name][number] != kept[name][number] for name in chains):
            raise CorruptError(
                f"{place.where(receipt_name(number))} is for other files than the cache was sealed with. "
                f"{Receipt.remedy}"
            )
    expected = Seal.of(job, metadata_documents(job), list(receipts.values()), seal.made, seal.about)
    if expected != seal:
        raise CorruptError(f"{place.where(SEAL)} does not belong to the receipts beside it. {Seal.remedy}")


def refuse_other_job(path: object, was: Job, now: Job) -> None:
    """Raise MismatchError if a cache was made by another job than the one asked for: each field, was and is now."""
    if not (differences := was.differences(now)):
        return
    if was.smaller_than(now) and {item.field for item in differences} <= MAY_GROW:
        raise MismatchError(
            f"{path} was made with {was.extent}, and now {now.extent} are asked for. Nothing was written. To add to "
            f"it what is new, run `softlabels extend CONFIG --views {now.view_count}`."
        )
    listed = "; ".join(f"{item.field} was {item.was} and is now {item.now}" for item in differences[:LISTED])
    rest = f"; and {len(differences) - LISTED} more" if len(differences) > LISTED else ""
    raise MismatchError(
        f"{path} was made by another job: {listed}{rest}. Nothing was written. Go back to those settings to go on "
        "with it, or set another cache path to make a new one."
    )


def refuse_lost_files(where: Where, job: Job) -> None:
    """Raise CorruptError if a shard file of a whole cache is gone or has another size than was written."""
    place = place_of(where)
    sizes = place.sizes(GROUP)
    for shard in job.layout.all_shards():
        for spec in job.arrays:
            name, expected = shard_name(spec, job.layout, shard), shard_file_bytes(spec, job.layout, shard)
            if sizes.get(name) != expected:
                raise CorruptError(
                    f"{place.where(name)} is gone or cut short, and {expected} bytes were written. {Receipt.remedy}"
                )
