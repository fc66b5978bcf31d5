"""Stage two against training without a cache: what soft labels cost a student, and what a shared walk saves.

One epoch of a small student on all of Fashion-MNIST: from the cache and on true labels alone, by turns, so that both
see the same machine; then with the teacher in the loop, in turn with one from the cache. Turns are whole epochs: two
that run in two threads have twice as many threads to compute with as there are cores, which wait for each other as in
no training, a quarter of a step. All go through `teach`, as `softlabels train` does. The cache is opened anew for each,
so mapping it and holding every chunk against its checksum is in it. The teacher has random weights, which take as long
as trained ones. Then three students of a cache (at T = 2 and 4, and on true labels) in one walk against three runs, on
one core, so that no reading hides behind learning: images are inflated and shrunk as they are read, as many times as
make that half of a run.

    python -m benchmarks.stage_two [--quick] [--rounds 7]
"""

import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import click
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from benchmarks.results import Row, compared, publish
from benchmarks.stage_one import head
from pipeline.ahead import loaders
from pipeline.config import Experiment, load
from pipeline.course import Watch, teach
from pipeline.datasets import Dataset
from pipeline.datasets.arrays import ArrayDataset
from pipeline.executors.inline import run_inline
from pipeline.job import job_of, spec_of
from pipeline.labeller import Labeller
from pipeline.labels import DenseLabels
from pipeline.lesson import Lesson
from pipeline.models import build
from pipeline.objective import Objective
from pipeline.reader import Batch, Reader
from pipeline.regimen import Training
from pipeline.runs import Run
from pipeline.sources import open_source
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter
from pipeline.teachers import Teacher, load_teacher
from pipeline.terms import one_term
from pipeline.training import Loss
from pipeline.views import Viewed
from pipeline.weights import save_state

CONFIG = Path("configs/fashion_mnist.toml")
ROWS, QUICK_ROWS = 60_000, 2_560
PAIRS = 6  # a round: a percent is less than an epoch differs by from the next
TOGETHER_ROWS, QUICK_TOGETHER_ROWS = 8_192, 1_280
ENLARGED = 4  # what is decoded is so many times as wide and high as what is trained on
SETTINGS = Training(epochs=1, batch_size=128, channels_last=True)


