"""Who compares what a student makes inside with what the cache tells of its teacher, and trains beside it.

Its weights are those of the regressors, which bring a student's features to the teacher's shape. They are kept in the
student's checkpoint, so that a run goes on, and thrown away at its end.

Of samples with positions, as sequences of tokens, a feature is of each position or of a sample as a whole. Either way a
hint has a value for each target, as the loss has, so that its mean is one over targets.

Shape legend
    N  rows (samples)
    L  positions
    R  targets of samples with positions; samples of all others
    K  other samples
    D  elements of a vector
    X  the shape of a feature
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError, TrainingError
from pipeline.features import Hint
from pipeline.hints import HINTS, regressor
from pipeline.labels import Inside, LabelSpec
from pipeline.reader import Batch
from pipeline.reductions import averaged
from pipeline.schedules import Progress, value_at
from pipeline.taps import refuse_unknown, tapped, tensor_of

VECTOR, SEQUENCE, MAP = 2, 3, 4
"""Axes of [N, D], [N, L, D] and [N, C, H, W]."""


class Tutor(nn.Module):
    """The hints of a student.

    Args:
        key: what names the student in messages.
        hints: what is compared.
        spec: of the cache's labels and features.
        shapes: of what each module of the student answers to one sample, [X].
        tokens: whether samples are sequences of tokens, some of which are padding.

    Raises:
        ConfigError: no regressor brings a student's feature to the teacher's shape, or without one the shapes differ;
            or a loss is of maps, and one side has none; or what it compares is not of samples with positions.

    """

    def __init__(
        self,
        key: str,
        hints: Sequence[Hint],
        spec: LabelSpec,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        self.hints = tuple(hints)
        kept, layers = {each.name: each.row_shape for each in spec.features}, []
        for place, hint in enumerate(self.hints):
            theirs, ours, where = kept[hint.feature], shapes[hint.module], f"{key}.hints[{place}]"
            if spec.positions is not None:
                _refuse_unplaced(where, hint, ours, theirs, spec.positions)
            elif tokens and hint.contrasts and len(theirs) > 1:
                raise ConfigError(
                    f"{where}: {hint.loss} tells a text from others, and the feature {hint.feature!r} is "
                    f'{list(theirs)}, with all their padding. Keep it with reduction = "mean", or use another loss.'
                )
            if len(theirs) == 1 and len(ours) > 1:
                ours = _averaged(ours)
            _refuse_unlike(where, hint, ours, theirs)
            layers.append(_regressor(where, ours, theirs) if hint.regresses else nn.Identity())
        self.regressors = nn.ModuleList(layers)

    @property
    def modules_heard(self) -> tuple[str, ...]:
        """The modules of the student that it listens to."""
        return tuple(dict.fromkeys(hint.module for hint in self.hints))

    def forward(self, seen: Mapping[str, object], batch: Batch, progress: Progress) -> Tensor:
        """The weighted sum of all hints, [R], when so much of a run is done.

        Raises:
            TrainingError: a module of the student did not run, or gave no numbers.

        """
        rows = len(batch.inputs_NX)
        parts = [
            # Also where the weight is 0: ranks wait for the gradient of each other's regressors.
            value_at(hint.weight, progress) * _told(hint, layer, _ours(seen, hint.module, rows), batch)
            for hint, layer in zip(self.hints, self.regressors, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)


def tutor_of(
    key: str,
    network: nn.Module,
    hints: Sequence[Hint],
    spec: LabelSpec,
    ask: Callable[[], object],
    *,
    tokens: bool = False,
) -> Tutor:
    """A tutor for a network, whose modules' shapes are seen as it answers one sample; `tokens` as of `Tutor`.

    Raises:
        ConfigError: a module is not there, does not run, or gives no numbers; or as `Tutor`.

    """
    for place, hint in enumerate(hints):
        refuse_unknown(f"{key}.hints[{place}].module", network, hint.module)
    shapes = {}
    with torch.no_grad(), tapped(network, [hint.module for hint in hints]) as seen:
        ask()
    for place, hint in enumerate(hints):
        found = tensor_of(seen, hint.module, 1)
        if isinstance(found, str):
            raise ConfigError(
                f"{key}.hints[{place}].module = {hint.module!r}: {found}; expected a tensor of numbers with a row for "
                "each input. Name another module of the student."
            )
        shapes[hint.module] = tuple(found.shape[1:])
    return Tutor(key, hints, spec, shapes, tokens=tokens)


def refuse_few(key: str, hints: Sequence[Hint], samples: int, batch_size: int) -> None:
    """Raise ConfigError where a batch leaves too few samples to tell it from."""
    for place, hint in enumerate(hints):
        if hint.contrasts and samples - batch_size < min(hint.negatives, samples // 2):
            raise ConfigError(
                f"{key}.hints[{place}]: a batch of {batch_size} leaves {max(0, samples - batch_size)} of {samples} "
                f"samples, and {hint.loss} is to tell it from {hint.negatives} others. Set a smaller batch_size, "
                "or fewer negatives."
            )


def refuse_untold(key: str, hints: Sequence[Hint], world: int) -> None:
    """Raise ConfigError about hints that cannot be given to so many processes."""
    if world > 1 and (apart := next((hint.loss for hint in hints if hint.compares_rows), None)):
        raise ConfigError(
            f'{key}.hints: the loss "{apart}" compares the samples of a batch, and {world} processes share each: none '
            "sees them all. Train this student in one process, or by another loss."
        )


def _told(hint: Hint, layer: nn.Module, student_NX: Tensor, batch: Batch) -> Tensor:
    """One hint, [R].

    Where samples with positions have a feature of each, [N, L, D], targets are compared one by one, and nothing else is
    seen. Where a feature is of a sample as a whole, [N, D], so is the student's, and what comes of it counts at each
    of the sample's targets. Of a text with one answer, padding is alike on both sides.
    """
    assert batch.inside is not None, "it was asked for"
    teacher_NX = batch.inside.features[hint.feature]
    if teacher_NX.ndim == VECTOR:
        student_ND = averaged(student_NX, _there(student_NX, batch))
        return batch.at_targets(_compared(hint, layer(student_ND.float()), teacher_NX, batch.inside))
    student_RX, teacher_RX = layer(batch.of_targets(student_NX).float()), batch.of_targets(teacher_NX)
    if batch.places_R is None:
        student_RX, teacher_RX = _without_padding(student_RX, batch), _without_padding(teacher_RX, batch)
    return _compared(hint, student_RX, teacher_RX, batch.inside)


def _without_padding(feature_NX: Tensor, batch: Batch) -> Tensor:
    there_NL = _there(feature_NX, batch)
    return feature_NX if there_NL is None else feature_NX.masked_fill(~there_NL[:, :, None], 0)


def _there(feature_NX: Tensor, batch: Batch) -> Tensor | None:
    """Which of a feature's positions are no padding; None where it has none, or others than the input."""
    there_NL = batch.there_NL
    if there_NL is None or feature_NX.ndim != SEQUENCE or feature_NX.shape[1] != there_NL.shape[1]:
        return None
    return there_NL


