"""Rows made ready to be compared: their shapes checked, in float32 at least, and directions of what may be zero.

Not for probabilities, whose small values need logarithms: see `pipeline.losses.logspace`.

Shape legend
    N  rows (samples; or positions, where the caller made each a row)
    X  all elements of a row, whatever its axes
"""

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from pipeline.errors import ConfigError
from pipeline.losses.logspace import at_least_float32

NOTHING = 1e-30  # a row whose largest element is no larger than this has no direction
_NO_SIZE = 1e-15  # a norm after `rescaled` is about 1 or more; or else no larger than NOTHING times the row's length


def lifted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All of one type: the widest of theirs, and float32 at least."""
    wide = [at_least_float32(tensor) for tensor in tensors]
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in wide) else torch.float32
    return tuple(tensor.to(dtype) for tensor in wide)


def flat(features: Tensor) -> Tensor:
    """[N, *] as [N, X]."""
    return features.reshape(len(features), math.prod(features.shape[1:]))


def equal_shapes(what: str, student_NX: Tensor, teacher_NX: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [N, X] in one type.

    Raises:
        ConfigError: their shapes differ.

    """
    if student_NX.shape != teacher_NX.shape:
        raise ConfigError(
            f'The loss "{what}" compares element by element, and found {list(student_NX.shape)} from the student and '
            f"{list(teacher_NX.shape)} from the teacher, expected one shape. Put a regressor behind the student "
            "(`pipeline.hints.regressor`), or name another layer."
        )
    student_NX, teacher_NX = lifted(flat(student_NX), flat(teacher_NX))
    return student_NX, teacher_NX


def equal_rows(what: str, student_NX: Tensor, teacher_NY: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [N, elements] in one type; a student's row may be as wide as it likes.

    Raises:
        ConfigError: they have another number of rows.

    """
    if len(student_NX) != len(teacher_NY):
        raise ConfigError(
            f'The loss "{what}" compares the rows of a batch, and found {len(student_NX)} from the student and '
            f"{len(teacher_NY)} from the teacher, expected as many. Read the teacher's rows by the ids of the batch."
        )
    student_NX, teacher_NY = lifted(flat(student_NX), flat(teacher_NY))
    return student_NX, teacher_NY


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast, which would make products of float32 rows in half precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def rescaled(x: Tensor, dim: int | None = None) -> Tensor:
    """What is given over its largest element, along an axis or of all, that squares neither overflow nor vanish.

    The divisor counts as a constant. So the gradient is right only where what follows does not see the scale. Where no
    element is larger than 1e-30, nothing is changed.
    """
    if not x.numel():  # a rank's share of a batch may be empty
        return x
    size = x.detach().abs()
    largest = size.amax() if dim is None else size.amax(dim=dim, keepdim=True)
    return x / torch.where(largest > NOTHING, largest, 1.0)


def spread(features_NX: Tensor) -> Tensor:
    """Rows counted from the first, over the largest element: exactly zero where all are equal, which a mean is not.

    For what sees neither a shift nor a scale; both count as constants.
    """
    return rescaled(features_NX - features_NX[:1].detach())


def or_one(size: Tensor) -> Tensor:
    """A size to divide what is `rescaled` by; 1 where there is none."""
    return torch.where(size > _NO_SIZE, size, 1.0)


def unit(x: Tensor) -> Tensor:
    """The vectors along the last axis over their lengths; zeros stay zeros, with the gradient of x itself."""
    x = rescaled(x, dim=-1)
    lengths: Tensor = vector_norm(x, dim=-1, keepdim=True)
    return x / or_one(lengths)


def without_direction(unit_NX: Tensor) -> Tensor:
    """1 for each row of zeros, 0 for each other, [N]."""
    lengths_N: Tensor = vector_norm(unit_NX.detach(), dim=-1)
    return (lengths_N <= _NO_SIZE).to(unit_NX.dtype)


def squared_distance(x_NX: Tensor, y_NX: Tensor) -> Tensor:
    """Sum of (x - y)^2 a row, [N]."""
    return (x_NX - y_NX).square().sum(dim=-1)
