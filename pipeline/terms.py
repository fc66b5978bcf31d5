"""What a student may be told, as settings: the terms of its loss, one frozen model each, told apart by their names.

A loss is a sum of terms with weights; these and temperatures may change over a run (`pipeline.schedules`). Each term
knows which encodings can serve it, so that `plan` and `inspect` say so without torch; `pipeline.objective` computes it.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, PositiveFloat, PositiveInt, Tag

from pipeline.errors import ConfigError
from pipeline.labels import LabelSpec
from pipeline.schedules import BEGIN, Progress, Ramp, Temperature, Weight, value_at
from pipeline.settings import FilePath, Fraction, Settings

LINEAR: Sequence[str] = ("dense", "topk", "head+sampled", "sampled", "multinomial")
BOUNDED: Sequence[str] = ("dense", "topk", "head+sampled")
WHOLE: Sequence[str] = ("dense",)
OpenFraction: TypeAlias = Annotated[float, Field(gt=0, lt=1)]


class Term(Settings):
    """One summand. `serves` are the encodings of labels it can be had from; none: it does not ask the teacher."""

    serves: ClassVar[Sequence[str]] = ()
    squared: ClassVar[bool] = False
    """Whether it counts times T^2, as its gradient shrinks by 1 / T^2 (Hinton et al. 2015, section 2)."""
    truth: ClassVar[bool] = False
    """Whether it asks for true labels."""

    name: str
    weight: Weight = 1.0

    def weight_at(self, progress: Progress) -> float:
        """Its weight when so much of a run is done."""
        return value_at(self.weight, progress)

    def options(self, progress: Progress = BEGIN) -> dict[str, object]:
        """What its function takes besides tensors, when so much of a run is done."""
        options = {name: getattr(self, name) for name in type(self).model_fields if name not in _SHARED}
        return {name: value_at(it, progress) if isinstance(it, Ramp) else it for name, it in options.items()}


_SHARED = {"name", "weight", "standardise", "cost", "sharpness", "hidden", "learning_rate"}


class Hard(Term):
    """Cross-entropy with the true label; 0 where there is none."""

    truth: ClassVar[bool] = True
    name: Literal["hard"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Entropy(Term):
    """The student's own entropy: with a negative weight, a reward for doubt."""

    name: Literal["entropy"]


class Weak(Term):
    """Cross-entropy with the teacher's likeliest class, where it is likely enough at the temperature."""

    serves: ClassVar[Sequence[str]] = BOUNDED
    name: Literal["weak"]
    temperature: Temperature = 1.0
    threshold: Fraction = 0.0


class MSE(Term):
    """Squared differences of logits, counted from their mean."""

    serves: ClassVar[Sequence[str]] = BOUNDED
    name: Literal["mse"]


class Tempered(Term):
    """What compares the two at a temperature; standardised (LSKD), logits are counted in their row's deviations."""

    serves: ClassVar[Sequence[str]] = BOUNDED
    temperature: Temperature = 4.0
    standardise: bool = False


class KD(Tempered):
    """KL(teacher || student), times T^2."""

    serves: ClassVar[Sequence[str]] = LINEAR
    squared: ClassVar[bool] = True
    name: Literal["kd"]


class Soft(Tempered):
    """Cross-entropy with the teacher's probabilities, times T^2."""

    serves: ClassVar[Sequence[str]] = LINEAR
    squared: ClassVar[bool] = True
    name: Literal["soft"]


class ReverseKL(Tempered):
    """KL(student || teacher), times T^2."""

    squared: ClassVar[bool] = True
    name: Literal["reverse_kl"]


class JSD(Tempered):
    """The generalised Jensen-Shannon divergence, times T^2."""

    squared: ClassVar[bool] = True
    name: Literal["jsd"]
    beta: OpenFraction = 0.5


class SkewKL(Tempered):
    """KL(teacher || skew teacher + (1 - skew) student), times T^2."""

    squared: ClassVar[bool] = True
    name: Literal["skew_kl"]
    skew: OpenFraction = 0.1


