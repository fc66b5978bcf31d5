"""Squared differences of logits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import dense, pairs, sparse

from pipeline.labels import DenseLabels
from pipeline.losses.divergences import kl
from pipeline.losses.mse import mse_logits

Pair = tuple[np.ndarray, np.ndarray, int]


@settings(deadline=None)
@given(pairs(), st.integers(-100, 100))
def test_a_shift_of_the_logits_changes_nothing(pair: Pair, shift: int) -> None:
    """Softmax does not see it, on either side.

    Logits are multiples of 1/64, so that float32 shifts them exactly.
    """
    teacher, student, k = pair
    teacher, student = np.round(64 * teacher) / 64, np.round(64 * student) / 64
    for make in (dense, lambda logits: sparse(logits, k)):
        here = mse_logits(torch.from_numpy(student), make(teacher))
        there = mse_logits(torch.from_numpy(student + shift), make(teacher - shift))
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


@settings(deadline=None)
@given(pairs())
def test_sparse_takes_the_others_at_their_mean(pair: Pair) -> None:
    """By NumPy: kept classes exactly, and (C - K) times the squared difference of the means; never above dense."""
    teacher, student, k = pair
    ids = np.argsort(-teacher, axis=1, kind="stable")
    centred = (student - student.mean(axis=1, keepdims=True)) - (teacher - teacher.mean(axis=1, keepdims=True))
    difference = np.take_along_axis(centred.astype(np.float64), ids, axis=1)
    classes = teacher.shape[1]
    rest = (classes - k) * difference[:, k:].mean(axis=1) ** 2
    found = mse_logits(torch.from_numpy(student), sparse(teacher, k)).numpy()
    np.testing.assert_allclose(found, ((difference[:, :k] ** 2).sum(axis=1) + rest) / classes, rtol=1e-4, atol=1e-4)
    whole = mse_logits(torch.from_numpy(student), dense(teacher)).numpy()
    assert (found <= whole + 1e-4 + 1e-5 * whole).all()


@pytest.mark.parametrize("temperature", [100.0, 1000.0])
def test_it_is_twice_what_kl_goes_to_as_the_temperature_grows(temperature: float) -> None:
    """T^2 KL(p_T || q_T) to sum (z - z')^2 / 2C: Hinton et al. 2015, equation 4."""
    random = np.random.default_rng(0)
    teacher, student = (torch.from_numpy(random.standard_normal((4, 6))) for _ in range(2))
    limit = 2 * temperature**2 * kl(student, DenseLabels(teacher), temperature)
    torch.testing.assert_close(mse_logits(student, DenseLabels(teacher)), limit, rtol=10 / temperature, atol=0)
