"""What is counted of answers: held against scikit-learn and against what must be so, for every cut into batches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_calibration_error

from pipeline.tallies import MOST_CLASSES, ODDS_BINS, Ranking, Truth


def looked_at(logits_NC: torch.Tensor, labels_N: torch.Tensor, size: int = 1000) -> Truth:
    """A close look, by batches."""
    truth = Truth(closely=True)
    for logits_RC, labels_R in zip(logits_NC.split(size), labels_N.split(size), strict=True):
        truth.update(logits_RC, labels_R)
    return truth


def known(truth: Truth) -> dict[str, float]:
    """The figures that there are."""
    return {name: value for name, value in truth.figures().items() if value is not None}


def answers(rows: int, classes: int, seed: int, spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that know something of the labels, and labels of which each class has some where there are enough."""
    random = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(rows) % classes
    logits_NC = spread * torch.randn(rows, classes, generator=random)
    return logits_NC + torch.nn.functional.one_hot(labels_N, classes), labels_N


@pytest.mark.parametrize("spread", [0.3, 2.0, 15.0])
@pytest.mark.parametrize("classes", [2, 3, 7, 40])
def test_figures_are_those_of_scikit_learn(classes: int, spread: float) -> None:
    """Law: to 1e-6; the area under the ROC curve, whose ties are those of a bin, to 2e-3."""
    logits_NC, labels_N = answers(400, classes, classes, spread)
    p_NC, best_N = logits_NC.double().softmax(1).numpy(), logits_NC.argmax(1).numpy()
    truth = looked_at(logits_NC, labels_N)
    found = truth.figures()
    area = roc_auc_score(labels_N, p_NC[:, 1] if classes == 2 else p_NC, multi_class="ovr", average="macro")
    assert found["auroc"] == pytest.approx(area, abs=2e-3)
    assert found["macro_f1"] == pytest.approx(f1_score(labels_N, best_N, average="macro", zero_division=0), abs=1e-6)
    surprise = -logits_NC.double().log_softmax(1)[torch.arange(400), labels_N].mean().item()
    assert found["cross_entropy"] == pytest.approx(surprise, rel=1e-5)
    assert found["accuracy"] == pytest.approx((best_N == labels_N.numpy()).mean(), abs=1e-6)
    if classes > 5:
        assert found["top5"] == pytest.approx(top_k_accuracy_score(labels_N, p_NC, k=5), abs=1e-6)
    else:
        assert found["top5"] is None
    counts = truth.counts(None)
    assert (counts.matrix() == confusion_matrix(labels_N, best_N, labels=np.arange(classes))).all()


@pytest.mark.parametrize("classes", [2, 10])
def test_the_calibration_error_is_that_of_torchmetrics(classes: int) -> None:
    """Law: without a number kept for each row; the drawn counts have the same."""
    logits_NC, labels_N = answers(500, classes, 1)
    truth = looked_at(logits_NC, labels_N, 7)
    expected = multiclass_calibration_error(logits_NC.softmax(1), labels_N, classes).item()
    assert truth.figures()["ece"] == pytest.approx(expected, abs=1e-6)
    assert truth.counts(None).ece == pytest.approx(expected, abs=1e-6)


@STEADY
@given(st.integers(1, 60), st.integers(2, 9), st.integers(1, 60), st.integers(0, 99))
def test_how_rows_are_cut_into_batches_changes_nothing(rows: int, classes: int, size: int, seed: int) -> None:
    """Law: counts are the same, and figures but for the last bits of sums."""
    logits_NC, labels_N = answers(rows, classes, seed)
    whole, cut = looked_at(logits_NC, labels_N), looked_at(logits_NC, labels_N, size)
    assert cut.counts(None).confusion == whole.counts(None).confusion
    assert known(cut) == pytest.approx(known(whole), rel=1e-6)


@STEADY
@given(st.integers(2, 60), st.integers(2, 9), st.integers(0, 99))
def test_what_classes_are_called_changes_nothing(rows: int, classes: int, seed: int) -> None:
    """Law: in any order of the classes every figure is the same."""
    logits_NC, labels_N = answers(rows, classes, seed)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    renamed = looked_at(logits_NC[:, order], order.argsort()[labels_N])
    assert known(renamed) == pytest.approx(known(looked_at(logits_NC, labels_N)), rel=1e-5)


