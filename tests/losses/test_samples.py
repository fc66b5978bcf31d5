"""Losses of samples are right on average: every sample of a small design, each with its probability."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from loss_cases import GRID, LINEAR, head_sampled, lskd
from torch import Tensor

from pipeline.labels import DenseLabels, HeadSampledLabels, SampledLabels, SoftLabels
from pipeline.losses.divergences import kl, soft_cross_entropy

TEACHER = np.array([[3.0, 0.5, 2.0, -1.0, 1.0]])  # by falling logit: classes 0, 2, 4, 1, 3
STUDENT = torch.tensor([[0.0, 1.0, -1.0, 0.5, 2.0]], dtype=torch.float64)
DENSE = DenseLabels(torch.from_numpy(TEACHER))
TAIL = [4, 1, 3]  # what a head of two leaves out
TRUE = torch.tensor([1])

Draw = tuple[float, list[int], list[float]]
"""How likely a sample is, its classes, and with which probability each was to be in it."""


def coins() -> Iterator[Draw]:
    """Each class is in it or not, by itself: from 0 to all of them."""
    inclusion = [0.5, 0.3, 0.8]
    for drawn in itertools.product([False, True], repeat=len(TAIL)):
        chance = np.prod([p if heads else 1 - p for p, heads in zip(inclusion, drawn, strict=True)])
        chosen = [n for n, heads in enumerate(drawn) if heads]
        yield float(chance), [TAIL[n] for n in chosen], [inclusion[n] for n in chosen]


def one_of_them() -> Iterator[Draw]:
    """Exactly one class."""
    for chance, drawn in zip([0.6, 0.3, 0.1], TAIL, strict=True):
        yield chance, [drawn], [chance]


def with_head(classes: list[int], inclusion: list[float]) -> HeadSampledLabels:
    """A head of two and this tail."""
    tail_ids_NM = torch.tensor(classes, dtype=torch.int64)[None]
    return head_sampled(TEACHER, 2, tail_ids_NM, torch.tensor(inclusion, dtype=torch.float64)[None])


def weights(temperature: float) -> Callable[[list[int], list[float]], SampledLabels]:
    """The head exactly and the tail as p / inclusion, at one temperature; and a place of padding."""
    p_C = (torch.from_numpy(TEACHER)[0] / temperature).softmax(dim=0)

    def make(classes: list[int], inclusion: list[float]) -> SampledLabels:
        ids = [0, 2, *classes, 0]
        counted = [1.0, 1.0, *inclusion, torch.inf]
        return SampledLabels(5, temperature, torch.tensor(ids)[None], (p_C[ids] / torch.tensor(counted))[None])

    return make


def expected(
    loss: Callable[[Tensor, SoftLabels], Tensor],
    design: Callable[[], Iterator[Draw]],
    make: Callable[[list[int], list[float]], SoftLabels],
) -> tuple[Tensor, Tensor]:
    """The mean over all samples of the loss, and of its gradient."""
    values, gradients = [], []
    for chance, classes, inclusion in design():
        value, gradient = value_and_gradient(loss, make(classes, inclusion))
        values.append(chance * value)
        gradients.append(chance * gradient)
    return torch.stack(values).sum(), torch.stack(gradients).sum(dim=0)


def value_and_gradient(loss: Callable[[Tensor, SoftLabels], Tensor], labels: SoftLabels) -> tuple[Tensor, Tensor]:
    """Of the one row."""
    logits = STUDENT.clone().requires_grad_()
    value = loss(logits, labels).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize("design", [coins, one_of_them])
@pytest.mark.parametrize("loss", [kl, soft_cross_entropy, lskd])
def test_a_head_and_a_sampled_tail_have_the_dense_loss_on_average(
    loss: Callable[[Tensor, SoftLabels, float], Tensor], design: Callable[[], Iterator[Draw]], temperature: float
) -> None:
    """Horvitz and Thompson: E sum p / inclusion f = sum p f; the value and the gradient, standardised too."""

    def at(logits: Tensor, labels: SoftLabels) -> Tensor:
        return loss(logits, labels, temperature)

    for found, whole in zip(expected(at, design, with_head), value_and_gradient(at, DENSE), strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize("design", [coins, one_of_them])
@pytest.mark.parametrize("name", LINEAR)
def test_weights_alone_have_the_dense_gradient_on_average(
    name: str, design: Callable[[], Iterator[Draw]], temperature: float
) -> None:
    """E sum w log q = sum p log q. The value of KL is off by a constant, that of the cross-entropy is not."""

    def at(logits: Tensor, labels: SoftLabels) -> Tensor:
        return LINEAR[name](logits, labels, TRUE, temperature)

    value, gradient = expected(at, design, weights(temperature))
    whole, slope = value_and_gradient(at, DENSE)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-7)
    if name == "soft_cross_entropy":
        torch.testing.assert_close(value, whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("classes", [[], [4], [1, 3], [4, 1, 3]])
def test_a_student_that_is_the_teacher_has_no_loss_from_any_sample(classes: list[int]) -> None:
    """Each class adds zero by itself, so there is nothing to be unlucky with."""
    labels = with_head(classes, [0.1] * len(classes))
    assert kl(torch.from_numpy(TEACHER), labels, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_padding_adds_nothing_even_where_the_student_rules_its_class_out() -> None:
    """A weight of zero is no class, whatever id stands beside it."""
    labels = SampledLabels(3, 1.0, torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.0]]))
    logits = torch.tensor([[-torch.inf, 0.0, 0.0]], requires_grad=True)
    loss = kl(logits, labels, 1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0, -0.5, 0.5]]
