"""What the labels of each row say at a temperature: of which class, how surely, and how much of it they keep.

All in float64, and what an encoding leaves unknown is NaN. Rows are worked on a few at a time, so that a shard takes
little more memory than its bytes.

Shape legend
    N  rows (samples; of records of positions, these)
    C  classes
    K  stored classes of a row
    M  sampled classes of its tail
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import encodings
from pipeline.errors import CorruptError
from pipeline.labels import (
    CLUSTERED,
    DenseLabels,
    HeadSampledLabels,
    LabelSpec,
    SampledLabels,
    SoftLabels,
    SparseLabels,
)
from pipeline.reader import UNLABELLED
from pipeline.store.layout import Shard
from pipeline.store.mapped import LabelCache

FLOAT64 = torch.finfo(torch.float64)
PIECE = 2**20  # probabilities worked on at once
FIGURES = ("confidence", "p_true", "entropy_low", "entropy_high", "tail")
ROW = np.dtype([(name, "<i8") for name in ("sample_id", "label", "top")] + [(name, "<f8") for name in FIGURES])
"""A row examined: its sample and true class (-1: none), its likeliest class (-1: not known) and that one's p, the true
class's p, the least and the most that its entropy (nats) may be, and the probability outside what is kept.
"""

DRAWN = (
    "Of labels that were drawn only p is known, in expectation: a mean over many rows is near. Entropy, confidence, "
    "likeliest class, calibration and tail are not known."
)
KNOWN: Mapping[str, str] = MappingProxyType(
    {
        "dense": "All figures are exact, but for the rounding of what is stored.",
        "topk": (
            "Entropy is from the least to the most that the mass outside the kept classes leaves open; what is taken "
            "for what is without that mass. All else is exact, but for the rounding of what is stored."
        ),
        "head+sampled": (
            "Entropy, and what is taken for what, are estimated from the sampled classes: without bias, so a mean over "
            "many rows is near. All else is exact, but for the rounding of what is stored."
        ),
        "sampled": DRAWN,
        "multinomial": DRAWN,
    }
)
"""Which figures are exact, for each encoding."""


@dataclass(frozen=True)
class Told:
    """What N rows say: figures of `ROW`, `[N]` each, and p of classes, `[N, K]`; `ids_NK` None: of all, in order."""

    top_N: Tensor
    figures: Mapping[str, Tensor]
    ids_NK: Tensor | None
    p_NK: Tensor


def examined(
    cache: LabelCache, spec: LabelSpec, temperature: float, shard: Shard, *, confusion: bool
) -> tuple[NDArray[np.void], NDArray[np.float64] | None]:
    """The rows of a shard as `ROW`, and if asked for the sums of p by true class, `[C, C]`.

    Raises:
        CorruptError: the shard is damaged, or names what is no class.

    """
    pieces = _pieces(cache, spec, shard)
    sums_CC = torch.zeros(spec.classes, spec.classes, dtype=torch.float64) if confusion else None
    rows, done = np.empty(shard.rows * (spec.positions or 1), ROW), 0
    for ids_N, labels_N, labels in pieces:
        part = rows[done : done + len(ids_N)]
        told = tell(labels, labels_N, temperature)
        part["sample_id"], part["label"], part["top"] = ids_N, labels_N.numpy(), told.top_N.numpy()
        for name, figure_N in told.figures.items():
            part[name] = figure_N.numpy()
        if sums_CC is not None:
            _add_by_class(sums_CC, told, labels_N)
        done += len(ids_N)
    return rows, None if sums_CC is None else sums_CC.numpy()


def _pieces(cache: LabelCache, spec: LabelSpec, shard: Shard) -> Iterator[tuple[NDArray[np.int64], Tensor, SoftLabels]]:
    """The ids, true classes and labels of a shard's rows, a few at a time.

    A record of positions has no true class, and clusters are no classes.
    """
    known = spec.positions is None and CLUSTERED not in cache.job.teacher
    names = [array.name for array in encodings.arrays(spec)]
    record = cache.gather(shard.view, np.arange(shard.start, shard.stop), ["sample_id", "label", *names])
    positions = spec.positions or 1
    width = spec.classes if spec.encoding == "dense" else (spec.k or 1) + (spec.tail or 0)
    step = max(1, PIECE // (width * positions))
    for start in range(0, shard.rows, step):
        part = {name: torch.from_numpy(array[start : start + step]) for name, array in record.items()}
        labels = encodings.decode(spec, {name: part[name] for name in names})
        labels_N = part["label"].long() if known else torch.full((len(part["label"]),), UNLABELLED)
        _refuse_strange_classes(cache, shard, spec.classes, labels, labels_N)
        ids_N = np.repeat(part["sample_id"].numpy(), positions)
        yield ids_N, labels_N.repeat_interleave(positions), labels


def tell(labels: SoftLabels, labels_N: Tensor, temperature: float) -> Told:
    """What rows with these true classes say at a temperature that their labels know."""
    if isinstance(labels, DenseLabels):
        return _dense(labels, labels_N, temperature)
    return _drawn(labels, labels_N) if isinstance(labels, SampledLabels) else _sparse(labels, labels_N, temperature)


def _dense(labels: DenseLabels, labels_N: Tensor, temperature: float) -> Told:
    z_NC = labels.logits_NC.double() / temperature
    z_NC -= z_NC.amax(dim=1, keepdim=True)
    p_NC = z_NC.exp()
    sum_N1 = p_NC.sum(dim=1, keepdim=True)
    p_NC /= sum_N1
    entropy_N = sum_N1[:, 0].log() - (p_NC * z_NC).sum(dim=1)
    p_true_N = p_NC.gather(1, labels_N.clamp(min=0)[:, None])[:, 0]
    figures = {
        "confidence": 1 / sum_N1[:, 0],
        "p_true": p_true_N.masked_fill(labels_N < 0, math.nan),
        "entropy_low": entropy_N,
        "entropy_high": entropy_N,
        "tail": torch.zeros_like(entropy_N),
    }
    return Told(z_NC.argmax(dim=1), figures, None, p_NC)


def _sparse(labels: SparseLabels, labels_N: Tensor, temperature: float) -> Told:
    logsumexp_N1 = labels.logsumexp_NG[:, [labels.temperatures.index(temperature)]].double()
    log_p_NK = labels.logits_NK.double() / temperature - logsumexp_N1
    p_NK, ids_NK = log_p_NK.exp(), labels.ids_NK
    others = labels.classes - p_NK.shape[1]
    tail_N = (1 - p_NK.sum(dim=1)).clamp(min=0) * (others > 0)
    low_N, high_N = _entropy_outside(tail_N, p_NK[:, -1], others)
    entropy_N = -(p_NK * log_p_NK).sum(dim=1)
    figures = {
        "confidence": p_NK[:, 0],
        "p_true": (labels.target_N.double() / temperature - logsumexp_N1[:, 0])
        .exp()
        .masked_fill(labels_N < 0, math.nan),
        "tail": tail_N,
    }
    if isinstance(labels, HeadSampledLabels):
        log_p_NM = labels.tail_logits_NM.double() / temperature - logsumexp_N1
        weights_NM = log_p_NM.exp() / labels.tail_inclusion_NM.double()
        low_N = high_N = -(weights_NM * log_p_NM).sum(dim=1)
        ids_NK, p_NK = torch.cat([ids_NK, labels.tail_ids_NM], dim=1), torch.cat([p_NK, weights_NM], dim=1)
    figures |= {"entropy_low": entropy_N + low_N, "entropy_high": entropy_N + high_N}
    return Told(labels.ids_NK[:, 0], figures, ids_NK, p_NK)


def _entropy_outside(tail_N: Tensor, last_N: Tensor, others: int) -> tuple[Tensor, Tensor]:
    """The least and the most of -sum p log p over classes that share a mass and have p <= `last_N`, [N] each.

    The least if as few have any as can hold it: each but one as likely as the last kept class, for -p log p is concave.
    The most if all are equally likely.
    """
    most_N = last_N.clamp(min=FLOAT64.tiny)
    full_N = (tail_N / most_N).floor().clamp(max=others)
    rest_N = (tail_N - full_N * most_N).clamp(min=0)
    low_N = -full_N * torch.xlogy(most_N, most_N) - torch.xlogy(rest_N, rest_N)
    high_N = tail_N * math.log(max(1, others)) - torch.xlogy(tail_N, tail_N)
    return torch.minimum(low_N, high_N), high_N


def _drawn(labels: SampledLabels, labels_N: Tensor) -> Told:
    p_NK = labels.weights_NK.double()
    unknown_N = torch.full((len(p_NK),), math.nan, dtype=torch.float64)
    p_true_N = (p_NK * (labels.ids_NK == labels_N[:, None])).sum(dim=1)
    figures = dict.fromkeys(FIGURES, unknown_N) | {"p_true": p_true_N.masked_fill(labels_N < 0, math.nan)}
    return Told(torch.full_like(labels_N, -1), figures, labels.ids_NK, p_NK)


def _add_by_class(sums_CC: Tensor, told: Told, labels_N: Tensor) -> None:
    """Add p of every class to the row of the true class; of that class itself, what is known of it, kept or not."""
    known_N = labels_N >= 0
    true_N, p_NK = labels_N[known_N], told.p_NK[known_N]
    if told.ids_NK is None:
        sums_CC.index_add_(0, true_N, p_NK)
        return
    ids_NK = told.ids_NK[known_N]
    others_NK = p_NK.masked_fill(ids_NK == true_N[:, None], 0.0)
    sums_CC.view(-1).index_add_(0, (true_N[:, None] * len(sums_CC) + ids_NK).flatten(), others_NK.flatten())
    sums_CC.diagonal().index_add_(0, true_N, told.figures["p_true"][known_N])


def _refuse_strange_classes(
    cache: LabelCache, shard: Shard, classes: int, labels: SoftLabels, labels_N: Tensor
) -> None:
    """Raise CorruptError about numbers that are no class: whoever made the cache, they must not be places in memory."""
    named = [labels_N, *(getattr(labels, name, labels_N) for name in ("ids_NK", "tail_ids_NM"))]
    low, high = (int(find(torch.stack([find(each) for each in named]))) for find in (torch.min, torch.max))
    if low < UNLABELLED or high >= classes:
        raise CorruptError(
            f"{cache.place}: shard {shard.number} names class {high if high >= classes else low}; expected 0 to "
            f"{classes - 1}, or -1 for a sample without a label. Its bytes are as they were written: whoever made this "
            "cache made it wrong. Make it again."
        )
