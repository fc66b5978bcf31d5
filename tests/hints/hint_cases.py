"""What the tests of hints share: every loss as a function of two batches of features, and batches to draw."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from pipeline.hints.attention import attention_transfer
from pipeline.hints.contrast import crd, infonce
from pipeline.hints.gradients import gradient_matching, gradient_penalty
from pipeline.hints.regression import cosine_distance, feature_mse, hypersphere_distance
from pipeline.hints.relations import cka_distance, rkd_angle, rkd_distance, similarity_preserving

Loss = Callable[[Tensor, Tensor], Tensor]
WIDTH = 6
OTHERS = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(9)).half().double()


def as_maps(features_ND: Tensor) -> Tensor:
    """[N, 6] as two channels of three places."""
    return features_ND.reshape(len(features_ND), 2, 1, 3)


def contrasted(loss: Callable[..., Tensor]) -> Loss:
    """Against negatives that are always the same."""
    return lambda student, teacher: loss(student, teacher, OTHERS.to(teacher.dtype))


def on_maps(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention of vectors taken for maps."""
    return attention_transfer(as_maps(student), as_maps(teacher))


BY_ROW: dict[str, Loss] = {
    "feature_mse": feature_mse,
    "feature_cosine": cosine_distance,
    "feature_sphere": hypersphere_distance,
    "attention": on_maps,
    "infonce": contrasted(infonce),
    "crd": contrasted(partial(crd, dataset_size=100)),
    "gradient": gradient_matching,
    "gradient_norm": lambda student, _: gradient_penalty(student, 0.5),
}
"""A row's value depends on that row alone."""

BY_BATCH: dict[str, Loss] = {
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "similarity": similarity_preserving,
    "cka": cka_distance,
}
"""It depends on the other rows."""

ALL: dict[str, Loss] = {**BY_ROW, **BY_BATCH}

ZERO_AT_EQUALITY = sorted(set(ALL) - {"infonce", "crd", "gradient_norm"})

UNSCALED = sorted(set(ALL) - {"feature_mse", "gradient", "gradient_norm"})
"""Those that do not see the scale of the student's features."""


def features(rows: int, seed: int, width: int = WIDTH) -> Tensor:
    """Random features in float64."""
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def batches(draw: st.DrawFn, reach: float = 8) -> tuple[Tensor, Tensor]:
    """A student's features and a teacher's, exact in float32: small whole numbers among them, so zeros and equals."""
    rows = draw(st.integers(1, 6))
    elements = st.one_of(st.sampled_from([0.0, 0.0, 1.0, -1.0]), st.floats(-reach, reach, width=16))
    drawn = (draw(hnp.arrays(np.float32, (rows, WIDTH), elements=elements)) for _ in range(2))
    student, teacher = (torch.from_numpy(each) for each in drawn)
    return student, teacher
