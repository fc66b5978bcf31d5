"""Make students' first weights of their teacher's, once, beside the teacher; stage two loads the files."""

from collections.abc import Sequence

from pipeline.config import Experiment, Student
from pipeline.errors import ConfigError
from pipeline.models import build
from pipeline.seeding.files import write_seed
from pipeline.seeding.making import Anatomy, Seed, seed
from pipeline.seeding.settings import Seeding
from pipeline.sources import open_views
from pipeline.teachers import load_teacher
from pipeline.views import Viewed
from pipeline.weights import file_digest
from stages.report import Report, counted, table

HEADER = ("student's tensor", "of the teacher's", "layers", "kept by norm")


def seed_students(experiment: Experiment, names: Sequence[str], *, restart: bool) -> Report:
    """Write the first weights of the named students, or of all that are to begin from their teacher's.

    Raises:
        ConfigError: no such student, one without `seeded`, or one that cannot be made of the teacher.
        TeacherError: the teacher's checkpoint is missing or does not fit.
        MismatchError: another file is where one is to be written.

    """
    chosen, teacher = _chosen(experiment, names), experiment.teacher
    if teacher.members:
        raise ConfigError(
            f"The teacher is a mixture of {len(teacher.members)} networks, and a student is made of one. Write the "
            "first weights with an experiment that has that one as [teacher], and name the same file here."
        )
    dataset = open_views(experiment)
    on_cpu = teacher.model_copy(update={"device": "cpu"})
    network = load_teacher(on_cpu, experiment.views, dataset.input_shape, dataset.classes or 0).network
    anatomy, digest = Anatomy.of(network), file_digest(teacher.checkpoint)
    # All are made before one is written.
    seeds = {name: _made(experiment.students[name], anatomy, settings, dataset) for name, settings in chosen.items()}
    reports = []
    for name, settings in chosen.items():
        written = write_seed(seeds[name], settings, digest, restart=restart)
        reports.append(_report(name, settings, seeds[name], written=written))
    facts = {name: report.facts for name, report in zip(chosen, reports, strict=True)}
    return Report({"students": facts}, "\n\n".join(report.text for report in reports))


def _chosen(experiment: Experiment, names: Sequence[str]) -> dict[str, Seeding]:
    experiment.refuse_unknown(names)
    students = experiment.students
    found = {name: students[name].seeded for name in names or students}
    seeded = {name: settings for name, settings in found.items() if settings is not None}
    missing = [name for name in names if name not in seeded] or ([] if seeded else ["NAME"])
    if missing:
        raise ConfigError(
            f"[students.{missing[0]}.seeded] is not there to say where first weights made of the teacher's go. Add "
            f'that table with checkpoint = "checkpoints/{missing[0]}-seed.safetensors".'
        )
    return seeded


def _made(student: Student, teacher: Anatomy, settings: Seeding, dataset: Viewed) -> Seed:
    network = build(student.model, student.options, dataset.input_shape, dataset.classes or 0)
    return seed(teacher, Anatomy.of(network), settings.layers)


def _report(name: str, settings: Seeding, made: Seed, *, written: bool) -> Report:
    kept = {axis: f"{len(stay.units)} of {stay.of} ({axis})" for axis, stay in made.kept.items()}
    rows = [
        (each.tensor, " + ".join(each.of), each.rule, ", ".join(kept[axis] for axis in each.sliced) or "all")
        for each in made.made
    ]
    title = "made of its teacher's" if written else "there already, made of its teacher's"
    weights = counted(sum(tensor.numel() for tensor in made.state.values()), "number")
    text = f"{table(HEADER, rows)}\n\nThe first weights of {name} are {title}: {settings.checkpoint} ({weights})."
    facts = {"checkpoint": str(settings.checkpoint), "written": written, "layers": settings.layers}
    return Report({**facts, "widths": settings.widths, **made.facts()}, text)
