"""Stage one against a bare teacher loop over the same batches: what a cache costs beyond asking the teacher.

Both run in one process, in turn, first the one and then the other, with the same loader threads and the same teacher.
The bare loop drops the logits; stage one also fingerprints the inputs, encodes, writes every shard durably and seals.
One row is a ResNet-18 on 224x224 images (on a GPU a ResNet-50 in bfloat16) with random weights, which take as long as
trained ones; another is an experiment's own dataset and teacher, which `make teacher` trains. On a GPU a further row
is the busy fraction: the share of stage one's time between the first and the last work on each batch, by the device's
own clock; gaps within a batch count as busy, so it is an upper bound.

    python -m benchmarks.stage_one [--quick] [--config configs/fashion_mnist.toml] [--rounds 5] [--only resnet]
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import click
import numpy as np
import torch

from benchmarks.networks import resnet18, resnet50
from benchmarks.results import Row, compared, publish
from pipeline import encodings
from pipeline.ahead import ahead, loaders
from pipeline.config import TeacherSettings, ViewSettings, load
from pipeline.datasets import Dataset
from pipeline.datasets.arrays import ArrayDataset
from pipeline.devices import pick_device, place
from pipeline.executors.inline import Cut, cuts, run_inline
from pipeline.job import job_of, spec_of
from pipeline.labeller import Labeller, Loaded, Pending, Sent
from pipeline.labels import LabelSpec
from pipeline.sources import open_source
from pipeline.store.documents import ROW_ARRAYS, Job
from pipeline.store.writer import CacheWriter
from pipeline.teachers import Teacher, load_teacher

QUICK_ROWS = 4096
IMAGES, QUICK_IMAGES = {"cpu": 512, "cuda": 16384}, {"cpu": 128, "cuda": 4096}
WARM_UP = 3  # batches before the first round
BATCH = {"cpu": 32, "cuda": 256}
IMAGENET = LabelSpec("topk", 1000, "float16", k=16, temperatures=(1.0, 2.0, 4.0, 8.0))


@dataclass(frozen=True)
class Watched(Labeller):
    """A labeller that has the device note when it begins and ends each batch."""

    spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def launch(self, batch: Loaded) -> Pending:
        """As any other; on a GPU between two events, of which the first comes after the wait for the inputs."""
        if self.teacher.device.type != "cuda":
            return super().launch(batch)
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        batch.sent.received()
        begun.record()
        pending = super().launch(batch)
        ended.record()
        self.spans.append((begun, ended))
        return pending

    def busy(self) -> float:
        """Seconds at work since last asked."""
        seconds = sum(float(begun.elapsed_time(ended)) for begun, ended in self.spans) / 1000
        self.spans.clear()
        return seconds


@dataclass(frozen=True)
class Case:
    """What one row of the table is about."""

    name: str
    labeller: Watched
    job: Job

    def bare(self) -> float:
        """Seconds to read every batch and ask the teacher."""
        labeller, begun = self.labeller, perf_counter()

        def read(cut: Cut) -> Sent:
            return labeller.lane.send(labeller.views.inputs(np.arange(cut.start, cut.stop)))

        for sent in ahead(cuts(list(self.job.layout.all_shards()), labeller.batch_size), read, loaders(None)):
            labeller.teacher.answer(*sent.received())
        if labeller.teacher.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - begun

    def stage_one(self) -> float:
        """Seconds to make and seal the cache."""
        with tempfile.TemporaryDirectory() as folder:
            begun = perf_counter()
            with CacheWriter.open(Path(folder) / "cache", self.job, {}) as writer:
                run_inline(
                    writer.missing(), self.labeller, writer.commit, stopped=lambda: False, progress=lambda _: None
                )
                writer.seal({})
            return perf_counter() - begun

    def rows(self, rounds: int) -> Iterator[Row]:
        """Both in turn; the order changes every round, so that a machine that slows down slows both."""
        for _ in range(WARM_UP):
            self.labeller.label(self.labeller.load(0, self.labeller.batch_size))
        self.labeller.busy()
        ours, theirs, busy = [], [], []
        for turn in range(rounds):
            if turn % 2:
                theirs.append(self.bare())
            ours.append(self.stage_one())
            busy.append(self.labeller.busy() / ours[-1])
            if not turn % 2:
                theirs.append(self.bare())
        yield compared(f"stage one, {self.name}, against the bare teacher loop", ours, theirs)
        if any(busy):
            yield Row(f"device busy in stage one, {self.name}", float(np.median(busy)), "of the time")


def head(whole: Dataset, rows: int) -> Dataset:
    """The first samples of a dataset, in memory."""
    labels = None if whole.labels is None else whole.labels[:rows]
    return ArrayDataset(
        whole.inputs(np.arange(min(rows, len(whole)))), whole.ids[:rows], labels, whole.classes, whole.class_names
    )


def own(config: Path, *, quick: bool) -> Case:
    """An experiment's dataset and teacher."""
    experiment = load(config)
    whole = open_source(experiment.dataset)
    dataset = head(whole, QUICK_ROWS) if quick else whole
    teacher = load_teacher(experiment.teacher, experiment.views, dataset.input_shape, dataset.classes or 0)
    spec = spec_of(experiment.labels, dataset)
    name = f"{len(dataset):,} rows of {config.stem}, {spec.encoding}"
    return Case(name, Watched(dataset, teacher, spec), job_of(experiment, dataset, spec))


