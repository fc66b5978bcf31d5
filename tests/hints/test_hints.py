"""The table of losses of features."""

from inspect import signature

import pytest
import torch

from pipeline.hints import HINTS
from pipeline.losses import LOSSES

MAPS = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
VECTORS = MAPS.flatten(1)
GIVEN = {
    "teacher_NX": VECTORS,
    "teacher_NY": VECTORS[:, :5],
    "teacher_NCHW": MAPS,
    "positives_ND": VECTORS,
    "negatives": VECTORS[:2],
    "dataset_size": 9,
}


@pytest.mark.parametrize("name", HINTS)
def test_every_loss_of_features_gives_one_value_a_row(name: str) -> None:
    """Law: [N], for the caller to average; what it takes has the same name everywhere, and the student comes first."""
    student, *others = signature(HINTS[name]).parameters.values()
    assert student.name in ("student_NX", "student_ND", "student_NCHW")
    needed = {each.name: GIVEN[each.name] for each in others if each.default is each.empty}
    features = torch.randn(4, 3, 2, 2)
    loss = HINTS[name](features if student.name == "student_NCHW" else features.flatten(1), **needed)
    assert loss.shape == (4,)
    assert loss.isfinite().all()


def test_no_loss_of_features_has_the_name_of_one_of_logits() -> None:
    """Law: a term's name tells which."""
    assert set(HINTS) & set(LOSSES) == set()
