"""Arithmetic of small probabilities by their logarithms, where 1 - p would round to nothing.

Shape legend
    N  rows (samples)
    K  kept classes of a row
"""

import math

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision to float32, so that a student under autocast has an exact loss; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def log1mexp(x: Tensor, limit: float | None = None) -> Tensor:
    """log(1 - exp(x)) for x <= 0, elementwise.

    Maechler (2012), "Accurately computing log(1 - exp(-|a|))": log(-expm1(x)) above -log 2, log1p(-exp(x)) below.

    An x above `limit`, be it above zero, is taken for rounding: it has the value and the gradient of the limit. Not a
    gradient of zero, which a plain clamp has: a probability that rounds to one must still be told to fall. The limit is
    -eps/2 unless given: eps/2 is the least that 1 - p can be for a p < 1 of this dtype.

    >>> log1mexp(torch.tensor([-50.0, -1e-7, 0.0])).tolist()  # doctest: +ELLIPSIS
    [-1.9...e-22, -16.11..., -16.63...]
    """
    limit = -torch.finfo(x.dtype).eps / 2 if limit is None else limit
    x = torch.where(x > limit, x - x.detach() + limit, x)
    # Each branch sees only its own half: where() stops the other's value, but not the NaN of its gradient.
    near = torch.log(-torch.expm1(x.clamp(min=-math.log(2))))
    far = torch.log1p(-torch.exp(x.clamp(max=-math.log(2))))
    return torch.where(x > -math.log(2), near, far)


def complement(log_p_NK: Tensor) -> Tensor:
    """The log of the probability outside the given ones, [N]."""
    return log1mexp(torch.logsumexp(log_p_NK, dim=-1))


def weighted_sum(weights_NK: Tensor, values_NK: Tensor) -> Tensor:
    """Sum of w v a row, [N], where a class of no weight adds 0 to the value and the gradient, be v infinite or NaN."""
    return (weights_NK * values_NK.masked_fill(weights_NK == 0, 0.0)).sum(dim=1)


def relative_entropy(log_p_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    """KL(p || q) = sum p (log p - log q) in nats a row, [N], with 0 log 0 = 0."""
    return weighted_sum(log_p_NK.exp(), log_p_NK - log_q_NK)