@pytest.mark.parametrize("sure", [1.0, 20.0, 1e4])
def test_who_is_always_right_has_all_of_everything(sure: float) -> None:
    """Law: accuracy, top-5, macro F1 and AUROC of a perfect classifier are 1, however sure it is."""
    labels_N = torch.arange(28) % 7
    found = looked_at(sure * torch.eye(7)[labels_N], labels_N).figures()
    assert [found[name] for name in ("accuracy", "top5", "macro_f1", "auroc")] == [1.0] * 4


def test_who_always_says_the_same_has_half_the_area() -> None:
    """Law: an AUROC of exactly 1/2, for ties count half; and who is always wrong has 0."""
    labels_N = torch.arange(30) % 3
    assert looked_at(torch.randn(1, 3).repeat(30, 1), labels_N).figures()["auroc"] == 0.5
    assert looked_at(-5 * torch.eye(3)[labels_N], labels_N).figures()["auroc"] == 0.0


def test_a_class_that_no_row_has_is_no_part_of_the_mean() -> None:
    """Law: neither of AUROC's, nor of F1's where it is never answered; of one class alone there is no ranking."""
    logits_NC, labels_N = answers(60, 3, 5)
    wider_ND = torch.cat([logits_NC, torch.full((60, 2), -1e4)], dim=1)
    three, five = looked_at(logits_NC, labels_N).figures(), looked_at(wider_ND, labels_N).figures()
    assert five["auroc"] == pytest.approx(three["auroc"])
    assert five["macro_f1"] == pytest.approx(three["macro_f1"])
    assert looked_at(logits_NC, torch.zeros_like(labels_N)).figures()["auroc"] is None


def test_probabilities_far_below_a_percent_are_told_apart() -> None:
    """Law: a class that is never above 1e-9, and is above what others get of it, is ranked; even bins see a tie."""
    labels_N = torch.tensor([0] * 50 + [1] * 50)
    log_odds_N = torch.where(labels_N == 1, -21.0, -25.0)
    assert looked_at(torch.stack([torch.zeros(100), log_odds_N], 1), labels_N).figures()["auroc"] == 1.0


def test_what_is_counted_takes_no_memory_for_rows() -> None:
    """Law: a ranking is C x 1,024 integers twice, however many rows there were; above 1,000 classes there is none."""
    ranking = Ranking(4)
    for seed in range(3):
        ranking.update(*answers(100, 4, seed))
    assert ranking.all_CB.shape == ranking.own_CB.shape == (4, ODDS_BINS)
    assert (int(ranking.all_CB.sum()), int(ranking.own_CB.sum())) == (1200, 300)
    many = looked_at(*answers(9, MOST_CLASSES + 1, 0))
    assert (many.figures()["auroc"], many.counts(None).confusion) == (None, None)
    assert 0 <= many.figures()["macro_f1"] <= many.figures()["top5"] <= 1


def test_answers_that_are_no_numbers_are_counted_as_unsure() -> None:
    """Law: a network that diverged ends with a figure that says so, and not in the middle of a table."""
    truth = looked_at(torch.full((4, 3), math.nan), torch.tensor([0, 1, 2, 0]))
    assert math.isnan(truth.figures()["cross_entropy"])
    assert truth.counts(None).bins[0] == (4, 0.0, 2)


def test_names_that_are_not_of_these_classes_are_left_out() -> None:
    """A vocabulary may be padded: then there are more answers than names."""
    truth = looked_at(*answers(9, 3, 0))
    assert truth.counts(("a", "b", "c")).name(2) == "c"
    assert truth.counts(("a", "b")).name(2) == "2"


def test_what_is_looked_at_in_passing_has_the_cheap_figures_only() -> None:
    """Law: an epoch is not slower than it was."""
    truth = Truth()
    assert (truth.figures(), truth.counts(None)) == ({}, None)
    truth.update(*answers(9, 3, 0))
    assert set(truth.figures()) == {"accuracy", "ece", "cross_entropy"}
    assert truth.counts(None) is None