class InTheLoop(Reader):
    """A reader whose every batch is put to the teacher, on all cores: what a cache makes unnecessary."""

    def __init__(self, dataset: Dataset, teacher: Teacher) -> None:
        super().__init__(dataset)
        self._teacher, self._loaded, self._threads = teacher, ThreadpoolController(), torch.get_num_threads()

    def __getitems__(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The batch of any rows."""
        batch = super().__getitems__(rows)
        with self._loaded.limit(limits=self._threads, user_api="openmp"):
            return replace(batch, soft=DenseLabels(self._teacher.logits(batch.inputs_NX.numpy()).clone()))


@dataclass(frozen=True, eq=False)
class Deflated(ArrayDataset):
    """Images as they lie on a disk: each compressed, and larger than a network wants it."""

    packed: tuple[bytes, ...] = ()
    times: int = 1

    @classmethod
    def of(cls, dataset: Dataset) -> "Deflated":
        """Each image enlarged and compressed."""
        images = dataset.inputs(np.arange(len(dataset)))
        large = images.repeat(ENLARGED, -1).repeat(ENLARGED, -2)
        packed = tuple(zlib.compress(image.tobytes()) for image in large)
        return cls(images, dataset.ids, dataset.labels, dataset.classes, dataset.class_names, packed)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, *input_shape]`, inflated and shrunk."""
        for _ in range(self.times - 1):
            self._decoded(rows)
        return self._decoded(rows)

    def _decoded(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        channels, height, width = self.input_shape
        shape = (channels, height, ENLARGED, width, ENLARGED)
        images = (np.frombuffer(zlib.decompress(self.packed[row]), np.uint8).reshape(shape) for row in rows)
        return np.stack([image.mean((2, 4), np.float32).astype(np.uint8) for image in images])


def told(name: str, temperature: float = 4.0) -> Objective:
    """A student's loss, as an experiment names it."""
    return Objective(one_term(name, temperature, 0.9))


hard, soft = told("hard"), told("kd")


@dataclass(frozen=True)
class School:
    """Where all that is timed takes place."""

    folder: Path
    experiment: Experiment
    dataset: Dataset
    teacher: Teacher
    labelling: float

    @classmethod
    def opened(cls, folder: Path, rows: int, changes: Sequence[str] = ()) -> "School":
        """With a cache of the first rows, made by a teacher of random weights; `changes` are to the experiment."""
        paths = f'cache.path="{folder}/cache"', f'teacher.checkpoint="{folder}/t.safetensors"'
        experiment = load(CONFIG, [*changes, *paths])
        dataset = Viewed(head(open_source(experiment.dataset), rows), experiment.views)
        asked = experiment.teacher
        torch.manual_seed(0)
        network = build(asked.model, asked.options, dataset.input_shape, dataset.classes or 0)
        save_state(asked.checkpoint, network.state_dict())
        teacher = load_teacher(asked, experiment.views, dataset.input_shape, dataset.classes or 0)
        spec = spec_of(experiment.labels, dataset)
        begun = perf_counter()
        with CacheWriter.open(experiment.cache.path, job_of(experiment, dataset, spec), {}) as writer:
            labeller = Labeller(dataset, teacher, spec)
            run_inline(writer.missing(), labeller, writer.commit, stopped=lambda: False, progress=lambda _: None)
            writer.seal({})
        labelling = perf_counter() - begun
        return cls(folder, experiment, dataset, teacher, labelling)

    def cached(self, dataset: Dataset) -> Reader:
        """A reader over the cache, opened anew."""
        return Reader(dataset, LabelCache.open(self.experiment.cache.path))

    def run(self, reader: Reader, *losses: Loss, workers: int | None = None) -> float:
        """Seconds of one epoch of the experiment's student, told in each of these ways, in one walk."""
        student = self.experiment.students["distilled"]
        make = partial(build, student.model, student.options, self.dataset.input_shape, self.dataset.classes or 0)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folders = [Path(name) / str(n) for n in range(len(losses))]
            entries = [
                (
                    Run(folder, folder / "w.safetensors", {}, "", SETTINGS, self.experiment.views, 0),
                    Lesson(make, loss, soft=loss is not hard),
                )
                for folder, loss in zip(folders, losses, strict=True)
            ]
            found = teach(entries, reader, Watch(lambda: False, lambda _: None), loaders(workers))
            return sum(float(metrics["seconds"]) for metrics in found if metrics)


def in_turn(rounds: int, *timed: Callable[[], float]) -> list[list[float]]:
    """Each timed once a round, forwards and backwards by turns: a machine that slows down slows all."""
    for each in timed:
        each()
    seconds: list[list[float]] = [[] for _ in timed]
    for turn in range(rounds):
        for place in range(len(timed))[:: -1 if turn % 2 else 1]:
            seconds[place].append(timed[place]())
    return seconds


def epochs(school: School, rounds: int) -> Iterator[Row]:
    """An epoch from the cache, on true labels alone, and with the teacher in the loop."""
    cached, online = in_turn(
        rounds,
        lambda: school.run(school.cached(school.dataset), soft),
        lambda: school.run(InTheLoop(school.dataset, school.teacher), soft),
    )
    rows = f"{len(school.dataset):,} images"
    ours, plain = in_turn(
        PAIRS * rounds,
        lambda: school.run(school.cached(school.dataset), soft),
        lambda: school.run(Reader(school.dataset), hard),
    )
    yield compared(f"an epoch from the cache, {rows}, against one on true labels alone", ours, plain)
    yield compared(f"an epoch with the teacher in the loop, {rows}, against one from the cache", online, cached)
    saved, length = median(online) - median(cached), school.experiment.students["distilled"].epochs
    students = school.labelling / (length * saved)
    yield Row(f"break-even: students of {length} epochs that pay for the cache", students, "students")


@contextmanager
def one_core() -> Iterator[None]:
    """Everything on one core, where reading and learning cannot overlap."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def together(school: School, rows: int, rounds: int) -> Iterator[Row]:
    """Three students in one walk against three walks, where reading is half of a run."""
    small, losses = head(school.dataset, rows), (soft, told("kd", 2.0), hard)
    dataset = Deflated.of(small)
    with one_core():
        learning = median(school.run(school.cached(small), soft, workers=1) for _ in range(3))
        begun = perf_counter()
        dataset.inputs(np.arange(rows))
        dataset = replace(dataset, times=max(1, round(learning / (perf_counter() - begun))))
        shared, *single = in_turn(
            rounds,
            lambda: school.run(school.cached(dataset), *losses, workers=1),
            *(partial(lambda loss: school.run(school.cached(dataset), loss, workers=1), loss) for loss in losses),
            lambda: school.run(school.cached(small), soft, workers=1),
        )
    three = [sum(each) for each in zip(*single[:3], strict=True)]
    yield compared(f"three students in one walk, {rows:,} images, one core, against three runs", shared, three)
    yield Row("share of one run that is reading", 1 - median(single[3]) / median(single[0]), "of the time")


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--quick", is_flag=True, help=f"The first {QUICK_ROWS} images, three rounds.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    rounds = 3 if quick else rounds
    with tempfile.TemporaryDirectory() as folder:
        school = School.opened(Path(folder), QUICK_ROWS if quick else ROWS)
        shared = together(school, QUICK_TOGETHER_ROWS if quick else TOGETHER_ROWS, rounds)
        publish("stage_two", [*epochs(school, rounds), *shared], keep=not quick)


if __name__ == "__main__":
    main()