def _compared(hint: Hint, student_NX: Tensor, teacher_NX: Tensor, inside: Inside) -> Tensor:
    """A value a row of what is given."""
    loss = HINTS[hint.loss]
    if not hint.contrasts:
        return loss(student_NX, teacher_NX)
    others_KX = inside.others[hint.feature][: hint.negatives]
    options: dict[str, object] = {"temperature": hint.temperature}
    if hint.loss == "crd":
        options["dataset_size"] = inside.among
    return loss(student_NX.flatten(1), teacher_NX.flatten(1), others_KX.flatten(1), **options)


def _ours(seen: Mapping[str, object], module: str, rows: int) -> Tensor:
    found = tensor_of(dict(seen), module, rows)
    if isinstance(found, str):
        raise TrainingError(f"The student's module {module!r}: in training {found}. Name another module in its hints.")
    return found


def _averaged(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a map's mean over space, or of a sequence's over positions."""
    return shape[:1] if len(shape) >= MAP - 1 else shape[-1:]


def _refuse_unplaced(where: str, hint: Hint, ours: tuple[int, ...], theirs: tuple[int, ...], positions: int) -> None:
    """Raise ConfigError about what is compared of samples whose positions have an answer each, if it cannot be."""
    each = f"{where}: each of {positions} positions of a sample has an answer of its own here, and"
    if hint.loss == "attention":
        raise ConfigError(f"{each} attention compares maps. Use feature_mse, feature_cosine or feature_sphere.")
    if len(theirs) > 1 and not hint.tells_places:
        raise ConfigError(
            f"{each} {hint.loss} compares samples, while the feature {hint.feature!r} is {list(theirs)}. Keep it with "
            'reduction = "mean", or use feature_mse, feature_cosine or feature_sphere.'
        )
    if any(len(shape) > 1 and shape[:-1] != (positions,) for shape in (ours, theirs)):
        raise ConfigError(
            f"{each} the student's feature is {list(ours)} and the teacher's {list(theirs)}; expected [D] of a sample, "
            f"or [{positions}, D]. Name modules that answer so, as blocks of a transformer do."
        )


def _refuse_unlike(where: str, hint: Hint, ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    if hint.loss == "attention" and not len(ours) == len(theirs) == MAP - 1:
        raise ConfigError(
            f"{where}: attention compares maps [channels, height, width], and here are {list(ours)} of the student and "
            f'{list(theirs)} of the teacher. Keep the feature with reduction = "none", or use another loss.'
        )
    by_element = not hint.compares_rows and hint.loss != "attention"
    if by_element and not hint.regresses and ours != theirs:
        raise ConfigError(
            f"{where}: the student's feature is {list(ours)} and the teacher's {list(theirs)}, and without a regressor "
            "they have to be equal. Leave `regressor = false` out, or name modules of one shape."
        )


def _regressor(where: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    try:
        return regressor(ours, theirs)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
