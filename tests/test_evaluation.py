"""How a network does on held-out samples: what is told of it, and of which."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import CLASSES, STEADY, samples, told, write_cache

from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import DatasetError
from pipeline.evaluation import evaluate, measurable


@STEADY
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 99))
def test_accuracy_is_the_share_of_labelled_samples_that_are_right(rows: int, size: int, seed: int) -> None:
    """Law: as counted by NumPy, for every batch size; samples without a label do not count."""
    random = np.random.default_rng(seed)
    labels = random.integers(-1, CLASSES, rows)
    labels[0] = 0
    answers = random.normal(size=(rows, CLASSES)).astype(np.float32)
    dataset = ArrayDataset(np.arange(rows), np.arange(rows), labels, CLASSES)
    found = evaluate(lambda inputs: torch.from_numpy(answers[inputs]), dataset, size).accuracy
    labelled = labels >= 0
    assert found == pytest.approx((answers.argmax(1) == labels)[labelled].mean(), abs=1e-6)


@pytest.mark.parametrize("labels", [None, np.full(4, -1)])
def test_without_a_truth_or_a_teacher_there_is_nothing_to_tell(labels: np.ndarray | None) -> None:
    """Rather than an accuracy of zero."""
    dataset = ArrayDataset(np.zeros((4, 2)), np.arange(4), labels, CLASSES)
    assert measurable(dataset) is None
    with pytest.raises(DatasetError, match=r"\[test\] has no targets, so nothing can be measured on it"):
        evaluate(lambda inputs: torch.zeros(len(inputs), CLASSES), dataset, 2)


@pytest.mark.parametrize("size", [1, 7, 24])
@pytest.mark.parametrize("share", [0, 1, 2], ids=["no truth", "all of it", "half of it"])
def test_agreement_is_of_all_samples_and_accuracy_of_those_whose_truth_is_known(
    tmp_path: Path, share: int, size: int
) -> None:
    """Law: agreement and accepted are means over every sample; where no truth is known there is nothing else."""
    known = samples()
    labels = np.where(np.arange(len(known)) % share == 0, known.labels, -1) if share else None
    dataset = ArrayDataset(known.array, known.ids, labels, CLASSES)
    cache = write_cache(tmp_path / "cache", dataset)
    teacher, answers = told(dataset.ids), torch.randn(len(dataset), CLASSES, generator=torch.manual_seed(size))
    parts = iter(answers.split(size))
    found = evaluate(lambda _: next(parts), dataset, size, cache)
    assert measurable(dataset) is (dataset if share else None)
    right = answers.argmax(1)
    assert found.agreement == pytest.approx((right == teacher.argmax(1)).double().mean().item())
    overlap = torch.minimum(answers.softmax(1), teacher.softmax(1)).sum(1)
    assert found.accepted == pytest.approx(overlap.mean().item(), rel=1e-5)
    if labels is None:
        assert (found.figures.keys(), found.perplexity) == ({"agreement", "accepted"}, None)
    else:
        assert found.accuracy == pytest.approx((right.numpy() == labels)[labels >= 0].mean())


def test_calibration_compares_confidence_with_accuracy() -> None:
    """Four samples at a confidence of 3/4: of which three are right, the error is 0; of which none is, 3/4."""
    logits = torch.tensor([[0.75, 0.25]]).log().repeat(4, 1)
    for labels, error in (([0, 0, 0, 1], 0.0), ([1, 1, 1, 1], 0.75)):
        dataset = ArrayDataset(np.zeros((4, 1), np.float32), np.arange(4), np.array(labels), 2)
        found = evaluate(lambda inputs: logits[: len(inputs)], dataset, 4)
        assert found.ece == pytest.approx(error, abs=1e-6)
