"""The true class against the rest, and the rest among themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from loss_cases import TEMPERATURES, dense, pairs, sparse

from pipeline.losses.divergences import kl
from pipeline.losses.dkd import dkd

Pair = tuple[np.ndarray, np.ndarray, int]


@settings(deadline=None)
@given(pairs(), TEMPERATURES)
def test_weighted_by_the_mass_of_the_rest_it_is_kl(pair: Pair, temperature: float) -> None:
    """Equation 6 of the paper: KL(p || q) = KL(b || b') + (1 - p_t) KL(r || r')."""
    teacher, student, _ = pair
    true_N = torch.arange(len(teacher)) % teacher.shape[1]
    labels, logits = dense(teacher), torch.from_numpy(student)
    rest_N = 1 - (labels.logits_NC.double() / temperature).softmax(dim=1).gather(1, true_N[:, None])[:, 0]
    binary_N = dkd(logits.double(), labels, true_N, temperature, alpha=1.0, beta=0.0)
    others_N = dkd(logits.double(), labels, true_N, temperature, alpha=0.0, beta=1.0)
    whole_N = kl(logits.double(), labels, temperature)
    torch.testing.assert_close(binary_N + rest_N * others_N, whole_N, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(pairs(reach=8), TEMPERATURES)
def test_sparse_is_a_lower_bound_and_exact_in_its_first_term(pair: Pair, temperature: float) -> None:
    """Only the rest among themselves are merged."""
    teacher, student, k = pair
    true_N = torch.arange(len(teacher)) % teacher.shape[1]
    logits = torch.from_numpy(student)
    kept, whole = sparse(teacher, k, labels_N=true_N), dense(teacher)
    binary_kept, binary_whole = (
        dkd(logits, labels, true_N, temperature, alpha=1.0, beta=0.0) for labels in (kept, whole)
    )
    torch.testing.assert_close(binary_kept, binary_whole, rtol=1e-4, atol=1e-4)
    others_kept, others_whole = (
        dkd(logits, labels, true_N, temperature, alpha=0.0, beta=1.0) for labels in (kept, whole)
    )
    assert (others_kept <= others_whole + 1e-3 + 1e-4 * others_whole).all()


@pytest.mark.parametrize("kept", [None, 1, 3])
def test_rows_without_a_label_give_no_loss_and_no_gradient(kept: int | None) -> None:
    """A batch may hold no label at all."""
    teacher = np.random.default_rng(0).standard_normal((3, 4))
    logits = torch.randn(3, 4, requires_grad=True)
    loss = dkd(logits, dense(teacher) if kept is None else sparse(teacher, kept), torch.full((3,), -1), 1.0)
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0]
    assert logits.grad is not None
    assert logits.grad.count_nonzero() == 0


def test_a_true_class_whose_logit_is_not_known_gives_no_loss() -> None:
    """Labels made without true classes know those that they keep; of others they cannot say p_t."""
    teacher = np.array([[3.0, 2.0, 1.0, 0.0]] * 4)
    true_N = torch.arange(4)
    known = sparse(teacher, 2, labels_N=true_N)
    logits = torch.randn(4, 4, requires_grad=True)
    loss = dkd(logits, replace(known, target_N=torch.full((4,), torch.nan)), true_N, 1.0)
    loss.sum().backward()
    assert loss.tolist() == [*dkd(logits, known, true_N, 1.0)[:2].tolist(), 0, 0]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[2:].count_nonzero() == 0


@pytest.mark.parametrize("kept", [None, 1, 2])
def test_of_two_classes_the_rest_has_nothing_to_learn(kept: int | None) -> None:
    """One class alone is certain."""
    teacher, true_N = np.array([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    labels = dense(teacher) if kept is None else sparse(teacher, kept, labels_N=true_N)
    logits = torch.tensor([[0.0, 3.0], [0.0, 3.0]], requires_grad=True)
    loss = dkd(logits, labels, true_N, 1.0, alpha=0.0)
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert logits.grad is not None
    assert logits.grad.count_nonzero() == 0
    torch.testing.assert_close(dkd(logits, labels, true_N, 1.0), kl(logits, dense(teacher), 1.0))


@pytest.mark.parametrize(("kept", "gap"), [(None, 20.0), (None, 80.0), (None, 500.0), (3, 20.0), (3, 80.0)])
def test_a_true_class_that_is_all_but_certain_hides_nothing_of_the_rest(kept: int | None, gap: float) -> None:
    """The rest, e^-gap in all, is compared as well as any: the point of the loss; the ghost is one class here."""
    rest = np.array([0.0, 1.0, 2.0])
    teacher, student = np.array([[gap, *rest]]), torch.tensor([[gap, *-rest]])
    labels = dense(teacher) if kept is None else sparse(teacher, kept)
    certain = dkd(student, labels, torch.tensor([0]), 1.0, alpha=0.0, beta=1.0)
    among_themselves = kl(torch.from_numpy(-rest[None]), dense(rest[None]), 1.0)
    torch.testing.assert_close(certain.double(), among_themselves, rtol=1e-4, atol=1e-4)
