"""What a teacher's inside layers make of a sample, as settings and as arrays of a cache; and what students hear of it.

Kept beside the labels: under the same receipts, views and fingerprints. Not for whole maps of large networks, which
take megabytes a sample: reduce them. Nothing here imports torch; `pipeline.reductions` and `pipeline.tutor` compute.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.labels import ArraySpec, FeatureSpec, GradientSpec, Kept
from pipeline.schedules import Weight
from pipeline.settings import FilePath, Settings

SCALE, FILL = "_scale", -128
CLASS = "gradient_class"  # the array that says whose logit a gradient is of
PCA = "pca"
Reduction: TypeAlias = Literal["none", "mean", "projection", "pca", "attention"]


class FeatureSettings(Settings):
    """A module of the teacher whose output is kept.

    In TOML, `[[teacher.features]]`.
    """

    module: Annotated[str, Field(min_length=1)]
    """Its name, as `network.named_modules()` has it; of one that runs more than once, the last answer counts."""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """What students call it, and the array in the store: small letters, digits and underscores."""
    reduction: Reduction = "mean"
    """`mean` over space, or over the positions of a sequence; `projection` to `dimensions` numbers by random signs;
    `pca` to as many principal components; `attention` of maps the one channel that attention transfer compares; `none`
    keeps all."""
    dimensions: PositiveInt | None = None
    """Of `projection` and `pca`, how many numbers are kept; of a sequence's, at each position."""
    basis: FilePath | None = None
    """Of `pca`, the file of its mean and components, which `fit-teacher` writes if it does not exist."""
    sample: PositiveInt = 4096
    """Of `pca`, on how many of the first samples, each in its first view, it is fitted."""
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Of a projection."""
    dtype: Literal["float16", "float32", "int8"] = "float16"
    """In int8, each row has a scale of its own."""

    @model_validator(mode="after")
    def _has_dimensions(self) -> "FeatureSettings":
        if (self.dimensions is None) == (self.reduction in {"projection", PCA}):
            raise ValueError(
                'reduction = "projection" or "pca" needs dimensions, the numbers to keep, for example 128; others take '
                "none"
            )
        return self

    @model_validator(mode="after")
    def _has_basis(self) -> "FeatureSettings":
        if (self.basis is None) == (self.reduction == PCA):
            raise ValueError(
                'reduction = "pca" needs basis, the file of its components, for example '
                '"checkpoints/last.pca.safetensors"; others take none'
            )
        if self.basis is not None and self.basis.suffix != ".safetensors":
            raise ValueError(f"basis is written as safetensors, and {str(self.basis)!r} does not end in .safetensors")
        return self

    def spec(self, module_shape: Sequence[int], row_shape: Sequence[int]) -> FeatureSpec:
        """The same with the shapes of what the module answers to a sample, and of what is kept of that."""
        seed = self.seed if self.reduction == "projection" else 0
        shapes = tuple(module_shape), tuple(row_shape)
        return FeatureSpec(self.name, self.module, self.reduction, self.dtype, *shapes, seed)


class Hint(Settings):
    """A term of a student's loss that compares a module of its own with a feature of its teacher.

    In TOML, `[[students.NAME.hints]]`.
    """

    loss: Literal[
        "feature_mse",
        "feature_cosine",
        "feature_sphere",
        "rkd_distance",
        "rkd_angle",
        "similarity",
        "cka",
        "attention",
        "infonce",
        "crd",
    ]
    """A name of `pipeline.hints`; `docs/methods.md` says which is for what."""
    feature: Annotated[str, Field(min_length=1)]
    """A name of `[[teacher.features]]`."""
    module: Annotated[str, Field(min_length=1)]
    """A module of the student, as `network.named_modules()` has it."""
    weight: Weight = 1.0
    regressor: bool = True
    """Of losses that compare element by element: whether a linear layer, trained with the student and thrown away
    after, brings its feature to the teacher's shape. Without one the shapes have to be equal."""
    negatives: PositiveInt = 1024
    """Of `infonce` and `crd`: how many samples, drawn from the whole cache for each batch, a student is told apart
    from."""
    temperature: PositiveFloat = 0.07
    """Of `infonce` and `crd`."""

    @property
    def contrasts(self) -> bool:
        """Whether it needs features of other samples."""
        return self.loss in {"infonce", "crd"}

    @property
    def compares_rows(self) -> bool:
        """Whether it compares the samples of a batch with each other."""
        return self.loss in {"rkd_distance", "rkd_angle", "similarity", "cka"}

    @property
    def tells_places(self) -> bool:
        """Whether it compares vectors one by one, as those of a sequence's positions."""
        return self.loss in {"feature_mse", "feature_cosine", "feature_sphere"}

    @property
    def regresses(self) -> bool:
        """Whether it compares element by element what a learned layer makes of the student's feature."""
        return self.regressor and not self.compares_rows and self.loss != "attention"


def names_apart(features: tuple[FeatureSettings, ...]) -> tuple[FeatureSettings, ...]:
    """Refuse two features of one name."""
    names = [each.name for each in features]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two features are called {twice!r}: give each a name of its own")
    if scale := next((name for name in names if name.endswith(SCALE)), None):
        raise ValueError(f"the feature {scale!r} has a name that ends as arrays of scales do: call it otherwise")
    files = [each.basis for each in features if each.basis is not None]
    if shared := next((file for file in files if files.count(file) > 1), None):
        raise ValueError(f"two features have one basis, {str(shared)!r}: name a file for each")
    return features


def arrays(kept: Sequence[Kept]) -> tuple[ArraySpec, ...]:
    """The arrays of a row: one for each, in eight bits its scale, and of the largest logit's gradient which that is."""
    found = []
    for each in kept:
        whole = each.dtype == "int8"
        found.append(ArraySpec(each.array, each.dtype, each.row_shape, FILL if whole else math.nan))
        found += [ArraySpec(each.array + SCALE, "float32", (), math.nan)] if whole else []
        found += [ArraySpec(CLASS, "int32", (), -1)] if isinstance(each, GradientSpec) and each.of == "top" else []
    return tuple(found)
