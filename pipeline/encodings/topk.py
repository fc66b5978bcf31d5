"""The K largest logits of a row, and the sums that make their probabilities exact at every temperature of a grid.

Stored besides are the mean and the standard deviation of all logits and the true class's logit. What is lost is how the
mass outside the kept classes is spread; how much it is, is known.

Logits are counted from the row's largest: floating point errs in proportion to the number it holds, which is then the
gap to the best class. So a kept class with log p = -3 is not wrong by more because all logits of its row are near 1000.

Not for few classes (with K near C, `dense` is as small and serves any temperature), and not for losses that need whole
rows.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
    G  temperatures of the grid
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encodings.refusals import samples
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import ArraySpec, LabelSpec, SparseLabels

FLOAT32 = torch.finfo(torch.float32)


def check(spec: LabelSpec) -> None:
    """Refuse a k that is missing or does not fit the classes, and a grid that is not positive and rising."""
    if not 1 <= _k(spec) <= spec.classes:
        raise ConfigError(
            f"labels.k = {spec.k} classes of {spec.classes} cannot be kept; expected 1 to {spec.classes}. Set labels.k "
            'in that range, or labels.encoding = "dense" to keep them all.'
        )
    grid = spec.temperatures
    usable = all(FLOAT32.tiny <= temperature <= FLOAT32.max for temperature in grid)
    if not grid or not usable or any(a >= b for a, b in itertools.pairwise(grid)):
        raise ConfigError(
            f"labels.temperatures = {list(grid)} is no grid: expected at least one temperature, all finite and "
            "positive, rising, none twice. Write for example labels.temperatures = [1.0, 2.0, 4.0]."
        )


def arrays(spec: LabelSpec) -> tuple[ArraySpec, ...]:
    """The kept classes, the log of the sum of exponentials at each temperature, and four numbers a row."""
    k, ids_dtype = _k(spec), _ids_dtype(spec.classes)
    return (
        ArraySpec("ids", ids_dtype, (k,), int(np.iinfo(ids_dtype).max)),
        ArraySpec("values", spec.dtype, (k,), math.nan),
        ArraySpec("logsumexp", "float32", (len(spec.temperatures),), math.nan),
        *(ArraySpec(name, "float32", (), math.nan) for name in ("max", "mean", "std", "target")),
    )


def encode(spec: LabelSpec, logits_NC: Tensor, labels_N: Tensor, ids_N: NDArray[np.int64]) -> dict[str, Tensor]:
    """Keep the K largest; TeacherError if a row reaches too far for the stored dtype."""
    classes_NK = largest(logits_NC, _k(spec))
    max_N = logits_NC.gather(1, classes_NK[:, :1])[:, 0]
    counted_NC = logits_NC - max_N[:, None]
    exact_NK = counted_NC.gather(1, classes_NK)
    values_NK = exact_NK.to(getattr(torch, spec.dtype))
    std_N, mean_N = torch.std_mean(counted_NC, dim=1, correction=0)
    _refuse_gaps(spec, exact_NK, values_NK, ids_N)
    _refuse_spread(logits_NC, mean_N + std_N, ids_N)
    target_N = counted_NC.gather(1, labels_N.to(torch.int64).clamp(min=0)[:, None])[:, 0]
    # log1p of the others, not the log of a sum with 1 in it: so 1 - p keeps its digits when the teacher is all but
    # certain. And one temperature at a time: all at once would hold the whole batch G times over.
    others_NC = counted_NC.scatter(1, classes_NK[:, :1], -math.inf)
    sums = [(others_NC / temperature).exp().sum(dim=1).log1p() for temperature in spec.temperatures]
    return {
        "ids": classes_NK.to(getattr(torch, _ids_dtype(spec.classes))),
        "values": values_NK,
        "logsumexp": torch.stack(sums, dim=1),
        "max": max_N,
        "mean": mean_N,
        "std": std_N,
        "target": target_N.masked_fill(labels_N < 0, math.nan),
    }


def decode(spec: LabelSpec, record: Mapping[str, Tensor]) -> SparseLabels:
    """The record in the dtypes that indexing and arithmetic want."""
    return SparseLabels(
        classes=spec.classes,
        temperatures=spec.temperatures,
        ids_NK=record["ids"].to(torch.int64),
        logits_NK=record["values"].to(torch.float32),
        logsumexp_NG=record["logsumexp"],
        max_N=record["max"],
        mean_N=record["mean"],
        std_N=record["std"],
        target_N=record["target"],
    )


def temperatures(spec: LabelSpec) -> tuple[float, ...]:
    """The grid: at another temperature the mass outside the kept classes is not known."""
    return spec.temperatures


def error(spec: LabelSpec) -> str:
    """Rounding of each gap to the stored dtype (IEEE 754: half a unit in the last place)."""
    bound = "2^-23 gap / T" if spec.dtype == "float32" else "2^-11 gap / T (2^-25 / T where gap < 2^-14)"
    return (
        f"of kept classes |log p error| <= {bound}, where gap = max z - z, besides 1e-6 of float32 sums; the mass of "
        "the others errs by no more than all kept probabilities together, and how it is spread is not kept"
    )


def largest(logits_NC: Tensor, k: int) -> Tensor:
    """The class ids of the k largest logits, [N, K], by falling logit, then by rising id: one answer, ties or not.

    `torch.topk` promises values but no order and no choice among equals; a stable sort does, ten times slower. So the
    ids of topk are put in order, and only rows where equals lie on both sides of the cut are chosen anew.
    """
    top = torch.topk(logits_NC, k, dim=1)
    classes_NK = top.indices.sort(dim=1).values
    cut_N1 = top.values[:, -1:]
    straddled = ((logits_NC >= cut_N1).sum(dim=1) > k).nonzero()[:, 0]
    if len(straddled):
        classes_NK[straddled] = _lowest_of_equals(logits_NC[straddled], cut_N1[straddled], k)
    order_NK = logits_NC.gather(1, classes_NK).sort(dim=1, descending=True, stable=True).indices
    return classes_NK.gather(1, order_NK)


def _lowest_of_equals(logits_NC: Tensor, cut_N1: Tensor, k: int) -> Tensor:
    """The ids, rising, of all logits above the cut and of the first at the cut, k a row."""
    above_NC, at_NC = logits_NC > cut_N1, logits_NC == cut_N1
    room_N1 = k - above_NC.sum(dim=1, keepdim=True)
    chosen_NC = above_NC | (at_NC & (at_NC.cumsum(dim=1, dtype=torch.int32) <= room_N1))
    return chosen_NC.nonzero()[:, 1].view(-1, k)


def _k(spec: LabelSpec) -> int:
    if spec.k is None:
        raise ConfigError(
            'The encoding "topk" needs labels.k, the number of classes to keep a row, and found none. Set for example '
            f"labels.k = {min(32, spec.classes)}."
        )
    return spec.k


def _ids_dtype(classes: int) -> str:
    """The narrowest whose largest number is no class id, so that it can be the fill value."""
    return next(name for name in ("uint8", "uint16", "uint32") if classes <= np.iinfo(name).max)


def _refuse_gaps(spec: LabelSpec, exact_NK: Tensor, values_NK: Tensor, ids_N: NDArray[np.int64]) -> None:
    limit = torch.finfo(values_NK.dtype).max
    beyond_N = exact_NK[:, -1] < -limit
    if beyond_N.any():
        raise TeacherError(
            f"The teacher's kept logits lie as far as {-exact_NK.min().item():.6g} below the largest of their row, "
            f"beyond {spec.dtype}'s largest number {limit:.6g}, for {samples(beyond_N, ids_N)}; stored, they would be "
            'infinite. Set labels.dtype = "float32", or a smaller labels.k.'
        )


def _refuse_spread(logits_NC: Tensor, spread_N: Tensor, ids_N: NDArray[np.int64]) -> None:
    beyond_N = ~spread_N.isfinite()
    if beyond_N.any():
        low, high = torch.aminmax(logits_NC[beyond_N])
        raise TeacherError(
            f"The teacher's logits reach from {low.item():.6g} to {high.item():.6g}, too far for a mean and a "
            f"standard deviation in float32, for {samples(beyond_N, ids_N)}. Rule classes out with -1e4 instead, or "
            'set labels.encoding = "dense" and labels.dtype = "float32".'
        )
