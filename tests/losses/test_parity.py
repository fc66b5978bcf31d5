"""The losses agree with `reference`, which was written from the papers' formulas alone."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import GRID, ON_DENSE, costs, dense, pairs, sparse, true_labels
from numpy.typing import NDArray

from pipeline.losses.divergences import jsd, kd, skew_kl
from pipeline.losses.dkd import dkd
from pipeline.losses.hard import entropy
from pipeline.losses.mse import mse_logits
from pipeline.losses.standardise import standardised
from pipeline.losses.weak import weak

Rows = NDArray[np.float64]
EXTREME = np.array(
    [
        [1e4, -1e4, 0.0, 5.0, -1e4],
        [-1e4, 1e4, 0.0, -1e4, 5.0],
        [1e4, 1e4, -1e4, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, -1e4],
        [7.0, 7.0, 7.0, 7.0, 7.0],
        [17.5, 0.0, -0.5, -1.0, 0.5],
        [60.0, 40.0, -3.0, 2.0, 1.0],
    ]
)


def by_row(name: str, teacher: Rows, student: Rows, true: Rows, temperature: float) -> Rows:
    """The reference's loss of each row."""
    cost = costs(teacher.shape[1]).numpy()
    rows = list(zip(teacher, student, true, strict=True))
    table = {
        "kl": lambda p, q, _: reference.kl(p, q, temperature),
        "reverse_kl": lambda p, q, _: reference.reverse_kl(p, q, temperature),
        "jsd": lambda p, q, _: reference.jsd(p, q, temperature),
        "jsd, beta .1": lambda p, q, _: reference.jsd(p, q, temperature, beta=0.1),
        "skew_kl": lambda p, q, _: reference.skew_kl(p, q, temperature),
        "tv": lambda p, q, _: reference.total_variation(p, q, temperature),
        "soft_cross_entropy": lambda p, q, _: reference.soft_cross_entropy(p, q, temperature),
        "kd": lambda p, q, y: reference.kd(p, q, y, temperature, alpha=0.3),
        "weak": lambda p, q, _: reference.weak(p, q, temperature, threshold=0.4),
        "mse": lambda p, q, _: reference.mse_logits(p, q),
        "dkd": lambda p, q, y: reference.dkd(p, q, y, temperature),
        "lskd": lambda p, q, _: reference.lskd(p, q, temperature),
        "wkd": lambda p, q, y: reference.wkd(p, q, y, temperature, cost),
    }
    if name == "dist":
        return reference.dist(teacher, student, temperature)
    return np.array([table[name](p, q, y) for p, q, y in rows])


def agree(name: str, teacher: Rows, student: Rows, temperature: float) -> None:
    """To 1e-5, in float32 as in training."""
    true_N = true_labels(*teacher.shape)
    found = ON_DENSE[name](torch.from_numpy(student).float(), dense(teacher), true_N, temperature)
    expected = by_row(name, teacher, student, true_N.numpy(), temperature)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("name", ON_DENSE)
def test_random_rows(name: str, classes: int, scale: float, temperature: float) -> None:
    """Rounded to float32 first, so that both see the same logits."""
    random = np.random.default_rng(classes)
    teacher, student = (scale * random.standard_normal((2, 16, classes))).astype(np.float32).astype(np.float64)
    agree(name, teacher, student, temperature)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("turn", range(len(EXTREME)))
@pytest.mark.parametrize("name", ON_DENSE)
def test_extreme_rows(name: str, turn: int, temperature: float) -> None:
    """Each teacher row with each student row."""
    agree(name, EXTREME, np.roll(EXTREME, turn, axis=0), temperature)


@settings(deadline=None)
@given(pairs(), st.sampled_from([1.0, 4.0]), st.floats(0.05, 0.95))
def test_every_setting(pair: tuple[np.ndarray, np.ndarray, int], temperature: float, share: float) -> None:
    """Weights, shares and thresholds are where the formulas have them."""
    teacher, student, _ = (each.astype(np.float64) if isinstance(each, np.ndarray) else each for each in pair)
    logits, labels, true_N = torch.from_numpy(student), dense(teacher), true_labels(*teacher.shape)
    rows = list(zip(teacher, student, true_N.tolist(), strict=True))
    for found, expected in (
        (jsd(logits, labels, temperature, share), [reference.jsd(p, q, temperature, share) for p, q, _ in rows]),
        (
            skew_kl(logits, labels, temperature, share),
            [reference.skew_kl(p, q, temperature, share) for p, q, _ in rows],
        ),
        (mse_logits(logits, labels), [reference.mse_logits(p, q) for p, q, _ in rows]),
        (
            dkd(logits, labels, true_N, temperature, alpha=share, beta=2 * share),
            [reference.dkd(p, q, y, temperature, alpha=share, beta=2 * share) for p, q, y in rows],
        ),
        (
            kd(logits, labels, true_N, temperature, share),
            [reference.kd(p, q, y, temperature, share) for p, q, y in rows],
        ),
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(pairs(), st.sampled_from([0.0, 0.3, 0.9, 1.1]))
def test_weak_labels(pair: tuple[np.ndarray, np.ndarray, int], threshold: float) -> None:
    """Ties go to the first class on both sides."""
    teacher, student, _ = pair
    found = weak(torch.from_numpy(student), dense(teacher), 2.0, threshold)
    rows = zip(teacher.astype(np.float64), student.astype(np.float64), strict=True)
    np.testing.assert_allclose(
        found.numpy(), [reference.weak(p, q, 2.0, threshold) for p, q in rows], rtol=1e-5, atol=1e-5
    )


@settings(deadline=None)
@given(pairs(reach=60))
def test_what_needs_no_labels(pair: tuple[np.ndarray, np.ndarray, int]) -> None:
    """The entropy is the cross-entropy with oneself."""
    _, student, _ = pair
    rows = student.astype(np.float64)
    np.testing.assert_allclose(
        entropy(torch.from_numpy(student)).numpy(), [reference.soft_cross_entropy(q, q, 1.0) for q in rows], 1e-5, 1e-5
    )
    np.testing.assert_allclose(
        standardised(torch.from_numpy(rows)).numpy(), [reference.standardised(q) for q in rows], 1e-5, 1e-5
    )


@settings(deadline=None)
@given(pairs(reach=8), st.sampled_from(GRID), st.data())
def test_sparse_dkd_is_dkd_of_the_kept_classes_the_true_one_and_the_others_as_one(
    pair: tuple[np.ndarray, np.ndarray, int], temperature: float, data: st.DataObject
) -> None:
    """Whether or not the true class is among the kept ones."""
    teacher, student, k = pair
    classes = teacher.shape[1]
    true = data.draw(st.lists(st.integers(0, classes - 1), min_size=len(teacher), max_size=len(teacher)))
    found = dkd(
        torch.from_numpy(student), sparse(teacher, k, labels_N=torch.tensor(true)), torch.tensor(true), temperature
    )
    kept = np.argsort(-teacher, axis=1, kind="stable")[:, :k]
    expected = []
    for n, label in enumerate(true):
        alone = [label, *(c for c in kept[n] if c != label)]
        others = np.setdiff1d(np.arange(classes), alone)
        merged = []
        for logits in (teacher[n], student[n]):
            log_p = reference.log_softmax(logits.astype(np.float64), temperature)
            rest = [np.log(np.exp(log_p[others]).sum())] if len(others) else []
            merged.append(np.array([*log_p[alone], *rest]))
        expected.append(reference.dkd(*merged, 0, 1.0))
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-4, atol=5e-4)
