"""What is wrong with an experiment file, in words: the key, what was found, what was expected, the nearest key."""

import difflib
from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic_core import ErrorDetails

from pipeline.kinds import SOURCES
from pipeline.schedules import Ramp
from pipeline.settings import Settings
from pipeline.terms import TERMS

SAMPLES = ("dataset", "test")  # tables of a kind each


def explained(experiment: type[Settings], detail: ErrorDetails) -> str:
    """One sentence or two about one thing that is wrong."""
    loc = detail["loc"]
    path = [str(part) for place, part in enumerate(loc) if part != "[key]" and not _is_tag(loc, place)]
    key, found = ".".join(path), detail.get("input")
    match detail["type"]:
        case "extra_forbidden":
            known = sorted(_known_keys(experiment, loc[:-1]))
            near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}."
            return f"unknown key {key}: {hint}"
        case "missing":
            return f"the key {key} is missing; it is needed."
        case "union_tag_invalid" | "union_tag_not_found":
            return _unknown_kind(key, found, *(("kind", SOURCES) if loc[-1] in SAMPLES else ("name", TERMS)))
        case "value_error":
            return f"{key + ': ' if key else ''}{detail['msg'].removeprefix('Value error, ')}."
    said = detail["msg"].removeprefix("Input should be ").replace("String should", "a string that should")
    expected = _IN_TOML.get(detail["type"], said)
    return f"{key}: found {found!r} ({type(found).__name__}), expected {expected}."


def _unknown_kind(key: str, found: object, tag: str, known: Mapping[str, type[Settings]]) -> str:
    """Of a dataset, or of a term of a loss."""
    kind = found.get(tag) if isinstance(found, Mapping) else found
    near = difflib.get_close_matches(str(kind), sorted(known), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    own = ", or your own package.module:callable" if "own" in known else ""
    kinds = ", ".join(name for name in sorted(known) if name != "own")
    return f"{key}.{tag}: found {kind!r}, expected one of {kinds}{own}.{hint}"


_IN_TOML = {
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "is_instance_of": "a path, in quotes",
    "tuple_type": "a list",
}
_RAMPS = {"ramp": Ramp}


def _known_keys(experiment: type[Settings], loc: tuple[int | str, ...]) -> Iterator[str]:
    """The keys of the table at a place in the experiment; a union's tag and a student's name are steps on the way."""
    model = experiment
    for place, part in enumerate(map(str, loc)):
        if _is_tag(loc, place):
            model = SOURCES.get(part) or TERMS.get(part) or _RAMPS.get(part) or model
        elif (field := model.model_fields.get(part)) is not None:
            models = [m for m in (field.annotation, *get_args(field.annotation)) if _is_settings(m)]
            model = models[0] if models else model
    yield from model.model_fields


def _is_tag(loc: tuple[int | str, ...], place: int) -> bool:
    """Whether this step of a place is a kind of dataset or of loss, and no key: a student may be named like one."""
    if loc[0] == "students":  # students.NAME.loss and students.NAME.finetune.loss
        inside = 3 if loc[2:3] == ("finetune",) else 2
        loc, place = loc[inside:], place - inside
    if loc[:1] == ("loss",):  # loss.(name|sum).0.(hard|kd|...).weight.(number|ramp)
        return place in (1, 3, 5)
    return place == 1 and loc[0] in (*SAMPLES, "temperature")


def _is_settings(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)
