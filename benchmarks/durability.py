"""What durability costs, and how fast a cache is verified.

Stage one makes a cache of 16 MiB shards, with every sync and with none of them, in turn; the teacher is one product of
matrices, so that nothing is hidden behind it. Verifying is timed against SHA-256 alone over the same files, by one
thread, page cache warm.

    python -m benchmarks.durability [--quick] [--rounds 7]
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest.mock import patch

import click
import numpy as np
import torch

from benchmarks.gather import job_of
from benchmarks.results import Row, compared, publish
from pipeline.config import TeacherSettings, ViewSettings
from pipeline.datasets.arrays import ArrayDataset
from pipeline.executors.inline import run_inline
from pipeline.labeller import Labeller
from pipeline.labels import LabelSpec
from pipeline.store.documents import Job
from pipeline.store.layout import SHARD_BYTES
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter
from pipeline.teachers import Teacher

INPUTS, CLASSES, BATCH = 64, 1024, 1024
SHARDS, QUICK_SHARDS = 16, 3
GIGA = 1e9


@dataclass(frozen=True)
class Case:
    """A teacher that is as quick as one can be, one product of matrices, and a job of shards of 16 MiB."""

    labeller: Labeller
    job: Job

    @classmethod
    def of(cls, shards: int) -> "Case":
        """With so many shards."""
        rows = shards * SHARD_BYTES // (2 * CLASSES)
        inputs = np.random.default_rng(0).standard_normal((rows, INPUTS), np.float32)
        spec = LabelSpec("dense", CLASSES, "float16")
        torch.manual_seed(0)
        network = torch.nn.Linear(INPUTS, CLASSES).eval().requires_grad_(requires_grad=False)
        settings = TeacherSettings(model="linear", checkpoint=Path("none"), batch_size=BATCH)
        teacher = Teacher(network, torch.device("cpu"), settings, ViewSettings())
        dataset = ArrayDataset(inputs, np.arange(rows), None, CLASSES)
        return cls(Labeller(dataset, teacher, spec), job_of(spec, rows, shards))

    def generate(self, path: Path, *, synced: bool) -> float:
        """Seconds to make and seal the cache, with every sync or without any."""
        os.sync()  # what earlier runs have left to write is not this one's
        with nullcontext() if synced else patch("os.fsync"):
            begun = perf_counter()
            with CacheWriter.open(path, self.job, {}) as writer:
                plan = writer.missing()
                run_inline(plan, self.labeller, writer.commit, stopped=lambda: False, progress=lambda _: None)
                writer.seal({})
            return perf_counter() - begun


def generating(case: Case, rounds: int) -> Iterator[Row]:
    """With every sync against with none."""
    shards = case.job.layout.shards
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(rounds + 1):
            for synced in (True, False) if turn % 2 else (False, True):
                taken = case.generate(Path(folder) / "cache", synced=synced)
                shutil.rmtree(Path(folder) / "cache")
                seconds[synced] += [taken] if turn else []  # the first is to warm up
    name = f"generate {shards} shards of 16 MiB, a teacher of one matrix"
    yield compared(f"{name}, with every sync against with none", seconds[True], seconds[False])
    cost = median(seconds[True]) - median(seconds[False])
    yield Row("what the syncs of one shard of 16 MiB add", 1000 * cost / shards, "ms")


def verifying(case: Case, rounds: int) -> Iterator[Row]:
    """All of `verify` against SHA-256 alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache"
        case.generate(path, synced=True)
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
    case = Case.of(count)
    publish("durability", [*generating(case, rounds), *verifying(case, rounds)], keep=not quick)


if __name__ == "__main__":
    main()
