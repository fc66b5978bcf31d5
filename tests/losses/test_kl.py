"""The divergence is the divergence: zero of a thing from itself, never below, the same however it is asked."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from loss_cases import GRID, TEMPERATURES, dense, pairs, sparse

from pipeline.labels import DenseLabels, DType, SoftLabels
from pipeline.losses import cross_entropy, kd, kl


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """In float64, by NumPy."""
    p = np.exp((logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature)
    return p / p.sum(axis=1, keepdims=True)


def grouped(p: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The probabilities of these classes, and of all others together."""
    others = p.copy()
    np.put_along_axis(others, ids, 0, axis=1)
    return np.concatenate([np.take_along_axis(p, ids, axis=1), others.sum(axis=1, keepdims=True)], axis=1)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The formula: sum p log(p / q)."""
    return (p * np.log(p / q)).sum(axis=1)


@settings(deadline=None)
@given(pairs(), TEMPERATURES)
def test_dense_kl_is_the_formula(pair: tuple[np.ndarray, np.ndarray, int], temperature: float) -> None:
    """Against NumPy in float64."""
    teacher, student, _ = pair
    found = kl(torch.from_numpy(student), dense(teacher), temperature).numpy()
    np.testing.assert_allclose(
        found, divergence(softmax(teacher, temperature), softmax(student, temperature)), 1e-5, 2e-5
    )


@settings(deadline=None)
@given(pairs(), TEMPERATURES)
def test_sparse_kl_is_the_formula_with_the_others_as_one_class(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float
) -> None:
    """Against NumPy in float64; the tail of the teacher is known to the float32 rounding of 1 - p."""
    teacher, student, k = pair
    ids = np.argsort(-teacher, axis=1, kind="stable")[:, :k]
    p, q = (grouped(softmax(logits, temperature), ids) for logits in (teacher, student))
    found = kl(torch.from_numpy(student), sparse(teacher, k), temperature).numpy()
    np.testing.assert_allclose(found, divergence(p, q), 1e-5, 5e-5)


@settings(deadline=None)
@given(pairs(reach=60), TEMPERATURES)
def test_nothing_diverges_from_itself(pair: tuple[np.ndarray, np.ndarray, int], temperature: float) -> None:
    """KL(p, p) = 0, dense and sparse, to the float32 rounding of the tail times its log."""
    teacher, _, k = pair
    for labels in (dense(teacher), sparse(teacher, k), sparse(teacher, teacher.shape[1])):
        torch.testing.assert_close(
            kl(torch.from_numpy(teacher), labels, temperature), torch.zeros(len(teacher)), rtol=0, atol=5e-5
        )


@settings(deadline=None)
@given(pairs(reach=60), TEMPERATURES, st.sampled_from(["float16", "float32"]))
def test_a_divergence_is_finite_and_never_below_zero(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float, dtype: DType
) -> None:
    """Gibbs' inequality; it holds for rounded labels because their groups are made to sum to one."""
    teacher, student, k = pair
    for labels in (dense(teacher), sparse(teacher, k, dtype), sparse(teacher, teacher.shape[1], dtype)):
        loss = kl(torch.from_numpy(student), labels, temperature)
        assert loss.isfinite().all()
        assert (loss >= -1e-5).all()


