"""What durability costs, and how fast a cache is verified.

Stage one's writer fills a cache of 16 MiB shards with rows that are at hand, with every sync and with none of them, in
turn: what a run would pay that never waited for a teacher. Verifying is timed against SHA-256 alone over the same
files, by one thread, page cache warm.

    python -m benchmarks.durability [--quick] [--rounds 7]
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest.mock import patch

import click

from benchmarks.gather import block, job_of
from benchmarks.results import Row, compared, publish
from pipeline.labels import LabelSpec
from pipeline.store.documents import Job
from pipeline.store.layout import SHARD_BYTES
from pipeline.store.verify import verify
from pipeline.store.writer import Block, CacheWriter

CLASSES = 1024
SHARDS, QUICK_SHARDS = 16, 3
GIGA = 1e9


def filled(path: Path, job: Job, blocks: list[Block], *, synced: bool) -> float:
    """Seconds to write and seal a cache, with every sync or without any."""
    os.sync()  # what earlier runs have left to write is not this one's
    with nullcontext() if synced else patch("os.fsync"):
        begun = perf_counter()
        with CacheWriter.open(path, job, {}) as writer:
            for shard, rows in zip(writer.missing(), blocks, strict=True):
                writer.commit(shard, rows, 0.0)
            writer.seal({})
        return perf_counter() - begun


def writing(job: Job, blocks: list[Block], rounds: int) -> Iterator[Row]:
    """With every sync against with none."""
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(rounds + 1):
            for synced in (True, False) if turn % 2 else (False, True):
                taken = filled(Path(folder) / f"{turn}-{synced}", job, blocks, synced=synced)
                seconds[synced] += [taken] if turn else []  # the first is to warm up
    name = f"writing {len(blocks)} shards of 16 MiB"
    yield compared(f"{name}, with every sync against with none", seconds[True], seconds[False])
    cost = median(seconds[True]) - median(seconds[False])
    yield Row("durability of one shard of 16 MiB", 1000 * cost / len(blocks), "ms")


def verifying(job: Job, blocks: list[Block], rounds: int) -> Iterator[Row]:
    """All of `verify` against SHA-256 alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache"
        filled(path, job, blocks, synced=True)
        shards = [file for file in (path / "labels.zarr").rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in shards)
        ours, alone = [], []
        for turn in range(rounds + 1):
            begun = perf_counter()
            assert verify(path).problems == ()
            between = perf_counter()
            for file in shards:
                hashlib.sha256(file.read_bytes()).hexdigest()
            if turn:
                ours.append(size / GIGA / (between - begun))
                alone.append(size / GIGA / (perf_counter() - between))
    yield compared("verify, against one thread of SHA-256 alone", ours, alone, "GB/s")


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--quick", is_flag=True, help=f"{QUICK_SHARDS} shards, two rounds.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    count, rounds = (QUICK_SHARDS, 2) if quick else (SHARDS, rounds)
    job = job_of(LabelSpec("dense", CLASSES, "float16"), count * SHARD_BYTES // (2 * CLASSES), count)
    blocks: list[Block] = [block(job, shard) for shard in job.layout.all_shards()]
    publish("durability", [*writing(job, blocks, rounds), *verifying(job, blocks, rounds)], keep=not quick)


if __name__ == "__main__":
    main()
