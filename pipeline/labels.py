"""The vocabulary of soft labels: what was asked of the teacher, and what comes back from the cache.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
    M  sampled classes of its tail
    S  summands of a loss
    G  temperatures of the grid

This module needs no torch at run time, so that looking at a cache stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from torch import Tensor, device

DType: TypeAlias = Literal["float16", "float32", "int8"]

CLUSTERED = "clusters"
"""The key in what a job says of its teacher where labels are clusters of its features, and not its answers."""

STD_EPSILON = 1e-7
"""Besides the deviation that standardised logits are divided by, as in the code of LSKD (arXiv 2403.01427)."""


@dataclass(frozen=True)
class FeatureSpec:
    """What is kept of a module of the teacher, under which name."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    module: str
    reduction: str
    dtype: DType
    module_shape: tuple[int, ...]  # of what the module answers to a sample
    row_shape: tuple[int, ...]  # of what is kept of that
    seed: int = 0

    @property
    def array(self) -> str:
        """The array that holds it."""
        return f"feature_{self.name}"

    @property
    def what(self) -> str:
        """What it is, in messages."""
        return f"The feature {self.name!r} (of the module {self.module!r})"


@dataclass(frozen=True)
class GradientSpec:
    """What is kept of how the teacher's logits change with the input that it is given."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    of: Literal["top", "true", "projections"]
    dtype: DType
    row_shape: tuple[int, ...]  # that of an input; of R projections, R of it
    projections: int | None = None
    seed: int = 0  # of the projections

    @property
    def array(self) -> str:
        """The array that holds it."""
        return "gradient"

    @property
    def what(self) -> str:
        """What it is, in messages."""
        return f'The gradient (teacher.gradients.of = "{self.of}")'


Kept: TypeAlias = FeatureSpec | GradientSpec
"""What is kept of a teacher besides its logits."""


@dataclass(frozen=True)
class LabelSpec:
    """Which labels were asked for: all that an encoding needs to write and to read its rows."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a job's unknown setting may change its rows

    encoding: str
    classes: int
    dtype: DType
    k: int | None = None
    temperatures: tuple[float, ...] = ()
    tail: int | None = None  # how many classes are sampled besides the k largest
    positions: int | None = None  # rows of logits that share one record, as the tokens of a sequence do
    seed: int = 0  # of what is sampled
    standardised: bool = False  # whether the sums of standardised logits are kept too
    features: tuple[FeatureSpec, ...] = ()  # what is kept besides the logits
    gradient: GradientSpec | None = None

    @property
    def kept(self) -> tuple[Kept, ...]:
        """All that is kept besides the logits."""
        return self.features if self.gradient is None else (*self.features, self.gradient)


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store: `[V, N, *row_shape]` of a NumPy dtype, and a fill value that no real row holds."""

    name: str
    dtype: str
    row_shape: tuple[int, ...]
    fill: float | int


@dataclass(frozen=True)
class Tensors:
    """A record with tensors in it that move together, as loaders and other people's training loops expect."""

    def to(self, device: device | str, *, non_blocking: bool = False) -> Self:
        """The same on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: device | str | None = None) -> Self:  # noqa: ARG002 - a loader may pass it
        """The same in page-locked memory, from which copies to a GPU run by themselves."""
        return self.map(lambda tensor: tensor.pin_memory())

    def select(self, rows: Any) -> Self:  # noqa: ANN401 - whatever indexes a tensor
        """Some of the rows, in any order."""
        return self.map(lambda part: part.select(rows) if isinstance(part, Tensors) else part[rows])

    def map(self, change: Callable[[Any], Any]) -> Self:
        """The same with each tensor changed."""
        return replace(self, **{name: change(part) for name, part in vars(self).items() if hasattr(part, "pin_memory")})


@dataclass(frozen=True)
class Inside(Tensors):
    """What a teacher's inside layers made of N samples, by the name of each, and of others to tell them from.

    And how its logits change with the input: the derivative of one logit, or of R projections of all.
    """

    features: dict[str, Tensor]  # [N, *row_shape] in float32
    others: dict[str, Tensor]  # [K, *row_shape]: of K samples of the cache, none of them among the N
    among: int  # how many there are in all
    gradient: Tensor | None = None  # [N, *input], or [N, R, *input], in float32
    classes_N: Tensor | None = None  # int64: whose logit that is of; -1 where there is none

    def map(self, change: Callable[[Any], Any]) -> Self:
        """The same with each tensor changed."""
        features, others = ({key: change(each) for key, each in part.items()} for part in (self.features, self.others))
        return replace(super().map(change), features=features, others=others)


@dataclass(frozen=True)
class DenseLabels(Tensors):
    """Every logit of every class: `logits_NC` in float32."""

    logits_NC: Tensor


@dataclass(frozen=True)
class SparseLabels(Tensors):
    """The K largest logits of a row and what is needed to know their exact probabilities.

    Every logit is counted from the row's largest one (`max_N`), which softmax does not see and floating point likes:
    `logits_NK[:, 0] == 0`, and log p_k(T) = logits_NK / T - logsumexp_NG[:, T].
    """

    classes: int
    temperatures: tuple[float, ...]
    ids_NK: Tensor  # int64, by falling logit
    logits_NK: Tensor  # float32, <= 0
    logsumexp_NG: Tensor  # float32, >= 0: log of the sum over all C classes of exp((z - max) / T)
    max_N: Tensor  # float32, the raw logit
    mean_N: Tensor  # float32, over all C classes, counted from the largest
    std_N: Tensor  # float32, over all C classes (population)
    target_N: Tensor  # float32, the true class's logit, counted from the largest; NaN without a true class
    standard_logsumexp_NG: Tensor | None = field(default=None, kw_only=True)  # the sums of exp((z - max) / (std T))


@dataclass(frozen=True)
class HeadSampledLabels(SparseLabels):
    """The same, and a sample of the classes that are not kept.

    With p_i(T) from its logit as above, p_i(T) / inclusion is an unbiased estimate of class i's probability at every
    temperature of the grid: 0 where it was not drawn (Horvitz and Thompson 1952).
    """

    tail_ids_NM: Tensor  # int64, each at most once and none of `ids_NK`
    tail_logits_NM: Tensor  # float32, counted from the row's largest
    tail_inclusion_NM: Tensor  # float32, the probability with which it was to be drawn, in (0, 1]


@dataclass(frozen=True)
class SampledLabels(Tensors):
    """Classes and weights whose expectation is the teacher's softmax at one temperature: E[w] = p for every class."""

    classes: int
    temperature: float | None  # None: they are the same at every one
    ids_NK: Tensor  # int64; 0 where the weight is 0
    weights_NK: Tensor  # float32, >= 0; 0 is padding
    exact_N: Tensor | None = None  # int64: of how many of the first the weight is p itself; None: of none


SoftLabels: TypeAlias = DenseLabels | SparseLabels | SampledLabels


@dataclass(frozen=True)
class MixedLabels(Tensors):
    """Labels of several teachers for the same rows. A loss is the mean of those by each, with these weights."""

    parts: tuple[SoftLabels, ...]
    weights: tuple[float, ...]  # they sum to one

    def map(self, change: Callable[[Any], Any]) -> Self:
        """The same with each tensor of each part changed."""
        return replace(self, parts=tuple(part.map(change) for part in self.parts))


Heard: TypeAlias = SoftLabels | MixedLabels
"""What a student may hear."""


@dataclass(frozen=True)
class BlendedLabels(Tensors):
    """True and soft labels as one loss weighs them: it is the sum of w (log p - log q_T) over S summands and C classes.

    The first summand is of the true label, at temperature 1, the second of the teacher.
    """

    temperatures_NS1: Tensor  # T
    weights_NSC: Tensor
    log_p_NSC: Tensor  # 0 for the true label
    nothing_NSC: Tensor  # bool: which weights are 0

    @property
    def classes(self) -> int:
        """C."""
        return self.weights_NSC.shape[2]
