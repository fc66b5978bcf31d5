"""A student's feature held against the teacher's, element by element or by direction.

Between unit vectors u and v: ||u - v||^2 = 2 (1 - u . v). So the squared distance on the sphere is twice the cosine
distance, and the two teach the same; they differ in a row of zeros alone, which has no direction.

A row is one vector, whatever its axes. Positions of a sequence that are to be told one by one, or padding that is not
to be told at all, are the caller's to make rows of: [N, L, D] to [M, D], as `pipeline.tutor` does. Not for features of
different shapes: see `regressor`, or compare by `relations`, `attention`.

Shape legend
    N  rows (samples or positions)
    X  all elements of a row, whatever its axes
"""

from torch import Tensor

from pipeline.hints.rows import equal_shapes, squared_distance, unit, without_direction


def feature_mse(student_NX: Tensor, teacher_NX: Tensor) -> Tensor:
    """Mean over elements of (s - t)^2 a row, [N].

    The loss on hints of Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550, which has half of
    the sum in place of the mean. Jiao et al. (2020), "TinyBERT", arXiv 1909.10351, tell hidden states so, of each
    position. Not for a teacher whose few large elements say little: they are most of the sum.

    Raises:
        ConfigError: the shapes differ.

    """
    student_NX, teacher_NX = equal_shapes("feature_mse", student_NX, teacher_NX)
    return (student_NX - teacher_NX).square().mean(dim=1)


def cosine_distance(student_NX: Tensor, teacher_NX: Tensor) -> Tensor:
    """1 - s . t / (||s|| ||t||) a row, 0 to 2, [N].

    As in Sanh et al. (2019), "DistilBERT", arXiv 1910.01108, there of every position. Not where the length
    of a feature says something, as before a linear layer.

    A row of zeros, on either side or both, has the cosine 0 and so the distance 1; the gradient at a student's is -t /
    ||t||: it says where to go.

    Raises:
        ConfigError: the shapes differ.

    """
    student_NX, teacher_NX = (unit(each) for each in equal_shapes("feature_cosine", student_NX, teacher_NX))
    # As half of a squared distance: 1 - cos of float32 knows nothing below 1e-7, and may be less than zero.
    missing_N = without_direction(student_NX) + without_direction(teacher_NX)
    return (squared_distance(student_NX, teacher_NX) + missing_N) / 2


def hypersphere_distance(student_NX: Tensor, teacher_NX: Tensor) -> Tensor:
    """|| s / ||s|| - t / ||t|| ||^2 a row, 0 to 4, [N]: twice the cosine distance.

    A row of zeros stays in the centre of the sphere: 1 from any other, 0 from another such.

    Raises:
        ConfigError: the shapes differ.

    """
    student_NX, teacher_NX = equal_shapes("feature_sphere", student_NX, teacher_NX)
    return squared_distance(unit(student_NX), unit(teacher_NX))
