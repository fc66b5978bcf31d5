"""A language model distilled: the same student, for as many steps, by what each way to keep a teacher tells it.

SmolLM2-135M-Instruct is asked once about Python's documentation, and its answers are kept twice, as the 16 largest
logits with their sums and as a sample of 16 ids a token. A student of seven million weights learns from true tokens
alone; from the 16 largest renormalised, as most public caches have it; from the same with the mass of all others; and
from the sample. What keeping costs that teacher is in `benchmarks.teachers`.

    make language
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean

import click
import numpy as np
import torch

from benchmarks.results import Row, publish
from pipeline.config import Experiment, load
from pipeline.course import Watch, teach
from pipeline.datasets import Dataset
from pipeline.encodings.blocks import Logits
from pipeline.executors.inline import cuts
from pipeline.job import job_of, spec_of
from pipeline.labeller import Block, Labeller
from pipeline.labels import Heard, SparseLabels
from pipeline.lesson import Lesson
from pipeline.losses.logspace import weighted_sum
from pipeline.models import build
from pipeline.objective import Objective
from pipeline.reader import Reader
from pipeline.runs import Metrics, Run, finished
from pipeline.sources import held_out, open_views
from pipeline.store.layout import Shard
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter
from pipeline.teachers import Teacher, load_teacher
from pipeline.terms import KD, Hard
from pipeline.training import Loss
from stages.bars import bar

CONFIG = Path("configs/smollm2.toml")
KEPT = {"topk": (), "sampled": ("labels.encoding=sampled", 'cache.path="caches/smollm2-sampled"')}


@dataclass(frozen=True)
class Remembering(Teacher):
    """A teacher that is not asked twice about the same batch."""

    last: list[tuple[torch.Tensor, Logits]] = field(default_factory=list)

    def answer_in_blocks(self, inputs_N3L: torch.Tensor, classes: int) -> Logits:
        """The logits of a batch."""
        if not self.last or self.last[0][0] is not inputs_N3L:
            self.last[:] = [(inputs_N3L, super().answer_in_blocks(inputs_N3L, classes))]
        return self.last[0][1]


def renormalised(logits_RC: torch.Tensor, _: torch.Tensor, soft: Heard | None) -> torch.Tensor:
    """KL of the kept classes, which share the whole, from the student, [R]: what is not kept is ruled out."""
    assert isinstance(soft, SparseLabels)
    log_p_RK = soft.logits_NK.log_softmax(dim=1)
    return weighted_sum(log_p_RK.exp(), log_p_RK - logits_RC.log_softmax(dim=1).gather(1, soft.ids_NK))


HARD, KL = Objective((Hard(name="hard"),)), Objective((KD(name="kd", temperature=1.0),))
WAYS: dict[str, tuple[str | None, Loss]] = {
    "true tokens alone": (None, HARD),
    "top-16, renormalised": ("topk", renormalised),
    "top-16 and the mass of all others": ("topk", KL),
    "16 sampled": ("sampled", KL),
}


def teacher_of(experiment: Experiment, dataset: Dataset) -> Remembering:
    """The teacher of an experiment."""
    made = load_teacher(experiment.teacher, experiment.views, dataset.input_shape, dataset.classes or 0)
    return Remembering(made.network, made.device, made.settings, made.views)


def ask(experiments: list[Experiment]) -> list[LabelCache]:
    """Caches of experiments that differ in what they keep: the teacher is asked about each batch once."""
    dataset, teacher = open_views(experiments[0]), None
    jobs = [job_of(each, dataset, spec_of(each.labels, dataset)) for each in experiments]
    with ExitStack() as stack:
        opened = (CacheWriter.open(each.cache.path, job, {}) for each, job in zip(experiments, jobs, strict=True))
        writers = [stack.enter_context(each) for each in opened]
        plan = [shard for shard in jobs[0].layout.all_shards() if any(shard in each.missing() for each in writers)]
        with bar("labels", len(dataset), len(dataset) - sum(shard.rows for shard in plan)) as progress:
            for shard in plan:
                teacher = teacher or teacher_of(experiments[0], dataset)
                labellers = [Labeller(dataset, teacher, spec_of(each.labels, dataset)) for each in experiments]
                for writer, block in zip(writers, kept(labellers, shard, progress.update), strict=True):
                    if shard in writer.missing():
                        writer.commit(shard, block, 0.0)
        for writer in writers:
            if not writer.sealed:
                writer.seal({})
    return [LabelCache.open(each.cache.path) for each in experiments]


def kept(labellers: list[Labeller], shard: Shard, progress: Callable[[int], object]) -> list[Block]:
    """What each keeps of a shard."""
    parts: list[list[Block]] = [[] for _ in labellers]
    for cut in cuts([shard], labellers[0].batch_size):
        batch = labellers[0].load(cut.start, cut.stop)
        for part, labeller in zip(parts, labellers, strict=True):
            part.append(labeller.label(batch))
        progress(cut.stop - cut.start)
    return [{name: np.concatenate([block[name] for block in part]) for name in part[0]} for part in parts]


def trained(name: str, experiment: Experiment, caches: dict[str, LabelCache], tested: LabelCache, seed: int) -> Metrics:
    """The metrics of a student that is told in one of the ways."""
    kind, loss = WAYS[name]
    dataset, student = open_views(experiment), experiment.students["distilled"].model_copy(update={"seed": seed})
    test = held_out(experiment, dataset.classes)
    assert test is not None
    make = partial(build, student.model, student.options, dataset.input_shape, dataset.classes or 0)
    folder = Path("runs/smollm2") / name.translate(str.maketrans(" ", "-", ",")) / f"seed-{seed}"
    identity = {"way": name, **student.model_dump(mode="json")}
    run = Run(folder, folder / "student.safetensors", identity, "", student, experiment.views, seed)
    if metrics := finished(run):
        return metrics
    lesson = Lesson(make, loss, soft=kind is not None, test=open_views(test), test_cache=tested)
    reader = Reader(dataset, caches[kind] if kind else None)
    with bar(f"{name}, seed {seed}", student.epochs * len(dataset)) as progress:
        (metrics,) = teach([(run, lesson)], reader, Watch(lambda: False, progress.update))
    assert metrics is not None
    return metrics


@click.command(help=__doc__)
@click.option("--seeds", default=1, show_default=True)
def main(seeds: int) -> None:
    """Ask and train what is not done yet, print and keep."""
    experiments = [load(CONFIG, changes) for changes in KEPT.values()]
    caches = dict(zip(KEPT, ask(experiments), strict=True))
    test = held_out(experiments[0], None)
    assert test is not None
    (tested,) = ask([test])
    rows = []
    for kind, cache in caches.items():
        assert cache.seal is not None
        positions = cache.layout.rows * experiments[0].dataset.length  # type: ignore[union-attr]
        rows.append(Row(f"bytes a token, {kind}", cache.seal.bytes / positions, "bytes"))
    for name in WAYS:
        runs = [trained(name, experiments[0], caches, tested, seed) for seed in range(seeds)]
        for key, unit in (("cross_entropy", "nats"), ("ece", ""), ("agreement", ""), ("accepted", "")):
            values = [run[f"test_{key}"] for run in runs]
            rows.append(Row(f"{name}: {key}", mean(values), unit, spread=(min(values), max(values))))
    publish("language", rows, keep=True)


if __name__ == "__main__":
    main()
