"""A network with fewer units: which to keep, and its tensors without the others.

Weight subcloning (Samragh et al. 2023, arXiv 2312.09299) ranks the units of a teacher and shares one ranking among all
tensors of the residual stream. It ranks by the size of activations on data, and scales weights; here it is the norm of
the weights, which needs no data, and gains are scaled. Not for making a student that is done: it is where training
begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch

from pipeline.errors import ConfigError
from pipeline.seeding.axes import Axes, Axis
from pipeline.seeding.layers import NAMED, Shape
from pipeline.weights import State

MEASURED = ("running_mean", "running_var")
"""Statistics of activations, and no weights."""


@dataclass(frozen=True)
class Kept:
    """Which units of how many stay, in the order they have then."""

    units: tuple[int, ...]
    of: int


def narrowed(state: State, axes: Axes, shapes: Mapping[str, Shape]) -> tuple[State, dict[str, Kept]]:
    """A state in other shapes, made by leaving out units, and which of each axis stay.

    An axis that is to have all its units is left as it is. Of another one those stay whose weights have the largest
    norm: the root of the sum of squares of all that writes or reads the unit, in every tensor that shares it. They come
    in the order of their norms, so that it does not matter in which order the larger network has them. A gain after a
    root mean square over E units, of which E' stay, is multiplied by sqrt(E / E'), since where the others are zero the
    mean is larger by E / E'.

    Args:
        state: the tensors of the larger network.
        axes: what they count, as `axes_of` says.
        shapes: the shapes to be had, by the same names, of a network whose axes are of the same make.

    Raises:
        ConfigError: a shape cannot be had: it is larger, its axis is not one of units, or units are not known.

    """
    other = [name for name, shape in shapes.items() if tuple(state[name].shape) != shape]
    if not other:
        return dict(state), {}
    refused = [_whole(name, state[name], shapes[name], axes) for name in other]
    _refuse([text for text in refused if text])
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        for axis, entries in zip(axes[name], shape, strict=True):
            if axis.name and sizes.setdefault(axis.name, axis.units(entries)) != axis.units(entries):
                _refuse([f"{name} has {axis.units(entries)} of {axis.name}, and another tensor {sizes[axis.name]}"])
    kept = {name: found for name, size in sizes.items() if (found := _kept(name, size, state, axes)) is not None}
    return {name: _sliced(tensor, axes[name], kept) for name, tensor in state.items()}, kept


def _whole(name: str, tensor: torch.Tensor, shape: Shape, axes: Axes) -> str | None:
    """Why a tensor cannot come into a shape by leaving out units; None if it can."""
    found = f"{name} is {list(tensor.shape)} in the teacher and {list(shape)} in the student"
    if not axes:
        return f"{found}, and which units its axes count is not known of this network"
    for number, (axis, had, entries) in enumerate(zip(axes[name], tensor.shape, shape, strict=True)):
        if axis.name is None and had != entries:
            return f"{found}, and none can be left out of axis {number}"
        if entries > had:
            return f"{found}, which has more on axis {number}"
        if entries % (axis.width * axis.copies):
            return f"{found}, which are no whole heads of {axis.width} entries on axis {number}"
    return None


def _refuse(texts: list[str]) -> None:
    if texts:
        more = f" (and {len(texts) - NAMED} more)" if len(texts) > NAMED else ""
        raise ConfigError(
            f"The student cannot be sliced out of its teacher: {'; '.join(texts[:NAMED])}{more}. Give it the teacher's "
            "width there, or fewer heads that are as wide; or take [students.NAME.seeded] out."
        )


def _kept(name: str, size: int, state: State, axes: Axes) -> Kept | None:
    """The units of an axis that stay; None for all."""
    squares: list[torch.Tensor] = []
    for tensor_name, tensor in state.items():
        if not tensor_name.endswith(MEASURED):
            squares += [
                _squares(tensor, number, axis) for number, axis in enumerate(axes[tensor_name]) if axis.name == name
            ]
    norms = torch.stack(squares).sum(0)
    if len(norms) == size:
        return None
    order = norms.sort(descending=True, stable=True).indices
    return Kept(tuple(order[:size].tolist()), len(norms))


def _squares(tensor: torch.Tensor, number: int, axis: Axis) -> torch.Tensor:
    """The sum of squares over all but the units of one axis, [units]."""
    by_unit = tensor.double().movedim(number, 0).reshape(axis.copies, axis.units(tensor.shape[number]), -1)
    return by_unit.square().sum((0, 2))


def _sliced(tensor: torch.Tensor, axes: tuple[Axis, ...], kept: Mapping[str, Kept]) -> torch.Tensor:
    for number, axis in enumerate(axes):
        if (stay := kept.get(axis.name or "")) is None:
            continue
        along = tensor.movedim(number, 0)
        by_copy = along.reshape(axis.copies, stay.of, axis.width, *along.shape[1:])
        tensor = by_copy[:, list(stay.units)].flatten(0, 2).movedim(0, number)
        if axis.gain:
            tensor = tensor * sqrt(stay.of / len(stay.units))
    return tensor.contiguous()
