"""What holds for every loss of features, whatever it computes."""

import pytest
import torch
from hint_cases import ALL, BY_BATCH, BY_ROW, UNSCALED, WIDTH, ZERO_AT_EQUALITY, batches, features
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

Batches = tuple[Tensor, Tensor]


def gradient_of(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of its sum."""
    student = student.clone().requires_grad_()
    loss = ALL[name](student, teacher)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    return loss.detach(), gradient


@pytest.mark.parametrize("name", ZERO_AT_EQUALITY)
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_a_student_that_is_the_teacher_loses_nothing_and_is_told_nothing(name: str, rows: int) -> None:
    """Law: loss(t, t) = 0, exactly, and so is its gradient but for rounding."""
    teacher = features(rows, seed=0).float()
    loss, gradient = gradient_of(name, teacher, teacher)
    assert torch.equal(loss, torch.zeros(rows))
    torch.testing.assert_close(gradient, torch.zeros_like(teacher), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=40)
@given(batches())
def test_a_loss_of_features_is_finite_and_never_below_zero(name: str, pair: Batches) -> None:
    """Law: so is its gradient finite; rows of zeros, equal rows and single rows are among those drawn."""
    loss, gradient = gradient_of(name, *pair)
    assert loss.shape == (len(pair[0]),)
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    assert gradient.isfinite().all()


DEGENERATE = {
    "zeros": 0 * features(4, seed=1),
    "equal rows": features(1, seed=1).expand(4, WIDTH),
    "equal rows of .1": torch.full((4, WIDTH), 0.1, dtype=torch.float64),
    "two equal rows": features(3, seed=1)[[0, 1, 1, 2]],
    "one row of zeros": features(4, seed=1) * torch.tensor([[1.0], [0.0], [1.0], [1.0]]),
    "tiny": 1e-28 * features(4, seed=1),
    "huge": 1e18 * features(4, seed=1),
    "on one line": torch.linspace(0, 1, 4, dtype=torch.float64)[:, None] * torch.ones(WIDTH),
    "ordinary": features(4, seed=2),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("student", DEGENERATE)
def test_degenerate_batches_have_a_finite_loss_and_gradient(name: str, student: str) -> None:
    """Law: in float32, where 1e18 squared is near the end and 1e-28 squared is nothing, beside any teacher."""
    for teacher in DEGENERATE.values():
        loss, gradient = gradient_of(name, DEGENERATE[student].float(), teacher.float())
        assert loss.isfinite().all()
        assert (loss >= 0).all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_the_smallest_batches_have_a_finite_loss_and_gradient(name: str, rows: int) -> None:
    """Law: a process may have no row of the last batch."""
    loss, gradient = gradient_of(name, features(rows, seed=3), features(rows, seed=4))
    assert loss.shape == (rows,)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=20)
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(name: str, pair: Batches, random: object) -> None:
    """Law: loss of rows in another order is the loss in that order."""
    student, teacher = (each.double() for each in pair)
    order = list(range(len(student)))
    random.shuffle(order)  # type: ignore[attr-defined]
    torch.testing.assert_close(ALL[name](student[order], teacher[order]), ALL[name](student, teacher)[order])


@pytest.mark.parametrize("name", BY_ROW)
@settings(deadline=None, max_examples=20)
@given(batches(), st.data())
def test_a_row_is_told_the_same_in_any_batch(name: str, pair: Batches, data: st.DataObject) -> None:
    """Law: masking is slicing: the loss of chosen rows is the chosen rows of the loss."""
    student, teacher = pair
    chosen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(student), max_size=len(student))))
    whole, part = BY_ROW[name](student, teacher), BY_ROW[name](student[chosen], teacher[chosen])
    torch.testing.assert_close(part, whole[chosen])


@pytest.mark.parametrize("name", BY_BATCH)
def test_a_relation_is_not_told_the_same_in_any_batch(name: str) -> None:
    """The law above does not hold for what compares rows, and is not said to."""
    student, teacher = features(6, seed=5), features(6, seed=6)
    assert not torch.allclose(BY_BATCH[name](student[:4], teacher[:4]), BY_BATCH[name](student, teacher)[:4])


@pytest.mark.parametrize("name", UNSCALED)
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 2.5, 1e15])
def test_the_scale_of_the_students_features_is_not_seen(name: str, scale: float) -> None:
    """Law: loss(a s, t) = loss(s, t) for a > 0, and its gradient is 1 / a of that; also where squares would not be."""
    student, teacher = features(5, seed=7).float(), features(5, seed=8).float()
    loss, gradient = gradient_of(name, student, teacher)
    scaled, scaled_gradient = gradient_of(name, scale * student, teacher)
    torch.testing.assert_close(scaled, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scale * scaled_gradient, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(ALL) - set(UNSCALED)))
def test_the_scale_of_the_students_features_is_seen_by_the_others(name: str) -> None:
    """The law above can fail."""
    student, teacher = features(5, seed=7), features(5, seed=8)
    assert not torch.allclose(ALL[name](2 * student, teacher), ALL[name](student, teacher), rtol=0.1)


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_of_a_loss_of_features_is_that_of_finite_differences(name: str) -> None:
    """Law: in float64."""
    student, teacher = features(5, seed=10).requires_grad_(), features(5, seed=11)
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, teacher), student)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_features_are_widened_and_float64_stays(name: str) -> None:
    """Law: the loss of float16 features is float32, and that of the same numbers in float32."""
    student, teacher = features(5, seed=12).half(), features(5, seed=13).half()
    loss = ALL[name](student, teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, ALL[name](student.float(), teacher.float()))
    assert torch.equal(loss, ALL[name](student.float(), teacher))
    assert ALL[name](student.double(), teacher).dtype == torch.float64


@pytest.mark.parametrize("name", ALL)
def test_autocast_does_not_reach_into_a_loss_of_features(name: str) -> None:
    """Law: its products of float32 stay in float32."""
    student, teacher = features(5, seed=14).float(), features(5, seed=15).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = ALL[name](student, teacher)
    assert torch.equal(inside, ALL[name](student, teacher))


@pytest.mark.parametrize("name", ALL)
def test_following_the_gradient_lowers_the_loss(name: str) -> None:
    """Law: a small step against the gradient does."""
    student, teacher = features(5, seed=16), features(5, seed=17)
    loss, gradient = gradient_of(name, student, teacher)
    assert gradient.abs().max() > 0
    assert ALL[name](student - 1e-4 * gradient, teacher).sum() < loss.sum()
