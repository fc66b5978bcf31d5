"""Correlation instead of equality."""

import pytest
import torch

from pipeline.labels import DenseLabels
from pipeline.losses.dist import dist

TEACHER = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
STUDENT = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def test_a_student_that_is_the_teacher_loses_nothing() -> None:
    """To the 1e-8 beside the norms."""
    torch.testing.assert_close(dist(TEACHER, DenseLabels(TEACHER), 1.0), torch.zeros(6), rtol=0, atol=1e-5)


def test_probabilities_that_grow_with_the_teachers_lose_nothing() -> None:
    """Correlation sees neither a shift nor a scale: what the paper relaxes."""
    p = TEACHER.softmax(dim=1)
    torch.testing.assert_close(
        dist((0.5 * p + 0.1).log(), DenseLabels(TEACHER), 1.0), torch.zeros(6), rtol=0, atol=1e-5
    )


def test_the_relation_within_the_batch_is_one_number_for_all_rows() -> None:
    """The mean over rows is then the loss of the paper."""
    loss = dist(STUDENT, DenseLabels(TEACHER), 4.0, beta=0.0, gamma=2.0)
    assert loss.unique().numel() == 1
    both = dist(STUDENT, DenseLabels(TEACHER), 4.0, beta=3.0, gamma=2.0)
    torch.testing.assert_close(both, dist(STUDENT, DenseLabels(TEACHER), 4.0, beta=3.0, gamma=0.0) + loss)


def test_a_batch_of_one_has_no_relation_within_it() -> None:
    """Nor a loss for the lack of one."""
    one = dist(STUDENT[:1], DenseLabels(TEACHER[:1]), 4.0)
    torch.testing.assert_close(one, dist(STUDENT, DenseLabels(TEACHER), 4.0, gamma=0.0)[:1])


@pytest.mark.parametrize("constant", ["teacher", "student", "both"])
def test_constant_probabilities_count_as_uncorrelated(constant: str) -> None:
    """Rho = 0, with a gradient that is finite."""
    flat = torch.zeros(3, 5)
    teacher = flat if constant != "student" else TEACHER[:3]
    logits = (flat if constant != "teacher" else STUDENT[:3]).clone().requires_grad_()
    loss = dist(logits, DenseLabels(teacher), 1.0, beta=2.0, gamma=0.0)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.full((3,), 2.0))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
