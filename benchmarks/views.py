"""All views there are, cached, against a teacher in the loop: the same student, and how much sooner.

Fashion-MNIST moved by up to two pixels and mirrored or not has 50 views of each image. A teacher as that of
configs/fashion_mnist.toml is asked about all of them once; then a student is trained from the cache and one with the
teacher in the loop, in turn, each image in an order of views of its own. Both see the same views at the same step, so
their losses are the same but for the rounding of batches of other sizes. The teacher has random weights, which take as
long as trained ones.

    python -m benchmarks.views [--quick] [--rounds 5]
"""

import json
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import click

from benchmarks.results import Row, compared, publish
from benchmarks.stage_two import InTheLoop, School, in_turn, told
from pipeline.ahead import loaders
from pipeline.course import Watch, teach
from pipeline.lesson import Lesson
from pipeline.models import build
from pipeline.order import ViewOrder
from pipeline.reader import Reader
from pipeline.regimen import Training
from pipeline.runs import Run

ROWS, QUICK_ROWS = 4096, 512
EPOCHS = 4
SETTINGS = Training(epochs=EPOCHS, batch_size=128, channels_last=True)
ALL = (
    "labels.dtype=float32",
    "views.count=50",
    "views.transform=crop_flip",
    "views.options={pixels = 2, every = true}",
)


class Trial:
    """The student of an experiment, trained from a reader again and again; it remembers the losses of its epochs."""

    def __init__(self, school: School) -> None:
        self.school = school
        self.losses: list[float] = []

    def seconds(self, reader: Reader) -> float:
        """Of one epoch."""
        experiment, views = self.school.experiment, self.school.dataset
        student = experiment.students["distilled"]
        make = partial(build, student.model, student.options, views.input_shape, views.classes or 0)
        order = ViewOrder(experiment.views.count, shuffled=True)
        with tempfile.TemporaryDirectory(dir=self.school.folder) as name:
            folder = Path(name)
            run = Run(folder, folder / "w.safetensors", {}, "", SETTINGS, experiment.views, 0)
            lesson = Lesson(make, told("kd"), soft=True, views=order)
            (metrics,) = teach([(run, lesson)], reader, Watch(lambda: False, lambda _: None), loaders(None))
            lines = (folder / "metrics.jsonl").read_text().splitlines()
        self.losses = [float(json.loads(line)["loss"]) for line in lines]
        return float((metrics or {})["seconds"]) / EPOCHS


def measured(folder: Path, rows: int, rounds: int) -> list[Row]:
    """Label every view, and train in both ways."""
    school = School.opened(folder, rows, ALL)
    views = school.dataset
    here, online = Trial(school), Trial(school)
    cached, asked = in_turn(
        rounds,
        lambda: here.seconds(school.cached(views)),
        lambda: online.seconds(InTheLoop(views, school.teacher)),
    )
    apart = max(abs(one - other) for one, other in zip(here.losses, online.losses, strict=True))
    saved = median(asked) - median(cached)
    return [
        compared(f"an epoch with the teacher in the loop, {rows:,} images in 50 views, against cached", asked, cached),
        Row(f"how far the losses of {EPOCHS} epochs are apart, of {here.losses[-1]:.3g}", apart, ""),
        Row("asking the teacher about all 50 views of each image, once", school.labelling, "s"),
        Row("epochs of students that pay for it", school.labelling / saved, "epochs"),
    ]


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help=f"The first {QUICK_ROWS} images, two rounds.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), QUICK_ROWS if quick else ROWS, 2 if quick else rounds)
        publish("views", rows, keep=not quick)


if __name__ == "__main__":
    main()