class TotalVariation(Tempered):
    """Half of the sum of |p - q|."""

    name: Literal["tv"]


class DKD(Tempered):
    """Decoupled KD, times T^2: alpha for the true class against all others, beta among the others."""

    squared: ClassVar[bool] = True
    truth: ClassVar[bool] = True
    name: Literal["dkd"]
    alpha: Annotated[float, Field(ge=0)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 8.0


class DIST(Tempered):
    """Correlations, times T^2: beta over the classes of a row, gamma over the rows of a batch."""

    serves: ClassVar[Sequence[str]] = WHOLE
    squared: ClassVar[bool] = True
    name: Literal["dist"]
    beta: Annotated[float, Field(ge=0)] = 2.0
    gamma: Annotated[float, Field(ge=0)] = 2.0


class WKD(Tempered):
    """Optimal transport among the classes that are not true, and the true one's cross-entropy."""

    serves: ClassVar[Sequence[str]] = WHOLE
    truth: ClassVar[bool] = True
    name: Literal["wkd"]
    temperature: Temperature = 8.0
    regularisation: PositiveFloat = 0.05
    iterations: PositiveInt = 10
    transport: Annotated[float, Field(ge=0)] = 1.0
    """How much the transport weighs beside the true class."""
    sharpness: PositiveFloat = 1.0
    """How fast the cost rises as two classes are less alike, where it is estimated."""
    cost: FilePath | None = None
    """A .npy file of what it costs to take one class for another, [C, C]; left out, estimated from the labels."""


class Adversarial(Term):
    """To be taken for the teacher by a discriminator of logits that learns beside the student."""

    serves: ClassVar[Sequence[str]] = WHOLE
    truth: ClassVar[bool] = True
    name: Literal["adversarial"]
    weight: Weight = 0.1
    hidden: PositiveInt = 128
    """The width of the discriminator's two hidden layers."""
    learning_rate: PositiveFloat = 1e-3
    """Of the discriminator."""


AnyTerm: TypeAlias = Annotated[
    Hard
    | Entropy
    | Weak
    | MSE
    | KD
    | Soft
    | ReverseKL
    | JSD
    | SkewKL
    | TotalVariation
    | DKD
    | DIST
    | WKD
    | Adversarial,
    Field(discriminator="name"),
]

TERMS: dict[str, type[Term]] = {
    kind.model_fields["name"].annotation.__args__[0]: kind  # type: ignore[union-attr]  # Literal["hard"]
    for kind in (
        Hard,
        KD,
        Soft,
        ReverseKL,
        JSD,
        SkewKL,
        TotalVariation,
        MSE,
        DKD,
        DIST,
        WKD,
        Weak,
        Entropy,
        Adversarial,
    )
}


BESIDE = ("entropy", "adversarial")  # which teach nothing by themselves


def _known_loss(name: str) -> str:
    alone = [name for name in TERMS if name not in BESIDE]
    if name not in alone:
        raise ValueError(f"found {name!r}, expected one of {', '.join(alone)}")
    return name


def _some_term(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    if not terms:  # not by `min_length`, which counts what is valid: each mistake in a term would be told twice
        raise ValueError('an empty list tells a student nothing; name a term, for example {name = "hard"}')
    return terms


Loss: TypeAlias = Annotated[
    Annotated[Annotated[str, AfterValidator(_known_loss)], Tag("name")]
    | Annotated[Annotated[tuple[AnyTerm, ...], Field(strict=False), AfterValidator(_some_term)], Tag("sum")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "sum"),
]


def one_term(name: str, temperature: float | Ramp, alpha: float) -> tuple[Term, ...]:
    """A loss by its name: (1 - alpha) hard + alpha of that term at the temperature; alone if it asks no teacher.

    >>> [(term.name, term.weight) for term in one_term("kd", 4.0, 0.75)]
    [('hard', 0.25), ('kd', 0.75)]
    """
    kind = TERMS[name]
    if not kind.serves:
        return (kind(name=name),)
    tempered = {"temperature": temperature} if "temperature" in kind.model_fields else {}
    return (Hard(name="hard", weight=1 - alpha), kind(name=name, weight=alpha, **tempered))


def refuse_beside_clusters(terms: Iterable[Term], more: Sequence[str]) -> None:
    """Raise ValueError about terms, and other keys that are set, that say nothing to a student of clusters.

    Its logits are of clusters: no true label is one of them, and no answer or feature of a teacher stands beside them.
    """
    said = [term for term in terms if term.weight != 0]
    if asking := [term.name for term in said if term.truth]:
        raise ValueError(
            f'the loss "{asking[0]}" asks for true labels, and `cache` is of clusters, whose numbers are no classes: '
            'take loss = "kd" or "soft", with alpha = 1 or left out'
        )
    if not any(term.serves for term in said):
        raise ValueError("cache names clusters, and its loss asks none: leave it out, or add a term such as kd")
    if more:
        raise ValueError(
            f"{more[0]} is about classes or the teacher of the experiment's own cache, and this student hears clusters "
            "in place of that one: leave it out, or leave out `cache`"
        )


def refuse_unserved(key: str, terms: Iterable[Term], labels: LabelSpec) -> None:
    """Raise ConfigError, with the key that asks for it, if labels cannot serve a term of a loss."""
    for term in terms:
        if not term.serves:
            continue
        if labels.encoding not in term.serves:
            able = [name for name, kind in TERMS.items() if labels.encoding in kind.serves or not kind.serves]
            raise ConfigError(
                f'{key}: the loss "{term.name}" cannot be had from "{labels.encoding}" labels. These serve '
                f"{', '.join(able)}; for it, generate labels with labels.encoding = "
                f"{' or '.join(map(repr, term.serves))}."
            )
        if labels.encoding == "dense":
            continue
        _refuse_off_grid(key, getattr(term, "temperature", None), labels)
        if getattr(term, "standardise", False) and (labels.encoding not in BOUNDED or not labels.standardised):
            raise ConfigError(
                f'{key}: these "{labels.encoding}" labels cannot be standardised: the sums of standardised logits were '
                'not kept. Generate labels with labels.encoding = "topk" and labels.standardised = true, or with '
                'labels.encoding = "dense".'
            )


def _refuse_off_grid(key: str, asked: float | Ramp | None, labels: LabelSpec) -> None:
    """Refuse a temperature that these labels do not know, or all those between two."""
    known = ", ".join(f"{temperature:g}" for temperature in labels.temperatures)
    if isinstance(asked, Ramp) and asked.start != asked.end:
        raise ConfigError(
            f'{key}: these "{labels.encoding}" labels cannot serve a temperature that goes from {asked.start:g} to '
            f"{asked.end:g}: the probabilities they know are those at {known}, and on its way it is at others. Train "
            'at one of these, or generate labels with labels.encoding = "dense".'
        )
    fixed = asked.start if isinstance(asked, Ramp) else asked
    if fixed is not None and fixed not in labels.temperatures:
        raise ConfigError(
            f'{key}: these "{labels.encoding}" labels cannot serve temperature {fixed:g}: the probabilities they '
            f"know are those at {known}. Train at one of these, or generate labels with this one in "
            "labels.temperatures."
        )


def served(encoding: str, temperatures: Iterable[float], *, standardised: bool) -> dict[str, str]:
    """For each loss, at which temperatures labels can serve it, in words.

    Args:
        encoding: how they are stored.
        temperatures: those that they know; none: any.
        standardised: whether the sums of standardised logits are kept, where it takes them.

    """
    grid = ", ".join(f"{temperature:g}" for temperature in temperatures)
    at = f"temperature {grid}" if grid else "any temperature"
    lskd = encoding == "dense" or (standardised and encoding in BOUNDED)
    words = {}
    for name, kind in TERMS.items():
        if kind.serves and encoding not in kind.serves:
            words[name] = f"not from these labels: it needs {' or '.join(kind.serves)}"
        elif "temperature" not in kind.model_fields:
            words[name] = "always"
        else:
            words[name] = at + (", standardised too" if lskd and issubclass(kind, Tempered) else "")
    return words
