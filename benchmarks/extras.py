"""What each target besides the logits adds to stage one: seconds and bytes, against the logits alone.

The teacher of an experiment is asked about its first images, in turn for the logits alone and for one more. Bytes
are those of a row, its id, true label and checksum too.

    python -m benchmarks.extras [--quick]
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.results import Row, compared, publish
from benchmarks.stage_one import Case, Watched, job_for
from pipeline import features
from pipeline.config import Experiment, TeacherSettings, load
from pipeline.datasets.subset import head
from pipeline.job import spec_of
from pipeline.sources import open_source, readers
from pipeline.store.layout import row_bytes
from pipeline.teachers import kept_of, load_teacher
from pipeline.views import Viewed

CONFIG = Path("configs/methods_cifar10.toml")
ROWS, QUICK_ROWS = 1024, 256
MAP = {"module": "7", "name": "middle"}
EXTRAS: dict[str, dict[str, Any]] = {
    "mean": {"features": [MAP | {"reduction": "mean"}]},
    "projection to 128": {"features": [MAP | {"reduction": "projection", "dimensions": 128}]},
    "attention": {"features": [MAP | {"reduction": "attention"}]},
    "all of a map, float16": {"features": [MAP | {"reduction": "none"}]},
    "all of a map, int8": {"features": [MAP | {"reduction": "none", "dtype": "int8"}]},
    "gradient of the top logit": {"gradients": {"of": "top"}},
    "gradients, 4 projections": {"gradients": {"of": "projections", "projections": 4}},
}
"""What `[teacher]` asks for besides."""


def case(name: str, experiment: Experiment, dataset: Viewed) -> Case:
    """Stage one of an experiment."""
    teacher = load_teacher(experiment.teacher, experiment.views, dataset.input_shape, dataset.classes or 0)
    spec = spec_of(experiment.labels, dataset, *kept_of(experiment.teacher, dataset))
    job = job_for(dataset, spec)
    job = job.model_copy(update={"arrays": (*job.arrays, *features.arrays(spec.kept))})
    return Case(name, Watched(dataset, teacher, spec), job)


def of(name: str, case_: Case, alone: Case, rounds: int) -> Iterator[Row]:
    """Both in turn; the order changes every round."""
    for each in (case_, alone):
        each.stage_one()
    seconds: dict[str, list[float]] = {case_.name: [], alone.name: []}
    for turn in range(rounds):
        for each in (case_, alone) if turn % 2 else (alone, case_):
            seconds[each.name].append(each.stage_one())
    rows = case_.job.rows
    what = f"{name}, {rows:,} images, against logits alone"
    yield compared(f"stage one with {what}", seconds[case_.name], seconds[alone.name])
    size, before = (float(sum(map(row_bytes, each.job.arrays))) for each in (case_, alone))
    yield Row(f"a row with {name}, against logits alone", size, "bytes", before, size / before)


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help=f"{QUICK_ROWS} images, one round.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    experiment = load(CONFIG)
    dataset = Viewed(
        head(open_source(experiment.dataset), QUICK_ROWS if quick else ROWS), experiment.views, readers(experiment)
    )
    plain = {**experiment.teacher.model_dump(exclude_none=True), "features": [], "gradients": None}
    cases = {
        name: case(
            name,
            experiment.model_copy(update={"teacher": TeacherSettings.model_validate({**plain, **more})}),
            dataset,
        )
        for name, more in {"": {}, **EXTRAS}.items()
    }
    alone = cases.pop("")
    rows = [row for name, each in cases.items() for row in of(name, each, alone, 1 if quick else rounds)]
    publish("extras", rows, keep=not quick)


if __name__ == "__main__":
    main()
