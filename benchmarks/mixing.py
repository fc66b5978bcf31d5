"""How well a shuffle within windows mixes, against one over all rows: by count, and by what a student makes of it.

Fashion-MNIST in 120 shards of 500 rows, in the files' order and, as bad as can be, sorted by class. By count, over the
batches of three epochs: the share of a batch's pairs of rows that come from one shard, the shards a batch touches, and
the total variation between a batch's classes and the dataset's. By a student: the test accuracy of a perceptron of 128
units on true labels after five epochs, five seeds; the difference to the full shuffle is that of the same seeds.

    python -m benchmarks.mixing [--quick]
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import click
import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from benchmarks.results import Row, write
from pipeline.config import Experiment, load
from pipeline.course import Watch, teach
from pipeline.datasets import Dataset
from pipeline.datasets.arrays import ArrayDataset
from pipeline.labels import Heard
from pipeline.lesson import Lesson
from pipeline.models import build
from pipeline.order import EpochSampler, Windows
from pipeline.reader import Reader
from pipeline.regimen import Training
from pipeline.runs import Run
from pipeline.sources import open_source, open_test

CONFIG = Path("configs/fashion_losses.toml")
SHARD_ROWS, BATCH, EPOCHS, SEEDS, COUNTED = 500, 128, 5, 5, 3
WINDOWS: tuple[int | None, ...] = (1, 2, 4, 8, 16, 64, None)
QUICK_WINDOWS: tuple[int | None, ...] = (1, 8, None)
HEADER = (
    "| rows | window | pairs of one shard | shards a batch | classes, total variation | test accuracy | against full |",
    "|---|--:|--:|--:|--:|--:|--:|",
)


@dataclass(frozen=True)
class Counts:
    """Means over batches."""

    pairs: float
    shards: float
    variation: float


def counted(labels_N: np.ndarray, window: int | None) -> Counts:
    """What the batches of a few epochs are made of."""
    share_C = np.bincount(labels_N) / labels_N.size
    sampler = EpochSampler(labels_N.size, BATCH, windows=cut(window, labels_N.size))
    found = []
    for rows in (rows for epoch in range(COUNTED) for rows in sampler.upcoming(epoch)):
        of_shard = np.bincount(rows // SHARD_ROWS)
        pairs = (of_shard * (of_shard - 1)).sum() / (rows.size * (rows.size - 1))
        classes_C = np.bincount(labels_N[rows], minlength=share_C.size) / rows.size
        found.append((pairs, np.count_nonzero(of_shard), np.abs(classes_C - share_C).sum() / 2))
    return Counts(*map(float, np.mean(found, axis=0)))


def cut(window: int | None, length: int) -> Windows | None:
    """Windows of so many shards; None for a full shuffle."""
    return None if window is None else Windows.cut(window, SHARD_ROWS, length)


def sorted_by_class(dataset: Dataset) -> ArrayDataset:
    """The same samples, one class after the other."""
    labels_N = _labels(dataset)
    rows = np.argsort(labels_N, kind="stable")
    return ArrayDataset(dataset.inputs(rows), dataset.ids[rows], labels_N[rows], dataset.classes)


def _labels(dataset: Dataset) -> np.ndarray:
    assert dataset.labels is not None, "the experiment has true labels"
    return dataset.labels


def loss(logits_NC: torch.Tensor, labels_N: torch.Tensor, _: Heard | None) -> torch.Tensor:
    """Cross-entropy with the true label."""
    return F.cross_entropy(logits_NC, labels_N, reduction="none")


@dataclass(frozen=True)
class Trial:
    """What students are trained and tested on, and for how long."""

    experiment: Experiment
    dataset: Dataset
    test: Dataset
    epochs: int

    def accuracy(self, window: int | None, seed: int) -> float:
        """Of a student that saw the rows in windows, in per cent."""
        settings = Training(epochs=self.epochs, batch_size=BATCH, seed=seed, device="cpu")
        lesson = Lesson(self.network, loss, soft=False, test=self.test, windows=cut(window, len(self.dataset)))
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "student.safetensors"
            run = Run(Path(folder), weights, {}, "", settings, self.experiment.views, seed)
            watch = Watch(stopped=lambda: False, progress=lambda _: None)
            (metrics,) = teach([(run, lesson)], Reader(self.dataset), watch)
        assert metrics is not None, "no one asked it to stop"
        return 100 * float(metrics["test_accuracy"])

    def network(self) -> torch.nn.Module:
        """As it begins."""
        return build("mlp", {"hidden": [128]}, self.dataset.input_shape, self.dataset.classes or 0)


@dataclass(frozen=True)
class Finding:
    """Of one window over one order of the rows; the full shuffle's accuracies have the same seeds."""

    order: str
    window: int | None
    counts: Counts
    full: Counts
    reached: Sequence[float]
    full_reached: Sequence[float]

    def line(self) -> str:
        """A row of the table."""
        gained = [each - full for each, full in zip(self.reached, self.full_reached, strict=True)]
        figures = f"{self.counts.pairs:.4f} | {self.counts.shards:.1f} | {self.counts.variation:.3f}"
        accuracy = f"{_spread(self.reached)} | {'' if self.window is None else _spread(gained)}" if gained else "|"
        return f"| {self.order} | {self.window or 'full'} | {figures} | {accuracy} |"

    def rows(self) -> Iterator[Row]:
        """The figures to keep."""
        name = f"{self.order}, {f'window {self.window}' if self.window else 'full shuffle'}"
        for what, value, full in (
            ("pairs of one shard", self.counts.pairs, self.full.pairs),
            ("shards a batch", self.counts.shards, self.full.shards),
            ("total variation of a batch's classes", self.counts.variation, self.full.variation),
        ):
            yield Row(f"{name}: {what}", value, "", full, value / full)
        if self.reached:
            spread = (min(self.reached), max(self.reached))
            yield Row(f"{name}: test accuracy", mean(self.reached), "%", mean(self.full_reached), spread=spread)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f} %"


def findings(order: str, trial: Trial, seeds: int, trained: Sequence[int | None]) -> list[Finding]:
    """Of every window, over one order of the rows."""
    labels_N = _labels(trial.dataset)
    counts = {window: counted(labels_N, window) for window in WINDOWS}
    reached = {window: [trial.accuracy(window, seed) for seed in range(seeds)] for window in trained}
    full = reached[None]
    return [
        Finding(order, window, counts[window], counts[None], reached.get(window, ()), full if window in reached else ())
        for window in WINDOWS
    ]


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Count all; train for three windows only, two seeds, one epoch.")
def main(*, quick: bool) -> None:
    """Measure, print and keep."""
    experiment = load(CONFIG)
    dataset = open_source(experiment.dataset)
    test = open_test(experiment, dataset)
    assert test is not None, "the experiment has a test set"
    epochs, seeds, trained = (1, 2, QUICK_WINDOWS) if quick else (EPOCHS, SEEDS, WINDOWS)
    orders = {"files' order": dataset, "by class": sorted_by_class(dataset)}
    found = [
        finding
        for order, rows in orders.items()
        for finding in findings(order, Trial(experiment, rows, test, epochs), seeds, trained)
    ]
    print("\n".join([*HEADER, *(finding.line() for finding in found)]))
    if not quick:
        write("mixing", [row for finding in found for row in finding.rows()])


if __name__ == "__main__":
    main()
