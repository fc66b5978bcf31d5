"""A student's first weights, made of its teacher's: layers recombined, then widths sliced."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.seeding.axes import Axes, Axis, Heads, axes_of, heads_of, sliceable
from pipeline.seeding.layers import Shape, origins, shapes_of
from pipeline.seeding.settings import LayerRule
from pipeline.seeding.widths import Kept, narrowed
from pipeline.weights import State

SAME = "same"
"""The rule of what has one layer to be made of."""


@dataclass(frozen=True)
class Anatomy:
    """What is to be known of a network: its tensors, the heads of its attention, and whether it may be sliced."""

    state: State
    heads: Heads | None = None
    sliceable: bool = True

    @classmethod
    def of(cls, network: nn.Module) -> "Anatomy":
        """Of a network as it is."""
        return cls(network.state_dict(), heads_of(network), sliceable(network))

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of each of its tensors."""
        return shapes_of(self.state)

    @property
    def axes(self) -> Axes:
        """Which units the axes of its tensors count; none if that is not known."""
        return axes_of(self.shapes, self.heads) if self.sliceable else {}


@dataclass(frozen=True)
class Made:
    """What makes one tensor of a student: the teacher's, by which rule, and the axes that have only some units."""

    tensor: str
    of: tuple[str, ...]
    rule: str
    sliced: tuple[str, ...]


@dataclass(frozen=True)
class Seed:
    """A student's first weights, and where they are from."""

    state: State
    made: tuple[Made, ...]
    kept: Mapping[str, Kept]

    def facts(self) -> dict[str, object]:
        """The mapping as plain JSON."""
        return {
            "tensors": [asdict(each) for each in self.made],
            "kept": {name: {"units": list(kept.units), "of": kept.of} for name, kept in self.kept.items()},
        }


@torch.no_grad()
def seed(teacher: Anatomy, student: Anatomy, layers: LayerRule) -> Seed:
    """A student's first weights. Where nothing is to be left out they are the teacher's, to the bit.

    Layers are recombined first, and the units ranked that the student's layers have then.

    Raises:
        ConfigError: naming the tensors that cannot be had from the teacher's.

    """
    if teacher.heads != student.heads:
        raise ConfigError(
            f"The student's attention has {_said(student.heads)}, and the teacher's {_said(teacher.heads)}: no head of "
            "one can become a head of the other. Give the student heads like the teacher's, and fewer of them where it "
            "is narrower."
        )
    found = origins(student.shapes, teacher.shapes, layers)
    drafted = {name: _mean([teacher.state[each] for each in found[name].names]) for name in student.state}
    draft = Anatomy(drafted, teacher.heads, teacher.sliceable)
    axes = draft.axes if student.sliceable else {}
    state, kept = narrowed(drafted, axes, student.shapes)
    _refuse_tied(student.state, state)
    made = tuple(
        Made(name, origin.names, layers if origin.among > 1 else SAME, _narrow(axes.get(name, ()), kept))
        for name, origin in found.items()
    )
    return Seed({name: tensor.to(student.state[name].dtype) for name, tensor in state.items()}, made, kept)


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of several, of one itself; of counters the first."""
    if len(tensors) == 1 or not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)


def _refuse_tied(student: State, made: State) -> None:
    """Refuse two that are one in the student, and not the same in the teacher."""
    held: dict[int, str] = {}
    for name, tensor in student.items():
        twin = held.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if twin != name and not torch.equal(made[name], made[twin]):
            raise ConfigError(
                f"{name} and {twin} are one tensor in the student, and two in the teacher. Untie them in the student's "
                "options (tied = false, or tie_word_embeddings = false)."
            )


def _narrow(axes: tuple[Axis, ...], kept: Mapping[str, Kept]) -> tuple[str, ...]:
    """Of a tensor, the axes that have only some of their units."""
    named = dict.fromkeys(axis.name for axis in axes if axis.name)
    return tuple(name for name in named if name in kept)


def _said(heads: Heads | None) -> str:
    if heads is None:
        return "none that are known"
    return f"heads of {heads.width} entries" + (f", {heads.shared} to a key" if heads.shared > 1 else "")