@settings(deadline=None)
@given(pairs(), TEMPERATURES, st.integers(-200, 200))
def test_a_shift_of_the_logits_changes_nothing(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float, shift: int
) -> None:
    """Softmax does not see it, on either side.

    Logits are multiples of 1/64, so that float32 shifts them exactly.
    """
    teacher, student, k = pair
    teacher, student = np.round(64 * teacher) / 64, np.round(64 * student) / 64
    for make in (dense, partial(sparse, k=k)):
        here = kl(torch.from_numpy(student), make(teacher), temperature)
        there = kl(torch.from_numpy(student - shift), make(teacher + shift), temperature)
        torch.testing.assert_close(there, here, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize("kept", [None, 1, 3, 6])
def test_the_gradient_is_that_of_finite_differences(temperature: float, kept: int | None) -> None:
    """In float64, dense, sparse and with every class kept."""
    random = np.random.default_rng(0)
    teacher, student = (3 * random.standard_normal((4, 6)) for _ in range(2))
    labels: SoftLabels = dense(teacher) if kept is None else sparse(teacher, kept)
    logits = torch.from_numpy(student).requires_grad_()
    assert torch.autograd.gradcheck(lambda student_NC: kl(student_NC, labels, temperature), logits)
    true = torch.tensor([0, 5, -1, 2])
    assert torch.autograd.gradcheck(lambda student_NC: kd(student_NC, labels, true, temperature, 0.3), logits)


@pytest.mark.parametrize("temperature", [50.0, 100.0, 200.0])
def test_the_square_of_the_temperature_keeps_the_gradient_as_large(temperature: float) -> None:
    """T^2 dKL/dz goes to (z - v) / C for centred logits z, v as T grows: Hinton et al. 2015, equation 4."""
    random = np.random.default_rng(0)
    teacher, student = (row - row.mean() for row in random.standard_normal((2, 1, 10)))
    logits = torch.from_numpy(student).requires_grad_()
    kd(logits, DenseLabels(torch.from_numpy(teacher)), torch.tensor([-1]), temperature, alpha=1.0).sum().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), (student - teacher) / 10, rtol=0, atol=3 / temperature / 10)


def test_a_student_all_but_certain_of_the_kept_classes_is_still_told_of_the_others() -> None:
    """Its tail, 1e-9, is lost in 1 - (kept mass) in float32; the gradient here is that of float64."""
    labels = sparse(np.array([[3.0, 0.0, 0.0, 0.0]]), 1)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        student = torch.tensor([[22.0, 0.0, 1.0, -1.0]], dtype=dtype, requires_grad=True)
        kl(student, labels, 1.0).sum().backward()
        assert student.grad is not None
        gradients.append(student.grad.double())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)
    assert gradients[1][0, 0] > 0.1


@settings(deadline=None)
@given(st.floats(0, 60, width=32), st.integers(1, 4))
def test_a_certain_teacher_has_no_divergence_from_itself(gap: float, k: int) -> None:
    """Its tail, e^-120 at most, is stored to its last digits, not as 1 - p."""
    teacher = np.array([[gap + 20, 4, 3, 2, 1]], np.float32)
    loss = kl(torch.from_numpy(teacher), sparse(teacher, k), 0.5)
    torch.testing.assert_close(loss, torch.zeros(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kept", [None, 2, 4])
def test_a_class_of_no_probability_adds_nothing(kept: int | None) -> None:
    """0 log 0 = 0: neither NaN nor infinity, in the value and in the gradient."""
    teacher = np.array([[0.0, -500.0, -1000.0, -30000.0]])
    student = torch.zeros(1, 4, requires_grad=True)
    loss = kl(student, dense(teacher) if kept is None else sparse(teacher, kept), 0.5)
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.log(4), abs=1e-5)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[-1.5, 0.5, 0.5, 0.5]]), rtol=0, atol=1e-5)


def test_a_teacher_that_rules_classes_out_with_minus_infinity_adds_nothing() -> None:
    """Labels made by hand may hold what the encodings refuse."""
    labels = DenseLabels(torch.tensor([[0.0, 0.0, -torch.inf]]))
    student = torch.zeros(1, 3, requires_grad=True)
    loss = kl(student, labels, 1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.log(1.5))
    assert student.grad is not None
    assert student.grad.isfinite().all()


@settings(deadline=None)
@given(pairs(), TEMPERATURES, st.floats(0, 1), st.data())
def test_kd_is_the_weighted_sum_of_its_terms(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float, alpha: float, data: st.DataObject
) -> None:
    """(1 - alpha) CE + alpha T^2 KL, the first only where there is a label."""
    teacher, student, k = pair
    logits = torch.from_numpy(student)
    elements = st.integers(-1, teacher.shape[1] - 1)
    labels_N = torch.from_numpy(data.draw(hnp.arrays(np.int64, len(teacher), elements=elements)))
    soft = sparse(teacher, k)
    hard_N, soft_N = cross_entropy(logits, labels_N), temperature**2 * kl(logits, soft, temperature)
    found = kd(logits, soft, labels_N, temperature, alpha)
    torch.testing.assert_close(found, (1 - alpha) * hard_N + alpha * soft_N)
    torch.testing.assert_close(found[labels_N < 0], alpha * soft_N[labels_N < 0])
