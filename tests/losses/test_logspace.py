"""Small probabilities by their logarithms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.losses.logspace import at_least_float32, complement, log1mexp


@settings(deadline=None)
@given(st.floats(-30, -1e-12))
def test_log1mexp_is_the_log_of_the_complement(x: float) -> None:
    """log(1 - exp(x)) = log(-expm1(x)), in float64."""
    found = log1mexp(torch.tensor(x, dtype=torch.float64)).item()
    assert found == pytest.approx(np.log(-np.expm1(x)), rel=1e-12, abs=1e-15)


@settings(deadline=None)
@given(st.floats(-80, -(2.0**-24), width=32))
def test_log1mexp_is_as_exact_in_float32(x: float) -> None:
    """No digits are lost to cancellation on either side of -log 2."""
    expected = np.log1p(-np.exp(x)) if x < -1 else np.log(-np.expm1(x))
    assert log1mexp(torch.tensor(x)).item() == pytest.approx(expected, rel=1e-5, abs=1e-37)


@settings(deadline=None)
@given(st.floats(-30, -1e-6))
def test_its_gradient_is_that_of_the_formula(x: float) -> None:
    """d/dx log(1 - exp(x)) = -1 / expm1(-x), on both branches."""
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    log1mexp(tensor).backward()
    assert tensor.grad is not None
    assert tensor.grad.item() == pytest.approx(-1 / np.expm1(-x), rel=1e-9)


@pytest.mark.parametrize("kept_mass", [0.9999999, 1.0, 1.0000001])
def test_a_kept_mass_that_rounds_to_one_still_has_a_finite_value_and_a_gradient(kept_mass: float) -> None:
    """log(1 - sum p) is -inf there, and its gradient NaN."""
    x = torch.tensor([kept_mass]).log().requires_grad_()
    value = log1mexp(x)
    value.sum().backward()
    assert x.grad is not None
    assert -17 < value.item() < -15
    assert -2e7 < x.grad.item() < -5e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_above_minus_half_an_epsilon_all_is_as_there(dtype: torch.dtype) -> None:
    """What is nearer to zero is rounding, and positive numbers are too."""
    limit = -torch.finfo(dtype).eps / 2
    x = torch.tensor([limit, limit / 2, 0.0, 1e-3, 2.0], dtype=dtype, requires_grad=True)
    values = log1mexp(x)
    values.sum().backward()
    assert x.grad is not None
    assert values.unique().numel() == x.grad.unique().numel() == 1
    assert values[0].item() == pytest.approx(math.log(-limit))


def test_a_caller_that_knows_x_better_sets_the_limit() -> None:
    """log(1 - exp(-1e-30)) = log 1e-30, for an x that is no difference of rounded numbers."""
    x = torch.tensor([-1e-30, 0.0])
    assert log1mexp(x, limit=-1e-35).tolist() == pytest.approx([math.log(1e-30), math.log(1e-35)])


def test_nothing_leaves_everything() -> None:
    """log(1 - 0) = 0, with a gradient of 0."""
    x = torch.tensor([-math.inf, -1e4], requires_grad=True)
    values = log1mexp(x)
    values.sum().backward()
    assert x.grad is not None
    assert values.tolist() == x.grad.tolist() == [0, 0]


@settings(deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=9), st.data())
def test_the_complement_of_some_classes_is_the_mass_of_the_others(logits: list[float], data: st.DataObject) -> None:
    """P(not A) = 1 - P(A)."""
    p = torch.tensor([logits], dtype=torch.float64).softmax(dim=1)
    k = data.draw(st.integers(1, len(logits) - 1))
    torch.testing.assert_close(complement(p[:, :k].log()).exp(), p[:, k:].sum(dim=1), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(
    ("given_dtype", "found"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_widened_and_nothing_is_narrowed(given_dtype: torch.dtype, found: torch.dtype) -> None:
    """A sum of logarithms in bfloat16 has three digits."""
    assert at_least_float32(torch.zeros(1, dtype=given_dtype)).dtype == found
