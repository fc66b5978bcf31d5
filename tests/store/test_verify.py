"""Every change of a cache is found, and the file it is in is named."""

import os
import shutil
from pathlib import Path

import pytest
from store_cases import job_of, tree

from pipeline.errors import IncompleteError, StorageError
from pipeline.store.documents import Job, Receipt
from pipeline.store.state import read_state, receipt_path, shard_path
from pipeline.store.verify import verify


def named(path: Path) -> list[str]:
    """The files with a problem, by their path in the cache."""
    return [str(problem.path.relative_to(path)) for problem in verify(path).problems]


def test_a_whole_cache_has_no_problems_and_every_byte_was_read(sealed: Path) -> None:
    """Law: shards and bytes are the seal's, and progress adds up to them."""
    seen = []
    report, seal = verify(sealed, seen.append), read_state(sealed).seal
    assert (report.sealed, report.shards, report.bytes, report.problems) == (True, 6, seal.bytes, ())
    assert sum(seen) == seal.bytes


def test_a_partial_cache_is_verified_as_far_as_it_is(partial: Path, job: Job) -> None:
    """Law: work going on (a shard without a receipt, an unfinished file, the lock) is no problem; damage is."""
    spec, shards = job.arrays[3], [job.layout.shard(number) for number in (0, 4)]
    unproven = shard_path(partial, spec, job.layout, shards[1])
    unproven.parent.mkdir(parents=True, exist_ok=True)
    unproven.write_bytes(b"half")
    (partial / "receipts" / ".softlabels-1-000000004.json.unfinished").write_bytes(b"half")
    report = verify(partial)
    assert (report.sealed, report.shards, report.problems) == (False, 4, ())
    os.truncate(shard_path(partial, spec, job.layout, shards[0]), 5)
    assert named(partial) == ["labels.zarr/logits/c/0/0/0"]


@pytest.mark.promise("P4")
def test_every_lost_file_is_found(sealed: Path) -> None:
    """Law: a cache without one of its files has a problem with that file; without its seal it is a partial one."""
    for name, whole in tree(sealed).items():
        (sealed / name).unlink()
        if name == "job.json":
            with pytest.raises(IncompleteError, match=r"holds no label cache: it has no job.json"):
                verify(sealed)
        elif name == "seal.json":
            assert (named(sealed), verify(sealed).sealed) == ([], False)
        else:
            assert named(sealed) == [name]
        (sealed / name).write_bytes(whole)


@pytest.mark.promise("P4")
def test_a_receipt_that_was_forged_for_other_samples_is_found(sealed: Path) -> None:
    """Law: the ids in a shard are held against its receipt, also if its files agree with it."""
    receipt = read_state(sealed).receipts[2]
    forged = Receipt.signed(**{**receipt.model_dump(), "ids_sha256": "0" * 64})
    receipt_path(sealed, 2).write_bytes(forged.to_bytes())
    report = verify(sealed)
    assert [(problem.path.name, "other samples" in problem.what) for problem in report.problems] == [
        ("2", True),
        ("seal.json", False),
    ]


def test_all_problems_are_listed(sealed: Path, job: Job) -> None:
    """Law: verification does not end with the first problem."""
    damaged = [shard_path(sealed, job.arrays[3], job.layout, job.layout.shard(number)) for number in (0, 3, 5)]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1])
    receipt_path(sealed, 1).write_bytes(b"{}")
    (sealed / "labels.zarr/notes.txt").write_bytes(b"")
    (sealed / "labels.zarr/elsewhere").symlink_to("/")
    shutil.rmtree(sealed / "labels.zarr/label/c/0/2", ignore_errors=True)
    found = named(sealed)
    assert {"receipts/000000001.json", "labels.zarr/notes.txt", "labels.zarr/elsewhere"} <= set(found)
    assert {str(path.relative_to(sealed)) for path in damaged} <= set(found)


def test_damaged_chunks_are_named_by_number(sealed: Path, job: Job) -> None:
    """Case: chunks of 28 bytes, the second is hit."""
    path = shard_path(sealed, job.arrays[3], job.layout, job.layout.shard(0))
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    assert "chunks without their checksum: 1." in verify(sealed).problems[0].what


def test_a_job_that_the_receipts_disown_is_what_is_named(partial: Path) -> None:
    """Law: without a seal, receipts that agree with each other outweigh job.json."""
    (partial / "job.json").write_bytes(job_of(teacher="x").to_bytes())
    report = verify(partial)
    assert named(partial) == ["job.json"]
    assert "what it should prove is of the job" in report.problems[0].what


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    """There is nothing to verify at a path without a cache."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IncompleteError, match="holds no label cache"):
        verify(tmp_path / "missing")
    with pytest.raises(StorageError, match="is a file"):
        verify(tmp_path / "file")