def residual(*, quick: bool) -> Case:
    """A ResNet that fits the device, on random images."""
    device = pick_device("cuda" if torch.cuda.is_available() else "cpu")
    rows, cuda = (QUICK_IMAGES if quick else IMAGES)[device.type], device.type == "cuda"
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (rows, 3, 224, 224), np.uint8)
    dataset = ArrayDataset(images, np.arange(rows), random.integers(0, IMAGENET.classes, rows), IMAGENET.classes)
    settings = TeacherSettings(
        model="resnet50" if cuda else "resnet18",
        checkpoint=Path("none"),
        batch_size=BATCH[device.type],
        precision="bfloat16" if cuda else "float32",
        channels_last=True,
    )
    network = resnet50() if cuda else resnet18()
    place(network, device, channels_last=True)
    teacher = Teacher(network, device, settings, ViewSettings(mean=118.0, std=58.0))
    name = f"{rows:,} images of 224x224, {settings.model} in {settings.precision}, {IMAGENET.encoding}"
    return Case(name, Watched(dataset, teacher, IMAGENET), job_for(dataset, IMAGENET))


def job_for(dataset: Dataset, spec: LabelSpec) -> Job:
    """Four shards, so that commits overlap with the teacher as in a long run."""
    return Job(
        format="softlabels/2",
        dataset={},
        views={},
        teacher={},
        labels={},
        rows=len(dataset),
        view_count=1,
        shard_rows=len(dataset) // 4,
        chunk_rows=len(dataset) // 4,
        arrays=(*ROW_ARRAYS, *encodings.arrays(spec)),
    )


@click.command(help=__doc__)
@click.option(
    "--config", type=click.Path(path_type=Path), default=Path("configs/fashion_mnist.toml"), show_default=True
)
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", type=click.Choice(["resnet", "config"]), help="One of the two rows.")
@click.option("--quick", is_flag=True, help=f"The first {QUICK_ROWS} samples and {QUICK_IMAGES['cpu']} images only.")
def main(config: Path, rounds: int, only: str | None, *, quick: bool) -> None:
    """Measure, print and keep."""
    rows: list[Row] = []
    if only in (None, "resnet"):
        rows += residual(quick=quick).rows(rounds)
    if only in (None, "config"):
        rows += own(config, quick=quick).rows(rounds)
    publish("stage_one", rows, keep=not quick and only is None)


if __name__ == "__main__":
    main()
