"""What is where in a cache, what its documents say, and how far it is. Reads only.

NAME/job.json                           what was asked
NAME/labels.zarr/ARRAY/c/VIEW/SHARD/0   a shard file (one `0` for each axis of a row)
NAME/receipts/000000012.json            proof of shard 12
NAME/seal.json                          proof of all
NAME/lock                               held while a writer lives
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CorruptError, IncompleteError, MismatchError, StorageError
from pipeline.labels import ArraySpec
from pipeline.store import files
from pipeline.store.documents import Job, Receipt, Seal, parse_job, parse_receipt, parse_seal, proven, sealed
from pipeline.store.group import metadata_documents
from pipeline.store.layout import Layout, Shard, shard_file_bytes

JOB, SEAL, LOCK, RECEIPTS, GROUP = "job.json", "seal.json", "lock", "receipts", "labels.zarr"
LISTED = 20


@dataclass(frozen=True)
class State:
    """How far a cache is: its job, a receipt for each finished shard by number, and the seal once all are."""

    job: Job
    receipts: Mapping[int, Receipt]
    seal: Seal | None


def receipt_path(root: Path, number: int) -> Path:
    """Where a shard's receipt is."""
    return root / RECEIPTS / f"{number:09d}.json"


def shard_path(root: Path, spec: ArraySpec, layout: Layout, shard: Shard) -> Path:
    """Where a shard's rows of one array are: Zarr's default chunk key."""
    place = shard.number % layout.shards_per_view
    return root.joinpath(GROUP, spec.name, "c", str(shard.view), str(place), *("0" for _ in spec.row_shape))


def read_state(path: Path) -> State:
    """The documents of a cache, each checked by itself and against the others; no shard is read.

    Raises:
        IncompleteError: there is no cache at the path.
        CorruptError: a document is not what was written.
        MismatchError: another format version.
        StorageError: it cannot be read.

    """
    job = read_job(path)
    seal = read_seal(path, job)  # first: it is written last, and a writer may be at work meanwhile
    receipts = read_receipts(path, job)
    if seal:
        refuse_broken_seal(path, job, receipts, seal)
    return State(job, receipts, seal)


def read_job(path: Path) -> Job:
    """The job of the cache at a path. Raises as `read_state`."""
    with files.explained("look at this path", path):
        if path.exists() and not path.is_dir():
            raise StorageError(f"{path} is a file, and a label cache is a directory. Give the path of a label cache.")
    for name in (RECEIPTS, GROUP):
        files.refuse_links(path, name)
    data = files.read(path / JOB)
    if data is None:
        raise IncompleteError(
            f"{path} holds no label cache: it has no {JOB}. Give the path of a label cache, or run `softlabels "
            "generate` to make it."
        )
    return parse_job(data, path / JOB)


def receipt_files(path: Path) -> list[Path]:
    """The receipts of a cache, by shard number."""
    with files.explained("list the receipts", path / RECEIPTS):
        return sorted((path / RECEIPTS).glob("[0-9]" * 9 + ".json"))


def read_receipts(path: Path, job: Job) -> dict[int, Receipt]:
    """The receipts of a cache by shard number, in order. Raises as `read_state`."""
    fingerprint = job.fingerprint
    receipts = {}
    for file in receipt_files(path):
        receipt = parse_receipt(files.read(file) or b"", file)
        refuse_foreign_receipt(file, receipt, job, fingerprint)
        receipts[receipt.shard] = receipt
    return receipts


def refuse_foreign_receipt(file: Path, receipt: Receipt, job: Job, fingerprint: str) -> None:
    """Raise CorruptError unless a file's receipt is that of its shard, of this job, whose fingerprint is given."""
    try:
        receipt.refuse_misfit(job, fingerprint, job.layout.shard(int(file.stem)))
    except (ValueError, IndexError) as error:
        raise CorruptError(f"{file} is no receipt of this cache: {error}. {Receipt.remedy}") from error


def read_seal(path: Path, job: Job) -> Seal | None:
    """The seal of a cache of this job, if it has one. Raises as `read_state`."""
    data = files.read(path / SEAL)
    if data is None:
        return None
    seal = parse_seal(data, path / SEAL)
    if seal.job != job.fingerprint:
        raise CorruptError(
            f"{path / SEAL} seals the job {seal.job[:12]}, and {JOB} beside it is the job {job.fingerprint[:12]}: one "
            "of them is not what was written. Restore both from one copy of the cache."
        )
    try:
        sealed(job, seal)
    except ValueError as error:
        raise CorruptError(f"{path / SEAL} does not fit the {JOB} beside it: {error}. {Seal.remedy}") from error
    return seal


def refuse_broken_seal(path: Path, job: Job, receipts: Mapping[int, Receipt], seal: Seal) -> None:
    """Raise CorruptError unless the seal is the one that these receipts have."""
    if missing := job.layout.shards - len(receipts):
        raise CorruptError(
            f"{path} is sealed, yet {missing} of its {job.layout.shards} receipts are gone. Restore them from a copy; "
            f"or delete {SEAL} and run the same `softlabels generate` again: it makes those shards anew."
        )
    chains, kept = proven(job, receipts), sealed(job, seal)
    for number in range(job.layout.shards):
        if any(chains[name][number] != kept[name][number] for name in chains):
            raise CorruptError(
                f"{receipt_path(path, number)} is for other files than the cache was sealed with. {Receipt.remedy}"
            )
    expected = Seal.of(job, metadata_documents(job), list(receipts.values()), seal.made, seal.about)
    if expected != seal:
        raise CorruptError(f"{path / SEAL} does not belong to the receipts beside it. {Seal.remedy}")


def refuse_other_job(path: Path, was: Job, now: Job) -> None:
    """Raise MismatchError if a cache was made by another job than the one asked for: each field, was and is now."""
    if was.fingerprint == now.fingerprint:
        return
    differences = was.differences(now)
    listed = "; ".join(f"{item.field} was {item.was} and is now {item.now}" for item in differences[:LISTED])
    more = f"; and {len(differences) - LISTED} more" if len(differences) > LISTED else ""
    raise MismatchError(
        f"{path} was made by another job: {listed}{more}. Nothing was written. Go back to those settings to go on "
        "with it, or set another cache path to make a new one."
    )


def refuse_lost_files(root: Path, job: Job) -> None:
    """Raise CorruptError if a shard file of a whole cache is gone or has another size than was written."""
    for shard in job.layout.all_shards():
        for spec in job.arrays:
            path, expected = shard_path(root, spec, job.layout, shard), shard_file_bytes(spec, job.layout, shard)
            if not path.is_file() or path.stat().st_size != expected:
                raise CorruptError(f"{path} is gone or cut short, and {expected} bytes were written. {Receipt.remedy}")
