"""Transport of probability between classes."""

import numpy as np
import pytest
import torch
from loss_cases import costs

from pipeline.errors import ConfigError
from pipeline.labels import DenseLabels
from pipeline.losses.wasserstein import class_cost, prototypes, wkd

TEACHER = 2 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STUDENT = 2 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TRUE = torch.tensor([0, 5, -1, 2])
LABELS = DenseLabels(TEACHER)


def true_class_term() -> torch.Tensor:
    """-p_t log q_t where there is a label."""
    places_N1 = TRUE.clamp(min=0)[:, None]
    p_N1, log_q_N1 = TEACHER.softmax(1).gather(1, places_N1), STUDENT.log_softmax(1).gather(1, places_N1)
    return torch.where(TRUE >= 0, -(p_N1 * log_q_N1)[:, 0], 0.0)


def test_rows_without_a_label_give_no_loss_and_no_gradient() -> None:
    """No class is the true one to set apart."""
    logits = STUDENT.clone().requires_grad_()
    loss = wkd(logits, LABELS, TRUE, 4.0, costs(6))
    loss.sum().backward()
    assert (loss == 0).tolist() == [False, False, True, False]
    assert logits.grad is not None
    assert logits.grad.any(dim=1).tolist() == [True, True, False, True]


def test_transport_that_costs_nothing_leaves_the_true_class() -> None:
    """And so does a weight of zero."""
    for loss in (
        wkd(STUDENT, LABELS, TRUE, 4.0, torch.zeros(6, 6)),
        wkd(STUDENT, LABELS, TRUE, 4.0, costs(6), transport=0.0),
    ):
        torch.testing.assert_close(loss, true_class_term())


def test_transport_counts_as_often_as_it_is_told_to() -> None:
    """The lambda of the paper."""
    once = wkd(STUDENT, LABELS, TRUE, 4.0, costs(6)) - true_class_term()
    thrice = wkd(STUDENT, LABELS, TRUE, 4.0, costs(6), transport=3.0) - true_class_term()
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_between_classes_on_a_line_it_is_the_area_between_cumulative_sums(temperature: float) -> None:
    """Exactly known there: W = sum |F - F'| dx, met as the regularisation goes to zero."""
    line = costs(6)[0].numpy()
    found = wkd(STUDENT, LABELS, TRUE, temperature, costs(6), regularisation=0.005, iterations=4000) - true_class_term()
    for n, label in enumerate(TRUE.tolist()):
        if label < 0:
            continue
        p, q = (np.delete(torch.softmax(each[n] / temperature, 0).numpy(), label) for each in (TEACHER, STUDENT))
        places = np.delete(line, label)
        area = (np.abs(np.cumsum(p / p.sum() - q / q.sum()))[:-1] * np.diff(places)).sum()
        assert found[n].item() == pytest.approx(area, abs=1e-3)


def test_moving_to_a_similar_class_costs_less() -> None:
    """What no divergence tells apart."""
    teacher = DenseLabels(torch.tensor([[0.0, 9.0, 0.0, 0.0, 0.0, 0.0]]))
    near, far = (wkd(torch.eye(6)[[c]] * 9, teacher, torch.tensor([0]), 1.0, costs(6)).item() for c in (2, 5))
    assert near < far


@pytest.mark.parametrize("shape", [(5, 5), (6, 5), (6,)])
def test_costs_of_other_classes_are_refused(shape: tuple[int, ...]) -> None:
    """They would be broadcast."""
    with pytest.raises(ConfigError, match=r"class costs have the shape \[.*\], expected \[6, 6\]"):
        wkd(STUDENT, LABELS, TRUE, 4.0, torch.zeros(shape))


def test_classes_that_point_the_same_way_cost_nothing() -> None:
    """1 - exp(-sharpness (1 - cosine)): of orthogonal ones 1 - e^-s, of opposite ones 1 - e^-2s."""
    prototypes = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    far, opposite = 1 - np.exp(-3.0), 1 - np.exp(-6.0)
    expected = [[0, 0, far, opposite], [0, 0, far, opposite], [far, far, 0, far], [opposite, opposite, far, 0]]
    torch.testing.assert_close(class_cost(prototypes, sharpness=3.0), torch.tensor(expected, dtype=torch.float32))


def test_a_class_without_a_direction_is_like_no_other_but_itself() -> None:
    """A row of zeros has a cosine of 0 with all."""
    cost = class_cost(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), sharpness=1.0)
    far = 1 - float(np.exp(-1.0))
    torch.testing.assert_close(cost, torch.tensor([[0.0, far], [far, 0.0]]))


def test_costs_of_cached_logits_are_one_minus_correlation_before_sharpening() -> None:
    """For small sharpness s, 1 - exp(-s d) = s d; and a shift of a row, which softmax does not see, changes nothing."""
    cost = class_cost(prototypes(TEACHER), sharpness=1e-6)
    centred = (TEACHER - TEACHER.mean(1, keepdim=True)).numpy()
    np.testing.assert_allclose(cost.numpy() / 1e-6, 1 - np.corrcoef(centred.T), rtol=1e-5, atol=1e-9)
    shifted = class_cost(prototypes(TEACHER + torch.arange(4.0)[:, None]), sharpness=1e-6)
    torch.testing.assert_close(shifted, cost)
