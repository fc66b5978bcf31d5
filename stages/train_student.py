"""Stage two: train students from the label cache, without the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline import encodings
from pipeline.config import Experiment, Student, dump
from pipeline.datasets import Dataset
from pipeline.errors import ConfigError
from pipeline.job import check_made_for, content_of
from pipeline.labels import SoftLabels
from pipeline.losses import LOSSES, Loss
from pipeline.models import build
from pipeline.reader import Reader, few_labels, label_spec
from pipeline.runs import Lesson, Metrics, Run, Watch, finished, train
from pipeline.store.mapped import LabelCache
from stages.bars import bar
from stages.comparison import compare
from stages.report import Report
from stages.signals import stop_on_signals
from stages.sources import open_source, open_test


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
    losses = {name: _loss_of(name, experiment.students[name]) for name in chosen}
    dataset = open_source(experiment.dataset)
    needed = any(loss.needs_soft_labels for loss in losses.values())
    cache = LabelCache.open(experiment.cache.path) if needed else None
    if cache is not None:
        check_made_for(cache.job, experiment, dataset)
        for name in chosen:
            losses[name].check(encodings.temperatures(label_spec(cache)), experiment.students[name].temperature)
    test = open_test(experiment, dataset)
    contents = {
        "dataset": content_of(experiment.dataset, dataset),
        "test": content_of(experiment.test, test) if experiment.test and test else None,
    }
    school = School(experiment, dataset, test, contents, cache, runs)
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
    baselines = [known[name].baseline for name in wanted]
    return list(dict.fromkeys([*(name for name in baselines if name), *wanted]))


def _loss_of(name: str, student: Student) -> Loss:
    if student.loss not in LOSSES:
        raise ConfigError(f"students.{name}.loss: found {student.loss!r}, expected one of {', '.join(LOSSES)}.")
    return LOSSES[student.loss]


def _train_all(school: School, students: dict[str, Student], *, restart: bool) -> dict[str, list[Metrics]]:
    runs = {name: [_run(school, name, student, seed) for seed in _seeds(student)] for name, student in students.items()}
    results: dict[str, list[Metrics]] = {name: [] for name in students}
    total = sum(run.settings.epochs * len(school.dataset) for each in runs.values() for run in each)
    with stop_on_signals() as stop, bar("students", total) as progress:
        for name, run in ((name, run) for name, each in runs.items() for run in each):
            if restart:
                run.clear()
            metrics = finished(run)
            if metrics:
                progress.update(run.settings.epochs * len(school.dataset))
            else:
                metrics = _train_one(school, students[name], run, Watch(stop, lambda rows, _: progress.update(rows)))
            if metrics is None:
                raise stop.error(f"The runs that are done and the last whole epoch of {run.folder} are kept.")
            results[name].append(metrics)
    return results


def _seeds(student: Student) -> range:
    return range(student.seed, student.seed + student.repeats)


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


def _train_one(school: School, student: Student, run: Run, watch: Watch) -> Metrics | None:
    loss, dataset = LOSSES[student.loss], school.dataset
    visible = dataset.labels
    if student.true_labels is not None and visible is not None:
        visible = few_labels(visible, student.true_labels, run.seed)

    def network() -> torch.nn.Module:
        return build(student.model, student.options, dataset.input_shape, dataset.classes or 0)

    def told(logits_NC: torch.Tensor, labels_N: torch.Tensor, soft: SoftLabels | None) -> torch.Tensor:
        return loss.function(logits_NC, labels_N, soft, student.temperature, student.alpha)

    reader = Reader(dataset, school.cache if loss.needs_soft_labels else None, visible)
    facts = {
        "cache_id": run.identity["cache_id"],
        "seed": run.seed,
        "true_labels": int((reader.labels_N >= 0).sum()),
        "soft_labels": len(reader) if loss.needs_soft_labels else 0,
        "versions": {name: version(name) for name in ("softlabels", "torch", "numpy", "zarr")},
    }
    return train(run, Lesson(network, reader, told, school.test), facts, watch)
