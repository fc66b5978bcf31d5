"""What each loss and each encoding is worth to a student: test accuracy and calibration beside bytes a row.

Five seeds of a small network on Fashion-MNIST, all true labels: alone, and told by each loss from dense float16 labels;
then by `kd` from other encodings. The difference to `alone` is that of the same seeds. Runs that are done are not
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
    "topk, K = 5": (*TOPK, "labels.k=5"),
    "topk, K = 3": (*TOPK, "labels.k=3"),
    "sampled, 3": (*TOPK, "labels.encoding=sampled", "labels.k=3"),
}
QUICK = tuple(f"students.{name}.{key}" for name in ("alone", "kd") for key in ("repeats=2", "epochs=1"))
HEADER = ["| labels | bytes a row | loss | test accuracy | against alone | ECE |", "|---|--:|---|--:|--:|--:|"]


def trained(name: str, *, quick: bool) -> tuple[float, dict[str, list[Metrics]]]:
    """Bytes a row of an encoding's cache, and the runs of each student that hears it."""
    place = f"{'quick-' if quick else ''}{name.translate(str.maketrans(' ', '-', ',='))}"
    settings = (f'cache.path="caches/fashion_losses-{place}"', *ENCODINGS[name], *(QUICK if quick else ()))
    experiment = load(CONFIG, settings)
    fit_teacher(experiment, restart=False)
    generate(experiment)
    seal = LabelCache.open(experiment.cache.path).seal
    assert seal is not None
    students = ("kd",) if name != FIRST else ("alone", "kd") if quick else ()
    found = train_students(experiment, students, Path("runs/fashion_losses") / place, restart=False)
    return seal.bytes / seal.rows, found.facts["students"]


def told(name: str, size: float, students: dict[str, list[Metrics]], alone: list[Metrics]) -> Iterator[str]:
    """The lines of the table, of each student."""
    for student, runs in students.items():
        reached, errors = ([100 * run[key] for run in runs] for key in ("test_accuracy", "test_ece"))
        gained = [each - 100 * other["test_accuracy"] for each, other in zip(reached, alone, strict=True)]
        bytes_, gain = ("", "") if student == "alone" else (f"{size:.1f}", _spread(gained))
        labels = "" if student == "alone" else name
        yield f"| {labels} | {bytes_} | {student} | {_spread(reached)} | {gain} | {_spread(errors)} |"


def rows(name: str, size: float, students: dict[str, list[Metrics]]) -> Iterator[Row]:
    """The figures to keep: means over seeds, with the smallest and the largest."""
    yield Row(f"{name}: bytes a row", size, "bytes")
    for student, runs in students.items():
        for what, key in (("test accuracy", "test_accuracy"), ("ECE", "test_ece")):
            values = [100 * run[key] for run in runs]
            yield Row(f"{name}, {student}: {what}", mean(values), "%", spread=(min(values), max(values)))


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Two encodings, two seeds, one epoch.")
def main(*, quick: bool) -> None:
    """Train what is not trained yet, print and keep."""
    found = {name: trained(name, quick=quick) for name in list(ENCODINGS)[: 2 if quick else None]}
    alone = found[FIRST][1]["alone"]
    print("\n".join([*HEADER, *(line for name, each in found.items() for line in told(name, *each, alone))]))
    if not quick:
        write("students", [row for name, each in found.items() for row in rows(name, *each)])


def _spread(values: list[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f} %"


if __name__ == "__main__":
    main()
