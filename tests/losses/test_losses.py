"""The table of losses."""

from inspect import signature

import pytest
import torch
from loss_cases import costs

from pipeline.labels import DenseLabels
from pipeline.losses import LOSSES

GIVEN = {
    "labels": DenseLabels(torch.randn(5, 4, generator=torch.Generator().manual_seed(1))),
    "labels_N": torch.tensor([0, 1, 2, 3, -1]),
    "temperature": 2.0,
    "cost_CC": costs(4),
    "judge": lambda logits_NC: torch.cat([logits_NC[:, :1], logits_NC], dim=1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_gives_one_value_a_row(name: str) -> None:
    """[N], for the caller to average; what it takes has the same name everywhere, and the student comes first."""
    student, *others = signature(LOSSES[name]).parameters.values()
    assert student.name == "student_logits_NC"
    needed = {each.name: GIVEN[each.name] for each in others if each.default is each.empty}
    loss = LOSSES[name](torch.randn(5, 4), **needed)
    assert loss.shape == (5,)
    assert loss.isfinite().all()
