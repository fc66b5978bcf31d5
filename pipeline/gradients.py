"""How a teacher's answer changes with the input, as settings of what a cache keeps; and what students hear of it.

Kept beside the labels, as features are, and of the size of an input each: for inputs of few elements, or few samples.
Not for token ids, which have no derivatives. Nothing here imports torch; `pipeline.slopes` computes.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from pipeline.labels import GradientSpec
from pipeline.schedules import Weight
from pipeline.settings import Settings


class TeacherGradients(Settings):
    """Which derivative of the teacher's logits is kept, by the normalised float32 input that its network is given.

    In TOML, `[teacher.gradients]`.
    """

    of: Literal["top", "true", "projections"] = "top"
    """`top`, the largest logit; `true`, that of the true class, and zeros for a sample that has none; `projections`, so
    many random directions of all logits."""
    projections: PositiveInt | None = None
    """How many directions: a backward pass and a row of the size of an input each."""
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Of the directions."""
    dtype: Literal["float16", "float32", "int8"] = "float16"
    """In int8, each row has a scale of its own."""

    @model_validator(mode="after")
    def _has_projections(self) -> "TeacherGradients":
        if (self.projections is None) == (self.of == "projections"):
            raise ValueError(
                'of = "projections" needs projections, the number of directions, for example 4; others take none'
            )
        return self

    def spec(self, input_shape: tuple[int, ...]) -> GradientSpec:
        """The same with the shape of what is kept of a sample."""
        if self.projections is None:
            return GradientSpec(self.of, self.dtype, input_shape)
        return GradientSpec(self.of, self.dtype, (self.projections, *input_shape), self.projections, self.seed)


class StudentGradients(Settings):
    """A term of a student's loss, of its derivative J and the teacher's J'.

    It is weight ||J - J'||^2 + penalty (||J|| - alpha)^2.

    In TOML, `[students.NAME.gradients]`.
    """

    weight: Weight = 1.0
    """Lambda, of the squared difference summed over all elements of a derivative."""
    penalty: Weight = 0.0
    """Beta, of how far the student's own is from a length."""
    alpha: NonNegativeFloat = 0.0
    """That length."""
