"""Stage two: train students from the label cache, without the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import encodings
from pipeline.config import Experiment, Student, dump
from pipeline.datasets import Dataset
from pipeline.errors import ConfigError
from pipeline.job import check_made_for
from pipeline.labels import SoftLabels
from pipeline.losses import LOSSES, named
from pipeline.models import build
from pipeline.reader import Reader, few_labels, label_spec
from pipeline.runs import Lesson, Metrics, Run, Watch, finished, train
from pipeline.store.mapped import LabelCache
from stages.bars import bar
from stages.comparison import compare
from stages.report import Report
from stages.signals import stop_on_signals
from stages.sources import contents, open_source, open_test


@dataclass(frozen=True)
class School:
    """What all students of an experiment share."""

    experiment: Experiment
    dataset: Dataset
    test: Dataset | None
    contents: dict[str, str | None]
    cache: LabelCache | None
    runs: Path


def train_students(experiment: Experiment, names: Sequence[str], runs: Path, *, restart: bool) -> Report:
    """Train the named students (all, if none is named) and their baselines; those that are done are not done again.

    Raises:
        ConfigError: an unknown student or loss, or a temperature that the cache cannot serve.
        IncompleteError: the cache has no seal.
        MismatchError: the cache was made for another experiment, or a run folder holds another run.
        StoppedError: asked to stop; the last whole epoch is kept.

    """
    chosen = _with_baselines(experiment, names)
    losses = {name: named(f"students.{name}.loss", experiment.students[name].loss) for name in chosen}
    dataset = open_source(experiment.dataset)
    needed = any(loss.needs_soft_labels for loss in losses.values())
    cache = LabelCache.open(experiment.cache.path) if needed else None
    if cache is not None:
        check_made_for(cache.job, experiment, dataset)
        for name in chosen:
            losses[name].check(encodings.temperatures(label_spec(cache)), experiment.students[name].temperature)
    test = open_test(experiment, dataset)
    school = School(experiment, dataset, test, contents(experiment, dataset, test), cache, runs)
    results = _train_all(school, {name: experiment.students[name] for name in chosen}, restart=restart)
    return compare(results, cache, len(test or ()), runs)


def _with_baselines(experiment: Experiment, names: Sequence[str]) -> list[str]:
    known = experiment.students
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--student {name}: there is no such student. This experiment has {', '.join(known) or 'none'}."
            )
    wanted = names or tuple(known)
    if not wanted:
        raise ConfigError("This experiment has no students. Add a table [students.NAME] with model, loss and epochs.")
    return list(dict.fromkeys([*filter(None, (known[name].baseline for name in wanted)), *wanted]))


def _train_all(school: School, students: dict[str, Student], *, restart: bool) -> dict[str, list[Metrics]]:
    runs = [
        (name, _run(school, name, student, seed))
        for name, student in students.items()
        for seed in range(student.seed, student.seed + student.repeats)
    ]
    # What can be refused is refused before the first of them has trained for hours.
    lessons = [_lesson(school, students[name], run.seed) for name, run in runs]
    for _, run in runs:
        if restart:
            run.clear()
        finished(run)
    results: dict[str, list[Metrics]] = {name: [] for name in students}
    total = sum(run.settings.epochs for _, run in runs) * len(school.dataset)
    with stop_on_signals() as stop, bar("students", total) as progress:
        watch = Watch(stop, lambda rows, _: progress.update(rows))
        for (name, run), lesson in zip(runs, lessons, strict=True):
            if metrics := finished(run):
                progress.update(run.settings.epochs * len(school.dataset))
            else:
                metrics = train(run, lesson, _facts(run), watch)
            if metrics is None:
                kept = f"The runs that are done and the last whole epoch of {run.folder} are kept."
                raise stop.error(kept, restart=restart)
            results[name].append(metrics)
    return results


def _run(school: School, name: str, student: Student, seed: int) -> Run:
    soft = LOSSES[student.loss].needs_soft_labels
    alone = student.model_copy(update={"seed": seed, "repeats": 1, "baseline": None})
    identity: dict[str, Any] = {
        **alone.model_dump(mode="json", exclude={"device", "repeats", "baseline"}),
        "mean": school.experiment.views.mean,
        "std": school.experiment.views.std,
        **school.contents,
        "cache_id": school.cache.cache_id if soft and school.cache else None,
    }
    folder = school.runs / name / f"seed-{seed}"
    config = dump(school.experiment.model_copy(update={"students": {name: alone}}))
    return Run(folder, folder / "student.safetensors", identity, config, alone, school.experiment.views, seed)


def _lesson(school: School, student: Student, seed: int) -> Lesson:
    loss, dataset = LOSSES[student.loss], school.dataset
    visible = dataset.labels
    if student.true_labels is not None:
        visible = few_labels(np.full(len(dataset), -1) if visible is None else visible, student.true_labels, seed)

    def network() -> torch.nn.Module:
        return build(student.model, student.options, dataset.input_shape, dataset.classes or 0)

    def told(logits_NC: torch.Tensor, labels_N: torch.Tensor, soft: SoftLabels | None) -> torch.Tensor:
        return loss.function(logits_NC, labels_N, soft, student.temperature, student.alpha)

    reader = Reader(dataset, school.cache if loss.needs_soft_labels else None, visible)
    return Lesson(network, reader, told, school.test)


def _facts(run: Run) -> dict[str, Any]:
    """What is kept with the metrics of a run."""
    return {
        "cache_id": run.identity["cache_id"],
        "seed": run.seed,
        "versions": {name: version(name) for name in ("softlabels", "torch", "numpy", "zarr")},
    }
