"""Logits in units of their row's standard deviation."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import TEMPERATURES, dense, lskd, pairs, sparse, weights_alone

from pipeline.errors import ConfigError
from pipeline.labels import SparseLabels
from pipeline.losses.standardise import standardised, standardised_labels

TEACHER = 3 * np.random.default_rng(0).standard_normal((4, 6))


@settings(deadline=None)
@given(pairs(), TEMPERATURES, st.floats(0.125, 8), st.floats(-8, 8))
def test_the_scale_and_the_shift_of_a_student_do_not_matter(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float, scale: float, shift: float
) -> None:
    """A student that has the teacher's logits but for these has nothing to learn: what the paper is for."""
    teacher = pair[0].astype(np.float64)
    teacher[:, 0] += 40  # no deviation so small that 1e-7 beside it counts
    student = torch.from_numpy(scale * teacher + shift)
    torch.testing.assert_close(
        lskd(student, dense(teacher), temperature).float(), torch.zeros(len(teacher)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("k", [1, 3, 6])
def test_sparse_labels_are_those_of_the_standardised_logits(k: int) -> None:
    """Every part, as if the encoding had met them."""
    true_N = torch.tensor([0, 5, -1, 2])
    found = standardised_labels(sparse(TEACHER, k, labels_N=true_N))
    expected = sparse(standardised(torch.from_numpy(TEACHER)).numpy(), k, labels_N=true_N)
    assert isinstance(found, SparseLabels)
    for part in fields(SparseLabels):
        torch.testing.assert_close(
            getattr(found, part.name), getattr(expected, part.name), rtol=1e-5, atol=1e-5, equal_nan=True
        )


def test_a_constant_row_becomes_zeros() -> None:
    """It has no deviation to divide by; its student still has a finite gradient."""
    flat = np.full((2, 4), 7.0)
    logits = torch.zeros(2, 4, requires_grad=True)
    for labels in (dense(flat), sparse(flat, 2)):
        loss = lskd(logits, labels, 1.0)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.tolist() == pytest.approx([0, 0], abs=1e-6)
        assert gradient.isfinite().all()
    assert standardised(torch.from_numpy(flat)).count_nonzero() == 0


def test_labels_without_the_sums_of_standardised_logits_are_refused() -> None:
    """The tail mass at deviation x T was never stored."""
    labels = replace(sparse(TEACHER, 3), standard_logsumexp_NG=None)
    with pytest.raises(ConfigError, match=r"cannot be standardised: .* labels\.standardised = true, or with .*dense"):
        standardised_labels(labels)


def test_a_sample_of_weights_is_refused() -> None:
    """It holds no logits."""
    with pytest.raises(ConfigError, match=r"Sampled labels .* cannot be standardised\. .*labels\.standardised = true"):
        standardised_labels(weights_alone(TEACHER, 1.0))
