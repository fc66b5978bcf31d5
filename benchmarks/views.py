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
from time import perf_counter

import click
import torch

from benchmarks.results import Row, compared, publish
from benchmarks.stage_one import head
from benchmarks.stage_two import InTheLoop, in_turn, told
from pipeline.ahead import loaders
from pipeline.config import Experiment, Training, load
from pipeline.course import Lesson, Watch, teach
from pipeline.executors.inline import run_inline
from pipeline.job import job_of, spec_of
from pipeline.labeller import Labeller
from pipeline.models import build
from pipeline.order import ViewOrder
from pipeline.reader import Reader
from pipeline.runs import Run
from pipeline.sources import open_source
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter
from pipeline.teachers import load_teacher
from pipeline.views import Viewed
from pipeline.weights import save_state

CONFIG = Path("configs/fashion_mnist.toml")
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

    def __init__(self, folder: Path, experiment: Experiment, views: Viewed) -> None:
        self.folder, self.experiment, self.views = folder, experiment, views
        self.losses: list[float] = []

    def seconds(self, reader: Reader) -> float:
        """Of one epoch."""
        student, shape = self.experiment.students["distilled"], self.views.input_shape
        make = partial(build, student.model, student.options, shape, self.views.classes or 0)
        order = ViewOrder(self.views.settings.count, shuffled=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            run = Run(folder, folder / "w.safetensors", {}, "", SETTINGS, self.experiment.views, 0)
            lesson = Lesson(make, told("kd"), soft=True, views=order)
            (metrics,) = teach([(run, lesson)], reader, Watch(lambda: False, lambda _: None), loaders(None))
            lines = (folder / "metrics.jsonl").read_text().splitlines()
        self.losses = [float(json.loads(line)["loss"]) for line in lines]
        return float((metrics or {})["seconds"]) / EPOCHS


def measured(folder: Path, rows: int, rounds: int) -> list[Row]:
    """Label every view, and train in both ways."""
    experiment = load(CONFIG, [*ALL, f'cache.path="{folder}/cache"', f'teacher.checkpoint="{folder}/t.safetensors"'])
    views = Viewed(head(open_source(experiment.dataset), rows), experiment.views)
    asked_of = experiment.teacher
    torch.manual_seed(0)
    network = build(asked_of.model, asked_of.options, views.input_shape, views.classes or 0)
    save_state(asked_of.checkpoint, network.state_dict())
    teacher = load_teacher(experiment.teacher, experiment.views, views.input_shape, views.classes or 0)
    spec = spec_of(experiment.labels, views)
    begun = perf_counter()
    with CacheWriter.open(experiment.cache.path, job_of(experiment, views, spec), {}) as writer:
        labeller = Labeller(views, teacher, spec)
        run_inline(writer.missing(), labeller, writer.commit, stopped=lambda: False, progress=lambda _: None)
        writer.seal({})
    labelling = perf_counter() - begun
    cache = LabelCache.open(experiment.cache.path)
    here, online = Trial(folder, experiment, views), Trial(folder, experiment, views)
    cached, asked = in_turn(
        rounds, lambda: here.seconds(Reader(views, cache)), lambda: online.seconds(InTheLoop(views, teacher))
    )
    apart = max(abs(one - other) for one, other in zip(here.losses, online.losses, strict=True))
    saved = median(asked) - median(cached)
    return [
        compared(f"an epoch with the teacher in the loop, {rows:,} images in 50 views, against cached", asked, cached),
        Row(f"how far the losses of {EPOCHS} epochs are apart, of {here.losses[-1]:.3g}", apart, ""),
        Row("asking the teacher about all 50 views of each image, once", labelling, "s"),
        Row("epochs of students that pay for it", labelling / saved, "epochs"),
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
