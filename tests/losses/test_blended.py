"""Labels that are made ready for a loss tell a student what they tell it by themselves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import GRID, dense, pairs, true_labels
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.labels import DenseLabels
from pipeline.losses import Shares, blend, blended, cross_entropy, kl

TEMPERATURES = st.sampled_from([*GRID, 0.7, 3.0, 10.0])
SHARES = st.floats(-2, 2, width=32)


def parts(student_NC: Tensor, labels: DenseLabels, true_N: Tensor, shares: Shares) -> Tensor:
    """Each by itself, and added."""
    return shares.hard * cross_entropy(student_NC, true_N) + shares.soft * kl(student_NC, labels, shares.temperature)


def gradient(loss_N: Tensor, student_NC: Tensor) -> Tensor:
    """Of the sum."""
    return torch.autograd.grad(loss_N.sum(), student_NC)[0]


@settings(deadline=None)
@given(pairs(), TEMPERATURES, SHARES, SHARES, st.data())
def test_one_pass_is_the_sum_of_both_parts(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float, hard: float, soft: float, data: st.DataObject
) -> None:
    """Law: the value and the gradient, whatever either part weighs; a row without a true label has the second alone."""
    teacher, student, _ = pair
    classes, shares = teacher.shape[1], Shares(temperature, hard, soft)
    true_N = torch.tensor(
        data.draw(st.lists(st.integers(-1, classes - 1), min_size=len(teacher), max_size=len(teacher)))
    )
    student_NC, labels = torch.from_numpy(student).requires_grad_(), dense(teacher)
    ready = blend(labels, true_N, shares)
    assert ready is not None
    expected_N, found_N = parts(student_NC, labels, true_N, shares), blended(student_NC, ready)
    torch.testing.assert_close(found_N, expected_N, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(gradient(found_N, student_NC), gradient(expected_N, student_NC), rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(pairs(reach=1000), TEMPERATURES)
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float
) -> None:
    """Law: KL(p, p) = 0, and so is its gradient."""
    teacher, _, _ = pair
    student_NC = torch.from_numpy(teacher).requires_grad_()
    ready = blend(dense(teacher), torch.full((len(teacher),), -1), Shares(temperature, 1.0, 1.0))
    assert ready is not None
    loss_N = blended(student_NC, ready)
    torch.testing.assert_close(loss_N, torch.zeros_like(loss_N), rtol=0, atol=1e-5)
    assert gradient(loss_N, student_NC).abs().max() < 1e-6


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(2, 130), st.data())
def test_rows_are_made_ready_the_same_whichever_are_beside_them(rows: int, classes: int, data: st.DataObject) -> None:
    """Law: to the bit, so that it does not matter how many batches are read at once."""
    logits_NC = 5 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows))
    labels, true_N, shares = DenseLabels(logits_NC), true_labels(rows, classes), Shares(3.0, 0.1, 8.1)
    whole, start = blend(labels, true_N, shares), data.draw(st.integers(0, rows - 1))
    cut = slice(start, data.draw(st.integers(start + 1, rows)))
    alone = blend(labels.select(cut), true_N[cut], shares)
    assert whole is not None
    assert alone is not None
    for name, tensor in vars(whole.select(cut)).items():
        assert torch.equal(tensor, getattr(alone, name)), name


@pytest.mark.parametrize("temperature", GRID)
def test_a_class_that_is_ruled_out_adds_nothing(temperature: float) -> None:
    """Law: as in the two parts, whoever rules it out; what it costs a student to rule out too much stays infinite."""
    teacher = np.array([[0.0, 1.0, -np.inf], [-1e4, 0.0, 1.0], [2.0, 0.0, 0.0]], np.float32)
    student_NC = torch.tensor([[0.0, 1.0, -math.inf], [-math.inf, 0.0, 2.0], [-math.inf, 0.0, 0.0]]).requires_grad_()
    true_N, shares = torch.tensor([1, 2, 1]), Shares(temperature, 0.5, 2.0)
    ready = blend(dense(teacher), true_N, shares)
    assert ready is not None
    found_N, expected_N = blended(student_NC, ready), parts(student_NC, dense(teacher), true_N, shares)
    assert found_N[:2].isfinite().all()
    assert found_N[2] == math.inf
    torch.testing.assert_close(found_N, expected_N)
    found, expected = (gradient(loss_N[:2], student_NC) for loss_N in (found_N, expected_N))
    torch.testing.assert_close(found[:2], expected[:2])


@pytest.mark.parametrize("stranger", [-2, 5, 1000])
def test_a_true_label_that_is_no_class_is_left_to_be_refused(stranger: int) -> None:
    """Law: nothing is made of it, so that the loss itself says what is wrong."""
    labels, true_N, shares = DenseLabels(torch.zeros(3, 5)), torch.tensor([0, stranger, -1]), Shares(1.0, 0.5, 0.5)
    assert blend(labels, true_N, shares) is None
    with pytest.raises(IndexError, match=f"Target {stranger} is out of bounds"):
        parts(torch.zeros(3, 5), labels, true_N, shares)


@pytest.mark.parametrize("temperature", [1e-50, 1e-40])
def test_a_temperature_beyond_float32_makes_a_loss_that_is_no_number(temperature: float) -> None:
    """Law: as in the two parts, so that training ends by what it says of divergence, and NumPy warns of nothing."""
    labels, true_N, shares = dense(np.array([[1.0, 3.0]])), torch.tensor([0]), Shares(temperature, 0.5, 0.5)
    ready = blend(labels, true_N, shares)
    assert ready is not None
    assert blended(torch.tensor([[2.0, 1.0]]), ready).isnan().all()
    assert parts(torch.tensor([[2.0, 1.0]]), labels, true_N, shares).isnan().all()


def test_a_student_of_other_classes_is_refused() -> None:
    """One output would be broadcast against all."""
    ready = blend(DenseLabels(torch.zeros(3, 5)), torch.zeros(3, dtype=torch.int64), Shares(1.0, 0.5, 0.5))
    assert ready is not None
    with pytest.raises(ConfigError, match="The student gives 1 logits a row, but its soft labels have 5 classes"):
        blended(torch.zeros(3, 1), ready)


def test_what_was_stored_is_left_as_it_was() -> None:
    """Law: logits are read by every student of a walk."""
    logits_NC = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    blend(DenseLabels(logits_NC), torch.tensor([0, 1]), Shares(1.0, 0.5, 0.5))
    assert logits_NC.tolist() == [[1.0, 2.0], [3.0, 5.0]]
