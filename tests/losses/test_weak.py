"""The teacher's best class as if it were the true label."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from loss_cases import TEMPERATURES, dense, pairs, sparse

from pipeline.losses import cross_entropy
from pipeline.losses.weak import sure, weak


@settings(deadline=None)
@given(pairs(), TEMPERATURES)
def test_without_a_threshold_it_is_cross_entropy_with_the_best_class(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float
) -> None:
    """Of any labels: the best class is always kept, and of equals the first."""
    teacher, student, k = pair
    expected = cross_entropy(torch.from_numpy(student), torch.from_numpy(teacher.argmax(axis=1)))
    for labels in (dense(teacher), sparse(teacher, k)):
        assert torch.equal(weak(torch.from_numpy(student), labels, temperature), expected)


@pytest.mark.parametrize(("threshold", "heard"), [(0.0, 4), (0.3, 3), (0.6, 2), (0.95, 1), (1.1, 0)])
@pytest.mark.parametrize("kept", [None, 1, 4])
def test_a_teacher_less_sure_than_the_threshold_is_not_heard(kept: int | None, threshold: float, heard: int) -> None:
    """Best classes have .98, .7, .4 and .25; those below give no loss and no gradient."""
    p = np.array([[0.98, 0.01, 0.005, 0.005], [0.1, 0.7, 0.1, 0.1], [0.2, 0.2, 0.4, 0.2], [0.25, 0.25, 0.25, 0.25]])
    labels = dense(np.log(p)) if kept is None else sparse(np.log(p), kept)
    logits = torch.zeros(4, 4, requires_grad=True)
    loss = weak(logits, labels, threshold=threshold)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([np.log(4)] * heard + [0] * (4 - heard))
    assert sure(labels, threshold=threshold).tolist() == [True] * heard + [False] * (4 - heard)
    assert logits.grad is not None
    assert logits.grad.any(dim=1).tolist() == [True] * heard + [False] * (4 - heard)


def test_a_higher_temperature_makes_a_teacher_less_sure() -> None:
    """The threshold is of p_T."""
    teacher = np.array([[3.0, 0.0, 0.0]])
    for labels in (dense(teacher), sparse(teacher, 1)):
        assert weak(torch.zeros(1, 3), labels, temperature=1.0, threshold=0.9).item() > 0
        assert weak(torch.zeros(1, 3), labels, temperature=4.0, threshold=0.9).item() == 0
