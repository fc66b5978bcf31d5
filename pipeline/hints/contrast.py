"""A student's feature must tell the teacher's feature of the same sample from those of others.

The others come from outside, drawn from the whole cache: a batch is too small. The same sample must not be among them;
where negatives are shared by a batch, `excluded_NK` says which are whose own.

Not for features of different widths: put a regressor behind the student. Both sides are taken at length 1; a student's
row of zeros is as like to every feature, and told where to go.

Shape legend
    N  rows (samples)
    D  elements of a feature
    K  negatives
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.errors import ConfigError
from pipeline.hints.rows import full_precision, lifted, unit


def infonce(
    student_ND: Tensor,
    positives_ND: Tensor,
    negatives: Tensor,
    *,
    excluded_NK: Tensor | None = None,
    temperature: float = 0.07,
) -> Tensor:
    """-log(exp(c / T) / (exp(c / T) + sum_k exp(c_k / T))) in nats a row, [N], for cosines with teacher's features.

    c is that with the same sample's, c_k that with a negative. Van den Oord et al. (2018), "Representation Learning
    with Contrastive Predictive Coding", arXiv 1807.03748, equation 4, of a learned bilinear form in place of c / T. It
    is at least 0, log(K + 1) where all cosines are equal, and not zero where student and teacher are.

    Args:
        student_ND: the student's features.
        positives_ND: the teacher's of the same samples.
        negatives: the teacher's of others, [K, D] for all rows or [N, K, D] for each its own.
        excluded_NK: true for negatives that do not count in a row; one without any left loses 0.
        temperature: of the softmax.

    Raises:
        ConfigError: the shapes do not fit, there is no negative, or the temperature is not positive.

    """
    positive_N, negative_NK = _cosines("infonce", student_ND, positives_ND, negatives, temperature)
    if excluded_NK is not None:
        negative_NK = negative_NK.masked_fill(excluded_NK, -math.inf)
    logits_NM = torch.cat([positive_N[:, None], negative_NK], dim=1) / temperature
    return -logits_NM.log_softmax(dim=1)[:, 0]


def crd(
    student_ND: Tensor,
    positives_ND: Tensor,
    negatives: Tensor,
    *,
    dataset_size: int,
    excluded_NK: Tensor | None = None,
    temperature: float = 0.07,
) -> Tensor:
    """-log h - sum_k log(1 - h_k) in nats a row, [N], for h = exp(c / T) / (exp(c / T) + K / M) of cosines c, c_k.

    Tian et al. (2020), "Contrastive Representation Distillation", arXiv 1910.10699, equations 18 and 19, where K is
    called N. Their code keeps a memory of both sides' features of all samples; here the cache is the memory, and holds
    the teacher's alone: so there is the student as anchor, and not the second, mirrored term. Nor is the teacher's
    feature embedded, for it stands still; the student's regressor is the embedding. Their code also divides exp(c / T)
    by M times its mean over the first batch, which neither equation nor this does.

    It is positive, and not zero where student and teacher are equal. h = 1/2 where exp(c / T) = K / M. Not for a few
    negatives: see `infonce`.

    Args:
        student_ND: the student's features.
        positives_ND: the teacher's of the same samples.
        negatives: the teacher's of others, [K, D] for all rows or [N, K, D] for each its own.
        dataset_size: M, samples in the cache.
        excluded_NK: true for negatives that do not count in a row, where K is then less; one without any left has K
            = 1 in h, and is told of its positive alone.
        temperature: of h.

    Raises:
        ConfigError: the shapes do not fit, there is no negative, or the temperature or the size is not positive.

    """
    if dataset_size < 1:
        raise ConfigError(f'The loss "crd" needs the number of samples in the cache, and found {dataset_size}.')
    positive_N, negative_NK = _cosines("crd", student_ND, positives_ND, negatives, temperature)
    counted_NK = torch.ones_like(negative_NK, dtype=torch.bool) if excluded_NK is None else ~excluded_NK
    log_odds_N1 = counted_NK.sum(dim=1, keepdim=True).clamp(min=1).log().to(positive_N.dtype) - math.log(dataset_size)
    # h is the logistic function of c / T - log(K / M), so neither log rounds to that of nothing.
    others_N = F.logsigmoid(log_odds_N1 - negative_NK / temperature).masked_fill(~counted_NK, 0.0).sum(dim=1)
    return -F.logsigmoid(positive_N / temperature - log_odds_N1[:, 0]) - others_N


def _cosines(
    what: str, student_ND: Tensor, positives_ND: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """With the positive, [N], and with each negative, [N, K]."""
    if not temperature > 0:
        raise ConfigError(f'The loss "{what}" needs a temperature above 0, and found {temperature:g}. Set 0.07.')
    _check_shapes(what, student_ND, positives_ND, negatives)
    student_ND, positives_ND, negatives = (unit(each) for each in lifted(student_ND, positives_ND, negatives))
    with full_precision(student_ND):
        shared = negatives.ndim == student_ND.ndim
        negative_NK = student_ND @ negatives.mT if shared else (negatives @ student_ND[:, :, None])[:, :, 0]
        return (student_ND * positives_ND).sum(dim=1), negative_NK


def _check_shapes(what: str, student_ND: Tensor, positives_ND: Tensor, negatives: Tensor) -> None:
    width = student_ND.shape[-1]
    fits = student_ND.ndim == 2 and student_ND.shape == positives_ND.shape  # noqa: PLR2004 - [N, D]
    own = negatives.ndim == 3 and len(negatives) == len(student_ND)  # noqa: PLR2004 - [N, K, D]
    if not fits or not (own or negatives.ndim == 2) or negatives.shape[-1] != width:  # noqa: PLR2004 - [K, D]
        raise ConfigError(
            f'The loss "{what}" compares vectors, and found {list(student_ND.shape)} from the student, '
            f"{list(positives_ND.shape)} from the teacher and negatives {list(negatives.shape)}; expected [N, D] twice "
            "and [K, D] or [N, K, D]. Put a regressor behind the student (`pipeline.hints.regressor`)."
        )
    if negatives.shape[-2] == 0:
        raise ConfigError(f'The loss "{what}" has no negatives to tell the positive from. Draw one or more.')
