"""Other people's ways to keep a teacher's row, to stand beside the encodings: what most public caches do.

Each keeps the K largest probabilities, in float16, and makes up the rest. Not for use: they are biased, and frozen at
one temperature.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.encodings.ids import ids_array
from pipeline.encodings.topk import largest
from pipeline.fidelity import Block, Estimate, Method
from pipeline.store.layout import row_bytes

HALF = 2  # bytes of a probability
Rule = Callable[[Block, Tensor], Tensor]  # a block and the ids of its kept classes, [N, K]: weights, [N, C]


def renormalised(block: Block, ids_NK: Tensor) -> Tensor:
    """The kept classes share the whole: p_k / (sum of the kept).

    It is also what re-tempering makes of a cache that was kept at T = 1: p_k^(1 / T) / (sum of these of the kept).
    """
    p_NK = _kept(block.teacher(), ids_NK)
    return torch.zeros_like(block.logits_NC).scatter_(1, ids_NK, p_NK / p_NK.sum(dim=1, keepdim=True))


def spread(block: Block, ids_NK: Tensor) -> Tensor:
    """All other classes share what the kept leave, evenly: smoothing."""
    p_NK = _kept(block.teacher(), ids_NK)
    others = max(1, block.logits_NC.shape[1] - ids_NK.shape[1])
    rest_N1 = (1 - p_NK.sum(dim=1, keepdim=True)).clamp(min=0) / others
    return rest_N1.expand_as(block.logits_NC).scatter(1, ids_NK, p_NK)


def to_the_label(block: Block, ids_NK: Tensor) -> Tensor:
    """The true class gets what the kept leave; where none is known, they are renormalised."""
    p_NK = _kept(block.teacher(), ids_NK)
    weights_NC = torch.zeros_like(block.logits_NC).scatter_(1, ids_NK, p_NK)
    rest_N1 = (1 - p_NK.sum(dim=1, keepdim=True)).clamp(min=0)
    weights_NC.scatter_add_(1, block.labels_N.clamp(min=0)[:, None], rest_N1)
    return torch.where(block.labels_N[:, None] >= 0, weights_NC, renormalised(block, ids_NK))


def _kept(p_NC: Tensor, ids_NK: Tensor) -> Tensor:
    """Probabilities as they are stored."""
    return p_NC.gather(1, ids_NK).half().float()


TO_THE_LABEL = "tail to the label"
RULES: dict[str, Rule] = {
    "renormalised or re-tempered": renormalised,
    "tail spread evenly": spread,
    TO_THE_LABEL: to_the_label,
}


def rule(name: str, k: int, classes: int) -> Method:
    """A rule of the table, with K classes."""

    def estimate(block: Block, _: int) -> Estimate:
        weights_NC = RULES[name](block, largest(block.logits_NC, k))
        return weights_NC, block.gradient(weights_NC)

    return Method(f"top-{k}, {name}", row_bytes(ids_array("ids", classes, k)) + HALF * k, estimate, k)
