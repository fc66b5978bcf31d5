"""What is put behind a student's layer so that its feature has the teacher's shape; trained with it, thrown away after.

Not needed by losses that compare relations or attention, whose features may differ in width.

Shape legend
    N  rows (samples)
    L  positions
    D  elements of a feature
    C  channels
    H  height
    W  width
"""

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.errors import ConfigError

KINDS = {1: "a vector [D]", 2: "positions [L, D]", 3: "a map [C, H, W]"}
MAP = 3


class Regressor(nn.Module):
    """A student's feature brought to the teacher's shape, linearly.

    The regressor of Romero et al. (2015), arXiv 1412.6550. A linear layer on the last axis of [N, D] and [N, L, D]; on
    [N, C, H, W] a convolution of 1 x 1, and adaptive average pooling where the sizes differ. (The paper's convolution
    is as large as the sizes differ, with more weights.) Its initial weights are torch's, under its seed.
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> None:
        super().__init__()
        _refuse_unlike(tuple(student_shape), tuple(teacher_shape))
        self.layers: nn.Module
        if len(student_shape) == MAP:
            self.layers = _on_maps(tuple(student_shape), tuple(teacher_shape))
        else:
            self.layers = nn.Linear(student_shape[-1], teacher_shape[-1])

    def forward(self, features: Tensor) -> Tensor:
        """[N, *student's shape] to [N, *teacher's shape]."""
        regressed: Tensor = self.layers(features)
        return regressed


def regressor(
    student_shape: Sequence[int], teacher_shape: Sequence[int], *, identity_where_equal: bool = False
) -> nn.Module:
    """A module that maps [N, *student_shape] to [N, *teacher_shape]; where it is asked for and both are equal, none.

    Args:
        student_shape: of a row: (D,), (L, D) or (C, H, W).
        teacher_shape: of a row.
        identity_where_equal: whether equal shapes need no regressor. A learned one lets the student have the same
            in another basis; the identity holds it to the teacher's.

    Raises:
        ConfigError: the shapes are of different kinds, have other positions, or are not of a known kind.

    """
    if identity_where_equal and tuple(student_shape) == tuple(teacher_shape):
        _refuse_unlike(tuple(student_shape), tuple(teacher_shape))
        return nn.Identity()
    return Regressor(student_shape, teacher_shape)


def _on_maps(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """Pooling and a 1 x 1 convolution, which may change places: in the order in which the latter sees fewer places."""
    convolution = nn.Conv2d(student[0], teacher[0], kernel_size=1)
    if student[1:] == teacher[1:]:
        return convolution
    pooling = nn.AdaptiveAvgPool2d((teacher[1], teacher[2]))
    grows = teacher[1] * teacher[2] > student[1] * student[2]
    return nn.Sequential(convolution, pooling) if grows else nn.Sequential(pooling, convolution)


def _refuse_unlike(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    both = f"student's feature {list(student)} and the teacher's {list(teacher)}"
    for shape in (student, teacher):
        if len(shape) not in KINDS or min(shape) < 1:
            raise ConfigError(f"A regressor knows {', '.join(KINDS.values())}, each side at least 1; found the {both}.")
    if len(student) != len(teacher):
        raise ConfigError(
            f"A regressor that cannot match: {KINDS[len(student)]} onto {KINDS[len(teacher)]}, with the {both}. Name "
            'layers of one kind, or use a loss that compares relations ("rkd_distance", "similarity", "cka").'
        )
    if len(student) != MAP and student[:-1] != teacher[:-1]:
        raise ConfigError(
            f"A regressor that cannot match: {student[0]} positions onto {teacher[0]}, with the {both}. Which belong "
            "together is not known; name layers with as many positions, or a loss that compares relations."
        )
