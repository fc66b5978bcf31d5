"""`[views] preprocessing = "teacher"`: what a teacher's library says of its images, as plain numbers.

They are filled in once, when an experiment is read, so that the job of a cache records them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydantic import ValidationError

from pipeline.config import Experiment, Student
from pipeline.errors import ConfigError
from pipeline.hubs import timm, torchvision, transformers
from pipeline.hubs.contract import Preprocessing
from pipeline.kinds import Source

__all__ = ["READERS", "Preprocessing", "preprocessing_of", "resolved"]

READERS: Mapping[str, Callable[[str, Mapping[str, object]], Preprocessing]] = MappingProxyType(
    {
        "timm": timm.preprocessing,
        "torchvision": torchvision.preprocessing,
        "transformers": transformers.preprocessing,
    }
)


def preprocessing_of(model: str, options: Mapping[str, object]) -> Preprocessing:
    """How a model of a library wants its images.

    Raises:
        ConfigError: it is of no library, the library cannot be loaded, or it does not say.

    """
    prefix, _, name = model.partition(":")
    if ":" not in model or prefix not in READERS:
        raise ConfigError(
            f'views.preprocessing = "teacher": the teacher {model!r} is of no library that says how its images are '
            f"made; these do: {', '.join(READERS)}. Leave views.preprocessing out, and set views.mean and views.std."
        )
    return READERS[prefix](name, options)


def resolved(experiment: Experiment) -> Experiment:
    """The experiment with numbers in the place of `preprocessing`.

    The mean and std of its views are the teacher's; so are size, crop and interpolation of datasets that have these
    keys and leave them out, those of a student's finetune too.

    Raises:
        ConfigError: the teacher's library does not say them, or what it says cannot be done here.

    """
    if experiment.views.preprocessing is None:
        return experiment
    found = preprocessing_of(experiment.teacher.model, experiment.teacher.options)
    views = experiment.views.model_copy(update={"preprocessing": None, "mean": found.mean, "std": found.std})
    sources = {"dataset": _filled("dataset", experiment.dataset, found)}
    if experiment.test is not None:
        sources["test"] = _filled("test", experiment.test, found)
    students = {name: _finetuned(name, student, found) for name, student in experiment.students.items()}
    return experiment.model_copy(update={"views": views, "students": students, **sources})


def _finetuned(name: str, student: Student, found: Preprocessing) -> Student:
    """A student, with what its finetune's own dataset leaves out."""
    if student.finetune is None or student.finetune.dataset is None:
        return student
    source = _filled(f"students.{name}.finetune.dataset", student.finetune.dataset, found)
    return student.model_copy(update={"finetune": student.finetune.model_copy(update={"dataset": source})})


def _filled(table: str, source: Source, found: Preprocessing) -> Source:
    said = {"size": found.size, "crop": found.crop, "interpolation": found.interpolation}
    missing = {key: value for key, value in said.items() if _leaves_out(source, key)}
    if missing.get("crop", 1.0) is None:
        raise ConfigError(
            f"{table}.crop: the teacher's own inputs are no square cut from the middle of an image (its library may "
            f"squeeze all of it into {found.size} x {found.size} pixels), and no dataset here makes them so. Say "
            f"{table}.crop yourself: 1.0 is the largest square."
        )
    return _refilled(table, source, missing) if missing else source


def _refilled(table: str, source: Source, missing: Mapping[str, object]) -> Source:
    try:
        return type(source).model_validate({**source.model_dump(), **missing})
    except ValidationError as error:
        detail = error.errors()[0]
        key = str(detail["loc"][0])
        raise ConfigError(
            f"{table}.{key}: the teacher's library says {missing.get(key)!r}, which this kind of dataset does not take "
            f"({detail['msg']}). Say {table}.{key} yourself."
        ) from None


def _leaves_out(source: Source, key: str) -> bool:
    if key not in type(source).model_fields:
        return False
    return key not in source.model_fields_set or getattr(source, key) is None
