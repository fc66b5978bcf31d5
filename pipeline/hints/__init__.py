"""What a student is told about inside layers: pure functions of features or derivatives, one value a row, [N].

Hints are what Romero et al. (2015), "FitNets", arXiv 1412.6550, call a teacher's features. The student's comes first;
the caller averages. A loss is named for what it computes. `docs/methods.md` says which is for what.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from pipeline.hints.attention import attention_channel, attention_transfer
from pipeline.hints.contrast import crd, infonce
from pipeline.hints.gradients import (
    gradient_matching,
    gradient_penalty,
    input_gradient,
    projected_jacobian,
    random_projections,
)
from pipeline.hints.regression import cosine_distance, feature_mse, hypersphere_distance
from pipeline.hints.regressor import Regressor, regressor
from pipeline.hints.relations import cka_distance, rkd_angle, rkd_distance, similarity_preserving

__all__ = [
    "HINTS",
    "Regressor",
    "attention_channel",
    "attention_transfer",
    "cka_distance",
    "cosine_distance",
    "crd",
    "feature_mse",
    "gradient_matching",
    "gradient_penalty",
    "hypersphere_distance",
    "infonce",
    "input_gradient",
    "projected_jacobian",
    "random_projections",
    "regressor",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
]

HINTS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "feature_mse": feature_mse,
        "feature_cosine": cosine_distance,
        "feature_sphere": hypersphere_distance,
        "rkd_distance": rkd_distance,
        "rkd_angle": rkd_angle,
        "similarity": similarity_preserving,
        "cka": cka_distance,
        "attention": attention_transfer,
        "infonce": infonce,
        "crd": crd,
        "gradient": gradient_matching,
        "gradient_norm": gradient_penalty,
    }
)
"""By name; none is a name of `pipeline.losses.LOSSES`."""
