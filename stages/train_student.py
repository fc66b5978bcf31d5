"""Stage two: train students from the label cache, without the teacher."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Experiment, Student
from pipeline.course import Entry, Watch, classes, rehearse, teach
from pipeline.job import check_made_for
from pipeline.ranks import joined
from pipeline.reader import Reader
from pipeline.runs import Metrics, finished
from pipeline.sources import as_in, contents, open_test, open_test_cache, open_views, readers
from pipeline.store.mapped import LabelCache
from stages.bars import bar
from stages.comparison import compare
from stages.finetune import second_courses
from stages.report import Report
from stages.school import School, features_for
from stages.signals import stop_on_signals


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
        check_made_for(cache.job, experiment, as_in(cache, dataset))
    test = open_test(experiment, dataset)
    answers, known = open_test_cache(experiment, test), contents(experiment, dataset, test)
    with joined() as ranks:
        students = {name: experiment.students[name] for name in chosen}
        slopes = any(student.gradients for student in students.values())
        reader = Reader(dataset, cache, features_for(students.values()), gradients=slopes)
        school = School(experiment, dataset, test, answers, known, reader, runs, ranks)
        results = _train_all(school, students, restart=restart)
    return compare(results, cache, len(test or ()), runs)


def _train_all(school: School, students: dict[str, Student], *, restart: bool) -> dict[str, list[Metrics]]:
    lines = {name: school.entries(name, student) for name, student in students.items()}
    first = [entry for each in lines.values() for entry in each]
    # What can be refused is refused before the first of them has trained for hours.
    seconds = second_courses(school, students)
    classes(first, school.dataset)
    if restart and school.ranks.leads:
        _rehearse(school, first)
        for second in seconds:
            second.rehearse()
        for run, _ in [*first, *(entry for second in seconds for entry in second.plain())]:
            run.clear()
    school.ranks.wait()
    results = {run.folder: finished(run) for run, _ in first}
    for second in seconds:
        results |= second.finished(results)
        if not all(results.get(run.folder) for run, _ in second.plain()):
            second.rehearse()
    rows = {run.folder: run.settings.epochs * len(school.dataset) for run, _ in first}
    rows |= {run.folder: second.rows for second in seconds for run, _ in second.plain()}
    done = sum(rows[folder] for folder, metrics in results.items() if metrics)
    with stop_on_signals() as stop, bar("students", sum(rows.values()), done) as progress:
        watch = Watch(stop, progress.update)
        going = _learn(school, first, results, watch)
        for second in seconds if going else ():
            results |= second.finished(results)
            going = going and _learn(second.school, second.entries(results), results, watch)
        if not going:
            raise stop.error(f"Every run in {school.runs} is kept, to the step.", restart=restart)
    told: dict[str, list[Metrics]] = {}
    for name, each in lines.items():
        further = {second.label: second.plain() for second in seconds if second.name == name}
        for label, entries in {name: each, **further}.items():
            told[label] = [metrics for run, _ in entries if (metrics := results[run.folder])]
    return told


def _rehearse(school: School, entries: Sequence[Entry]) -> None:
    """Refuse networks that cannot be built, or do not answer a sample of what they are to read."""
    for group in classes(entries, school.dataset):
        rehearse(group, school.read([lesson for _, lesson in group]))


def _learn(school: School, entries: Sequence[Entry], results: dict[Path, Metrics | None], watch: Watch) -> bool:
    """Teach those that are not done, class by class, and note what comes of them; False if asked to stop."""
    for group in classes(entries, school.dataset):
        left = [(run, lesson) for run, lesson in group if not results.get(run.folder)]
        if not left:
            continue
        # With the cache if one of them hears the teacher.
        reader = school.read([lesson for _, lesson in left])
        found = teach(left, reader, watch, readers(school.experiment), school.ranks)
        results |= {run.folder: metrics for (run, _), metrics in zip(left, found, strict=True)}
        if None in found:
            return False
    return True
