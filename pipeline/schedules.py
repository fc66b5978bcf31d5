"""Values that change over a run: a loss's weight or temperature, from one number to another.

A value is a function of the share of the run that is done and of nothing else, so a run that goes on from a checkpoint
has the values of one that never stopped. Not for the learning rate, whose schedule is `Training.schedule`.
"""

from collections.abc import Mapping
from math import cos, pi
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import Discriminator, PositiveFloat, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator

from pipeline.settings import Settings


class Progress(NamedTuple):
    """How much of a run is done: 0 at its first step and 1 at its last; 0 in its first epoch and 1 in its last."""

    steps: float = 0.0
    epochs: float = 0.0


BEGIN, END = Progress(), Progress(1.0, 1.0)


class Ramp(Settings):
    """A value that goes from one to another over a run, step by step or epoch by epoch; or one that stays."""

    start: float
    end: float
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    by: Literal["step", "epoch"] = "step"
    """By epoch, it is the same in all steps of an epoch."""

    @model_validator(mode="before")
    @classmethod
    def _stays(cls, value: object) -> object:
        if not isinstance(value, dict) or value.get("schedule") != "constant":
            return value
        if "start" in value and value.get("end", value["start"]) != value["start"]:
            raise ValueError(f"a constant stays at its start, {value['start']!r}, so leave out end = {value['end']!r}")
        return {"end": value.get("start"), **value}

    @model_serializer(mode="wrap")
    def _as_ever(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `by` where it is by step: what decides a run then reads as it did when there was nothing else."""
        table: dict[str, Any] = handler(self)
        return {name: value for name, value in table.items() if (name, value) != ("by", "step")}

    def at(self, share: float) -> float:
        """The value when a share of the run is done.

        >>> [Ramp(start=1, end=0, schedule=name).at(0.25) for name in ("linear", "cosine")]
        [0.75, 0.8535533905932737]
        """
        if self.start == self.end:
            return self.start
        gone = share if self.schedule == "linear" else (1 - cos(pi * share)) / 2
        return (1 - gone) * self.start + gone * self.end  # at its ends exactly these, which `start + ...` is not


class PositiveRamp(Ramp):
    """Of what has to be more than zero all the way."""

    start: PositiveFloat
    end: PositiveFloat


def _form(value: object) -> str:
    return "ramp" if isinstance(value, Mapping | Ramp) else "number"


Weight: TypeAlias = Annotated[
    Annotated[float, Tag("number")] | Annotated[Ramp, Tag("ramp")],
    Discriminator(_form),
]
Temperature: TypeAlias = Annotated[
    Annotated[PositiveFloat, Tag("number")] | Annotated[PositiveRamp, Tag("ramp")],
    Discriminator(_form),
]


def value_at(value: float | Ramp, progress: Progress) -> float:
    """A number, or a ramp's number when so much of a run is done."""
    if not isinstance(value, Ramp):
        return value
    return value.at(progress.epochs if value.by == "epoch" else progress.steps)
