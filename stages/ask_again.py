"""Check a label cache, and ask its teacher again about some of its rows."""

from dataclasses import asdict, replace
from pathlib import Path

from pipeline.audit import Answers, ask_again
from pipeline.config import Experiment
from pipeline.job import job_of, known_spec
from pipeline.reader import Reader
from pipeline.sources import open_own, open_views
from pipeline.store.mapped import LabelCache
from pipeline.store.state import refuse_other_job
from stages.bars import bar
from stages.report import Report, counted
from stages.soft_labels import teacher_of
from stages.verify_cache import verify

MISMATCH = 5
NAMED = 5


UNASKED = " Of its features and gradients, which this cache has too, it was not asked again."


def ask_teacher_again(path: Path | str, experiment: Experiment, rows: int, seed: int) -> Report:
    """`verify`; and if all is whole, what the experiment's teacher says again of some rows. Exit code 5 if otherwise.

    Raises:
        IncompleteError: the cache has no seal.
        MismatchError: the cache is of another job than the experiment's, or an input is not the one the teacher saw.
        TeacherError: the teacher cannot be loaded, or fails.

    """
    cache = LabelCache.open(path, settings=experiment.cache.copies)
    dataset = open_views(experiment, open_own(experiment, path))
    spec = known_spec(experiment, dataset, cache.job)
    refuse_other_job(path, cache.job, job_of(experiment, dataset, spec))
    report = verify(path)
    if report.exit_code:
        return report
    teacher = teacher_of(experiment, dataset)
    reader = Reader(dataset, cache)
    with bar("ask again", min(rows, reader.cached)) as progress:
        answers = ask_again(reader, teacher, rows, seed, progress.update)
    facts = report.facts | {"teacher": {**asdict(answers), "agreement": answers.agreeing / answers.known}}
    return replace(
        report,
        facts=facts,
        text=f"{report.text}\n{_answered(answers)}{UNASKED if spec.kept else ''}",
        exit_code=MISMATCH if answers.strangers else 0,
    )


def _answered(answers: Answers) -> str:
    said = (
        f"The teacher, asked again about {counted(answers.known, 'row')}: the same best class in "
        f"{answers.agreeing / answers.known:.2%}; |log p| of stored classes differs by at most "
        f"{answers.difference:.2g}; the encoding states up to {answers.stated:.2g}, and {answers.allowed:.2g} "
        "with the arithmetic of asking twice."
    )
    if not answers.strangers:
        return said
    named = ", ".join(map(str, answers.strangers[:NAMED])) + (", …" if len(answers.strangers) > NAMED else "")
    return (
        f"{said}\nThat is more than encoding and arithmetic explain for {counted(len(answers.strangers), 'sample')} "
        f"(ids {named}): the cache holds another teacher's labels, though its checkpoint is the same. Has the code of "
        "its model changed? Put it back, or make a new cache."
    )
