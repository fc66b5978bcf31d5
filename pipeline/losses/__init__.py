"""What the student is told: pure functions of tensors that return one value a row, [N]; the caller averages.

A loss is named for what it computes. A new one is a new file and an entry in `LOSSES`.

Shape legend
    N  rows (samples)
    C  classes
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.labels import SoftLabels
from pipeline.losses.hard import cross_entropy
from pipeline.losses.kl import grid_index, kd, kl

__all__ = ["LOSSES", "Loss", "cross_entropy", "kd", "kl", "named"]


@dataclass(frozen=True)
class Loss:
    """A loss with one signature for all: (student_logits_NC, labels_N, soft_labels, temperature, alpha) -> [N]."""

    function: Callable[[Tensor, Tensor, SoftLabels | None, float, float], Tensor]
    needs_soft_labels: bool
    uses_temperature: bool

    def check(self, served: tuple[float, ...] | None, temperature: float) -> None:
        """Raise ConfigError if labels that serve these temperatures (None: any) cannot serve this one."""
        if self.uses_temperature and served is not None:
            grid_index(served, temperature)


def _cross_entropy(
    student_logits_NC: Tensor,
    labels_N: Tensor,
    soft_labels: SoftLabels | None,  # noqa: ARG001 - the signature of every loss
    temperature: float,  # noqa: ARG001 - the signature of every loss
    alpha: float,  # noqa: ARG001 - the signature of every loss
) -> Tensor:
    return cross_entropy(student_logits_NC, labels_N)


def _kd(
    student_logits_NC: Tensor, labels_N: Tensor, soft_labels: SoftLabels | None, temperature: float, alpha: float
) -> Tensor:
    if soft_labels is None:
        raise ConfigError(
            'The loss "kd" needs soft labels and was given none. Train from a label cache, or set '
            'loss = "cross_entropy".'
        )
    return kd(student_logits_NC, soft_labels, labels_N, temperature, alpha)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "cross_entropy": Loss(_cross_entropy, needs_soft_labels=False, uses_temperature=False),
        "kd": Loss(_kd, needs_soft_labels=True, uses_temperature=True),
    }
)


def named(key: str, name: str) -> Loss:
    """The loss of a name; ConfigError, with the key that asks for it, if there is none."""
    if name not in LOSSES:
        raise ConfigError(f"{key}: found {name!r}, expected one of {', '.join(LOSSES)}.")
    return LOSSES[name]
