"""Stage one against a bare teacher loop over the same batches: what writing a cache costs beyond asking the teacher.

Both run in one process, in turn, on the experiment's own dataset and teacher (which `make teacher` trains). The bare
loop reads each batch, asks the teacher and drops the logits. Stage one also fingerprints the inputs, encodes, writes
every shard durably and seals.

    python -m benchmarks.stage_one [--quick] [--config configs/fashion_mnist.toml] [--rounds 5]
"""

import tempfile
from pathlib import Path
from time import perf_counter

import click
import numpy as np

from benchmarks.results import compared, publish
from pipeline.config import load
from pipeline.datasets import Dataset
from pipeline.datasets.arrays import ArrayDataset
from pipeline.executors.inline import cuts, run_inline
from pipeline.job import job_of, spec_of
from pipeline.labeller import Labeller
from pipeline.store.documents import Job
from pipeline.store.writer import CacheWriter
from pipeline.teachers import load_teacher
from stages.sources import open_source

QUICK_ROWS = 4096


def head(whole: Dataset, rows: int) -> Dataset:
    """The first samples of a dataset, in memory."""
    labels = None if whole.labels is None else whole.labels[:rows]
    return ArrayDataset(
        whole.inputs(np.arange(min(rows, len(whole)))), whole.ids[:rows], labels, whole.classes, whole.class_names
    )


def bare(labeller: Labeller, job: Job) -> float:
    """Seconds to read every batch and ask the teacher."""
    begun = perf_counter()
    for cut in cuts(list(job.layout.all_shards()), labeller.batch_size):
        labeller.teacher.logits(labeller.dataset.inputs(np.arange(cut.start, cut.stop)))
    return perf_counter() - begun


def stage_one(labeller: Labeller, job: Job) -> float:
    """Seconds to make and seal the cache."""
    with tempfile.TemporaryDirectory() as folder:
        begun = perf_counter()
        with CacheWriter.open(Path(folder) / "cache", job, {}) as writer:
            run_inline(writer.missing(), labeller, writer.commit, stopped=lambda: False, progress=lambda _: None)
            writer.seal({})
        return perf_counter() - begun


@click.command(help=__doc__)
@click.option(
    "--config", type=click.Path(path_type=Path), default=Path("configs/fashion_mnist.toml"), show_default=True
)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help=f"The first {QUICK_ROWS} samples only.")
def main(config: Path, rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    experiment = load(config)
    whole = open_source(experiment.dataset)
    dataset = head(whole, QUICK_ROWS) if quick else whole
    teacher = load_teacher(experiment.teacher, experiment.views, dataset.input_shape, dataset.classes or 0)
    spec = spec_of(experiment.labels, dataset)
    labeller, job = Labeller(dataset, teacher, spec), job_of(experiment, dataset, spec)
    bare(labeller, job)  # to warm up
    pairs = [(stage_one(labeller, job), bare(labeller, job)) for _ in range(rounds)]
    name = f"stage one, {len(dataset):,} rows of {config.stem}, {spec.encoding}, against the bare teacher loop"
    row = compared(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    publish("stage_one", [row], keep=not quick)


if __name__ == "__main__":
    main()
