"""Ten times the rows: ten times the time, and no more memory.

Small synthetic rows (8 float32 inputs, 50 classes) in mapped files, from 1e4 to 1e7 of them, through the programs
themselves, each in a process of its own that has warmed up on a few rows. Compared is the time that `generate` reports
for its labels, that `train` reports for its epoch, and all of `verify`, from 1e5 rows on; every round has every size,
so that a machine that slows down slows all. What a program does once, whatever the size, makes the ratio of two times
less than ten; so a further figure is what each further row costs, against what it costs at a tenth of the size. Memory
is anonymous memory at its peak over the whole program, sampled every 5 ms: pages of mapped files are the kernel's,
which takes them back when it needs them.

    python -m benchmarks.scale [--quick] [--rounds 3]
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Self

import click
import numpy as np
import torch

from benchmarks.results import Row, compared, publish
from pipeline.config import Experiment, load
from pipeline.models import build
from pipeline.weights import save_state
from stages.soft_labels import generate
from stages.train_student import train_students
from stages.verify_cache import verify

Found = dict[str, dict[int, tuple[float, float]]]
"""Of each program and number of rows: seconds, and peak bytes."""
INPUTS, CLASSES, BLOCK, WARM_ROWS = 8, 50, 2**16, 10_000
SIZES, QUICK_SIZES = (10**4, 10**5, 10**6, 10**7), (10**3, 10**4, 10**5)
REPEATS = {10**4: 5, 10**5: 5, 10**6: 3, 10**7: 1}  # in a round, of which the median counts
CONFIG = """
[dataset]
kind = "npy"
inputs = "{folder}/inputs.npy"
labels = "{folder}/labels.npy"
ids = "{folder}/ids.npy"
classes = 50

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
shard_rows = 32768
chunk_rows = 2048

[students.small]
model = "mlp"
options = {{ hidden = [8] }}
epochs = 1
batch_size = 512
device = "cpu"
"""


def prepare(folder: Path, rows: int) -> Experiment:
    """Files of so many rows, written in blocks, and a teacher of random weights."""
    folder.mkdir()
    shapes = {"inputs": (rows, INPUTS), "labels": (rows,), "ids": (rows,)}
    dtypes = {"inputs": np.float32, "labels": np.int64, "ids": np.int64}
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtypes[name], shapes[name]) for name in shapes
    }
    dice = np.random.default_rng(0)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        files["inputs"][start:stop] = dice.standard_normal((stop - start, INPUTS), np.float32)
        files["labels"][start:stop] = dice.integers(0, CLASSES, stop - start)
        files["ids"][start:stop] = np.arange(start, stop)
    for file in files.values():
        file.flush()
    torch.manual_seed(0)
    save_state(folder / "teacher.safetensors", build("mlp", {"hidden": [16]}, (INPUTS,), CLASSES).state_dict())
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    return load(folder / "config.toml")


def generated(experiment: Experiment, _: Path) -> float:
    """Seconds of asking the teacher and writing all labels."""
    return float(generate(experiment).facts["seconds"])


def verified(experiment: Experiment, _: Path) -> float:
    """Seconds of holding every byte against its receipt."""
    begun = perf_counter()
    verify(experiment.cache.path)
    return perf_counter() - begun


def trained(experiment: Experiment, folder: Path) -> float:
    """Seconds of one epoch."""
    (metrics,) = train_students(experiment, ["small"], folder / "runs", restart=True).facts["students"]["small"]
    return float(metrics["seconds"])


VERBS = {"generate": generated, "verify": verified, "train": trained}


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


def measure(verb: str, folder: Path) -> tuple[float, int]:
    """Seconds and peak bytes of one program, in this process, after the same on a few rows."""
    with tempfile.TemporaryDirectory() as name:
        warm = prepare(Path(name) / "warm", WARM_ROWS)
        for program in VERBS.values():
            program(warm, Path(name))
    experiment = load(folder / "config.toml")
    with Peak() as peak:
        seconds = VERBS[verb](experiment, folder)
    return seconds, peak.bytes


def in_a_process(verb: str, folder: Path) -> tuple[float, int]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--measure", verb, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def a_round(sizes: Sequence[int], repeats: Mapping[int, int]) -> Found:
    """Every program on every size."""
    found: Found = {verb: {} for verb in VERBS}
    for size in sizes:
        several: dict[str, list[tuple[float, int]]] = {verb: [] for verb in VERBS}
        for _ in range(repeats.get(size, 1)):
            with tempfile.TemporaryDirectory() as name:
                place = Path(name) / "rows"
                prepare(place, size)
                for verb, known in several.items():
                    known.append(in_a_process(verb, place))
        for verb, known in several.items():
            seconds, peaks = zip(*known, strict=True)
            found[verb][size] = median(seconds), median(peaks)
        print(f"{size:,} rows: { {verb: found[verb][size] for verb in VERBS} }", file=sys.stderr)
    return found


def rows_of(verb: str, rounds: Sequence[Found]) -> Iterator[Row]:
    """What ten times the rows come to, from each size to the next: in seconds, a further row, in memory."""
    found = [each[verb] for each in rounds]
    smallest, *sizes = sorted(found[0])
    for small, large in pairwise(sizes):
        after, before = ([each[size][0] for each in found] for size in (large, small))
        yield compared(f"{verb}, {large:,} rows against {small:,}", after, before)
    for tiny, small, large in zip([smallest, *sizes], sizes, sizes[1:], strict=False):
        after, before = ([further(each, *pair) for each in found] for pair in ((small, large), (tiny, small)))
        name = f"{verb}, a further row up to {large:,} against one up to {small:,}"
        yield compared(name, after, before, "µs")
    for small, large in pairwise(sizes):
        after, before = ([each[size][1] / 2**20 for each in found] for size in (large, small))
        yield compared(f"{verb}, peak memory of {large:,} rows against {small:,}", after, before, "MiB")


def further(found: Mapping[int, tuple[float, float]], small: int, large: int) -> float:
    """Microseconds that each row costs between two sizes."""
    return 1e6 * (found[large][0] - found[small][0]) / (large - small)


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="1e3 to 1e5 rows, one round, once each.")
@click.option("--measure", "verb", type=click.Choice(list(VERBS)), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(verb: str | None, folder: Path | None, rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    if verb and folder:
        print(json.dumps(measure(verb, folder)))
        return
    sizes, repeats = (QUICK_SIZES, {}) if quick else (SIZES, REPEATS)
    found = [a_round(sizes, repeats) for _ in range(1 if quick else rounds)]
    publish("scale", [row for program in VERBS for row in rows_of(program, found)], keep=not quick)


if __name__ == "__main__":
    main()
