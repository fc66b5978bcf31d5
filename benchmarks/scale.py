"""Ten times the rows: ten times the time, and no more memory.

Small synthetic rows (8 float32 inputs, 50 classes) in mapped files, from 1e5 to 1e7 of them, through what `generate`,
`verify` and `train` run. Compared is a program over many rows with ten times the same over a tenth of them; the two
run by turns of half a second, so that both see the same machine. Of `generate` the labels are timed, of `train` an
epoch, of `verify` all: five milliseconds are for its documents, whatever the size, and it reads 2 GB/s. So its rows
have 512 classes (1 kB): 1e5 rows of 50 would take it hardly longer than the documents do. Memory is
anonymous memory at its peak over a whole program in a process of its own, after a warm-up, sampled every 5 ms: pages of
mapped files are the kernel's, which takes them back when it needs them.

    python -m benchmarks.scale [--quick] [--rounds 3]
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Self

import click
import numpy as np
import torch

from benchmarks.results import Row, compared, publish
from benchmarks.turns import Clock, Turns
from pipeline.ahead import loaders
from pipeline.config import Experiment, load
from pipeline.course import Watch, teach
from pipeline.executors.inline import run_inline
from pipeline.labeller import Labeller
from pipeline.labels import Heard, MixedLabels
from pipeline.lesson import Lesson
from pipeline.losses import kd
from pipeline.models import build
from pipeline.reader import Reader
from pipeline.runs import Run
from pipeline.schedules import BEGIN, value_at
from pipeline.sources import open_source
from pipeline.store.mapped import LabelCache
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter
from pipeline.weights import save_state
from stages.soft_labels import asked, teacher_of

Program = Callable[[Experiment, Clock], None]
INPUTS, BLOCK, WARM_ROWS = 8, 2**16, 10_000
SIZES, QUICK_SIZES = (10**5, 10**6, 10**7), (10**4, 10**5)
CONFIG = """
[dataset]
kind = "npy"
inputs = "{folder}/inputs.npy"
labels = "{folder}/labels.npy"
ids = "{folder}/ids.npy"
classes = {classes}

[teacher]
model = "mlp"
options = {{ hidden = [16] }}
checkpoint = "{folder}/teacher.safetensors"
batch_size = 512
device = "cpu"

[labels]
encoding = "dense"

[cache]
path = "{folder}/cache"
shard_rows = {shard_rows}
chunk_rows = {chunk_rows}

