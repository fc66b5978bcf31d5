"""The second course of students: from the weights that distillation left, more epochs on true labels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from pipeline.config import Experiment, Student
from pipeline.course import Entry, rehearse
from pipeline.datasets import Dataset
from pipeline.errors import DatasetError
from pipeline.lesson import Lesson
from pipeline.reader import Reader
from pipeline.runs import Metrics, Run, finished
from pipeline.sources import contents, open_more
from pipeline.views import Viewed, viewed
from pipeline.weights import fit_state, load_state
from stages.school import School, alone_in

FOLDER = "finetuned"


@dataclass(frozen=True)
class Second:
    """The second course of one student, in all its repeats; each is a run of its own, beside that of the first."""

    name: str
    experiment: Experiment  # with the student as it is in its first course
    student: Student  # as it is in its second
    school: School

    @property
    def label(self) -> str:
        """Its line in the table."""
        return f"{self.name} + finetune"

    @property
    def rows(self) -> int:
        """How many rows it is shown in one repeat."""
        return self.student.epochs * len(self.school.dataset)

    def plain(self) -> list[Entry]:
        """Its runs, as far as they are known before the first course has ended."""
        return [(self._beside(run, None), lesson) for run, lesson in self.school.entries(self.name, self.student)]

    def entries(self, first: Mapping[Path, Metrics | None]) -> list[Entry]:
        """Those of its runs whose first course has ended, given the metrics by their folders."""
        found: list[Entry] = []
        for run, lesson in self.school.entries(self.name, self.student):
            if metrics := first.get(run.folder):
                taught = replace(lesson, build=partial(_begun, lesson, run.weights))
                found.append((self._beside(run, metrics), taught))
        return found

    def finished(self, first: Mapping[Path, Metrics | None]) -> dict[Path, Metrics | None]:
        """The metrics of its runs whose first course has ended, given those of the first; None of one to be done.

        Raises:
            MismatchError: a folder holds another run, such as one from other weights.

        """
        return {run.folder: finished(run) for run, _ in self.entries(first)}

    def rehearse(self) -> None:
        """Refuse what would be refused once the first course has ended; raises as `pipeline.course.rehearse`."""
        rehearse(self.plain()[:1], self.school.reader)

    def _beside(self, run: Run, first: Metrics | None) -> Run:
        """The run of the second course, where `run` is that of the first."""
        folder = run.folder.parent / FOLDER / run.folder.name
        origin = {} if first is None else {"distilled_sha256": first["weights_sha256"]}
        whole = self.experiment.students[self.name]
        alone = whole.model_copy(update={"seed": run.seed, "repeats": 1, "baseline": None})
        return replace(
            run,
            folder=folder,
            weights=folder / run.weights.name,
            identity={**run.identity, **origin},
            config=alone_in(self.experiment, self.name, alone),
        )


def second_courses(school: School, students: Mapping[str, Student]) -> list[Second]:
    """Those of the students that have one; what can be refused of them is refused here, before the first course.

    Raises:
        ConfigError: a transform does not fit the samples of a second course.
        DatasetError: they have no true labels, or another shape, other classes or another tokenizer.

    """
    unmixed = school.experiment.views.model_copy(update={"mix": None})
    experiment, found = school.experiment.model_copy(update={"views": unmixed}), []
    for name, student in students.items():
        if student.finetune is not None:
            own = _school(f"students.{name}.finetune", student, experiment, school)
            found.append(Second(name, school.experiment, student.finetuned, own))
    return found


def _school(key: str, student: Student, experiment: Experiment, school: School) -> School:
    """Where a student is taught in its second course: there is no cache there, and samples may be others."""
    assert student.finetune is not None, "it has a second course"
    source, dataset = student.finetune.dataset, school.dataset
    if source is not None:
        dataset = open_more(f"{key}.dataset", source, experiment, dataset)
        experiment = experiment.model_copy(update={"dataset": source})
    elif school.experiment.views.mix is not None:
        dataset = Viewed(dataset.dataset, experiment.views)
    _refuse_unlabelled(key, dataset)
    known = school.contents if source is None else contents(experiment, dataset, school.test)
    reader = Reader(dataset)
    return replace(school, experiment=experiment, dataset=dataset, contents=known, reader=reader, voices={})


def _refuse_unlabelled(key: str, dataset: Dataset) -> None:
    labels = dataset.labels
    if viewed(dataset).positions is None and (labels is None or (labels < 0).all()):
        raise DatasetError(
            f"{key}: this course is of true labels, and its samples have none. Name others in {key}.dataset, or leave "
            "the table out."
        )


def _begun(lesson: Lesson, weights: Path) -> torch.nn.Module:
    """The network, with what it knows."""
    network = lesson.build()
    fit_state(network, load_state(weights), weights)
    return network
