"""The documents of a cache: what was asked (the job), what is done (receipts), and that all of it is (the seal).

What decides the bytes of a cache is kept apart from how it came about (`made`: when, where, how long, at which
attempt). So the cache id, which covers only the first, is the same for a run that was interrupted and for one that was
not.
"""

import builtins
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.errors import ConfigError
from pipeline.store.arrays import ROW_ARRAYS, StoredSpec, refuse_unfit
from pipeline.store.canonical import FORMAT, Digest, Document, Signed, canonical, parse, sha256
from pipeline.store.layout import Layout, Shard, shard_file_bytes

__all__ = [
    "FORMAT",
    "ROW_ARRAYS",
    "Difference",
    "FileProof",
    "Job",
    "Made",
    "Receipt",
    "Seal",
    "cache_id",
    "parse_job",
    "parse_receipt",
    "parse_seal",
    "proven",
    "sealed",
]

Count = Annotated[int, Field(ge=0, le=2**62)]
Chains = NDArray[np.int64]
MOST_SHARD_BYTES = 2**34
MOST_FILES = 2**24  # shard files of all arrays: the seal has eight digits for each
MOST_FLAGS = 2**30  # chunks of all arrays: a reader keeps a byte for each


@dataclass(frozen=True)
class Difference:
    """A field in which two jobs differ, dotted, and what it was and is now."""

    field: str
    was: str
    now: str


