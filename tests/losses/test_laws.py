"""What holds for every loss, whatever it computes."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    DIVERGENCES,
    LINEAR,
    ON_DENSE,
    ON_SPARSE,
    TEMPERATURES,
    costs,
    dense,
    pairs,
    sparse,
    true_labels,
    weights_alone,
)

from pipeline.labels import DenseLabels, SampledLabels, SoftLabels, SparseLabels
from pipeline.losses.hard import entropy
from pipeline.losses.standardise import standardised, standardised_labels
from pipeline.losses.wasserstein import wkd

Pair = tuple[np.ndarray, np.ndarray, int]
ZERO_AT_EQUALITY = sorted({*DIVERGENCES, "mse", "dkd", "lskd"})
NEVER_NEGATIVE = sorted(ON_DENSE)


def labels_of(name: str, teacher: np.ndarray, k: int, true_N: torch.Tensor, temperature: float) -> list[SoftLabels]:
    """Labels of every kind that serves this loss."""
    kinds: list[SoftLabels] = [dense(teacher)]
    if name in ON_SPARSE:
        kinds += [sparse(teacher, k, labels_N=true_N), sparse(teacher, teacher.shape[1], labels_N=true_N)]
    if name in LINEAR:
        kinds += [weights_alone(teacher, temperature)]
    return kinds


def rows(labels: SoftLabels, chosen: torch.Tensor) -> SoftLabels:
    """Some rows of the labels."""
    return labels.select(chosen)


@pytest.mark.parametrize("name", ZERO_AT_EQUALITY)
@settings(deadline=None, max_examples=25)
@given(pairs(), TEMPERATURES)
def test_nothing_diverges_from_itself(name: str, pair: Pair, temperature: float) -> None:
    """Zero at equality, to the float32 rounding of a tail times its log; dkd weighs the others eightfold."""
    teacher, _, k = pair
    true_N = true_labels(*teacher.shape)
    for labels in labels_of(name, teacher, k, true_N, temperature)[:3]:
        loss = ON_SPARSE[name](torch.from_numpy(teacher), labels, true_N, temperature)
        torch.testing.assert_close(loss, torch.zeros(len(teacher)), rtol=0, atol=5e-4 if name == "dkd" else 5e-5)


@pytest.mark.parametrize("name", NEVER_NEGATIVE)
@settings(deadline=None, max_examples=25)
@given(pairs(reach=60), TEMPERATURES)
def test_a_loss_is_finite_and_never_below_zero(name: str, pair: Pair, temperature: float) -> None:
    """But for rounding."""
    teacher, student, k = pair
    true_N = true_labels(*teacher.shape)
    for labels in labels_of(name, teacher, k, true_N, temperature):
        loss = ON_DENSE[name](torch.from_numpy(student), labels, true_N, temperature)
        assert loss.shape == (len(teacher),)
        assert loss.isfinite().all()
        assert (loss >= -1e-4).all()


@pytest.mark.parametrize("name", ON_SPARSE)
@settings(deadline=None, max_examples=25)
@given(pairs(), TEMPERATURES)
def test_keeping_every_class_is_dense(name: str, pair: Pair, temperature: float) -> None:
    """K = C: no ghost, and no class out of place.

    Teachers are moved off each other's ties and off the threshold of `weak`, where rounding decides.
    """
    teacher, student, _ = pair
    teacher = np.round(teacher) + np.linspace(0, 0.5, teacher.shape[1], dtype=np.float32)
    true_N = true_labels(*teacher.shape)
    whole, kept = (
        ON_SPARSE[name](torch.from_numpy(student), labels, true_N, temperature)
        for labels in (dense(teacher), sparse(teacher, teacher.shape[1], labels_N=true_N))
    )
    torch.testing.assert_close(kept, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(ON_DENSE) - {"dist"}))
@settings(deadline=None, max_examples=25)
@given(pairs(), TEMPERATURES, st.data())
def test_the_loss_of_some_rows_is_some_of_the_losses(
    name: str, pair: Pair, temperature: float, data: st.DataObject
) -> None:
    """No row sees another, so masking rows is slicing them; but for the batch that `dist` correlates over."""
    teacher, student, k = pair
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, len(teacher) - 1), min_size=1)))
    logits, true_N = torch.from_numpy(student), true_labels(*teacher.shape)
    for labels in labels_of(name, teacher, k, true_N, temperature):
        whole = ON_DENSE[name](logits, labels, true_N, temperature)
        part = ON_DENSE[name](logits[chosen], rows(labels, chosen), true_N[chosen], temperature)
        torch.testing.assert_close(part, whole[chosen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ON_DENSE)
@settings(deadline=None, max_examples=25)
@given(pairs(), TEMPERATURES, st.randoms(use_true_random=False))
def test_the_order_of_the_classes_changes_nothing(name: str, pair: Pair, temperature: float, random: Random) -> None:
    """Classes are names.

    Ties at the cut are broken by name, so tied classes are moved apart first.
    """
    teacher, student, k = pair
    teacher = np.round(teacher) + np.linspace(0, 0.5, teacher.shape[1], dtype=np.float32)
    student = np.round(student, 2)  # of what differs in its last bits alone, a correlation is not known
    teacher /= 16 if name == "reverse_kl" else 1  # whose value is no better known than the log of the tail
    order = list(range(teacher.shape[1]))
    random.shuffle(order)
    true_N = true_labels(*teacher.shape)
    renamed_N = torch.where(true_N < 0, -1, torch.tensor(order).argsort()[true_N])

    def loss(logits: np.ndarray, labels: SoftLabels, labels_N: torch.Tensor, places: list[int]) -> torch.Tensor:
        if name == "wkd":  # costs go with their classes
            cost_CC = costs(len(places))[places][:, places]
            return wkd(torch.from_numpy(logits), labels, labels_N, temperature, cost_CC)
        return ON_DENSE[name](torch.from_numpy(logits), labels, labels_N, temperature)

    here = labels_of(name, teacher, k, true_N, temperature)
    there = labels_of(name, teacher[:, order], k, renamed_N, temperature)
    for labels, renamed in zip(here, there, strict=True):
        torch.testing.assert_close(
            loss(student[:, order], renamed, renamed_N, order),
            loss(student, labels, true_N, list(range(len(order)))),
            rtol=1e-4,
            atol=1e-3 if name == "reverse_kl" else 1e-4,
        )


@pytest.mark.parametrize("name", ON_DENSE)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_that_of_finite_differences(name: str, temperature: float) -> None:
    """In float64, of labels of every kind."""
    random = np.random.default_rng(0)
    teacher, student = (3 * random.standard_normal((4, 6)) for _ in range(2))
    true_N = torch.tensor([0, 5, -1, 2])
    logits = torch.from_numpy(student).requires_grad_()
    for labels in labels_of(name, teacher, 3, true_N, temperature):
        assert torch.autograd.gradcheck(
            lambda student_NC, labels=labels: ON_DENSE[name](student_NC, labels, true_N, temperature), logits
        )


@pytest.mark.parametrize("change", [standardised, entropy])
def test_the_gradient_of_what_needs_no_labels_is_that_of_finite_differences(change: object) -> None:
    """In float64."""
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(change, logits)


@pytest.mark.parametrize("name", ON_DENSE)
def test_half_precision_students_are_widened_and_float64_stays(name: str) -> None:
    """The loss of bfloat16 logits is float32, and that of the same numbers in float32."""
    teacher, half = np.random.default_rng(0).standard_normal((4, 6)), torch.randn(4, 6).bfloat16()
    true_N = true_labels(4, 6)
    for labels in labels_of(name, teacher, 3, true_N, 2.0):
        if isinstance(labels, SampledLabels):  # made in float64
            continue
        loss = ON_DENSE[name](half, labels, true_N, 2.0)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, ON_DENSE[name](half.float(), labels, true_N, 2.0))
        assert ON_DENSE[name](half.double(), labels, true_N, 2.0).dtype == torch.float64


EXTREMES = {
    "certain": [1e4, -1e4, 0.0, 5.0, -1e4],
    "certain of another": [-1e4, 1e4, 0.0, -1e4, 5.0],
    "torn": [1e4, 1e4, -1e4, 0.0, 0.0],
    "all but one ruled out": [0.0, 0.0, 0.0, 0.0, -1e4],
    "constant": [7.0, 7.0, 7.0, 7.0, 7.0],
    "a kept mass of .9999999": [17.5, 0.0, -0.5, -1.0, 0.5],
}


@pytest.mark.parametrize("name", ON_DENSE)
@pytest.mark.parametrize("student", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("teacher", EXTREMES.values(), ids=EXTREMES)
def test_extreme_rows_have_a_finite_loss_and_gradient(name: str, teacher: list[float], student: list[float]) -> None:
    """Also where probabilities round to 0 and to 1."""
    ordinary = [0.0, 1.0, 2.0, 3.0, 4.0]
    rows_NC = np.array([teacher, teacher, teacher, ordinary])
    true_N = torch.tensor([0, 1, 4, 2])
    for labels in labels_of(name, rows_NC, 3, true_N, 1.0):
        logits = torch.tensor([student, student, student, ordinary], requires_grad=True)
        loss = ON_DENSE[name](logits, labels, true_N, 1.0)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(set(ON_DENSE) - {"dist", "weak", "wkd"}))
def test_a_kept_mass_that_rounds_to_one_does_not_silence_the_loss(name: str) -> None:
    """A student who does not know the rest of a teacher who is sure is still told."""
    teacher = np.array([EXTREMES["a kept mass of .9999999"]])
    true_N = torch.tensor([0])
    for labels in labels_of(name, teacher, 2, true_N, 1.0):
        logits = torch.tensor([[1.0, 2.0, 0.0, -1.0, 1.0]], requires_grad=True)
        loss = ON_DENSE[name](logits, labels, true_N, 1.0)
        loss.sum().backward()
        assert loss.item() > 1e-3
        assert logits.grad is not None
        assert logits.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["kl", "soft_cross_entropy", "kd", "mse", "dkd", "lskd"])
@pytest.mark.parametrize("kind", [DenseLabels, SparseLabels])
def test_a_student_certain_of_the_wrong_class_is_told(name: str, kind: type) -> None:
    """Those that saturate (reverse KL, JSD, skew KL, total variation) have no gradient there: their own nature."""
    teacher, true_N = np.array([EXTREMES["certain"]]), torch.tensor([0])
    labels = next(each for each in labels_of(name, teacher, 3, true_N, 1.0) if isinstance(each, kind))
    logits = torch.tensor([EXTREMES["certain of another"]], requires_grad=True)
    ON_SPARSE[name](logits, labels, true_N, 1.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() > 1e-5


@pytest.mark.parametrize("name", sorted({*DIVERGENCES, "soft_cross_entropy"}))
def test_a_class_that_both_sides_rule_out_with_minus_infinity_adds_nothing(name: str) -> None:
    """As padded vocabularies do; the loss and the gradient are those without it."""
    teacher, student = torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[1.0, 0.0, -torch.inf]])
    logits = student.requires_grad_()
    loss = ON_SPARSE[name](logits, DenseLabels(teacher), torch.tensor([0]), 1.0)
    loss.sum().backward()
    without = ON_SPARSE[name](student[:, :2], DenseLabels(teacher[:, :2]), torch.tensor([0]), 1.0)
    torch.testing.assert_close(loss, without)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_standardising_twice_is_standardising_once() -> None:
    """Of logits and of labels, to 1e-7 besides the deviation."""
    teacher = 3 * np.random.default_rng(0).standard_normal((4, 6))
    once = standardised(torch.from_numpy(teacher))
    torch.testing.assert_close(standardised(once), once, rtol=1e-6, atol=1e-6)
    kept = standardised_labels(sparse(teacher, 3))
    assert isinstance(kept, SparseLabels)
    again = standardised_labels(kept)
    assert isinstance(again, SparseLabels)
    torch.testing.assert_close(again.logits_NK, kept.logits_NK, rtol=1e-5, atol=1e-5)
