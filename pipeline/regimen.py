"""How a network is trained, as settings: the keys that students and `[teacher.fit]` have in common.

What a student is told is `pipeline.terms`, what makes a student one is `pipeline.config`. Nothing here imports torch.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.kinds import AnySource
from pipeline.settings import Fraction, Settings
from pipeline.terms import Hard, Loss, Term

Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**62)]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]


class Training(Settings):
    """One training run: the same keys for a student and for `[teacher.fit]`."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    seed: Seed = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    decay: Literal["all", "weights"] = "all"
    """What `weight_decay` is of: all parameters, or those of two axes and more; then no bias and no norm decays."""
    no_decay: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()
    """Patterns of names of parameters that do not decay either, such as "*.bias" and "pos_embed"."""
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.05
    """The share of all steps over which the learning rate rises to its full height."""
    clip_norm: PositiveFloat | None = None
    precision: Precision = "float32"
    channels_last: bool = False
    device: Device = "auto"

    @model_serializer(mode="wrap")
    def _as_ever(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later and is not used: what decides a run then reads as it did before."""
        table: dict[str, Any] = handler(self)
        return {name: value for name, value in table.items() if name not in _LATER or value not in _LATER[name]}


_LATER: dict[str, tuple[object, ...]] = {
    "decay": ("all",),
    "no_decay": ((), []),
    "hints": ((), []),
    "gradients": (None,),
}


class Finetune(Training):
    """A student's second course: more epochs on true labels, from the weights that distillation left.

    Keys that are left out are as the student has them. It sees views as any student of true labels does, a new one in
    every epoch; unmixed ones, since those alone have a true label.
    """

    epochs: PositiveInt
    loss: Loss | None = None
    """Terms that ask no teacher. Left out, "hard", smoothed as the student's own is."""
    dataset: AnySource | None = None
    """Other samples, of the same shape and classes. Left out, those it was distilled on."""

    def terms(self, before: tuple[Term, ...]) -> tuple[Term, ...]:
        """The terms of its loss, after those of the first course."""
        if self.loss is not None and not isinstance(self.loss, str):
            return self.loss
        smoothed = [term.label_smoothing for term in before if isinstance(term, Hard)]
        return (Hard(name="hard", label_smoothing=smoothed[0] if smoothed else 0.0),)

    @field_validator("loss")
    @classmethod
    def _asks_no_teacher(cls, loss: Loss | None) -> Loss | None:
        asking = [loss] if isinstance(loss, str) and loss != "hard" else []
        asking += [term.name for term in (loss or ()) if not isinstance(term, str) and term.serves]
        if asking:
            raise ValueError(
                f'"{asking[0]}" asks the teacher, and this course is of true labels: make it "hard", or a list of hard '
                "and entropy; what a student hears for longer belongs into its own epochs, with weights that change"
            )
        return loss

    @model_validator(mode="after")
    def _goes_on_by_its_seed(self) -> "Finetune":
        if "seed" in self.model_fields_set:
            raise ValueError("seed is the student's, one for each of its repeats: leave it out")
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is said, and no more: the rest is the student's."""
        table: dict[str, Any] = handler(self)
        return {name: value for name, value in table.items() if name in self.model_fields_set}
