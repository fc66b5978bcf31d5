"""The teacher's feature of the same sample against those of others."""

import math
from functools import partial

import pytest
import torch
from hint_cases import Loss, features

from pipeline.errors import ConfigError
from pipeline.hints import crd, infonce

STUDENT, TEACHER, OTHERS = features(4, seed=1), features(4, seed=2), features(7, seed=3)
CONTRASTS = {"infonce": infonce, "crd": partial(crd, dataset_size=50)}


@pytest.mark.parametrize("negatives", [1, 7, 1000])
def test_a_student_to_whom_all_are_alike_loses_the_log_of_how_many_there_are(negatives: int) -> None:
    """Law: InfoNCE is log(K + 1) at ties, of a row of zeros too."""
    tied = TEACHER[:1].expand(negatives, -1)
    torch.testing.assert_close(
        infonce(STUDENT[:1], TEACHER[:1], tied), torch.tensor([math.log(negatives + 1)], dtype=torch.float64)
    )
    zeros = infonce(0 * STUDENT, TEACHER, features(negatives, seed=4))
    torch.testing.assert_close(zeros, torch.full((4,), math.log(negatives + 1), dtype=torch.float64))


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_student_that_is_told_apart_better_loses_less(name: str) -> None:
    """Law: the teacher itself less than another; the positive drawn near, the negatives pushed off."""
    teacher, others = torch.linalg.qr(features(12, seed=5, width=12))[0].split([5, 7])
    student = teacher + 0.5 * others.mean(dim=0)
    positives, negatives = teacher.clone().requires_grad_(), others.expand(5, -1, -1).clone().requires_grad_()
    loss = CONTRASTS[name](student, positives, negatives)
    assert (CONTRASTS[name](teacher, teacher, others) < loss).all()
    positive_ND, negative_NKD = torch.autograd.grad(loss.sum(), (positives, negatives))
    assert ((positive_ND * student).sum(dim=1) < 0).all()
    assert ((negative_NKD * student[:, None]).sum(dim=2) > 0).all()


@pytest.mark.parametrize("name", CONTRASTS)
def test_negatives_of_each_row_may_be_shared(name: str) -> None:
    """Law: [K, D] is [N, K, D] with the same for all."""
    shared = CONTRASTS[name](STUDENT, TEACHER, OTHERS)
    torch.testing.assert_close(CONTRASTS[name](STUDENT, TEACHER, OTHERS.expand(4, 7, -1)), shared)


@pytest.mark.parametrize("name", CONTRASTS)
def test_an_excluded_negative_is_one_that_is_not_there(name: str) -> None:
    """Law: masking is slicing; a row's own sample is left out so where negatives are shared."""
    excluded = torch.zeros(4, 7, dtype=torch.bool)
    for row in range(4):
        excluded[row, row] = True
    masked = CONTRASTS[name](STUDENT, TEACHER, OTHERS, excluded_NK=excluded)
    kept = torch.stack([torch.cat([OTHERS[:row], OTHERS[row + 1 :]]) for row in range(4)])
    torch.testing.assert_close(masked, CONTRASTS[name](STUDENT, TEACHER, kept))


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_row_without_a_negative_left_is_finite(name: str) -> None:
    """Law: InfoNCE 0; CRD what its positive alone says; neither has a gradient that is not finite."""
    student = STUDENT.clone().requires_grad_()
    loss = CONTRASTS[name](student, TEACHER, OTHERS, excluded_NK=torch.ones(4, 7, dtype=torch.bool))
    loss.sum().backward()
    assert student.grad.isfinite().all()
    cosines = torch.nn.functional.cosine_similarity(STUDENT, TEACHER)
    expected = 0 * cosines if name == "infonce" else torch.log1p(torch.exp(-cosines / 0.07) / 50)
    torch.testing.assert_close(loss.detach(), expected)


def test_more_negatives_never_lower_the_loss() -> None:
    """Law: of InfoNCE."""
    losses = torch.stack([infonce(STUDENT, TEACHER, OTHERS[:count]) for count in range(1, 8)])
    assert (losses.diff(dim=0) > 0).all()


def test_the_critic_is_undecided_where_the_odds_are_even() -> None:
    """Law: h = 1/2 where exp(cos / T) = K / M: the positive then loses log 2, and each negative too."""
    student = torch.tensor([[1.0, 0.0]])
    across = torch.tensor([[0.0, 1.0]])
    loss = crd(student, across, across.expand(5, -1), dataset_size=5)
    torch.testing.assert_close(loss, torch.tensor([6 * math.log(2)]))


def test_a_certain_critic_does_not_round_to_infinity() -> None:
    """Law: a negative that is the student itself, at a low temperature, loses cos / T and the log of the odds."""
    student = torch.tensor([[1.0, 0.0]])
    loss = crd(student, student, student, dataset_size=10, temperature=1e-3)
    torch.testing.assert_close(loss, torch.tensor([1000 - math.log(1 / 10)]))


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("name", CONTRASTS)
def test_the_gradient_of_contrasts_is_that_of_finite_differences(name: str, own: bool) -> None:
    """Law: with negatives left out, and one alone."""
    student = STUDENT.clone().requires_grad_()
    for count in (1, 7):
        others = OTHERS[:count].expand(4, count, -1) if own else OTHERS[:count]
        excluded = torch.arange(count).remainder(3).eq(1).expand(4, count)
        loss: Loss = partial(CONTRASTS[name], negatives=others, excluded_NK=excluded, temperature=0.5)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, TEACHER), student)


@pytest.mark.parametrize(
    ("student", "positives", "negatives"),
    [
        ((4, 6), (4, 5), (7, 6)),
        ((4, 6), (4, 6), (7, 5)),
        ((4, 6), (4, 6), (3, 7, 6)),
        ((4, 6), (4, 6), (6,)),
        ((4, 3, 6), (4, 3, 6), (7, 6)),
        ((4, 6), (1, 6), (7, 6)),
    ],
)
@pytest.mark.parametrize("name", CONTRASTS)
def test_shapes_that_do_not_fit_are_refused(name: str, student: tuple, positives: tuple, negatives: tuple) -> None:
    """Law: never broadcast."""
    with pytest.raises(ConfigError, match=f'The loss "{name}" compares vectors, and found .*expected .N, D. twice'):
        CONTRASTS[name](torch.zeros(student), torch.zeros(positives), torch.zeros(negatives))


@pytest.mark.parametrize("name", CONTRASTS)
def test_no_negatives_are_refused(name: str) -> None:
    """Law: there is nothing to tell apart."""
    with pytest.raises(ConfigError, match="has no negatives"):
        CONTRASTS[name](STUDENT, TEACHER, OTHERS[:0])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", CONTRASTS)
def test_a_temperature_that_is_not_positive_is_refused(name: str, temperature: float) -> None:
    """Law: it says what it found."""
    with pytest.raises(ConfigError, match="needs a temperature above 0, and found"):
        CONTRASTS[name](STUDENT, TEACHER, OTHERS, temperature=temperature)


def test_an_empty_cache_is_refused() -> None:
    """Law: of CRD, whose odds it is in."""
    with pytest.raises(ConfigError, match="number of samples in the cache, and found 0"):
        crd(STUDENT, TEACHER, OTHERS, dataset_size=0)
