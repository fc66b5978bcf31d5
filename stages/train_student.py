"""Stage two: train students from the label cache, without the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import Experiment, Student, dump
from pipeline.course import Lesson, Watch, classes, rehearse, teach
from pipeline.datasets import Dataset
from pipeline.hearing import hears, identity, listening, refuse_unheard
from pipeline.job import VIEWS, check_made_for, seen
from pipeline.models import build
from pipeline.objective import Objective, objective
from pipeline.ranks import Ranks, joined
from pipeline.reader import Reader, few_labels
from pipeline.runs import Metrics, Run, finished
from pipeline.sources import contents, open_test, open_test_cache, open_views, readers
from pipeline.store.mapped import LabelCache
from pipeline.views import Viewed
from stages.bars import bar
from stages.comparison import compare
from stages.report import Report
from stages.signals import stop_on_signals


@dataclass(frozen=True)
class School:
    """What all students of an experiment share."""

    experiment: Experiment
    dataset: Viewed
    test: Dataset | None
    test_cache: LabelCache | None
    contents: dict[str, str | None]
    reader: Reader  # with the cache, if any student needs it
    runs: Path
    ranks: Ranks
    voices: dict[object, Reader] = field(default_factory=dict)  # by who hears what

    def hearing(self, name: str, student: Student) -> Reader:
        """A reader of what a student hears; ConfigError if that cannot serve its loss."""
        key = hears(student)
        if key not in self.voices:
            self.voices[key] = listening(student, self.reader, self.experiment.cache.copies)
        refuse_unheard(f"students.{name}", student, self.voices[key])
        return self.voices[key]


def train_students(experiment: Experiment, names: Sequence[str], runs: Path, *, restart: bool) -> Report:
    """Train the named students (all, if none is named) and their baselines; those that are done are not done again.

    Raises:
        ConfigError: an unknown student or loss, or a temperature that the cache cannot serve.
        IncompleteError: the cache has no seal.
        MismatchError: the cache was made for another experiment, or a run folder holds another run.
        StoppedError: asked to stop; every step is kept.

    """
    chosen = experiment.with_baselines(names)
    dataset = open_views(experiment)
    needed = any(experiment.students[name].needs_cache for name in chosen)
    cache = LabelCache.open(experiment.cache.path, settings=experiment.cache.copies) if needed else None
    if cache is not None:
        check_made_for(cache.job, experiment, dataset)
    test = open_test(experiment, dataset)
    answers, known = open_test_cache(experiment, test), contents(experiment, dataset, test)
    with joined() as ranks:
        school = School(experiment, dataset, test, answers, known, Reader(dataset, cache), runs, ranks)
        results = _train_all(school, {name: experiment.students[name] for name in chosen}, restart=restart)
    return compare(results, cache, len(test or ()), runs)


def _train_all(school: School, students: dict[str, Student], *, restart: bool) -> dict[str, list[Metrics]]:
    entries: list[tuple[Run, Lesson]] = []
    for name, student in students.items():
        told = objective(student.terms, school.hearing(name, student), school.ranks.world)
        seeds = range(student.seed, student.seed + student.repeats)
        entries += [(_run(school, name, student, seed, told), _lesson(school, student, seed, told)) for seed in seeds]
    # What can be refused is refused before the first of them has trained for hours.
    groups = classes(entries, school.dataset)
    if restart and school.ranks.leads:
        rehearse(entries, school.reader)
        for run, _ in entries:
            run.clear()
    school.ranks.wait()
    results = {run.folder: finished(run) for run, _ in entries}
    rows = {run.folder: run.settings.epochs * len(school.dataset) for run, _ in entries}
    done = sum(rows[folder] for folder, metrics in results.items() if metrics)
    with stop_on_signals() as stop, bar("students", sum(rows.values()), done) as progress:
        for group in groups:
            left = [(run, lesson) for run, lesson in group if not results[run.folder]]
            for (run, _), metrics in zip(left, _teach(school, left, Watch(stop, progress.update)), strict=True):
                if metrics is None:
                    raise stop.error(f"Every run in {school.runs} is kept, to the step.", restart=restart)
                results[run.folder] = metrics
    return {name: [m for folder, m in results.items() if m and folder.parent.name == name] for name in students}


def _teach(school: School, entries: list[tuple[Run, Lesson]], watch: Watch) -> list[Metrics | None]:
    """A class's walk over the dataset, with the cache if one of them hears the teacher."""
    if not entries:
        return []
    heard = [school.voices[lesson.hears] for _, lesson in entries if lesson.soft]
    reader = heard[0] if heard else Reader(school.dataset)
    return teach(entries, reader, watch, readers(school.experiment), school.ranks)


def _run(school: School, name: str, student: Student, seed: int, told: Objective) -> Run:
    cache, alone = school.reader.cache, student.model_copy(update={"seed": seed, "repeats": 1, "baseline": None})
    decides: dict[str, Any] = {
        **alone.model_dump(mode="json", exclude={"device", "repeats", "baseline", "also", "mixture", *VIEWS}),
        **identity(school.hearing(name, student)),
        **seen(school.experiment.views, student),
        **school.contents,
        "cache_id": cache.id_of(student.views) if student.soft and cache else None,
        "shard_rows": cache.layout.shard_rows if student.window and cache else None,
        **told.identity,
        **({"test_cache_id": school.test_cache.cache_id} if school.test_cache else {}),
    }
    folder = school.runs / name / f"seed-{seed}"
    config = dump(school.experiment.model_copy(update={"students": {name: alone}}))
    facts = {
        "cache_id": decides["cache_id"],
        "teacher": cache.seal.about if student.soft and cache and cache.seal else None,
        "seed": seed,
        "versions": {name: version(name) for name in ("softlabels", "torch", "numpy", "zarr")},
    }
    return Run(folder, folder / "student.safetensors", decides, config, alone, school.experiment.views, seed, facts)


def _lesson(school: School, student: Student, seed: int, told: Objective) -> Lesson:
    dataset, visible = school.dataset, None
    if student.true_labels is not None:
        labels = np.full(len(dataset), -1) if dataset.labels is None else dataset.labels
        visible = few_labels(labels, student.true_labels, seed)

    def network() -> torch.nn.Module:
        return build(student.model, student.options, dataset.input_shape, dataset.classes or 0)

    windows = school.reader.windows(student.window) if student.window else None
    views = school.reader.views(student)
    return Lesson(network, told, student.soft, school.test, school.test_cache, visible, windows, views, hears(student))