class Stage(Document):
    """What a cache was before it was extended: how many views it had, the fingerprint of its job, and its cache id.

    Where it was of fewer samples, also how many, and what its job said of the dataset.
    """

    views: int = Field(ge=1)
    job: Digest
    cache_id: Digest
    rows: int | None = Field(ge=1, default=None)
    dataset: dict[str, JsonValue] | None = None

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what it does not say."""
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value is not None}


class Job(Document):
    """What was asked: all that decides the labels. Immutable once written.

    `dataset`, `views`, `teacher` and `labels` are whatever tells one from another; the rest says what the store holds.
    Where a cache was extended, `stages` say what it was before: receipts of then stay what they are.
    """

    remedy: ClassVar[str] = (
        "A cache whose job is not known cannot be trusted: restore this file from a copy, or make the cache again."
    )

    format: Literal["softlabels/2"]
    dataset: dict[str, JsonValue]
    views: dict[str, JsonValue]
    teacher: dict[str, JsonValue]
    labels: dict[str, JsonValue]
    rows: int
    view_count: int
    shard_rows: int
    chunk_rows: int
    arrays: tuple[StoredSpec, ...] = Field(strict=False)
    stages: tuple[Stage, ...] = Field(strict=False, default=())

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `stages` where there is none: a job that was never extended is written as it always was."""
        written: dict[str, Any] = handler(self)
        return written if written.get("stages") else {key: value for key, value in written.items() if key != "stages"}

    @model_validator(mode="after")
    def _grew(self) -> Self:
        """Its stages are what it was: each has more than the one before, and the fingerprint of that job."""
        sizes = [*self._before, (self.view_count, self.rows)]
        if any(was == now or was[0] > now[0] or was[1] > now[1] for was, now in pairwise(sizes)):
            raise ValueError(f"stages of {sizes} views and rows: expected ever more")
        for place, stage in enumerate(self.stages):
            if self._stage(place).fingerprint != stage.job:
                raise ValueError(f"the job of {stage.views} views is not the one that its stages name")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            largest = max(shard_file_bytes(spec, self.layout, self.layout.largest) for spec in self.arrays)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        for what, count, most in (
            ("shard files", self.layout.shards, MOST_FILES),
            ("chunks", self.layout.shards * self.layout.chunks_per_shard, MOST_FLAGS),
        ):
            if count * len(self.arrays) > most:
                raise ValueError(f"{count * len(self.arrays)} {what}, of which {most} are allowed: cut larger ones")
        if largest > MOST_SHARD_BYTES:
            raise ValueError(f"a shard file of {largest} bytes, of which {MOST_SHARD_BYTES} are allowed")
        canonical(self.model_dump())
        return self

    @field_validator("arrays")
    @classmethod
    def _distinct(cls, arrays: tuple[StoredSpec, ...]) -> tuple[StoredSpec, ...]:
        refuse_unfit(arrays)
        return arrays

    @property
    def layout(self) -> Layout:
        """How the rows are cut into shards and chunks."""
        return _layout(self.rows, self.view_count, self.shard_rows, self.chunk_rows, self._before)

    @property
    def _before(self) -> tuple[tuple[int, int], ...]:
        """The views and rows of each stage."""
        return tuple((stage.views, self._told(place, "rows")) for place, stage in enumerate(self.stages))

    def _told(self, place: int, name: str) -> Any:  # noqa: ANN401 - of a field of this class
        """What a stage says of rows or dataset: it is silent where that was as in the next one."""
        later = (value for stage in self.stages[place:] if (value := getattr(stage, name)) is not None)
        return next(later, getattr(self, name))

    @property
    def extent(self) -> str:
        """How much of it there is, to read."""
        return f"{self.view_count:,} view{'s' if self.view_count > 1 else ''} of {self.rows:,} samples"

    def smaller_than(self, other: "Job") -> bool:
        """Whether another has more views or more samples, and no fewer of either."""
        mine, its = (self.view_count, self.rows), (other.view_count, other.rows)
        return mine != its and mine[0] <= its[0] and mine[1] <= its[1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the job's bytes: what every receipt and the seal say they belong to."""
        return sha256(self.to_bytes())

    def owners(self) -> Callable[[int], str]:
        """From the number of a shard to the fingerprint of the job it was made for: this one's, or that of a stage."""
        mine, ends = self.fingerprint, [self._stage(place).layout.shards for place in range(len(self.stages))]
        return lambda number: next(
            (stage.job for stage, end in zip(self.stages, ends, strict=True) if number < end), mine
        )

    def extended(self, other: "Job", cache_id: str) -> "Job":
        """The same job with the views and samples of another; those there are, a cache of this id, stay as they are."""
        was: dict[str, Any] = {"rows": self.rows, "dataset": self.dataset} if other.rows > self.rows else {}
        stage = Stage(views=self.view_count, job=self.fingerprint, cache_id=cache_id, **was)
        grown = {"view_count": other.view_count, "rows": other.rows, "dataset": other.dataset}
        return Job.model_validate({**dict(self), **grown, "stages": (*self.stages, stage)})

    def at(self, fingerprint: str) -> "Job | None":
        """The job as it was at a stage, or is; None if it never had that fingerprint."""
        places = [place for place, stage in enumerate(self.stages) if stage.job == fingerprint]
        return self._stage(places[0]) if places else self if self.fingerprint == fingerprint else None

    def _stage(self, place: int) -> "Job":
        """The job as it was at a stage: a copy without checks, for they would check all stages before it, and so on."""
        was = {name: self._told(place, name) for name in ("rows", "dataset")}
        return self.model_copy(update={**was, "view_count": self.stages[place].views, "stages": self.stages[:place]})

    def bytes_of(self, shards: Iterable[Shard]) -> int:
        """The exact size of these shards' files, all arrays together."""
        layout = self.layout
        return sum(shard_file_bytes(spec, layout, shard) for shard in shards for spec in self.arrays)

    def differences(self, other: "Job") -> list[Difference]:
        """Where another job (`now`) asks for something else than this one (`was`).

        The arrays follow from the rest; they are named only where nothing else tells the two apart. How it grew to its
        views is no difference.
        """
        was, now = (dict(_leaves(job.model_dump(exclude={"stages"}), "")) for job in (self, other))
        found = [
            Difference(field, was.get(field, "nothing"), now.get(field, "nothing"))
            for field in dict.fromkeys([*was, *now])
            if was.get(field) != now.get(field)
        ]
        return [item for item in found if not item.field.startswith("arrays[")] or found


class FileProof(Document):
    """What a shard file holds."""

    bytes: Count
    chain: Annotated[int, Field(ge=0, lt=2**32)]  # crc32c over the checksums of its chunks: see `shards.chain_of`
    sha256: Digest


class Made(Document):
    """How something came about. Nothing here decides what it is."""

    seconds: float = Field(ge=0, le=2**40, allow_inf_nan=False)  # 35,000 years: sums of them stay numbers
    host: str
    attempt: Annotated[int, Field(gt=0, le=2**31)]  # the first run is 1, each that resumed one more
    finished: str  # ISO 8601, UTC
    versions: dict[str, str]


class Receipt(Signed):
    """Proof that one shard is done: the only one there is."""

    remedy: ClassVar[str] = (
        "If the cache is sealed, delete its seal.json; delete this receipt; and run the same `softlabels generate` "
        "again: it makes this shard anew."
    )

    shard: Count
    view: Count
    start: Count
    stop: Count
    arrays: dict[str, FileProof]
    ids_sha256: Digest  # of the shard's sample ids as little-endian int64: binds the files to their samples
    job: Digest
    made: Made

    def fixed_part(self) -> dict[str, JsonValue]:
        """All that the labels decide, and nothing of how they were made: the part the cache id covers."""
        return self.model_dump(exclude={"made", "sha256"})

    def refuse_misfit(self, job: Job, fingerprint: str, shard: Shard) -> None:
        """Raise ValueError unless this is a receipt of that shard of the job of that (costly) fingerprint."""
        found = (self.shard, self.view, self.start, self.stop)
        expected = (shard.number, shard.view, shard.start, shard.stop)
        if found != expected:
            raise ValueError(f"it is for shard, view, start, stop = {found}, where {expected} was expected")
        if self.job != fingerprint:
            raise ValueError(f"it belongs to the job {self.job[:12]}, not to {fingerprint[:12]}")
        sizes = {spec.name: shard_file_bytes(spec, job.layout, shard) for spec in job.arrays}
        if {name: proof.bytes for name, proof in self.arrays.items()} != sizes:
            raise ValueError("its arrays or their sizes are not those of the job")


class Seal(Signed):
    """Proof that every shard is done. Written last.

    `chains` has, for each array, the chain of every shard's file, eight hexadecimal digits each: all that a reader has
    to know of the receipts. `about` holds free figures, such as the teacher's accuracy; no one decides anything by
    them.
    """

    remedy: ClassVar[str] = (
        "Delete it and run the same `softlabels generate` again: it seals the cache anew, from its receipts."
    )

    format: Literal["softlabels/2"]
    cache_id: Digest
    job: Digest
    rows: Count
    views: Count
    shards: Count
    bytes: Count
    receipts_sha256: Digest
    chains: dict[str, Annotated[str, StringConstraints(pattern="^([0-9a-f]{8})+$")]]
    made: Made
    about: dict[str, JsonValue]

    @classmethod
    def of(
        cls,
        job: Job,
        metadata: Mapping[str, builtins.bytes],
        receipts: Sequence[Receipt],
        made: Made,
        about: Mapping[str, JsonValue],
    ) -> Self:
        """The seal of a job's receipts, one for each shard, in order."""
        return cls.signed(
            format=FORMAT,
            cache_id=cache_id(job, metadata, receipts),
            job=job.fingerprint,
            rows=job.rows,
            views=job.view_count,
            shards=len(receipts),
            bytes=sum(proof.bytes for receipt in receipts for proof in receipt.arrays.values()),
            receipts_sha256=sha256(b"".join(receipt.to_bytes() for receipt in receipts)),
            chains={
                spec.name: "".join(f"{receipt.arrays[spec.name].chain:08x}" for receipt in receipts)
                for spec in job.arrays
            },
            made=made.model_dump(),
            about=dict(about),
        )


_layout = lru_cache(64)(Layout)  # who goes through the shards of a job asks for it at each


def proven(job: Job, receipts: Mapping[int, Receipt]) -> dict[str, Chains]:
    """For each array the chains of its shards' files, `[shards]`, -1 where there is no receipt."""
    found = {spec.name: np.full(job.layout.shards, -1) for spec in job.arrays}
    for number, receipt in receipts.items():
        for name, proof in receipt.arrays.items():
            found[name][number] = proof.chain
    return found


def sealed(job: Job, seal: Seal) -> dict[str, Chains]:
    """For each array the chains of its shards' files, `[shards]`; ValueError if they are not those of the job's."""
    found = {name: np.frombuffer(bytes.fromhex(digits), ">u4").astype(np.int64) for name, digits in seal.chains.items()}
    if {name: chains.size for name, chains in found.items()} != {spec.name: job.layout.shards for spec in job.arrays}:
        raise ValueError("its chains are not those of the job's arrays and shards")
    return found


def cache_id(job: Job, metadata: Mapping[str, bytes], receipts: Sequence[Receipt]) -> str:
    """What a cache is: its job, its Zarr documents and what its receipts prove.

    How long it took, where and in how many attempts is left out: a run that was killed and resumed ends with the same
    id as one that was not.
    """
    parts = {
        "job": job.fingerprint,
        "metadata": {path: sha256(data) for path, data in metadata.items()},
        "receipts": [sha256(canonical(receipt.fixed_part())) for receipt in receipts],
    }
    return sha256(canonical(parts))


def parse_job(data: bytes, path: Path | str) -> Job:
    """The job in a file's bytes; CorruptError if they are no job, MismatchError if of another format version."""
    return parse(Job, data, path)


def parse_receipt(data: bytes, path: Path | str) -> Receipt:
    """The receipt in a file's bytes; CorruptError if they are no receipt."""
    return parse(Receipt, data, path)


def parse_seal(data: bytes, path: Path | str) -> Seal:
    """The seal in a file's bytes; CorruptError if they are no seal, MismatchError if of another format version."""
    return parse(Seal, data, path)


def _leaves(value: object, field: str) -> Iterator[tuple[str, str]]:
    """Every leaf of a JSON value with its dotted name, as text; a list of numbers is one leaf."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{field}.{key}" if field else key)
    elif isinstance(value, list | tuple) and not all(isinstance(item, int | float) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{field}[{place}]")
    else:
        yield field, json.dumps(value, ensure_ascii=False)
