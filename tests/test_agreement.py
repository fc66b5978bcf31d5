"""How students stand to their teacher: figures of a table."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline import encodings
from pipeline.agreement import accepted, accepts, best
from pipeline.labels import LabelSpec, SampledLabels
from pipeline.losses.divergences import total_variation

CLASSES = 9


def labels_of(spec: LabelSpec, logits: torch.Tensor, first: int = 0) -> object:
    """What the cache gives back of a teacher's logits."""
    ids = np.arange(first, first + len(logits))
    return encodings.decode(spec, encodings.encode(spec, logits, torch.full((len(logits),), -1), ids))


def rows(seed: int, count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a teacher and of a student."""
    random = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, CLASSES, generator=random), 2 * torch.randn(count, CLASSES, generator=random)


DENSE = LabelSpec("dense", CLASSES, "float32")
TOPK = LabelSpec("topk", CLASSES, "float32", k=3, temperatures=(1.0, 4.0))
TAIL = LabelSpec("head+sampled", CLASSES, "float32", k=2, tail=3, temperatures=(1.0,))
SAMPLED = LabelSpec("sampled", CLASSES, "float32", k=4, temperatures=(1.0,))
DRAWS = LabelSpec("multinomial", CLASSES, "float32", k=9, temperatures=(1.0,))


@STEADY
@given(st.integers(0, 10**6))
def test_what_is_accepted_is_what_is_not_apart(seed: int) -> None:
    """Law: the sum of min(p, q) is 1 - (total variation); of merged classes it is no less."""
    teacher, student = rows(seed)
    exact = torch.minimum(teacher.softmax(1), student.softmax(1)).sum(1)
    torch.testing.assert_close(accepted(student, labels_of(DENSE, teacher)), exact, atol=1e-5, rtol=0)
    torch.testing.assert_close(1 - total_variation(student, labels_of(DENSE, teacher), 1.0), exact, atol=1e-5, rtol=0)
    merged = accepted(student, labels_of(TOPK, teacher))
    assert (merged >= exact - 1e-5).all()
    assert (merged <= 1 + 1e-5).all()


def test_a_head_with_a_tail_estimates_without_bias() -> None:
    """Law: the mean over many draws is the exact one, within five standard errors."""
    teacher, student = (logits / 4 for logits in rows(0, 1))
    many = accepted(student.expand(4000, -1), labels_of(TAIL, teacher.expand(4000, -1)))
    exact = torch.minimum(teacher.softmax(1), student.softmax(1)).sum()
    assert abs(many.mean() - exact) < 5 * many.std() / 4000**0.5
    assert many.std() > 0


@pytest.mark.parametrize("spec", [DENSE, TOPK, TAIL, SAMPLED])
def test_the_best_class_is_the_teachers(spec: LabelSpec) -> None:
    """Law: where it is told; a row that was all drawn does not tell."""
    teacher, _ = rows(1, 50)
    found = best(labels_of(spec, teacher))
    told = found >= 0
    assert told.float().mean() > 0.5
    assert torch.equal(found[told], teacher.argmax(1)[told])


def test_what_cannot_be_told_is_not() -> None:
    """Law: draws have no best class; samples, and grids without T = 1, have no overlap."""
    teacher, _ = rows(2)
    assert (best(labels_of(DRAWS, teacher)) == -1).all()
    assert accepts(labels_of(DENSE, teacher))
    assert accepts(labels_of(TAIL, teacher))
    assert not accepts(labels_of(SAMPLED, teacher))
    assert not accepts(labels_of(LabelSpec("topk", CLASSES, "float32", k=3, temperatures=(4.0,)), teacher))
    assert isinstance(labels_of(DRAWS, teacher), SampledLabels)
