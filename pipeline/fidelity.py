"""How near to the teacher stored labels stay, and what they cost: encodings and other people's rules on the same rows.

A method makes of a teacher's logits what a student would be given: a weight for each class, and the gradient that the
loss has by it. Both are held against the whole softmax.

Shape legend
    N  rows (samples)
    C  classes
    K  classes of a row that are kept
    B  batches of rows
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline import encodings
from pipeline.counts import BINS
from pipeline.encodings.topk import largest
from pipeline.labels import DenseLabels, HeadSampledLabels, LabelSpec, SampledLabels, SoftLabels
from pipeline.losses import kl
from pipeline.losses.logspace import complement
from pipeline.store.layout import row_bytes

BLOCK = 2**22  # logits worked on at once
BATCH = 256  # rows whose gradients are added
LEAST = 1e-6  # the length of a gradient that is more than the rounding of float32 probabilities


@dataclass(frozen=True)
class Block:
    """Rows of a teacher at a temperature, and a student on its way: half as sure of everything."""

    logits_NC: Tensor
    labels_N: Tensor  # true classes, -1 where not known
    first: int  # the place of its first row, which names what is drawn
    temperature: float

    def student(self) -> Tensor:
        """The student's logits, [N, C]."""
        return self.logits_NC / 2

    def teacher(self) -> Tensor:
        """The probabilities to be kept, [N, C]."""
        return torch.softmax(self.logits_NC / self.temperature, dim=1)

    def gradient(self, weights_NC: Tensor) -> Tensor:
        """That of -sum w log q_T by the student's logits, [N, C]."""
        q_NC = torch.softmax(self.student() / self.temperature, dim=1)
        return (q_NC * weights_NC.sum(dim=1, keepdim=True) - weights_NC) / self.temperature


Estimate = tuple[Tensor, Tensor]  # weights and the gradient by the student's logits, [N, C] each


@dataclass(frozen=True)
class Method:
    """A way to keep rows. `bytes` and `ids` are of a row; `kept`, its K, of which the tail is the rest."""

    name: str
    bytes: float
    estimate: Callable[[Block, int], Estimate]  # of a block, with a seed
    kept: int | None = None
    drawn: bool = False  # whether another seed gives another answer
    positions: int = 1  # rows that share a record


@dataclass(frozen=True)
class Fidelity:
    """What a method comes to at a temperature, each a mean over rows; angles and norms over those with a gradient."""

    method: str
    temperature: float
    bytes: float
    ids: float  # classes that are told apart
    kl: float  # KL(w || p) in nats, of weights scaled to a sum of one
    tv: float  # half of sum |w - p|
    tail: float  # |sum of the weights outside the K largest classes - their probability|; NaN without a K
    ece: float  # expected calibration error of the likeliest class
    angle: float  # degrees between a row's gradient and that of the whole softmax
    norm: float  # the length of a row's gradient, as a share of that one
    batch_angle: float  # degrees, of gradients added over 256 rows
    variance: float  # sum over classes of (w - p)^2
    bias: float  # sum over classes of (mean of the draws - p)^2, on as many rows as fit a block
    chance: float  # what `bias` would be of as many unbiased draws, by their own variance; 0 of what is not drawn


