"""The table of losses: one signature, and what each needs."""

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.labels import DenseLabels
from pipeline.losses import LOSSES, cross_entropy, kd

STUDENT = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
SOFT = DenseLabels(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)))
LABELS = torch.tensor([0, 1, 2, 3, -1])


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_gives_one_value_a_row(name: str) -> None:
    """[N], for the caller to average."""
    assert LOSSES[name].function(STUDENT, LABELS, SOFT, 2.0, 0.5).shape == (5,)


def test_the_entries_are_the_losses_of_their_names() -> None:
    """The uniform signature reorders arguments and adds nothing."""
    assert torch.equal(LOSSES["kd"].function(STUDENT, LABELS, SOFT, 2.0, 0.7), kd(STUDENT, SOFT, LABELS, 2.0, 0.7))
    assert torch.equal(
        LOSSES["cross_entropy"].function(STUDENT, LABELS, None, 2.0, 0.7), cross_entropy(STUDENT, LABELS)
    )


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.needs_soft_labels])
def test_a_loss_that_needs_soft_labels_refuses_to_go_without(name: str) -> None:
    """A student told to distil from nothing must not train on something else."""
    with pytest.raises(ConfigError, match=f'The loss "{name}" needs soft labels and was given none'):
        LOSSES[name].function(STUDENT, LABELS, None, 2.0, 0.5)


@pytest.mark.parametrize(
    ("name", "served", "temperature"),
    [
        ("kd", None, 3.0),
        ("kd", (1.0, 3.0), 3.0),
        ("cross_entropy", (1.0,), 3.0),
    ],
)
def test_a_loss_that_labels_can_serve_is_not_refused(
    name: str, served: tuple[float, ...] | None, temperature: float
) -> None:
    """Dense labels serve any temperature, and a loss without one does not mind."""
    LOSSES[name].check(served, temperature)


def test_a_loss_that_labels_cannot_serve_is_refused_before_training() -> None:
    """The check of the plan has the words of the loss itself."""
    with pytest.raises(ConfigError, match=r"cannot serve temperature 3: .* at temperatures 1, 2\."):
        LOSSES["kd"].check((1.0, 2.0), 3.0)
