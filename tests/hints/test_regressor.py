"""What makes a student's feature have the teacher's shape."""

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.hints import Regressor, feature_mse, regressor

PAIRS = {
    "vectors": ((4,), (9,)),
    "positions": ((5, 4), (5, 9)),
    "maps of one size": ((4, 6, 6), (9, 6, 6)),
    "a larger map": ((4, 8, 10), (9, 4, 5)),
    "a smaller map": ((4, 2, 3), (9, 4, 6)),
    "sizes that do not divide": ((4, 7, 3), (9, 3, 5)),
    "equal vectors": ((4,), (4,)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_regressor_gives_the_teachers_shape(pair: str) -> None:
    """Law: for every pair of shapes of one kind, with a gradient for each of its weights."""
    student, teacher = PAIRS[pair]
    module = regressor(student, teacher)
    found = module(torch.randn(3, *student))
    assert found.shape == (3, *teacher)
    feature_mse(found, torch.randn(3, *teacher)).sum().backward()
    assert all(weights.grad.abs().max() > 0 for weights in module.parameters())


@pytest.mark.parametrize("pair", PAIRS)
def test_a_regressor_is_affine(pair: str) -> None:
    """Law: f(a x + b y) = a f(x) + b f(y) where a + b = 1."""
    student, teacher = PAIRS[pair]
    module = regressor(student, teacher).double()
    x, y = torch.randn(2, 3, *student, dtype=torch.float64)
    torch.testing.assert_close(module(1.7 * x - 0.7 * y), 1.7 * module(x) - 0.7 * module(y))


@pytest.mark.parametrize("pair", ["a larger map", "a smaller map", "sizes that do not divide"])
def test_pooling_and_the_convolution_may_change_places(pair: str) -> None:
    """Law: so the order is one of cost alone."""
    student, teacher = PAIRS[pair]
    module = Regressor(student, teacher).double()
    x = torch.randn(3, *student, dtype=torch.float64)
    torch.testing.assert_close(module(x), nn.Sequential(*reversed(module.layers))(x))


def test_the_convolution_sees_the_smaller_map() -> None:
    """Law: before pooling up, after pooling down."""
    assert isinstance(Regressor((4, 8, 8), (9, 4, 4)).layers[-1], nn.Conv2d)
    assert isinstance(Regressor((4, 4, 4), (9, 8, 8)).layers[0], nn.Conv2d)


def test_one_seed_gives_the_same_weights() -> None:
    """Law: torch's own, and others for another."""
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(regressor((4, 6, 6), (9, 3, 3)).state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not torch.equal(drawn[0]["layers.1.weight"], drawn[2]["layers.1.weight"])


def test_equal_shapes_need_no_regressor_where_that_is_asked_for() -> None:
    """Law: and only there."""
    x = torch.randn(2, 5, 4)
    assert torch.equal(regressor((5, 4), (5, 4), identity_where_equal=True)(x), x)
    assert list(regressor((5, 4), (5, 4)).parameters())
    assert list(regressor((5, 4), (5, 3), identity_where_equal=True).parameters())


def test_a_regressor_learns_a_teacher_that_is_its_students_feature_in_another_basis() -> None:
    """Law: to nothing, by least squares of its own form."""
    torch.manual_seed(0)
    module, x, basis = regressor((4,), (3,)).double(), torch.randn(20, 4).double(), torch.randn(4, 3).double()
    optimizer = torch.optim.LBFGS(module.parameters(), line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = feature_mse(module(x), x @ basis).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() < 1e-6


@pytest.mark.parametrize(
    ("student", "teacher", "text"),
    [
        ((4, 6, 6), (49, 9), r"a map \[C, H, W\] onto positions.*feature \[4, 6, 6\] and the teacher's \[49, 9\]"),
        ((4,), (9, 3, 3), r"a vector \[D\] onto a map.*feature \[4\] and the teacher's \[9, 3, 3\]"),
        ((5, 4), (4,), r"positions \[L, D\] onto a vector.*feature \[5, 4\] and the teacher's \[4\]"),
        ((5, 4), (6, 4), r"5 positions onto 6, with the student's feature \[5, 4\] and the teacher's \[6, 4\]"),
        ((2, 3, 4, 5), (9,), r"knows a vector \[D\], .* found the student's feature \[2, 3, 4, 5\] and the t.* \[9\]"),
        ((4,), (), r"found the student's feature \[4\] and the teacher's \[\]"),
        ((4,), (0,), r"each side at least 1; found the student's feature \[4\] and the teacher's \[0\]"),
    ],
)
def test_a_regressor_that_cannot_match_is_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], text: str
) -> None:
    """Law: both shapes are named, whether or not the identity would do."""
    for identity in (False, True):
        with pytest.raises(ConfigError, match=text):
            regressor(student, teacher, identity_where_equal=identity)


def test_equal_shapes_of_no_known_kind_are_refused() -> None:
    """Law: the identity is no way around it."""
    with pytest.raises(ConfigError, match=r"found the student's feature \[2, 3, 4, 5\]"):
        regressor((2, 3, 4, 5), (2, 3, 4, 5), identity_where_equal=True)