def compare(
    logits_NC: Tensor, labels_N: Tensor, methods: Sequence[Method], temperature: float, draws: int
) -> Iterator[Fidelity]:
    """Each method on the same rows.

    Args:
        logits_NC: the teacher's, float32.
        labels_N: true classes, -1 where not known: calibration is then against the teacher's own probabilities.
        methods: what to compare.
        temperature: of the softmax to be kept.
        draws: how often what is drawn is drawn again for its bias.

    """
    for method in methods:
        rows = max(1, BLOCK // logits_NC.shape[1] // method.positions) * method.positions
        blocks = [
            Block(logits_NC[start : start + rows], labels_N[start : start + rows], start, temperature)
            for start in range(0, len(logits_NC), rows)
        ]
        columns, sums = _measured(blocks, method)
        ece = calibration_error(columns.pop("confidence"), columns.pop("right"))
        means = {name: column.nanmean().item() for name, column in columns.items()}
        bias, chance = _bias(_spread_out(logits_NC, labels_N, method.positions, temperature), method, draws)
        angle = _degrees(*sums)[0].nanmean().item()
        yield Fidelity(
            method.name, temperature, method.bytes, **means, ece=ece, batch_angle=angle, bias=bias, chance=chance
        )


def calibration_error(confidence_N: Tensor, right_N: Tensor) -> float:
    """The expected calibration error: |mean confidence - share that is right| of 15 bins, weighted by their rows.

    Guo et al. (2017), "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 2, equation 3. As that of
    torchmetrics, but what is right may be a probability, where no true class is known.

    >>> calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([1.0, 0.0, 1.0]))  # doctest: +ELLIPSIS
    0.39999...
    """
    bins_N = (confidence_N * BINS).ceil().clamp(1, BINS).long() - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins_N, (confidence_N - right_N).double())
    return gaps.abs().sum().item() / len(confidence_N)


def stored(name: str, spec: LabelSpec, kept: int | None = None) -> Method:
    """An encoding of ours; `kept` is its k, if not given otherwise.

    Raises:
        ConfigError: it cannot do what the spec asks.

    """
    encodings.check(spec)
    positions = spec.positions or 1

    def estimate(block: Block, seed: int) -> Estimate:
        shape = (-1, positions, spec.classes) if spec.positions else (-1, spec.classes)
        ids = np.arange(block.first, block.first + len(block.logits_NC), positions)
        asked = replace(spec, seed=seed)
        record = encodings.encode(asked, block.logits_NC.reshape(shape), block.labels_N[::positions], ids)
        labels = encodings.decode(asked, record)
        student_NC = block.student().requires_grad_()
        (gradient_NC,) = torch.autograd.grad(kl(student_NC, labels, block.temperature).sum(), student_NC)
        return weights(labels, block.temperature), gradient_NC

    size = sum(map(row_bytes, encodings.arrays(spec))) / positions
    drawn = spec.encoding not in ("dense", "topk")
    kept = None if spec.encoding == "dense" else kept or spec.k
    return Method(name, size, estimate, kept, drawn, positions)


def weights(labels: SoftLabels, temperature: float) -> Tensor:
    """What labels say of every class, [N, C]; of classes that sparse ones do not tell apart, the same of each."""
    if isinstance(labels, DenseLabels):
        return torch.softmax(labels.logits_NC / temperature, dim=1)
    whole_NC = torch.zeros(len(labels.ids_NK), labels.classes)
    if isinstance(labels, SampledLabels):
        return whole_NC.scatter_add_(1, labels.ids_NK, labels.weights_NK)
    logsumexp_N1 = labels.logsumexp_NG[:, [labels.temperatures.index(temperature)]]
    log_p_NK = labels.logits_NK / temperature - logsumexp_N1
    if isinstance(labels, HeadSampledLabels):
        tail_NM = (labels.tail_logits_NM / temperature - logsumexp_N1).exp() / labels.tail_inclusion_NM
        whole_NC.scatter_add_(1, labels.tail_ids_NM, tail_NM)
    elif others := labels.classes - log_p_NK.shape[1]:
        whole_NC += (complement(log_p_NK)[:, None] - math.log(others)).exp()
    return whole_NC.scatter_(1, labels.ids_NK, log_p_NK.exp())


