"""Forward Kullback-Leibler divergence from the teacher to the student, and the distillation loss made of it.

Of sparse labels the kept classes are exact, and all the others are one class, the ghost, on both sides. Merging classes
never raises a divergence, so the sparse loss is a lower bound of the dense one, and equal to it when K = C.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
    G  temperatures of the grid
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.labels import DenseLabels, SoftLabels, SparseLabels
from pipeline.losses.hard import cross_entropy
from pipeline.losses.logspace import at_least_float32, log1mexp


def kl(student_logits_NC: Tensor, labels: SoftLabels, temperature: float) -> Tensor:
    """KL(p_T || q_T) = sum p_T (log p_T - log q_T) in nats a row, [N], for p the teacher and q the student.

    Raises:
        ConfigError: the labels do not know this temperature, or have another number of classes than the student.

    """
    classes = labels.logits_NC.shape[1] if isinstance(labels, DenseLabels) else labels.classes
    if student_logits_NC.shape[1] != classes:
        raise ConfigError(
            f"The student gives {student_logits_NC.shape[1]} logits a row, but its soft labels have {classes} classes. "
            f"Use a student with {classes} outputs."
        )
    student_NC = torch.log_softmax(at_least_float32(student_logits_NC) / temperature, dim=1)
    if isinstance(labels, DenseLabels):
        return _divergence(torch.log_softmax(labels.logits_NC / temperature, dim=1), student_NC)
    return _divergence(_teacher_groups(labels, temperature), _student_groups(student_NC, labels))


def kd(
    student_logits_NC: Tensor, soft_labels: SoftLabels, labels_N: Tensor, temperature: float, alpha: float
) -> Tensor:
    """(1 - alpha) CE(y, q) + alpha T^2 KL(p_T || q_T) a row, [N]; without its first term where the label is -1.

    Hinton, Vinyals and Dean (2015), arXiv 1503.02531, section 2. The gradient of the second term shrinks as 1 / T^2;
    the factor T^2 keeps its share when T changes.

    A teacher that says [.8, .2], a student that says [.7, .3], and the second class is true:

    >>> teacher, student = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.7, 0.3]]).log()
    >>> round(kl(student, DenseLabels(teacher), temperature=1.0).item(), 4)
    0.0257
    >>> round(kd(student, DenseLabels(teacher), torch.tensor([1]), temperature=1.0, alpha=0.5).item(), 3)
    0.615
    """
    hard_N = cross_entropy(student_logits_NC, labels_N)
    return (1 - alpha) * hard_N + alpha * temperature**2 * kl(student_logits_NC, soft_labels, temperature)


def grid_index(temperatures: Sequence[float], temperature: float) -> int:
    """The place of a temperature in the grid of sparse labels; ConfigError if it is not there."""
    if temperature not in temperatures:
        raise ConfigError(
            f"These labels cannot serve temperature {temperature:g}: they keep the largest logits only, and know the "
            f"mass of the others at temperatures {', '.join(f'{t:g}' for t in temperatures)}. Train at one of these, "
            "or generate labels with this one in labels.temperatures."
        )
    return temperatures.index(temperature)


def _divergence(log_p_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    """Sum of p (log p - log q), where a class that the teacher rules out adds 0, not 0 * inf."""
    p_NK = log_p_NK.exp()
    return torch.where(p_NK > 0, p_NK * (log_p_NK - log_q_NK), 0.0).sum(dim=1)


def _teacher_groups(labels: SparseLabels, temperature: float) -> Tensor:
    """Log probabilities of the kept classes and, when there are others, of the ghost.

    They sum to one but for the rounding of stored logits, which the softmax takes out: a divergence of what does not
    sum to one can fall below zero.
    """
    logsumexp_N = labels.logsumexp_NG[:, grid_index(labels.temperatures, temperature)]
    counted_NK = labels.logits_NK / temperature
    groups_NK = counted_NK - logsumexp_N[:, None]
    if groups_NK.shape[1] < labels.classes:
        # log(kept mass) by log1p of all but the largest, as stored: good near zero, hence a limit that is nearer.
        kept_N = counted_NK[:, 1:].exp().sum(dim=1).log1p() - logsumexp_N
        ghost_N = log1mexp(kept_N, limit=-torch.finfo(kept_N.dtype).tiny)
        groups_NK = torch.cat([groups_NK, ghost_N[:, None]], dim=1)
    return torch.log_softmax(groups_NK, dim=1)


def _student_groups(student_NC: Tensor, labels: SparseLabels) -> Tensor:
    """The student's log probabilities, grouped alike.

    All its logits are here, so the ghost is their sum: 1 - (kept mass) would lose the gradient of a student that is all
    but certain of the kept classes.
    """
    kept_NK = student_NC.gather(1, labels.ids_NK)
    if kept_NK.shape[1] == labels.classes:
        return kept_NK
    ghost_N = torch.logsumexp(student_NC.scatter(1, labels.ids_NK, -math.inf), dim=1)
    return torch.cat([kept_NK, ghost_N[:, None]], dim=1)
