"""What is missing is never read as values, and what is damaged is found and named."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ledger import Attack
from store_cases import LOGITS, block, content, fill, job_of, tree

from pipeline.errors import CorruptError, IncompleteError, MismatchError
from pipeline.labels import ArraySpec
from pipeline.store import mapped
from pipeline.store.documents import Job
from pipeline.store.layout import Shard
from pipeline.store.mapped import LabelCache
from pipeline.store.residence import UnmappableError
from pipeline.store.state import SEAL, shard_path
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter

SMALL = job_of(rows=9, views=1, shard_rows=4, chunk_rows=2, arrays=(LOGITS,))
"""Three shards of two chunks; the last has one row, in a chunk that is not full."""
ALL = np.arange(SMALL.rows)


def selections(shard: Shard) -> dict[str, np.ndarray]:
    """A full read, the rows of a shard one by one, and a slice that ends in it."""
    return {
        "full": ALL,
        "slice": np.arange(max(0, shard.start - 2), shard.stop),
        **{f"row {row}": np.array([row]) for row in range(shard.start, shard.stop)},
    }


def assert_refused(path: Path, shard: Shard, name: str) -> None:
    """Law: whatever selection touches the shard is refused with the file's name; all others are read as they are."""
    for rows in selections(shard).values():
        with pytest.raises(CorruptError, match=f"{name}/c/0/{shard.number}"):
            LabelCache.open(path, allow_partial=True).gather(0, rows, [name])
    others = np.setdiff1d(ALL, np.arange(shard.start, shard.stop))
    found = LabelCache.open(path, allow_partial=True).gather(0, others, [name])[name]
    np.testing.assert_array_equal(found, content(SMALL)[name][0, others])


def ways() -> dict[str, Callable[[pytest.MonkeyPatch], None]]:
    """How a cache is read: its files mapped, or where they cannot be, by zarr."""

    def unmappable(patch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise UnmappableError

        patch.setattr(mapped.Selection, "gather", refuse)

    return {"mapped": lambda _: None, "zarr": unmappable}


@pytest.mark.promise("P3", tries="five lengths a file", torture="every length")
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "partial"])
@pytest.mark.parametrize("way", ways().values(), ids=ways())
def test_a_shard_that_is_gone_or_cut_short_at_any_byte_is_refused(
    memory: Path,
    monkeypatch: pytest.MonkeyPatch,
    attack: Attack,
    torture: bool,
    way: Callable[[pytest.MonkeyPatch], None],
    *,
    sealed: bool,
) -> None:
    """Law: each shard file deleted, empty, or cut at each of its bytes: no read of it gives values."""
    way(monkeypatch)
    path = memory / "cache"
    fill(path, SMALL, seal=sealed)
    for spec in SMALL.arrays:
        for shard in SMALL.layout.all_shards():
            file = shard_path(path, spec, SMALL.layout, shard)
            whole = file.read_bytes()
            lengths = range(len(whole)) if torture else {0, 1, len(whole) // 2, len(whole) - 1}
            for length in (None, *lengths):
                file.unlink()
                if length is not None:
                    file.write_bytes(whole[:length])
                with attack.attempt(f"{file} cut to {length}"):
                    assert_refused(path, shard, spec.name)
                file.touch()
            file.write_bytes(whole)
    attack.assert_kept(at_least=60)


@pytest.mark.promise("P3")
@pytest.mark.parametrize("way", ways().values(), ids=ways())
def test_rows_of_zeros_and_rows_of_filling_are_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Law: a row that holds what an unwritten one would is read back, full, by itself and in a slice."""
    arrays = (ArraySpec("zeros", "float16", (3,), 0.0), ArraySpec("full", "uint8", (2,), 255))
    job = job_of(rows=9, views=1, shard_rows=4, chunk_rows=2, arrays=arrays)
    way(monkeypatch)
    path = tmp_path / "cache"
    filling = {"zeros": np.zeros((9, 3), np.float16), "full": np.full((9, 2), 255, np.uint8)}
    with CacheWriter.open(path, job, {}) as writer:
        for shard in writer.missing():
            rows = {name: array[shard.start : shard.stop] for name, array in filling.items()}
            writer.commit(shard, block(job, shard) | rows, 0.0)
        writer.seal({})
    assert verify(path).problems == ()
    for rows in (ALL, np.array([4]), np.arange(2, 5)):
        found = LabelCache.open(path).gather(0, rows)
        for name, array in filling.items():
            np.testing.assert_array_equal(found[name], array[rows])


def named(path: Path) -> list[str]:
    """The files with a problem, by their path in the cache."""
    return [str(problem.path.relative_to(path)) for problem in verify(path).problems]


def readable(path: Path, job: Job) -> dict[str, np.ndarray] | None:
    """What a reader that asks for everything is given; None if it is refused."""
    try:
        return LabelCache.open(path).gather(0, np.arange(job.rows))
    except (CorruptError, MismatchError, IncompleteError):
        return None


def assert_true(found: dict[str, np.ndarray] | None, job: Job) -> None:
    """Law: what a reader gives is what was written."""
    for name, array in (found or {}).items():
        np.testing.assert_array_equal(array, content(job)[name][0])


@pytest.mark.promise("P4", tries="every 31st byte", torture="every byte")
def test_every_flipped_byte_is_found_in_the_file_it_is_in_and_no_reader_is_deceived(
    memory: Path, attack: Attack, torture: bool
) -> None:
    """Law: for every file of a cache and every byte of it, a flip is a problem of that file, and of no other.

    A reader of all rows refuses a flipped shard; if it does not need the document that was hit, it reads what is true.
    """
    path, step = memory / "cache", 1 if torture else 31
    fill(path, SMALL)
    for name, whole in tree(path).items():
        for place in range(0, len(whole), step):
            flipped = whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
            (path / name).write_bytes(flipped)
            with attack.attempt(f"byte {place} of {name}"):
                assert named(path) == [name]
                found = readable(path, SMALL)
                assert found is None or not name.startswith("labels.zarr/")
                assert_true(found, SMALL)
        (path / name).write_bytes(whole)
    assert named(path) == []
    attack.assert_kept(at_least=200)


LARGE = job_of(
    rows=20_000, views=1, shard_rows=4096, chunk_rows=512, arrays=(ArraySpec("logits", "float16", (100,), 0.0),)
)


@pytest.mark.promise("P4", tries=25, torture=500)
def test_random_flips_of_a_larger_cache_are_found_and_no_reader_is_deceived(memory: Path, attack: Attack) -> None:
    """Law: a bit anywhere in 4 MB: verify names its file, and a reader of all rows refuses it if it is a shard's."""
    path = memory / "cache"
    fill(path, LARGE)
    sizes = {name: len(data) for name, data in tree(path).items()}
    for number, dice in attack.tries():
        (name,) = dice.choices(list(sizes), list(sizes.values()))
        place, bit = dice.randrange(sizes[name]), 1 << dice.randrange(8)
        with attack.attempt(f"{number}: bit {bit} of byte {place} of {name}"):
            flip(path / name, place, bit)
            assert named(path) == [name]
            found = readable(path, LARGE)
            assert found is None or not name.startswith("labels.zarr/")
            assert_true(found, LARGE)
            flip(path / name, place, bit)
    assert named(path) == []
    attack.assert_kept(at_least=25)


def flip(file: Path, place: int, bits: int) -> None:
    """Change some bits of a byte where it lies."""
    with file.open("r+b") as stream:
        stream.seek(place)
        (byte,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ bits]))


