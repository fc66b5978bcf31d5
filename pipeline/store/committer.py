"""Makes shards durable, one by one, in the process that began the cache or in any that it asks for help.

The order of a commit is the proof: the shard's files are durable before its receipt exists, and a receipt is never
replaced. A shard file without a receipt proves nothing, whoever left it, and is simply written again.

Where several processes work on one cache, each shard is given to one of them. One that was given up for lost may still
be at work, so a shard is committed by one process at a time, and the first receipt wins.
"""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from pipeline.errors import MismatchError, StorageError
from pipeline.labels import ArraySpec
from pipeline.store.arrays import refuse_other_arrays
from pipeline.store.canonical import sha256
from pipeline.store.documents import Job, Made, Receipt, parse_receipt
from pipeline.store.files import Piece
from pipeline.store.layout import Shard, shard_file_bytes
from pipeline.store.places import Place
from pipeline.store.shards import chain_of, encode_shard, ids_sha256
from pipeline.store.state import SEAL, receipt_name, refuse_foreign_receipt, shard_name

Block = Mapping[str, NDArray[np.generic]]


class Committer:
    """Commits shards of a job.

    Args:
        place: where the cache lies.
        job: what it holds.
        versions: the tools at work, for the receipts.
        attempt: which run this is, for the receipts: the first is 1.
        among: whether other processes may be at the same shard.

    """

    def __init__(
        self, place: Place, job: Job, versions: Mapping[str, str], attempt: int, *, among: bool = False
    ) -> None:
        self.place, self.job, self.layout, self.attempt = place, job, job.layout, attempt
        self._versions, self._among = dict(versions), among
        self._owner = job.owners()
        self._ids: dict[int, str] = {}  # of a shard's place in its view, the digest of its samples' ids

    def receipt(self, number: int) -> Receipt | None:
        """The receipt of a shard, if it is done.

        Raises:
            CorruptError: what is there is no receipt of this cache.

        """
        name = receipt_name(number)
        data = self.place.read(name)
        if data is None:
            return None
        receipt = parse_receipt(data, self.place.where(name))
        refuse_foreign_receipt(self.place.where(name), receipt, self.job, self._owner(number), number)
        return receipt

    def commit(self, shard: Shard, arrays: Block, seconds: float) -> Receipt:
        """Make a shard durable, then its receipt.

        Args:
            shard: one of the job's, without a receipt as far as is known.
            arrays: each array of the job, `[shard.rows, *row_shape]`, in its very dtype.
            seconds: how long its labels took.

        Returns:
            Its receipt; another process's, if that was first and has the same labels.

        Raises:
            MismatchError: other arrays than the job's, or sample ids that are negative, repeated or another view's; or
                another process has committed other labels.
            LockedError: another process is at this shard.
            StorageError: the disk or the server refuses; the shard is then still missing.

        """
        refuse_other_arrays(self.job.arrays, arrays, shard.rows)
        digest = self._checked_ids(shard, arrays["sample_id"])
        content = {spec.name: encode_shard(arrays[spec.name], spec, self.layout) for spec in self.job.arrays}
        receipt = Receipt.signed(
            shard=shard.number,
            view=shard.view,
            start=shard.start,
            stop=shard.stop,
            arrays={spec.name: self._proof(spec, shard, content[spec.name]) for spec in self.job.arrays},
            ids_sha256=digest,
            job=self._owner(shard.number),
            made=self.made(seconds),
        )
        first = self.put(receipt, content)
        if other := [name for name, proof in first.arrays.items() if proof.sha256 != receipt.arrays[name].sha256]:
            raise MismatchError(
                f"{self.place.where(receipt_name(shard.number))} was written by {first.made.host} meanwhile, for other "
                f"{', '.join(other)} than were made here. The first are kept, whole. Two devices that do not sum in "
                "the same order differ in the last bits; use devices of one kind if that matters."
            )
        return first

    def put(self, receipt: Receipt, content: Mapping[str, Sequence[Piece]]) -> Receipt:
        """Make a shard's files durable, given for each array its pieces, and then its receipt.

        Returns:
            The receipt that is there then: another one, if another process was first.

        Raises:
            LockedError: another process is at this shard.
            StorageError: the disk or the server refuses, or two processes mixed their files.

        """
        name, shard = receipt_name(receipt.shard), self.layout.shard(receipt.shard)
        with self.place.alone(f"{shard.number:09d}") if self._among else nullcontext():
            replaced = False
            if self._among and (first := self.receipt(shard.number)):
                return first
            for spec in self.job.arrays:
                file, pieces = shard_name(spec, self.layout, shard), content[spec.name]
                if self.place.exclusive:
                    self.place.write(file, pieces)
                elif not self.place.create(file, b"".join(pieces)):
                    if first := self.receipt(shard.number):
                        return first
                    self.place.write(file, pieces)  # left by someone who died, for all that can be told
                    replaced = True
            created = self.place.create(name, receipt.to_bytes())
            if replaced:
                self._refuse_mixed(shard)
        if created:
            return receipt
        found = self.receipt(shard.number) if self._among else None
        if not found:
            raise committed(self.place.where(name))
        return found

    def made(self, seconds: float) -> Made:
        """How what is written now came about."""
        return Made(
            seconds=seconds,
            host=platform.node(),
            attempt=self.attempt,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=self._versions,
        )

    def _proof(self, spec: ArraySpec, shard: Shard, pieces: Sequence[memoryview | bytes]) -> dict[str, JsonValue]:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        size = shard_file_bytes(spec, self.layout, shard)
        return {"bytes": size, "chain": chain_of(pieces), "sha256": digest.hexdigest()}

    def _refuse_mixed(self, shard: Shard) -> None:
        """Take a shard's receipt back if its files are not those that it is for; StorageError then.

        Where files cannot be locked, two processes with other labels of one shard may each have replaced some of the
        other's. Whoever replaced any looks once the receipt is there, whoever's it is: the last one to look sees all.
        """
        receipt, name = self.receipt(shard.number), receipt_name(shard.number)
        if receipt is None or all(
            sha256(self.place.read(shard_name(spec, self.layout, shard)) or b"") == receipt.arrays[spec.name].sha256
            for spec in self.job.arrays
        ):
            return
        if self.place.read(SEAL) is not None:
            raise StorageError(
                f"{self.place.where(name)}: another process wrote this shard at the same time, with other labels, and "
                "has sealed the cache. Run `softlabels verify` to see what is mixed, and do what it says."
            )
        self.place.remove(name)
        raise StorageError(
            f"{self.place.where(name)}: two processes wrote this shard at the same time, with other labels, and its "
            "receipt was taken back. Run the same command again: it makes this shard anew."
        )

    def _checked_ids(self, shard: Shard, ids: NDArray[np.generic]) -> str:
        """The digest of a shard's ids; MismatchError if they name no samples, or others than the other views do."""
        if np.any(np.less(ids, 0)) or np.unique(ids).size < ids.size:
            raise MismatchError(
                f"Shard {shard.number} of {self.place} has negative or repeated sample ids; an id is what a row is "
                "found by. Give every sample an id of its own, from 0 on."
            )
        digest, place = ids_sha256(ids), self.layout.place(shard)
        if self._ids.setdefault(place, self._ids_at(place) or digest) != digest:
            raise MismatchError(
                f"Shard {shard.number} of {self.place} holds other samples in view {shard.view} than rows "
                f"{shard.start} to {shard.stop} do in another view; every view has the same samples in the same "
                "order. Make the cache anew from a dataset whose order does not change."
            )
        return digest

    def _ids_at(self, place: int) -> str | None:
        """The digest of the samples' ids at a place of a view, if the shard of some view there is done."""
        if self.layout.views == 1:
            return None
        done = (self.receipt(self.layout.number(view, place)) for view in range(self.layout.views))
        return next((receipt.ids_sha256 for receipt in done if receipt), None)


def committed(path: object) -> StorageError:
    """The error that what was to be written once is there already."""
    return StorageError(
        f"{path} is there already: a shard is written once and never rewritten. Run the same `softlabels generate` "
        "again: it goes on with the shards that are missing."
    )