[students.small]
model = "mlp"
options = {{ hidden = [8] }}
epochs = 1
batch_size = 512
device = "cpu"
"""


def prepare(folder: Path, rows: int, classes: int) -> Experiment:
    """Files of so many rows, written in blocks, and a teacher of random weights."""
    folder.mkdir(parents=True)
    shapes = {"inputs": (rows, INPUTS), "labels": (rows,), "ids": (rows,)}
    dtypes = {"inputs": np.float32, "labels": np.int64, "ids": np.int64}
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtypes[name], shapes[name]) for name in shapes
    }
    dice = np.random.default_rng(0)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        files["inputs"][start:stop] = dice.standard_normal((stop - start, INPUTS), np.float32)
        files["labels"][start:stop] = dice.integers(0, classes, stop - start)
        files["ids"][start:stop] = np.arange(start, stop)
    for file in files.values():
        file.flush()
    torch.manual_seed(0)
    save_state(folder / "teacher.safetensors", build("mlp", {"hidden": [16]}, (INPUTS,), classes).state_dict())
    chunk_rows = 2 ** (17 - (classes - 1).bit_length())  # of 128 to 256 KiB, and shards of 2 to 4 MiB
    (folder / "config.toml").write_text(
        CONFIG.format(folder=folder, classes=classes, chunk_rows=chunk_rows, shard_rows=16 * chunk_rows)
    )
    return load(folder / "config.toml")


def generated(experiment: Experiment, clock: Clock) -> None:
    """Ask the teacher and write all labels, as `generate` does; counted from the first batch to the seal."""
    shutil.rmtree(experiment.cache.path, ignore_errors=True)
    dataset, spec, job = asked(experiment)
    labeller = Labeller(dataset, teacher_of(experiment, dataset), spec)

    def stopped() -> bool:
        clock.step()
        return False

    with CacheWriter.open(experiment.cache.path, job, {}) as writer:
        run_inline(writer.missing(), labeller, writer.commit, stopped=stopped, progress=lambda _: None)
        writer.seal({})
        clock.step()
    clock.drop()


def verified(experiment: Experiment, clock: Clock) -> None:
    """Hold every byte against its receipt; all of it is counted."""
    clock.step()
    assert verify(experiment.cache.path, lambda _: clock.step()).problems == ()
    clock.step()
    clock.drop()


def trained(experiment: Experiment, clock: Clock) -> None:
    """One epoch, as `train` has it, counted from its first batch to its last."""
    dataset, student = open_source(experiment.dataset), experiment.students["small"]

    def told(logits_NC: torch.Tensor, labels_N: torch.Tensor, soft: Heard | None) -> torch.Tensor:
        assert soft is not None and not isinstance(soft, MixedLabels)  # noqa: PT018
        return kd(logits_NC, soft, labels_N, value_at(student.temperature, BEGIN), student.alpha)

    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), Path(name) / "w.safetensors", {}, "", student, experiment.views, 0)
        make = partial(build, student.model, student.options, dataset.input_shape, dataset.classes or 0)
        reader = Reader(dataset, LabelCache.open(experiment.cache.path))
        watch = Watch(lambda: False, lambda _: clock.step())
        teach([(run, Lesson(make, told, soft=True))], reader, watch, loaders(None))
    clock.drop()


PROGRAMS: dict[str, tuple[Program, int]] = {
    "generate": (generated, 50),
    "train": (trained, 50),
    "verify": (verified, 512),
}
"""By name, with the number of classes of its rows; before any but `generate` can run, that must have."""


def paired(name: str, small: Experiment, large: Experiment) -> tuple[float, float]:
    """Seconds of a program over many rows, and over a tenth of them: the mean of ten times."""
    program, _ = PROGRAMS[name]

    def ten_times(clock: Clock) -> None:
        for _ in range(10):
            program(small, clock)

    program(small, Clock())
    many, few = Turns().race(partial(program, large), ten_times)
    return many, few / 10


class Peak:
    """The most anonymous memory this process held while inside, in bytes."""

    def __enter__(self) -> Self:
        self.bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        status = Path("/proc/self/status")
        while True:
            line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            self.bytes = max(self.bytes, 1024 * int(line.split()[1]))
            if self._ended.wait(0.005):
                return


def peak(name: str, folder: Path) -> int:
    """The most bytes that a program takes, in this process, after the same on a few rows."""
    program, classes = PROGRAMS[name]
    with tempfile.TemporaryDirectory() as place:
        warm = prepare(Path(place) / "warm", WARM_ROWS, classes)
        for each, _ in PROGRAMS.values():
            each(warm, Clock())
    with Peak() as found:
        program(load(folder / "config.toml"), Clock())
    return found.bytes


def peak_in_a_process(name: str, folder: Path) -> int:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--peak-of", name, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    return int(done.stdout.splitlines()[-1])


def made(folder: Path, rows: int, classes: int) -> Experiment:
    """An experiment with its cache, made once."""
    if folder.exists():
        return load(folder / "config.toml")
    experiment = prepare(folder, rows, classes)
    generated(experiment, Clock())
    return experiment


def measured(sizes: Sequence[int], rounds: int, folder: Path) -> Iterator[Row]:
    """What ten times the rows come to, from each size to the next."""
    for name, (_, classes) in PROGRAMS.items():
        folders = {size: folder / f"{size} rows of {classes}" for size in sizes}
        known = {size: made(folders[size], size, classes) for size in sizes}
        peaks = {size: peak_in_a_process(name, folders[size]) / 2**20 for size in sizes}
        for small, large in pairwise(sizes):
            times = [paired(name, known[small], known[large]) for _ in range(rounds)]
            after, before = (list(each) for each in zip(*times, strict=True))
            yield compared(f"{name}, {large:,} rows against {small:,}", after, before)
            memory = f"{name}, peak memory of {large:,} rows against {small:,}"
            yield compared(memory, [peaks[large]], [peaks[small]], "MiB")
            print(f"{name} {large:,}: {times} {peaks}", file=sys.stderr)


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="1e4 and 1e5 rows, one round.")
@click.option("--peak-of", "name", type=click.Choice(list(PROGRAMS)), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(name: str | None, folder: Path | None, rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    if name and folder:
        print(peak(name, folder))
        return
    with tempfile.TemporaryDirectory() as place:
        sizes = QUICK_SIZES if quick else SIZES
        publish("scale", list(measured(sizes, 1 if quick else rounds, Path(place))), keep=not quick)


if __name__ == "__main__":
    main()
