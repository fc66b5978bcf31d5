"""What the tests of losses share: labels of every kind made from a teacher's logits, and rows to draw them from."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from pipeline import encodings
from pipeline.labels import (
    DenseLabels,
    DType,
    HeadSampledLabels,
    LabelSpec,
    SampledLabels,
    SoftLabels,
    SparseLabels,
)
from pipeline.losses.dist import dist
from pipeline.losses.divergences import jsd, kd, kl, reverse_kl, skew_kl, soft_cross_entropy, total_variation
from pipeline.losses.dkd import dkd
from pipeline.losses.mse import mse_logits
from pipeline.losses.standardise import standardised, standardised_labels
from pipeline.losses.wasserstein import wkd
from pipeline.losses.weak import weak

GRID = (0.5, 1.0, 2.0, 4.0)
TEMPERATURES = st.sampled_from(GRID)
SIDES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9)

Loss = Callable[[Tensor, SoftLabels, Tensor, float], Tensor]


def dense(logits: np.ndarray) -> DenseLabels:
    """All logits, in float32 as from the cache."""
    return DenseLabels(torch.from_numpy(logits).float())


def sparse(logits: np.ndarray, k: int, dtype: DType = "float32", labels_N: Tensor | None = None) -> SparseLabels:
    """The k largest, by way of the encoding, and the sums of standardised logits."""
    spec = LabelSpec("topk", classes=logits.shape[1], dtype=dtype, k=k, temperatures=GRID, standardised=True)
    true_N = torch.full((len(logits),), -1) if labels_N is None else labels_N
    record = encodings.encode(spec, torch.from_numpy(logits), true_N, np.arange(len(logits)))
    labels = encodings.decode(spec, record)
    assert isinstance(labels, SparseLabels)
    return labels


def head_sampled(logits: np.ndarray, k: int, tail_ids_NM: Tensor, tail_inclusion_NM: Tensor) -> HeadSampledLabels:
    """The k largest, and these classes of the tail, in float64: what is exact stays so."""
    logits_NC = torch.from_numpy(logits).double()
    head = sparse(logits, k)
    counted_NC = logits_NC - logits_NC.amax(dim=1, keepdim=True)
    standard_NC = standardised(counted_NC)
    standard_NC = standard_NC - standard_NC.amax(dim=1, keepdim=True)
    return HeadSampledLabels(
        classes=head.classes,
        temperatures=GRID,
        ids_NK=head.ids_NK,
        logits_NK=counted_NC.gather(1, head.ids_NK),
        logsumexp_NG=torch.stack([(counted_NC / t).logsumexp(dim=1) for t in GRID], dim=1),
        max_N=logits_NC.amax(dim=1),
        mean_N=counted_NC.mean(dim=1),
        std_N=counted_NC.std(dim=1, correction=0),
        target_N=head.target_N.double(),
        tail_ids_NM=tail_ids_NM,
        tail_logits_NM=counted_NC.gather(1, tail_ids_NM),
        tail_inclusion_NM=tail_inclusion_NM,
        standard_logsumexp_NG=torch.stack([(standard_NC / t).logsumexp(dim=1) for t in GRID], dim=1),
    )


def weights_alone(logits: np.ndarray, temperature: float) -> SampledLabels:
    """Every class with its probability, which is a sample too, and one more place that is padding."""
    p_NC = (torch.from_numpy(logits) / temperature).softmax(dim=1)
    ids_NC = torch.arange(p_NC.shape[1]).expand(p_NC.shape)
    nothing_N1 = torch.zeros(len(logits), 1)
    return SampledLabels(
        classes=p_NC.shape[1],
        temperature=temperature,
        ids_NK=torch.cat([ids_NC, nothing_N1.long()], dim=1),
        weights_NK=torch.cat([p_NC, nothing_N1.to(p_NC.dtype)], dim=1),
    )


@st.composite
def pairs(draw: st.DrawFn, reach: float = 20) -> tuple[np.ndarray, np.ndarray, int]:
    """A teacher's logits, a student's (both exact in float32), and a k that leaves some class out."""
    shape = draw(SIDES)
    elements = st.floats(-reach, reach, width=32)
    teacher, student = (draw(hnp.arrays(np.float32, shape, elements=elements)) for _ in range(2))
    return teacher, student, draw(st.integers(1, shape[1] - 1))


def true_labels(rows: int, classes: int) -> Tensor:
    """Some of every class, and one row without."""
    labels_N = torch.arange(rows) % classes
    labels_N[-1] = -1
    return labels_N


def costs(classes: int) -> Tensor:
    """Classes as points on a line: the cost of a pair is their distance, at most 1."""
    line = torch.linspace(0, 1, classes, dtype=torch.float64)
    return (line[:, None] - line).abs()


def lskd(student_logits_NC: Tensor, labels: SoftLabels, temperature: float) -> Tensor:
    """KL of standardised logits."""
    return kl(standardised(student_logits_NC), standardised_labels(labels), temperature)


def plain(function: Callable[[Tensor, SoftLabels, float], Tensor]) -> Loss:
    """A loss that takes no true labels."""
    return lambda student_NC, labels, _, temperature: function(student_NC, labels, temperature)


DIVERGENCES: dict[str, Loss] = {
    "kl": plain(kl),
    "reverse_kl": plain(reverse_kl),
    "jsd": plain(jsd),
    "jsd, beta .1": plain(partial(jsd, beta=0.1)),
    "skew_kl": plain(skew_kl),
    "tv": plain(total_variation),
}
"""Zero at equality, and never raised by merging classes."""

LINEAR: dict[str, Loss] = {
    "kl": plain(kl),
    "soft_cross_entropy": plain(soft_cross_entropy),
    "kd": lambda student_NC, labels, labels_N, temperature: kd(student_NC, labels, labels_N, temperature, 0.3),
}
"""Served by a sample of weights."""

ON_SPARSE: dict[str, Loss] = {
    **DIVERGENCES,
    **LINEAR,
    "weak": plain(partial(weak, threshold=0.4)),
    "mse": lambda student_NC, labels, *_: mse_logits(student_NC, labels),
    "dkd": dkd,
    "lskd": plain(lskd),
}

ON_DENSE: dict[str, Loss] = {
    **ON_SPARSE,
    "dist": plain(dist),
    "wkd": lambda student_NC, labels, labels_N, temperature: wkd(
        student_NC, labels, labels_N, temperature, costs(student_NC.shape[1])
    ),
}
