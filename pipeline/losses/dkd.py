"""Decoupled knowledge distillation: the true class against the rest, and the rest among themselves.

Shape legend
    N  rows (samples)
    C  classes
    K  classes told apart in a row: the kept ones and the ghost, or all C
"""

import math

import torch
from torch import Tensor

from pipeline.labels import SoftLabels, SparseLabels
from pipeline.losses.groups import grid_index, grouped, not_sampled, tempered
from pipeline.losses.logspace import log1mexp, relative_entropy


def dkd(
    student_logits_NC: Tensor,
    labels: SoftLabels,
    labels_N: Tensor,
    temperature: float,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Alpha KL(b || b') + beta KL(r || r') in nats a row, [N]; 0 without a label.

    Here b = (p_t, 1 - p_t) for the true class t, and r is the softmax over all others, both at T, of the teacher and of
    the student (b', r'). Zhao et al. (2022), "Decoupled Knowledge Distillation", arXiv 2203.08679. With
    beta = alpha (1 - p_t) it would be alpha KL(p_T || q_T) (equation 6). Their code also multiplies both terms by T^2:
    here the caller does.

    Of sparse labels the others are the kept classes and the ghost, without t: b is exact, and r has a lower bound of
    its term, equal to it when K = C. The true class is the one that the labels were made with: where it is not among
    the kept, and its logit not in the labels either, the row is 0 too. Where 1 - p_t < 1e-38, float32 does not know the
    ghost's share of the others, which is then the largest that it can be.

    Raises:
        ConfigError: the labels do not know this temperature, have another number of classes, or are weights alone.

    """
    labels = not_sampled("dkd", labels)
    log_p_NK, log_q_NK = grouped(student_logits_NC, labels, temperature)
    known_N, place_N1 = labels_N >= 0, labels_N.clamp(min=0)[:, None]
    if isinstance(labels, SparseLabels):
        found_NK = labels.ids_NK == place_N1
        found_N1, kept = found_NK.any(dim=1, keepdim=True), found_NK.shape[1]
        known_N = known_N & (found_N1[:, 0] | ~labels.target_N.isnan())
        if kept < labels.classes:
            log_p_NK = _teacher_groups(log_p_NK, labels, found_N1, temperature)
            log_q_NK = _student_groups(tempered(student_logits_NC, temperature), labels, found_N1, place_N1)
        place_N1 = torch.where(found_N1, found_NK.int().argmax(dim=1, keepdim=True), kept)
    # Without the true class: minus infinity in its place.
    rest_p_NK, rest_q_NK = (log_NK.scatter(1, place_N1, -math.inf) for log_NK in (log_p_NK, log_q_NK))
    binary_p_N2, binary_q_N2 = (
        torch.cat([log_NK.gather(1, place_N1), rest_NK.logsumexp(dim=1, keepdim=True)], dim=1)
        for log_NK, rest_NK in ((log_p_NK, rest_p_NK), (log_q_NK, rest_q_NK))
    )
    binary_N = relative_entropy(binary_p_N2, binary_q_N2)
    others_N = relative_entropy(rest_p_NK.log_softmax(dim=1), rest_q_NK.log_softmax(dim=1))
    return torch.where(known_N, alpha * binary_N + beta * others_N, 0.0)


def _teacher_groups(log_p_NK: Tensor, labels: SparseLabels, found_N1: Tensor, temperature: float) -> Tensor:
    """The groups with one more before the ghost: the true class, taken out of the ghost, if it is not kept."""
    logits_N = torch.where(labels.target_N.isnan(), labels.logits_NK[:, -1], labels.target_N)  # no NaN in a gradient
    logsumexp_N = labels.logsumexp_NG[:, grid_index(labels.temperatures, temperature)]
    true_N1, ghost_N1 = (logits_N / temperature - logsumexp_N)[:, None], log_p_NK[:, -1:]
    alone = labels.ids_NK.shape[1] + 1 == labels.classes  # the true class is all of the ghost
    rest_N1 = torch.full_like(ghost_N1, -math.inf) if alone else ghost_N1 + log1mexp(true_N1 - ghost_N1)
    parts = [log_p_NK[:, :-1], true_N1.masked_fill(found_N1, -math.inf), torch.where(found_N1, ghost_N1, rest_N1)]
    return torch.cat(parts, dim=1)


def _student_groups(student_NC: Tensor, labels: SparseLabels, found_N1: Tensor, target_N1: Tensor) -> Tensor:
    """The student's, grouped alike.

    What is not in its ghost is as low as numbers go, not minus infinity: a sum of nothing else has no gradient.
    """
    told_apart_NK = torch.cat([labels.ids_NK, target_N1], dim=1)
    ghost_N1 = student_NC.scatter(1, told_apart_NK, torch.finfo(student_NC.dtype).min).logsumexp(dim=1, keepdim=True)
    true_N1 = student_NC.gather(1, target_N1).masked_fill(found_N1, -math.inf)
    return torch.cat([student_NC.gather(1, labels.ids_NK), true_N1, ghost_N1], dim=1)
