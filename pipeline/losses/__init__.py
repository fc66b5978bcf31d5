"""What the student is told: pure functions of tensors that return one value a row, [N]; the caller averages.

A loss is named for what it computes. A new one is a new function, an entry in `LOSSES` and its settings in
`pipeline.terms`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from pipeline.losses.adversarial import adversarial
from pipeline.losses.blended import Shares, blend, blended
from pipeline.losses.dist import dist
from pipeline.losses.divergences import jsd, kd, kl, reverse_kl, skew_kl, soft_cross_entropy, total_variation
from pipeline.losses.dkd import dkd
from pipeline.losses.hard import cross_entropy, entropy
from pipeline.losses.mse import mse_logits
from pipeline.losses.standardise import standardised, standardised_labels
from pipeline.losses.wasserstein import class_cost, prototypes, wkd
from pipeline.losses.weak import sure, weak

__all__ = [
    "LOSSES",
    "Shares",
    "adversarial",
    "blend",
    "blended",
    "class_cost",
    "cross_entropy",
    "dist",
    "dkd",
    "entropy",
    "jsd",
    "kd",
    "kl",
    "mse_logits",
    "prototypes",
    "reverse_kl",
    "skew_kl",
    "soft_cross_entropy",
    "standardised",
    "standardised_labels",
    "sure",
    "total_variation",
    "weak",
    "wkd",
]

LOSSES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "hard": cross_entropy,
        "kd": kl,
        "soft": soft_cross_entropy,
        "reverse_kl": reverse_kl,
        "jsd": jsd,
        "skew_kl": skew_kl,
        "tv": total_variation,
        "mse": mse_logits,
        "dkd": dkd,
        "dist": dist,
        "wkd": wkd,
        "weak": weak,
        "entropy": entropy,
        "adversarial": adversarial,
    }
)
"""By the name that a term of an experiment has."""
