"""How fast known teachers answer, and how much slower it is to keep what they say.

Each is asked about the first samples of its experiment, in turn by stage one, which makes views, labels, checks, writes
and seals, and by a bare loop over the same batches that drops the answers (`benchmarks.stage_one`).

    make teachers
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.results import Row, publish
from benchmarks.stage_one import Case, Watched, job_for
from pipeline.config import load
from pipeline.datasets.subset import head
from pipeline.job import spec_of
from pipeline.sources import open_source, readers
from pipeline.teachers import load_teacher
from pipeline.views import Viewed

QUICK = 8
"""By so much fewer samples."""


@dataclass(frozen=True)
class Known:
    """A teacher of an experiment, and how many samples it is asked about."""

    config: str
    samples: int
    unit: str
    changes: tuple[str, ...] = ()

    def rows(self, rounds: int, *, quick: bool) -> Iterator[Row]:
        """Stage one against asking, and how many a second it is for each."""
        experiment = load(Path("configs") / f"{self.config}.toml", self.changes)
        source = head(open_source(experiment.dataset), self.samples // QUICK if quick else self.samples)
        dataset = Viewed(source, experiment.views, readers(experiment))
        teacher = load_teacher(experiment.teacher, experiment.views, dataset.input_shape, dataset.classes or 0)
        spec = spec_of(experiment.labels, dataset)
        each = len(dataset) * (dataset.positions or 1)
        name = f"{each:,} {self.unit} by the teacher of {self.config}, {spec.encoding}"
        (row, *_) = Case(name, Watched(dataset, teacher, spec), job_for(dataset, spec)).rows(rounds)
        assert row.baseline
        yield row
        yield Row(f"asked only, {name}", each / row.baseline, f"{self.unit}/s")
        yield Row(f"asked and kept, {name}", each / row.value, f"{self.unit}/s")


TEACHERS = {
    "cifar10": Known("cifar10", 8192, "images"),
    "photos": Known("photos", 512, "images"),
    "reviews": Known("reviews", 4096, "texts"),
    "smollm2": Known("smollm2", 32, "tokens"),
    "smollm2 sampled": Known("smollm2", 32, "tokens", ("labels.encoding=sampled",)),
}


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", type=click.Choice(list(TEACHERS)), multiple=True, help="These alone; nothing is kept.")
@click.option("--quick", is_flag=True, help=f"A {QUICK}th of the samples.")
def main(rounds: int, only: tuple[str, ...], *, quick: bool) -> None:
    """Measure, print and keep."""
    rows = [row for name in only or TEACHERS for row in TEACHERS[name].rows(rounds, quick=quick)]
    publish("teachers", rows, keep=not quick and not only)


if __name__ == "__main__":
    main()