def _measured(blocks: Sequence[Block], method: Method) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """A column for each figure, [N]; the gradients of each batch, by the method and by the whole softmax, [B, C]."""
    rows, classes = sum(len(block.logits_NC) for block in blocks), blocks[0].logits_NC.shape[1]
    parts, sums = [], (torch.zeros(-(-rows // BATCH), classes), torch.zeros(-(-rows // BATCH), classes))
    for block in blocks:
        p_NC, (w_NC, gradient_NC) = block.teacher(), method.estimate(block, 0)
        true_NC = block.gradient(p_NC)
        batches = torch.arange(block.first, block.first + len(p_NC)) // BATCH
        for total, part in zip(sums, (gradient_NC, true_NC), strict=True):
            total.index_add_(0, batches, part)
        angle_N, norm_N = _degrees(gradient_NC, true_NC)
        parts.append({**_distances(p_NC, w_NC, method), **_calibration(block, p_NC, w_NC)})
        parts[-1] |= {"angle": angle_N, "norm": norm_N}
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, sums


def _distances(p_NC: Tensor, w_NC: Tensor, method: Method) -> dict[str, Tensor]:
    scaled_NC = w_NC / w_NC.sum(dim=1, keepdim=True)
    divergence_NC = torch.xlogy(scaled_NC, scaled_NC) - scaled_NC * p_NC.clamp(min=torch.finfo(p_NC.dtype).tiny).log()
    tail_N = torch.full((len(p_NC),), math.nan)
    if method.kept:
        first_NK = largest(p_NC, min(method.kept, p_NC.shape[1]))
        tail_N = (w_NC.scatter(1, first_NK, 0).sum(dim=1) - p_NC.scatter(1, first_NK, 0).sum(dim=1)).abs()
    ids = (w_NC > 0).sum(dim=1) if method.drawn else torch.full((len(p_NC),), method.kept or p_NC.shape[1])
    return {
        "ids": ids.double(),
        "kl": divergence_NC.sum(dim=1),
        "tv": (w_NC - p_NC).abs().sum(dim=1) / 2,
        "tail": tail_N,
        "variance": (w_NC - p_NC).square().sum(dim=1),
    }


def _calibration(block: Block, p_NC: Tensor, w_NC: Tensor) -> dict[str, Tensor]:
    """How sure the likeliest class is, and whether it is right: of rows without a label, how likely it is."""
    confidence_N, class_N = w_NC.max(dim=1)
    right_N = torch.where(
        block.labels_N < 0, p_NC.gather(1, class_N[:, None])[:, 0], (block.labels_N == class_N).to(p_NC.dtype)
    )
    return {"confidence": confidence_N, "right": right_N}


def _degrees(found_NC: Tensor, true_NC: Tensor) -> tuple[Tensor, Tensor]:
    """The angle between two vectors a row, and the share of the second's length that the first has; NaN if it is 0."""
    # By the chord, which keeps small angles that an arc cosine loses.
    found, true = found_NC.double(), true_NC.double()
    lengths = found.norm(dim=1), true.norm(dim=1).where(true.norm(dim=1) > LEAST, math.nan)
    ones = found / lengths[0][:, None].clamp(min=LEAST), true / lengths[1][:, None]
    chord, sum_ = (ones[0] - ones[1]).norm(dim=1), (ones[0] + ones[1]).norm(dim=1)
    return torch.rad2deg(2 * torch.atan2(chord, sum_)), lengths[0] / lengths[1]


def _bias(block: Block, method: Method, draws: int) -> tuple[float, float]:
    """The sum of (mean over the draws - p)^2, and what it would be of unbiased draws of this variance, a row."""
    mean_NC = torch.zeros(block.logits_NC.shape, dtype=torch.float64)
    square_NC = torch.zeros_like(mean_NC)
    draws = draws if method.drawn else 1
    for seed in range(draws):
        w_NC = method.estimate(block, seed)[0].double()
        mean_NC += w_NC / draws
        square_NC += w_NC.square() / draws
    bias_N = (mean_NC - block.teacher()).square().sum(dim=1)
    # Without bias by Bessel's correction, whatever the distribution: so are rare classes counted that never came.
    chance_N = (square_NC - mean_NC.square()).clamp(min=0).sum(dim=1) / max(1, draws - 1)
    return bias_N.mean().item(), chance_N.mean().item()


def _spread_out(logits_NC: Tensor, labels_N: Tensor, positions: int, temperature: float) -> Block:
    """As many rows as fit a block, evenly spaced; of records of positions, the first ones."""
    rows = max(1, min(len(logits_NC), BLOCK // logits_NC.shape[1]))
    places = torch.arange(rows) * len(logits_NC) // rows
    if positions > 1:
        places = torch.arange(max(1, rows // positions) * positions)
    return Block(logits_NC[places], labels_N[places], 0, temperature)
