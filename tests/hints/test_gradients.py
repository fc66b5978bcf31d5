"""Derivatives by the input, where they are known in closed form, and what a loss of them tells the weights."""

import pytest
import torch
from hint_cases import features
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.hints import (
    gradient_matching,
    gradient_penalty,
    input_gradient,
    projected_jacobian,
    random_projections,
)

INPUTS, WEIGHTS = features(5, seed=1), features(3, seed=2)
TARGETS = torch.tensor([0, 2, 1, 1, 0])


def inputs() -> Tensor:
    """Five rows of six, whose derivatives can be asked for."""
    return INPUTS.clone().requires_grad_()


def quadratic(x: Tensor) -> Tensor:
    """Logit c is sum_d w_cd x_d^2 / 2: its derivative is w_c x."""
    return x.square() @ WEIGHTS.T / 2


def network() -> nn.Module:
    """Smooth, with second derivatives everywhere."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def test_the_derivative_of_a_linear_model_is_its_weights() -> None:
    """Law: of the target's logit; left out, of the largest."""
    x = inputs()
    logits = x @ WEIGHTS.T
    torch.testing.assert_close(input_gradient(logits, x, TARGETS), WEIGHTS[TARGETS])
    torch.testing.assert_close(input_gradient(logits, x), WEIGHTS[logits.argmax(dim=1)])


def test_the_jacobian_of_a_linear_model_is_its_weights() -> None:
    """Law: by unit projections it is W itself, by any v it is v W, the same for every row."""
    x = inputs()
    for projections in (torch.eye(3, dtype=torch.float64), features(2, seed=3, width=3)):
        found = projected_jacobian(x @ WEIGHTS.T, x, projections)
        torch.testing.assert_close(found, (projections @ WEIGHTS).expand(5, -1, -1))


def test_the_derivative_of_a_quadratic_model_is_linear_in_the_input() -> None:
    """Law: w_c x, row by row."""
    x = inputs()
    torch.testing.assert_close(input_gradient(quadratic(x), x, TARGETS), WEIGHTS[TARGETS] * INPUTS)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(projected_jacobian(quadratic(x), x, eye), WEIGHTS * INPUTS[:, None])


def test_derivatives_have_the_shape_of_the_inputs() -> None:
    """Law: images stay images; projections come after the rows."""
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    logits = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 7))(x)
    assert input_gradient(logits, x).shape == (4, 3, 5, 5)
    assert projected_jacobian(logits, x, random_projections(2, 7, seed=0)).shape == (4, 2, 3, 5, 5)


def test_the_jacobian_of_a_perceptron_is_the_product_of_its_layers() -> None:
    """Law: W2 diag(1 - tanh^2) W1."""
    net, x = network(), inputs()
    slopes = 1 - net[:2](INPUTS).detach().square()
    expected = torch.einsum("ch,nh,hd->ncd", net[2].weight, slopes, net[0].weight).detach()
    torch.testing.assert_close(projected_jacobian(net(x), x, torch.eye(3, dtype=torch.float64)), expected)
    torch.testing.assert_close(input_gradient(net(x), x, TARGETS), expected[torch.arange(5), TARGETS])


def test_the_graph_of_the_logits_stays_for_their_own_loss() -> None:
    """Law: whether or not a graph of the derivative is asked for."""
    net, x = network(), inputs()
    logits = net(x)
    assert not input_gradient(logits, x).requires_grad
    assert input_gradient(logits, x, create_graph=True).requires_grad
    logits.sum().backward()
    assert net[0].weight.grad is not None


def test_a_row_without_a_label_has_no_derivative() -> None:
    """Law: zeros on both sides, so nothing to match."""
    x = inputs()
    found = input_gradient(quadratic(x), x, torch.tensor([0, -1, 1, 1, 0]))
    assert found[1].abs().max() == 0
    torch.testing.assert_close(found[[0, 2]], (WEIGHTS[[0, 1]] * INPUTS[[0, 2]]))


def test_matching_a_linear_teacher_is_regression_of_the_weights() -> None:
    """Law: the loss is ||w - w'||^2 of the targets, and the gradient that reaches the weights 2 (w - w')."""
    student, x = features(3, seed=4).requires_grad_(), inputs()
    loss = gradient_matching(input_gradient(x @ student.T, x, TARGETS, create_graph=True), WEIGHTS[TARGETS])
    torch.testing.assert_close(loss, (student - WEIGHTS).square().sum(dim=1)[TARGETS])
    loss.sum().backward()
    torch.testing.assert_close(student.grad, 2 * (student - WEIGHTS).detach() * torch.tensor([[2.0], [2.0], [1.0]]))


