"""How a student's answers stand to its teacher's: not losses, but figures that a table shows.

Shape legend
    N  rows (samples)
    C  classes
    K  stored classes of a row
"""

import torch
from torch import Tensor

from pipeline.labels import DenseLabels, HeadSampledLabels, SampledLabels, SoftLabels, SparseLabels
from pipeline.losses.groups import weighted
from pipeline.losses.logspace import weighted_sum

NONE = -1


def best(labels: SoftLabels) -> Tensor:
    """The teacher's likeliest class of each row, [N]; -1 where labels do not tell, as of a row that was all drawn."""
    if isinstance(labels, DenseLabels):
        return labels.logits_NC.argmax(dim=1)
    first_N = labels.ids_NK[:, 0]
    if not isinstance(labels, SampledLabels):
        return first_N
    if labels.exact_N is None:
        return torch.full_like(first_N, NONE)
    return torch.where(labels.exact_N > 0, first_N, NONE)  # the exact ones come first, by falling probability


def accepts(labels: SoftLabels) -> bool:
    """Whether `accepted` can be had from these labels."""
    return not isinstance(labels, SampledLabels) and (isinstance(labels, DenseLabels) or 1.0 in labels.temperatures)


def accepted(student_logits_NC: Tensor, labels: DenseLabels | SparseLabels | HeadSampledLabels) -> Tensor:
    """The sum of min(p, q) over all classes at temperature 1, [N], for p the teacher and q the student.

    The share of a draft model's tokens that its target accepts: Leviathan, Kalman and Matias (2023), "Fast inference
    from transformers via speculative decoding", arXiv 2211.17192, corollary 3.6. It is 1 - (total variation).

    Exact of dense labels; of top-k it is an upper bound, for all other classes count as one; of a head with a sampled
    tail it is an unbiased estimate, which one row may put above 1.
    """
    weights_NK, log_p_NK, log_q_NK = weighted(student_logits_NC, labels, 1.0)
    return weighted_sum(weights_NK, (log_q_NK - log_p_NK).clamp(max=0).exp())
