"""Which labels serve which loss: whoever cannot is told what would."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    DIVERGENCES,
    GRID,
    LINEAR,
    ON_DENSE,
    ON_SPARSE,
    TEMPERATURES,
    dense,
    head_sampled,
    pairs,
    sparse,
    true_labels,
    weights_alone,
)

from pipeline.errors import ConfigError
from pipeline.labels import SoftLabels, SparseLabels
from pipeline.losses.divergences import jsd, skew_kl
from pipeline.losses.groups import grouped

TEACHER = 3 * np.random.default_rng(0).standard_normal((5, 6))
STUDENT = 3 * np.random.default_rng(1).standard_normal((5, 6))
TRUE = true_labels(5, 6)
LEARNERS = torch.from_numpy(STUDENT)

NEEDS_WHOLE_ROWS = sorted(set(ON_DENSE) - set(ON_SPARSE))
NOT_LINEAR = sorted(set(ON_SPARSE) - set(LINEAR) - {"lskd"})
NO_TEMPERATURE = {"mse"}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_a_loss_that_is_no_sum_over_classes_refuses_a_sample_of_weights(name: str) -> None:
    """E[f(w)] = f(p) only for linear f: the student would minimise something else."""
    key = name.split(",", maxsplit=1)[0]
    with pytest.raises(
        ConfigError,
        match=rf'"{key}" is no sum over classes .* Use one of hard, soft, kd, entropy, .* "topk" or "dense"\.',
    ):
        ON_SPARSE[name](LEARNERS, weights_alone(TEACHER, 1.0), TRUE, 1.0)


@pytest.mark.parametrize("name", NEEDS_WHOLE_ROWS)
@pytest.mark.parametrize("labels", [sparse(TEACHER, 3), sparse(TEACHER, 6), weights_alone(TEACHER, 1.0)])
def test_a_loss_of_whole_rows_says_that_dense_labels_serve_it(name: str, labels: SoftLabels) -> None:
    """A ghost has no place in a correlation and no cost of transport."""
    with pytest.raises(ConfigError, match=rf'"{name}" needs every logit of a row, .* labels\.encoding = "dense"'):
        ON_DENSE[name](LEARNERS, labels, TRUE, 1.0)


@pytest.mark.parametrize("name", sorted(set(ON_SPARSE) - NO_TEMPERATURE))
def test_a_temperature_off_the_grid_is_refused_with_those_that_can_be_served(name: str) -> None:
    """The tail mass at T = 3 was never stored; dense labels serve any T."""
    with pytest.raises(
        ConfigError, match=r"cannot serve temperature 3: .* at temperatures 0\.5, 1, 2, 4\. Train at one"
    ):
        ON_SPARSE[name](LEARNERS, sparse(TEACHER, 2), TRUE, 3.0)
    assert ON_SPARSE[name](LEARNERS, dense(TEACHER), TRUE, 3.0).isfinite().all()


@pytest.mark.parametrize("name", LINEAR)
def test_a_sample_serves_the_temperature_it_was_drawn_at_alone(name: str) -> None:
    """Its weights are probabilities at one T, and hold no logits to make others of."""
    with pytest.raises(
        ConfigError, match=r"cannot serve temperature 2: .* at temperature 1\. .* labels\.temperatures = \[2\.0\]\."
    ):
        LINEAR[name](LEARNERS, weights_alone(TEACHER, 1.0), TRUE, 2.0)


@pytest.mark.parametrize("name", ON_DENSE)
@pytest.mark.parametrize("outputs", [1, 2, 5, 7])
def test_a_student_of_another_number_of_classes_is_refused(name: str, outputs: int) -> None:
    """One output would otherwise be broadcast against all classes."""
    kinds: list[SoftLabels] = [dense(TEACHER)]
    kinds += [sparse(TEACHER, 2)] if name in ON_SPARSE else []
    kinds += [weights_alone(TEACHER, 1.0)] if name in LINEAR else []
    for labels in kinds:
        with pytest.raises(ConfigError, match=rf"gives {outputs} logits a row, but its soft labels have 6 classes"):
            ON_DENSE[name](torch.zeros(5, outputs), labels, TRUE.clamp(max=0), 1.0)


@pytest.mark.parametrize("share", [-0.5, 0.0, 1.0, 1.5, float("nan")])
def test_a_mixture_of_one_side_alone_is_refused(share: float) -> None:
    """A loss that is zero for every student trains nothing."""
    with pytest.raises(ConfigError, match=r'"jsd" is zero for every student with beta = .* use the loss "kd"'):
        jsd(LEARNERS, dense(TEACHER), 1.0, beta=share)
    with pytest.raises(ConfigError, match=r'"skew_kl" needs a skew of more than 0 and less than 1, and found'):
        skew_kl(LEARNERS, dense(TEACHER), 1.0, skew=share)


@settings(deadline=None)
@given(pairs(), TEMPERATURES, st.sampled_from(["float16", "float32"]))
def test_groups_are_probabilities(pair: tuple[np.ndarray, np.ndarray, int], temperature: float, dtype: str) -> None:
    """Both sides sum to one, whatever rounding the labels went through."""
    teacher, student, k = pair
    for labels in (dense(teacher), sparse(teacher, k, dtype), sparse(teacher, teacher.shape[1], dtype)):
        for log_NK in grouped(torch.from_numpy(student), labels, temperature):
            torch.testing.assert_close(log_NK.exp().sum(dim=1), torch.ones(len(teacher)))


@pytest.mark.parametrize("k", [2, 3])
def test_a_tail_too_small_to_be_held_is_no_likelier_than_the_last_kept_class_each(k: int) -> None:
    """Beside 1, float32 sees nothing of e^-400: the ghost is at most C - K times the last kept class."""
    teacher = np.array([[400.0, 0.0, -50.0, -60.0, -70.0]])
    log_p_NK, _ = grouped(torch.zeros(1, 5), sparse(teacher, k), 1.0)
    last = teacher[0, k - 1] - 400
    assert log_p_NK[0, -1].item() == pytest.approx(last + np.log(5 - k), rel=1e-6)


@pytest.mark.parametrize("name", ON_SPARSE)
def test_a_tail_that_was_sampled_besides_does_no_harm(name: str) -> None:
    """What is not linear takes the head and the ghost, as of labels without a tail."""
    labels = head_sampled(TEACHER, 2, torch.zeros(5, 0, dtype=torch.int64), torch.zeros(5, 0, dtype=torch.float64))
    plain = SparseLabels(**{field: getattr(labels, field) for field in SparseLabels.__dataclass_fields__})
    if name in LINEAR or name == "lskd":
        assert ON_SPARSE[name](LEARNERS, labels, TRUE, 2.0).isfinite().all()
    else:
        assert torch.equal(ON_SPARSE[name](LEARNERS, labels, TRUE, 2.0), ON_SPARSE[name](LEARNERS, plain, TRUE, 2.0))


@pytest.mark.parametrize("temperature", GRID)
@pytest.mark.parametrize("name", DIVERGENCES)
@settings(deadline=None, max_examples=25)
@given(pairs(), st.randoms(use_true_random=False))
def test_more_kept_classes_bring_a_divergence_nearer_to_the_dense_one(
    name: str, temperature: float, pair: tuple[np.ndarray, np.ndarray, int], random: Random
) -> None:
    """The data-processing inequality: merging classes never raises an f-divergence."""
    teacher, student, k = pair
    teacher /= 16 if name == "reverse_kl" else 1  # whose value is no better known than the log of the tail
    more = random.randint(k, teacher.shape[1])
    logits = torch.from_numpy(student)
    loss = DIVERGENCES[name]
    unlabelled = torch.full((len(teacher),), -1)
    low, high, whole = (
        loss(logits, labels, unlabelled, temperature)
        for labels in (sparse(teacher, k), sparse(teacher, more), dense(teacher))
    )
    slack = (1e-3 if name == "reverse_kl" else 5e-5) + 1e-5 * whole
    assert (low <= high + slack).all()
    assert (high <= whole + slack).all()
