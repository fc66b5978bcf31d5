"""Features element by element, and by direction."""

import pytest
import torch
from hint_cases import batches, features
from hypothesis import given, settings
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hints import cosine_distance, feature_mse, hypersphere_distance


@settings(deadline=None)
@given(batches())
def test_the_squared_distance_on_the_sphere_is_twice_the_cosine_distance(pair: tuple[Tensor, Tensor]) -> None:
    """Law: for rows with a direction."""
    student, teacher = (torch.where((each == 0).all(dim=1, keepdim=True), 1.0, each) for each in pair)
    torch.testing.assert_close(hypersphere_distance(student, teacher), 2 * cosine_distance(student, teacher))


def test_the_cosine_distance_is_one_less_torchs_cosine() -> None:
    """Law: of float64."""
    student, teacher = features(8, seed=0), features(8, seed=1)
    expected = 1 - torch.nn.functional.cosine_similarity(student, teacher)
    torch.testing.assert_close(cosine_distance(student, teacher), expected)


def test_a_cosine_distance_below_the_rounding_of_one_is_known() -> None:
    """Law: 5e-9 for an angle of 1e-4, where 1 - cos in float32 is 0 or 6e-8."""
    student, teacher = torch.tensor([[1.0, 1e-4]]), torch.tensor([[1.0, 0.0]])
    assert cosine_distance(student, teacher).item() == pytest.approx(5e-9, rel=1e-3)


@pytest.mark.parametrize("loss", [cosine_distance, hypersphere_distance])
def test_each_row_has_a_scale_of_its_own_that_is_not_seen(loss: object) -> None:
    """Law: on both sides."""
    student, teacher = features(4, seed=0), features(4, seed=1)
    scale_N1 = torch.tensor([[0.1], [1.0], [3.0], [1e6]], dtype=torch.float64)
    torch.testing.assert_close(loss(scale_N1 * student, teacher * scale_N1.flip(0)), loss(student, teacher))


def test_opposite_rows_are_farthest() -> None:
    """Law: 2 by cosine, 4 on the sphere."""
    teacher = features(3, seed=0)
    torch.testing.assert_close(cosine_distance(-2 * teacher, teacher), torch.full((3,), 2.0).double())
    torch.testing.assert_close(hypersphere_distance(-2 * teacher, teacher), torch.full((3,), 4.0).double())


def test_rows_of_zeros_have_the_distances_that_are_said_of_them() -> None:
    """Law: cosine 0, so distance 1; the centre of the sphere, 1 from its surface and 0 from itself."""
    zeros, other = torch.zeros(1, 4), torch.ones(1, 4)
    for student, teacher, on_sphere in ((zeros, other, 1.0), (other, zeros, 1.0), (zeros, zeros, 0.0)):
        assert cosine_distance(student, teacher).item() == 1
        assert hypersphere_distance(student, teacher).item() == pytest.approx(on_sphere)


def test_a_students_row_of_zeros_is_told_where_to_go() -> None:
    """Law: the gradient of the cosine distance there is the teacher's direction, against it."""
    student = torch.zeros(1, 2, requires_grad=True)
    cosine_distance(student, torch.tensor([[3.0, 4.0]])).sum().backward()
    torch.testing.assert_close(student.grad, torch.tensor([[-0.6, -0.8]]))


def test_a_rows_mean_over_positions_is_the_mean_of_positions_as_rows() -> None:
    """Law: of squared differences; so padding is left out by making rows of what is not."""
    student, teacher = features(12, seed=0).reshape(3, 4, 6), features(12, seed=1).reshape(3, 4, 6)
    positions = feature_mse(student.flatten(0, 1), teacher.flatten(0, 1)).reshape(3, 4)
    torch.testing.assert_close(feature_mse(student, teacher), positions.mean(dim=1))


@pytest.mark.parametrize("loss", [feature_mse, cosine_distance, hypersphere_distance])
def test_features_of_different_shapes_are_refused(loss: object) -> None:
    """Law: never broadcast."""
    with pytest.raises(ConfigError, match=r"found \[3, 1\] from the student and \[3, 6\] from the teacher.*regressor"):
        loss(torch.zeros(3, 1), torch.zeros(3, 6))
