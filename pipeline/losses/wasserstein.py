"""Transport of probability between classes: what goes to a similar class costs little.

Shape legend
    N  rows (samples)
    C  classes
    D  features
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.errors import ConfigError
from pipeline.labels import SoftLabels
from pipeline.losses.groups import check_classes, tempered, whole_rows


def wkd(
    student_logits_NC: Tensor,
    labels: SoftLabels,
    labels_N: Tensor,
    temperature: float,
    cost_CC: Tensor,
    *,
    regularisation: float = 0.05,
    iterations: int = 10,
    transport: float = 1.0,
) -> Tensor:
    """Transport W(r', r) - p_t log q_t a row, [N]; 0 without a label.

    r and r' are the softmax over all classes but the true one t, at T, of teacher and student, and W the cost sum_ij
    cost_ij flow_ij of the flow from r' to r that minimises it less regularisation times the flow's entropy (Cuturi
    2013, arXiv 1306.0895), by so many iterations of Sinkhorn from uniform scalings, with gradients through all of them.
    WKD-L of Lv et al. (2024), "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation",
    arXiv 2412.08139, where `transport` is their lambda. As in the authors' code the first term has no factor T^2 and
    the second no temperature. Neither is zero where student and teacher are equal: one is a cross-entropy, and the
    entropy spreads the flow of the other.

    `cost_CC` is not negative and about 1 at most, as from `class_cost`: beyond 700 times the regularisation nothing
    flows. In float64, whose exponents the scalings need, and as [N, C] by [C, C] products: never [N, C, C].

    Raises:
        ConfigError: the labels are not dense, or have another number of classes than the student or the costs.

    """
    labels = whole_rows("wkd", labels)
    check_classes(student_logits_NC, labels)
    classes = student_logits_NC.shape[1]
    if cost_CC.shape != (classes, classes):
        raise ConfigError(
            f"The class costs have the shape {list(cost_CC.shape)}, expected [{classes}, {classes}]: one for each pair "
            "of the labels' classes. Estimate them from a teacher of these classes."
        )
    target_N1 = labels_N.clamp(min=0)[:, None]
    log_p_N1, log_q_N1 = (
        tempered(logits_NC, temperature=1.0).gather(1, target_N1) for logits_NC in (labels.logits_NC, student_logits_NC)
    )
    teacher_NC, student_NC = (
        tempered(logits_NC.double().scatter(1, target_N1, -math.inf), temperature)
        for logits_NC in (labels.logits_NC, student_logits_NC)
    )
    transport_N = _transport_cost(student_NC, teacher_NC, cost_CC.double(), regularisation, iterations)
    loss_N = transport * transport_N.to(log_q_N1.dtype) - (log_p_N1.exp() * log_q_N1)[:, 0]
    return torch.where(labels_N >= 0, loss_N, 0.0)


def class_cost(prototypes_CD: Tensor, sharpness: float = 1.0) -> Tensor:
    """1 - exp(-sharpness (1 - cosine)) of the prototypes of each pair of classes, [C, C], zero of a class with itself.

    A prototype is what stands for a class: its row of the teacher's last weight matrix, as the authors' code has it
    under "fc". The paper's own choice (arXiv 2412.08139) measures similarity by the centred kernel
    alignment of all features of two classes, which a cache of logits does not hold. Of logits, `prototypes` makes some.
    """
    unit_CD = F.normalize(prototypes_CD.double(), dim=1)
    cost_CC = -torch.expm1(-sharpness * (1 - unit_CD @ unit_CD.T).clamp(min=0))
    return cost_CC.fill_diagonal_(0).to(prototypes_CD.dtype)


def prototypes(logits_NC: Tensor) -> Tensor:
    """Each class's logits over many rows, counted from the mean of their row and then of their class, [C, N].

    Their cosine is the correlation of two classes: which rise together is what a cache knows of similarity. An estimate
    of our own, not of the paper, and not shown to be as good.
    """
    counted_NC = logits_NC - logits_NC.mean(dim=1, keepdim=True)  # a row's shift, which softmax does not see
    return (counted_NC - counted_NC.mean(dim=0)).T


def _transport_cost(
    log_from_NC: Tensor, log_to_NC: Tensor, cost_CC: Tensor, regularisation: float, iterations: int
) -> Tensor:
    """Sum of cost_ij u_i K_ij v_j for the scalings u, v of K = exp(-cost / regularisation) after these iterations."""
    kernel_CC = torch.exp(-cost_CC / regularisation)
    log_u_NC = torch.zeros_like(log_from_NC).masked_fill(log_from_NC.isneginf(), -math.inf)
    for _ in range(iterations):
        log_v_NC = log_to_NC - _log_product(log_u_NC, kernel_CC)
        log_u_NC = log_from_NC - _log_product(log_v_NC, kernel_CC.T)
    scale_N1, v_NC = _scaled(log_v_NC)
    return ((log_u_NC + scale_N1).exp() * (v_NC @ (kernel_CC * cost_CC).T)).sum(dim=1)


def _log_product(log_NC: Tensor, matrix_CC: Tensor) -> Tensor:
    """Log(exp(x) A)."""
    scale_N1, scaled_NC = _scaled(log_NC)
    return scale_N1 + (scaled_NC @ matrix_CC).log()


def _scaled(log_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Exp(x) as the log of a scale a row, [N, 1], and the rest, at most 1: nothing overflows."""
    scale_N1 = log_NC.detach().amax(dim=1, keepdim=True)
    return scale_N1, (log_NC - scale_N1).exp()
