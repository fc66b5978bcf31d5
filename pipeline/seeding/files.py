"""The file of a student's first weights: safetensors, with the mapping that made them in its metadata.

`train` begins from it without the teacher. Not for weights from elsewhere: those say nothing of how they were made.
"""

import json

from torch import nn

from pipeline.config import Student
from pipeline.errors import MismatchError, TeacherError
from pipeline.seeding.making import Seed
from pipeline.seeding.settings import Seeding
from pipeline.store.files import make_directory
from pipeline.weights import file_digest, fit_state, load_state, note_in, save_state

NOTE = "softlabels_seed"


def write_seed(seed: Seed, settings: Seeding, teacher_sha256: str, *, restart: bool) -> bool:
    """Write the file, unless it is there already and says that it was made of the same, the same way.

    Returns:
        Whether it was written.

    Raises:
        MismatchError: there is another file in its place; with `restart`, one that no seeding made.

    """
    path = settings.checkpoint
    said = json.dumps({**_asked(settings), "teacher_sha256": teacher_sha256, **seed.facts()})
    found = note_in(path, NOTE)
    if found == json.loads(said):
        return False
    if path.exists() and (found is None or not restart):
        what = "first weights made of another teacher, or another way" if found else "what no seeding wrote"
        again = ", or make them anew with --restart" if found else ""
        raise MismatchError(
            f"{path} holds {what}. Nothing was changed. Name another place in students.NAME.seeded.checkpoint{again}."
        )
    make_directory(path.parent)
    save_state(path, seed.state, {NOTE: said})
    return True


def seed_identity(name: str, student: Student) -> dict[str, str]:
    """What stands for a student's first weights in the identity of its run; nothing, if they are drawn.

    Raises:
        TeacherError: the file is not there.
        MismatchError: it was made another way than the experiment says.

    """
    settings = student.seeded
    if settings is None:
        return {}
    if not settings.checkpoint.is_file():
        raise TeacherError(
            f"{settings.checkpoint}: the first weights of the student {name} are not there. Make them of its teacher's "
            f"with `softlabels seed-student CONFIG --student {name}`."
        )
    found = note_in(settings.checkpoint, NOTE) or {}
    asked = _asked(settings)
    if other := [key for key in asked if found.get(key) != asked[key]]:
        said = "; ".join(f"{key} was {found.get(key)!r} and is now {asked[key]!r}" for key in other)
        raise MismatchError(
            f"{settings.checkpoint} was made another way than students.{name}.seeded says: {said}. Make it anew with "
            f"`softlabels seed-student CONFIG --student {name} --restart`, or mend the experiment."
        )
    return {"seeded_sha256": file_digest(settings.checkpoint)}


def begin(network: nn.Module, student: Student) -> nn.Module:
    """The network with the first weights of a student, if it has a file of them; else as it is.

    Raises:
        TeacherError: they do not fit it.

    """
    if student.seeded is not None:
        fit_state(network, load_state(student.seeded.checkpoint), student.seeded.checkpoint)
    return network


def _asked(settings: Seeding) -> dict[str, str]:
    return {"layers": settings.layers, "widths": settings.widths}
