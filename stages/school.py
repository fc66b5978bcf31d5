"""What the students of an experiment share, and what becomes of one there: its runs and its lesson."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import Experiment, Student, dump
from pipeline.course import Entry
from pipeline.datasets import Dataset
from pipeline.evaluation import measurable
from pipeline.hearing import clustered, hears, identity, listening, refuse_unheard
from pipeline.job import VIEWS, seen
from pipeline.lesson import Lesson
from pipeline.models import build
from pipeline.objective import Objective, objective
from pipeline.ranks import Ranks
from pipeline.reader import Reader, few_labels
from pipeline.runs import Run
from pipeline.seeding.files import begin, seed_identity
from pipeline.store.mapped import LabelCache
from pipeline.views import Viewed

LEFT_OUT = {"device", "repeats", "baseline", "also", "mixture", "finetune", "seeded", "cache", *VIEWS}
"""Of a student: what decides no run, or is told apart."""


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
            self.voices[key] = (
                listening(student, self.reader, self.experiment.cache.copies)
                if student.cache is None
                else clustered(f"students.{name}", student, self.experiment, self.dataset)
            )
        refuse_unheard(f"students.{name}", student, self.voices[key])
        return self.voices[key]

    def entries(self, name: str, student: Student) -> list[Entry]:
        """Each repeat of a student: its run, and what it learns.

        Raises:
            ConfigError: what there is cannot serve its loss, or it wants to see what there is not.

        """
        told = objective(student.terms, self.hearing(name, student), self.ranks.world)
        seeds = range(student.seed, student.seed + student.repeats)
        return [(self._run(name, student, seed, told), self._lesson(name, student, seed, told)) for seed in seeds]

    def read(self, lessons: Sequence[Lesson]) -> Reader:
        """Of what students that are taught together need: the cache too, if one of them hears the teacher."""
        heard = [self.voices[lesson.hears] for lesson in lessons if lesson.soft]
        return heard[0] if heard else Reader(self.dataset)

    def _run(self, name: str, student: Student, seed: int, told: Objective) -> Run:
        cache = self.hearing(name, student).cache
        alone = student.model_copy(update={"seed": seed, "repeats": 1, "baseline": None})
        decides: dict[str, Any] = {
            **alone.model_dump(mode="json", exclude=LEFT_OUT),
            **seed_identity(name, student),
            **identity(self.hearing(name, student)),
            **seen(self.experiment.views, student),
            **self.contents,
            "cache_id": cache.id_of(student.views) if student.soft and cache else None,
            "shard_rows": cache.layout.shard_rows if student.window and cache else None,
            **told.identity,
            **({"test_cache_id": self.test_cache.cache_id} if self.test_cache and student.cache is None else {}),
        }
        folder = self.runs / name / f"seed-{seed}"
        facts = {
            "cache_id": decides["cache_id"],
            "teacher": cache.seal.about if student.soft and not student.cache and cache and cache.seal else None,
            "seed": seed,
            "versions": {name: version(name) for name in ("softlabels", "torch", "numpy", "zarr")},
        }
        config = alone_in(self.experiment, name, alone.model_copy(update={"finetune": None}))
        views = self.experiment.views
        return Run(folder, folder / "student.safetensors", decides, config, alone, views, seed, facts)

    def _lesson(self, name: str, student: Student, seed: int, told: Objective) -> Lesson:
        reader = self.hearing(name, student)
        dataset, visible = reader.dataset, None
        if student.true_labels is not None:
            labels = np.full(len(dataset), -1) if dataset.labels is None else dataset.labels
            visible = few_labels(labels, student.true_labels, seed)

        def network() -> torch.nn.Module:
            return begin(build(student.model, student.options, dataset.input_shape, dataset.classes or 0), student)

        windows = reader.windows(student.window) if student.window else None
        views = reader.views(student)
        tested = (self.test, self.test_cache) if student.cache is None else (measurable(self.test), None)
        inside, heard = (student.hints, student.gradients), hears(student)
        of_clusters = student.cache is not None
        return Lesson(network, told, student.soft, *tested, visible, windows, views, *inside, heard, of_clusters)


def alone_in(experiment: Experiment, name: str, student: Student) -> str:
    """The experiment with one student in it, as TOML."""
    return dump(experiment.model_copy(update={"students": {name: student}}))


def features_for(students: Iterable[Student]) -> dict[str, int]:
    """The features that students are told of, and of how many other samples the most demanding of them asks for."""
    most: dict[str, int] = {}
    for hint in (hint for student in students for hint in student.hints):
        most[hint.feature] = max(most.get(hint.feature, 0), hint.negatives if hint.contrasts else 0)
    return most
