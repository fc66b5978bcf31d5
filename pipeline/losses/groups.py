"""The classes that labels tell apart, for teacher and student alike; and which labels cannot serve a loss.

Of sparse labels the kept classes are exact, and all the others are one class, the ghost, on both sides. Merging classes
never raises an f-divergence, so a sparse KL, Jensen-Shannon divergence or total variation is a lower bound of the dense
one, and equal to it when K = C.

Shape legend
    N  rows (samples)
    C  classes
    K  classes told apart in a row: the kept ones and the ghost, or all C
    M  sampled classes of the tail
    G  temperatures of the grid
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.labels import BlendedLabels, DenseLabels, HeadSampledLabels, SampledLabels, SoftLabels, SparseLabels
from pipeline.losses.logspace import at_least_float32, log1mexp


def grouped(student_logits_NC: Tensor, labels: DenseLabels | SparseLabels, temperature: float) -> tuple[Tensor, Tensor]:
    """Log p_T and log q_T of the classes that the labels tell apart, [N, K] each; both sum to one.

    Raises:
        ConfigError: the labels do not know this temperature, or have another number of classes than the student.

    """
    check_classes(student_logits_NC, labels)
    student_NC = tempered(student_logits_NC, temperature)
    if isinstance(labels, DenseLabels):
        return tempered(labels.logits_NC, temperature), student_NC
    return _teacher_groups(labels, temperature), _student_groups(student_NC, labels)


def weighted(student_logits_NC: Tensor, labels: SoftLabels, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights w, log p_T and log q_T, [N, K] each, such that sum w f is or estimates sum p_T f for any f of a class.

    From labels without a sample, w = p_T of the groups. The others estimate without bias: a head is exact and its tail
    counts p_T / inclusion; of labels that are weights alone, log p_T is log w.

    Raises:
        ConfigError: the labels do not know this temperature, or have another number of classes than the student.

    """
    if not isinstance(labels, SampledLabels | HeadSampledLabels):
        log_p_NK, log_q_NK = grouped(student_logits_NC, labels, temperature)
        return log_p_NK.exp(), log_p_NK, log_q_NK
    check_classes(student_logits_NC, labels)
    student_NC = tempered(student_logits_NC, temperature)
    if isinstance(labels, SampledLabels):
        _refuse_other_temperature(labels, temperature)
        return labels.weights_NK, labels.weights_NK.log(), student_NC.gather(1, labels.ids_NK)
    ids_NK = torch.cat([labels.ids_NK, labels.tail_ids_NM], dim=1)
    logits_NK = torch.cat([labels.logits_NK, labels.tail_logits_NM], dim=1)
    inclusion_NK = torch.cat([torch.ones_like(labels.logits_NK), labels.tail_inclusion_NM], dim=1)
    log_p_NK = logits_NK / temperature - _logsumexp(labels, temperature)[:, None]
    return log_p_NK.exp() / inclusion_NK, log_p_NK, student_NC.gather(1, ids_NK)


def check_classes(student_logits_NC: Tensor, labels: SoftLabels | BlendedLabels) -> None:
    """Refuse a student of another number of classes than its labels: one output would be broadcast against all."""
    classes = labels.logits_NC.shape[1] if isinstance(labels, DenseLabels) else labels.classes
    if student_logits_NC.shape[1] != classes:
        raise ConfigError(
            f"The student gives {student_logits_NC.shape[1]} logits a row, but its soft labels have {classes} classes. "
            f"Use a student with {classes} outputs."
        )


def tempered(logits_NC: Tensor, temperature: float) -> Tensor:
    """Log softmax(z / T), [N, C]."""
    return torch.log_softmax(at_least_float32(logits_NC) / temperature, dim=1)


def grid_index(temperatures: Sequence[float], temperature: float) -> int:
    """The place of a temperature in the grid of sparse labels; ConfigError if it is not there."""
    if temperature not in temperatures:
        raise ConfigError(
            f"These labels cannot serve temperature {temperature:g}: they keep the largest logits only, and know the "
            f"mass of the others at temperatures {', '.join(f'{t:g}' for t in temperatures)}. Train at one of these, "
            "or generate labels with this one in labels.temperatures."
        )
    return temperatures.index(temperature)


def not_sampled(loss: str, labels: SoftLabels) -> DenseLabels | SparseLabels:
    """The labels; ConfigError for a loss that is not linear in p if they are a sample of weights alone."""
    if isinstance(labels, SampledLabels):
        raise ConfigError(
            f'The loss "{loss}" is no sum over classes weighted by the teacher, and sampled labels estimate only such '
            'sums. Use one of hard, soft, kd, entropy, or generate labels with labels.encoding = "topk" or "dense".'
        )
    return labels


def whole_rows(loss: str, labels: SoftLabels) -> DenseLabels:
    """The labels; ConfigError for a loss that needs every logit of a row if they do not have it."""
    if not isinstance(labels, DenseLabels):
        raise ConfigError(
            f'The loss "{loss}" needs every logit of a row, and these labels keep only some. Generate labels with '
            'labels.encoding = "dense", or use another loss.'
        )
    return labels


def _refuse_other_temperature(labels: SampledLabels, temperature: float) -> None:
    if labels.temperature is not None and temperature != labels.temperature:
        raise ConfigError(
            f"These labels cannot serve temperature {temperature:g}: they are a sample of the teacher's classes at "
            f"temperature {labels.temperature:g}. Train at this one, or generate labels with labels.temperatures = "
            f"[{float(temperature)!r}]."
        )


def _logsumexp(labels: SparseLabels, temperature: float) -> Tensor:
    return labels.logsumexp_NG[:, grid_index(labels.temperatures, temperature)]


def _teacher_groups(labels: SparseLabels, temperature: float) -> Tensor:
    """Log probabilities of the kept classes and, when there are others, of the ghost.

    They sum to one but for the rounding of stored logits, which the softmax takes out: a divergence of what does not
    sum to one can fall below zero.
    """
    logsumexp_N = _logsumexp(labels, temperature)
    counted_NK = labels.logits_NK / temperature
    groups_NK = counted_NK - logsumexp_N[:, None]
    others = labels.classes - groups_NK.shape[1]
    if others:
        # log(kept mass) by log1p of all but the largest, as stored: good near zero, hence a limit that is nearer.
        kept_N = counted_NK[:, 1:].exp().sum(dim=1).log1p() - logsumexp_N
        limit = -torch.finfo(kept_N.dtype).tiny
        ghost_N = log1mexp(kept_N, limit=limit)
        # A tail too small to be held beside 1 is only known to be no more than if all were as likely as the last kept.
        most_N = groups_NK[:, -1] + math.log(others)
        ghost_N = torch.where(kept_N > limit, torch.minimum(ghost_N, most_N), ghost_N)
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
