"""Cross-entropy with the true label."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.losses import cross_entropy

ROWS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-30, 30))


@settings(deadline=None)
@given(ROWS, st.sampled_from([0.0, 0.1, 1.0]), st.data())
def test_it_is_minus_the_log_probability_of_the_smoothed_label(
    logits: np.ndarray, smoothing: float, data: st.DataObject
) -> None:
    """-(sum over classes of ((1 - s) [c = y] + s / C) log q_c), by NumPy; 0 without a label."""
    rows, classes = logits.shape
    labels = data.draw(hnp.arrays(np.int64, rows, elements=st.integers(-1, classes - 1)))
    log_q = logits - logits.max(axis=1, keepdims=True)
    log_q -= np.log(np.exp(log_q).sum(axis=1, keepdims=True))
    target = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    expected = np.where(labels < 0, 0, -(target * log_q).sum(axis=1))
    found = cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), smoothing)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_rows_without_a_label_give_no_loss_and_no_gradient() -> None:
    """A batch may hold no label at all."""
    logits = torch.randn(3, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((3,), -1))
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0]
    assert logits.grad is not None
    assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened(dtype: torch.dtype) -> None:
    """A student under autocast has the loss of its logits, not of their rounded logarithms."""
    logits = torch.randn(3, 4).to(dtype)
    labels = torch.tensor([0, 3, 1])
    assert torch.equal(cross_entropy(logits, labels), cross_entropy(logits.float(), labels))
