"""How a network is trained, as settings: the keys that students and `[teacher.fit]` have in common.

What a student is told is `pipeline.terms`, what makes a student one is `pipeline.config`. Nothing here imports torch.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from pipeline.settings import Fraction, Settings

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


_LATER: dict[str, tuple[object, ...]] = {"decay": ("all",), "no_decay": ((), []), "hints": ((), [])}