@pytest.mark.promise("P4")
def test_any_two_shards_that_changed_places_are_found_and_refused(memory: Path, attack: Attack) -> None:
    """Law: every pair of shard files of one size, of one array or of two: verify names both, a reader refuses both."""
    path, job = memory / "cache", job_of(arrays=(LOGITS, ArraySpec("mean", "float32", (), 0.0), MORE, OTHER))
    fill(path, job)
    places = {
        shard_path(path, spec, job.layout, shard): (spec, shard) for spec in job.arrays for shard in shards_of(job)
    }
    for one, other in itertools.combinations(places, 2):
        if one.stat().st_size == other.stat().st_size and one.read_bytes() != other.read_bytes():
            swap(one, other)
            with attack.attempt(f"{one} and {other}"):
                assert sorted(named(path)) == sorted(str(file.relative_to(path)) for file in (one, other))
                for spec, shard in (places[one], places[other]):
                    with pytest.raises(CorruptError, match="does not have the chunks that its receipt is for"):
                        LabelCache.open(path).gather(shard.view, np.array([shard.start]), [spec.name])
            swap(one, other)
    attack.assert_kept(at_least=100)


MORE, OTHER = ArraySpec("std", "float32", (), 0.0), ArraySpec("logits2", "float16", (3,), 0.0)


def shards_of(job: Job) -> list[Shard]:
    """All shards of a job."""
    return list(job.layout.all_shards())


def swap(one: Path, other: Path) -> None:
    """Let two files change places."""
    spare = one.with_name("x")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


@pytest.mark.promise("P4")
@pytest.mark.parametrize("stranger", ["teacher", "run"])
@pytest.mark.parametrize("with_receipt", [False, True])
def test_a_shard_of_another_teacher_or_of_an_older_run_is_found_and_refused(
    memory: Path, job: Job, attack: Attack, stranger: str, with_receipt: bool
) -> None:
    """Law: all files of a shard that another teacher or another run has made, with its receipt or without.

    Verify names the receipt that the seal does not know, or else the files; no advice of it makes them right.
    """
    path = memory / "cache"
    fill(path, job)
    fill(memory / "other", job_of(teacher="teacher-2") if stranger == "teacher" else job, seed=1)
    for shard in shards_of(job):
        names = [shard_path(Path(), spec, job.layout, shard) for spec in job.arrays]
        receipt = Path("receipts") / f"{shard.number:09d}.json"
        shutil.copytree(path, memory / "mixed")
        for name in [*names, *([receipt] if with_receipt else [])]:
            shutil.copyfile(memory / "other" / name, memory / "mixed" / name)
        with attack.attempt(shard):
            found = named(memory / "mixed")
            assert set(found) == ({str(receipt)} if with_receipt else {str(name) for name in names})
            with pytest.raises(CorruptError, match="does not have the chunks that its receipt is for"):
                LabelCache.open(memory / "mixed").gather(shard.view, np.array([shard.start]))
            (memory / "mixed" / SEAL).unlink()
            (memory / "mixed" / receipt).unlink()
            fill(memory / "mixed", job)
            assert named(memory / "mixed") == []
            assert_true(readable(memory / "mixed", job), job)
        shutil.rmtree(memory / "mixed")
    attack.assert_kept(at_least=6)


@pytest.mark.promise("P4")
@pytest.mark.parametrize("name", ["seal.json", "receipts/000000001.json", "labels.zarr/logits/c/0/1/0", "job.json"])
def test_a_file_that_claims_to_be_huge_is_refused_unread(name: str, memory: Path, job: Job) -> None:
    """Law: of a file of four terabytes of nothing no byte is read."""
    path = memory / "cache"
    fill(path, job)
    os.truncate(path / name, 2**42)
    assert named(path) == [name]