TOLD = {
    "gradient of a target": lambda z, x: gradient_matching(input_gradient(z, x, TARGETS, create_graph=True), INPUTS),
    "gradient of the top": lambda z, x: gradient_matching(input_gradient(z, x, create_graph=True), INPUTS),
    "projections": lambda z, x: gradient_matching(
        projected_jacobian(z, x, random_projections(2, 3, seed=1), create_graph=True), torch.zeros(5, 2, 6)
    ),
    "penalty": lambda z, x: gradient_penalty(input_gradient(z, x, TARGETS, create_graph=True), 0.3),
    "the teacher's norms": lambda z, x: gradient_penalty(
        input_gradient(z, x, TARGETS, create_graph=True), INPUTS[:, 0].abs()
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_the_double_backward_is_that_of_finite_differences(name: str) -> None:
    """Law: of each weight of a smooth network, in float64."""
    net = network()
    names, weights = zip(*net.named_parameters(), strict=True)

    def loss(*given: Tensor) -> Tensor:
        x = inputs()
        return TOLD[name](torch.func.functional_call(net, dict(zip(names, given, strict=True)), (x,)), x)

    assert torch.autograd.gradcheck(loss, weights)


def test_a_step_of_a_derivative_brings_a_student_nearer_to_its_teacher() -> None:
    """Law: a quadratic student learns the weights of a quadratic teacher from derivatives alone."""
    student = features(3, seed=5).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.1)
    teacher = WEIGHTS * INPUTS[:, None]
    for _ in range(300):
        x = inputs()
        logits = x.square() @ student.T / 2
        found = projected_jacobian(logits, x, torch.eye(3, dtype=torch.float64), create_graph=True)
        optimizer.zero_grad()
        gradient_matching(found, teacher).mean().backward()
        optimizer.step()
    torch.testing.assert_close(student.detach(), WEIGHTS, rtol=1e-2, atol=1e-2)


def test_random_projections_see_a_classth_of_the_jacobian() -> None:
    """Law: E ||v J||^2 = ||J||_F^2 / C, to three standard errors of 4000 draws."""
    jacobian = features(3, seed=6)
    seen = (random_projections(4000, 3, seed=2).double() @ jacobian).square().sum(dim=1)
    expected = jacobian.square().sum() / 3
    assert (seen.mean() - expected).abs() < 3 * seen.std() / 4000**0.5


def test_random_projections_have_length_one_and_are_named_by_their_seed() -> None:
    """Law: the same for teacher and student, others for another seed."""
    drawn = random_projections(5, 7, seed=3)
    torch.testing.assert_close(torch.linalg.vector_norm(drawn, dim=1), torch.ones(5))
    assert torch.equal(drawn, random_projections(5, 7, seed=3))
    assert not torch.equal(drawn, random_projections(5, 7, seed=4))


def test_a_flat_place_has_a_penalty_and_no_gradient() -> None:
    """Law: alpha^2, and zero, not NaN: which way to be steeper is not known."""
    weights = torch.zeros(3, 6, requires_grad=True)
    x = INPUTS.float().requires_grad_()
    loss = gradient_penalty(input_gradient(x @ weights.T, x, TARGETS, create_graph=True), 2.0)
    loss.sum().backward()
    assert loss.tolist() == [4, 4, 4, 4, 4]
    assert weights.grad.abs().max() == 0


def test_a_half_precision_networks_derivatives_are_matched_in_float32() -> None:
    """Law: the sum over elements is not one of bfloat16."""
    x = INPUTS.bfloat16().requires_grad_()
    found = input_gradient(x @ WEIGHTS.bfloat16().T, x, TARGETS, create_graph=True)
    loss = gradient_matching(found, torch.zeros(5, 6, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, WEIGHTS.bfloat16().float().square().sum(dim=1)[TARGETS])


def test_token_ids_have_no_derivatives() -> None:
    """Law: it says what they are."""
    with pytest.raises(ConfigError, match=r"torch\.int64 have no derivatives; expected floating point"):
        input_gradient(torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 5, dtype=torch.int64))


@pytest.mark.parametrize("asked", [True, False])
def test_inputs_without_a_graph_are_refused(asked: bool) -> None:
    """Law: it says when to ask for one."""
    x = INPUTS.clone().requires_grad_(asked)
    with torch.no_grad():
        logits = quadratic(x)
    with pytest.raises(ConfigError, match=r"no graph was kept.*requires_grad_\(\) before the network sees them"):
        input_gradient(logits, x)
    with pytest.raises(ConfigError, match="no graph was kept"):
        projected_jacobian(logits, x, torch.eye(3))


def test_logits_of_other_inputs_are_refused() -> None:
    """Law: a copy of what the network saw is not what it saw."""
    x = inputs()
    with pytest.raises(ConfigError, match="do not depend on these inputs"):
        input_gradient(quadratic(x), inputs())


def test_logits_of_positions_are_refused() -> None:
    """Law: it says what it found."""
    with pytest.raises(ConfigError, match=r"asked of logits \[2, 4, 3\], expected \[N, C\]"):
        input_gradient(torch.zeros(2, 4, 3, requires_grad=True), inputs())


@pytest.mark.parametrize("shape", [(2, 4), (3,), (0, 3)])
def test_projections_of_other_classes_are_refused(shape: tuple[int, ...]) -> None:
    """Law: it says how many there are."""
    x = inputs()
    with pytest.raises(ConfigError, match=r"projections of a Jacobian have the shape .*expected \[R, 3\]"):
        projected_jacobian(quadratic(x), x, torch.zeros(shape))


def test_derivatives_of_different_shapes_are_refused() -> None:
    """Law: never broadcast over projections."""
    with pytest.raises(ConfigError, match=r"found \[5, 1, 6\] from the student and \[5, 2, 6\] from the teacher"):
        gradient_matching(torch.zeros(5, 1, 6), torch.zeros(5, 2, 6))
