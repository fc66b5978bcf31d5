"""How far the student's probabilities are from the teacher's, and the distillation loss made of it.

All are zero where they are equal and never below (but estimates from samples, which are so in expectation). Which
classes are told apart: see `groups`; what sparse labels give is a lower bound of what dense ones do.

Shape legend
    N  rows (samples)
    C  classes
    K  classes told apart in a row
"""

import math

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.labels import SoftLabels
from pipeline.losses.groups import grouped, not_sampled, weighted
from pipeline.losses.hard import cross_entropy
from pipeline.losses.logspace import relative_entropy, weighted_sum


def kl(student_logits_NC: Tensor, labels: SoftLabels, temperature: float) -> Tensor:
    """KL(p_T || q_T) = sum p_T (log p_T - log q_T) in nats a row, [N], for p the teacher and q the student.

    A head with a sampled tail gives sum_head p (log p - log q) + sum_tail w (log p - log q), w = p / inclusion: an
    unbiased estimate of the dense value. Labels that are weights alone give sum w (log w - log q): it differs from an
    unbiased estimate by what does not depend on the student, so its gradient is unbiased and its value is not.

    Raises:
        ConfigError: the labels do not know this temperature, or have another number of classes than the student.

    """
    weights_NK, log_p_NK, log_q_NK = weighted(student_logits_NC, labels, temperature)
    return weighted_sum(weights_NK, log_p_NK - log_q_NK)


def soft_cross_entropy(student_logits_NC: Tensor, labels: SoftLabels, temperature: float) -> Tensor:
    """-sum p_T log q_T in nats a row, [N]: KL(p_T || q_T) and the teacher's entropy, with the gradient of the former.

    Any labels serve; samples estimate it without bias.

    Raises:
        ConfigError: the labels do not know this temperature, or have another number of classes than the student.

    """
    weights_NK, _, log_q_NK = weighted(student_logits_NC, labels, temperature)
    return -weighted_sum(weights_NK, log_q_NK)


def reverse_kl(student_logits_NC: Tensor, labels: SoftLabels, temperature: float) -> Tensor:
    """KL(q_T || p_T) = sum q_T (log q_T - log p_T) in nats a row, [N]: what the teacher rules out weighs most.

    Gu et al. (2024), "MiniLLM", arXiv 2306.08543, section 2.1, there of whole answers that the student draws.

    The log of the ghost's probability counts as often as the student thinks of it, and is known as well as a float32
    knows 1 - (kept mass): not for sparse labels that leave less than 1e-5 out, unless to a first class that takes it
    all.

    Raises:
        ConfigError: the labels do not know this temperature, have another number of classes, or are weights alone.

    """
    log_p_NK, log_q_NK = grouped(student_logits_NC, not_sampled("reverse_kl", labels), temperature)
    return relative_entropy(log_q_NK, log_p_NK)


def jsd(student_logits_NC: Tensor, labels: SoftLabels, temperature: float, beta: float = 0.5) -> Tensor:
    """Beta KL(p_T || m) + (1 - beta) KL(q_T || m), m = beta p_T + (1 - beta) q_T, in nats a row, [N].

    The generalised Jensen-Shannon divergence of Agarwal et al. (2024), "On-Policy Distillation of Language Models",
    arXiv 2306.13649. It is at most H(beta) <= log 2. Divided by beta it goes to KL(p_T || q_T) as beta goes
    to 0, divided by 1 - beta to KL(q_T || p_T) as beta goes to 1.

    Raises:
        ConfigError: beta is not between 0 and 1; the labels do not know this temperature, have another number of
            classes, or are weights alone.

    """
    if not 0 < beta < 1:
        raise ConfigError(
            f'The loss "jsd" is zero for every student with beta = {beta:g}; expected more than 0 and less than 1. Set '
            'beta = 0.5, or use the loss "kd" (the limit at 0) or "reverse_kl" (at 1).'
        )
    log_p_NK, log_q_NK = grouped(student_logits_NC, not_sampled("jsd", labels), temperature)
    log_m_NK = _mixture(log_p_NK, log_q_NK, beta)
    return beta * relative_entropy(log_p_NK, log_m_NK) + (1 - beta) * relative_entropy(log_q_NK, log_m_NK)


def skew_kl(student_logits_NC: Tensor, labels: SoftLabels, temperature: float, skew: float = 0.1) -> Tensor:
    """KL(p_T || skew p_T + (1 - skew) q_T) in nats a row, [N]: at most -log skew, whatever the student rules out.

    The skew KL of Ko et al. (2024), "DistiLLM", arXiv 2402.03898. Their skew reverse KL is not offered.

    Raises:
        ConfigError: skew is not between 0 and 1; the labels do not know this temperature, have another number of
            classes, or are weights alone.

    """
    if not 0 < skew < 1:
        raise ConfigError(
            f'The loss "skew_kl" needs a skew of more than 0 and less than 1, and found {skew:g}. Set skew = 0.1, or '
            'use the loss "kd" for a skew of 0.'
        )
    log_p_NK, log_q_NK = grouped(student_logits_NC, not_sampled("skew_kl", labels), temperature)
    return relative_entropy(log_p_NK, _mixture(log_p_NK, log_q_NK, skew))


def total_variation(student_logits_NC: Tensor, labels: SoftLabels, temperature: float) -> Tensor:
    """Half of sum |p_T - q_T| a row, [N]: the largest difference in the probability of any set of classes, 0 to 1.

    Among the losses of Wen et al. (2023), "f-Divergence Minimization for Sequence-Level Knowledge Distillation", arXiv
    2307.15190, there of sequences.

    Raises:
        ConfigError: the labels do not know this temperature, have another number of classes, or are weights alone.

    """
    log_p_NK, log_q_NK = grouped(student_logits_NC, not_sampled("tv", labels), temperature)
    return (log_p_NK.exp() - log_q_NK.exp()).abs().sum(dim=1) / 2


def kd(
    student_logits_NC: Tensor, soft_labels: SoftLabels, labels_N: Tensor, temperature: float, alpha: float
) -> Tensor:
    """(1 - alpha) CE(y, q) + alpha T^2 KL(p_T || q_T) a row, [N]; without its first term where the label is -1.

    Hinton, Vinyals and Dean (2015), arXiv 1503.02531, section 2. The gradient of the second term shrinks as 1 / T^2;
    the factor T^2 keeps its share when T changes.

    A teacher that says [.8, .2], a student that says [.7, .3], and the second class is true:

    >>> from pipeline.labels import DenseLabels
    >>> teacher, student = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.7, 0.3]]).log()
    >>> round(kl(student, DenseLabels(teacher), temperature=1.0).item(), 4)
    0.0257
    >>> round(kd(student, DenseLabels(teacher), torch.tensor([1]), temperature=1.0, alpha=0.5).item(), 3)
    0.615
    """
    hard_N = cross_entropy(student_logits_NC, labels_N)
    return (1 - alpha) * hard_N + alpha * temperature**2 * kl(student_logits_NC, soft_labels, temperature)


def _mixture(log_p_NK: Tensor, log_q_NK: Tensor, share: float) -> Tensor:
    """Log(share p + (1 - share) q).

    Log p is kept above minus infinity: where both sides rule a class out, the gradient of their sum would be NaN.
    """
    log_p_NK = log_p_NK.clamp(min=torch.finfo(log_p_NK.dtype).min)
    return torch.logaddexp(log_p_NK + math.log(share), log_q_NK + math.log1p(-share))
