"""What each loss and each encoding is worth to a student: test accuracy and calibration beside bytes a row.

Five seeds of a small network on Fashion-MNIST, all true labels: alone, and told by each loss from dense float16 labels;
then by `kd` from every other encoding. The difference to `alone` is that of the same seeds. Runs that are done are not
done again.

    make losses
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import click

from benchmarks.results import Row, write
from pipeline.config import load
from pipeline.runs import Metrics
from pipeline.store.mapped import LabelCache
from stages.fit_teacher import fit_teacher
from stages.soft_labels import generate
from stages.train_student import train_students

CONFIG = Path("configs/fashion_losses.toml")
FIRST = "dense float16"
TOPK = ("labels.encoding=topk", "labels.temperatures=[4.0]")
ENCODINGS: dict[str, tuple[str, ...]] = {
    FIRST: (),
    "dense int8": ("labels.dtype=int8",),
    "topk float16, K = 5": (*TOPK, "labels.k=5"),
    "topk float16, K = 3": (*TOPK, "labels.k=3"),
    "topk int8, K = 3": (*TOPK, "labels.k=3", "labels.dtype=int8"),
    "head+sampled, 2 + 2": (*TOPK, "labels.encoding=head+sampled", "labels.k=2", "labels.tail=2"),
    "sampled, 5": (*TOPK, "labels.encoding=sampled", "labels.k=5"),
    "sampled, 3": (*TOPK, "labels.encoding=sampled", "labels.k=3"),
    "multinomial, 9": (*TOPK, "labels.encoding=multinomial", "labels.k=9"),
}
QUICK = ("students.alone.repeats=2", "students.kd.repeats=2", "students.kd.epochs=1", "students.alone.epochs=1")


HEADER = ["| labels | bytes a row | loss | test accuracy | against alone | ECE |", "|---|--:|---|--:|--:|--:|"]


def trained(name: str, *, quick: bool) -> tuple[float, dict[str, list[Metrics]]]:
    """Bytes a row of an encoding's cache, and the runs of each student that hears it."""
    place = f"{'quick-' if quick else ''}{name.translate(str.maketrans(' ', '-', ',='))}"
    settings = (f'cache.path="caches/fashion_losses/{place}"', *ENCODINGS[name], *(QUICK if quick else ()))
    experiment = load(CONFIG, settings)
    fit_teacher(experiment, restart=False)
    generate(experiment)
    seal = LabelCache.open(experiment.cache.path).seal
    assert seal is not None
    students = () if name == FIRST and not quick else ("kd",)
    found = train_students(experiment, students, Path("runs/fashion_losses") / place, restart=False)
    return seal.bytes / seal.rows, found.facts["students"]


def told(name: str, size: float, students: dict[str, list[Metrics]]) -> Iterator[tuple[str, list[Row]]]:
    """A line of the table and the figures to keep, for each student; `alone` once."""
    alone = [run["test_accuracy"] for run in students["alone"]]
    for student, runs in students.items():
        reached, errors = ([100 * run[key] for run in runs] for key in ("test_accuracy", "test_ece"))
        gained = [each - 100 * other for each, other in zip(reached, alone, strict=True)]
        if student != "alone":
            kept = [Row(f"{student} from {name}: bytes a row", size, "bytes")]
            yield (
                f"| {name} | {size:.1f} | {student} | {_spread(reached)} | {_spread(gained)} | {_spread(errors)} |",
                [*kept, *_rows(f"{student} from {name}", reached, errors)],
            )
        elif name == FIRST:
            yield f"| | | alone | {_spread(reached)} | | {_spread(errors)} |", list(_rows(student, reached, errors))


def _rows(name: str, reached: list[float], errors: list[float]) -> Iterator[Row]:
    for what, values in (("test accuracy", reached), ("ECE", errors)):
        yield Row(f"{name}: {what}", mean(values), "%", spread=(min(values), max(values)))


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Two encodings, two seeds, one epoch.")
def main(*, quick: bool) -> None:
    """Train what is not trained yet, print and keep."""
    found = [
        each for name in list(ENCODINGS)[: 2 if quick else None] for each in told(name, *trained(name, quick=quick))
    ]
    print("\n".join([*HEADER, *(line for line, _ in found)]))
    if not quick:
        write("students", [row for _, rows in found for row in rows])


def _spread(values: list[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f} %"


if __name__ == "__main__":
    main()
