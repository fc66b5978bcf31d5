"""The K largest logits of a row, and the sums that make their probabilities exact at every temperature of a grid.

Stored besides are the mean and the standard deviation of all logits, the true class's logit and, if asked for, the same
sums of standardised logits. What is lost is how the mass outside the kept classes is spread; how much it is, is known.

Logits are counted from the row's largest: floating point errs in proportion to the number it holds, which is then the
gap to the best class. So a kept class with log p = -3 is not wrong by more because all logits of its row are near 1000.

Nothing waits on the device. A row that does not fit the stored dtypes, or that holds a NaN or an infinity, shows in its
own record: its last kept logit, its largest, mean or deviation is then not finite.

Not for few classes (with K near C, `dense` is as small and serves any temperature), and not for losses that need whole
rows. Not in int8 where the mass of the others must be exact: it is 1 less the kept probabilities, and all of these but
the first err by 1/508 of the largest kept gap over T, of themselves.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
    G  temperatures of the grid
"""

import itertools
import math
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encodings.blocks import in_blocks
from pipeline.encodings.ids import ids_array, packed, unpacked
from pipeline.encodings.refusals import samples
from pipeline.encodings.rounding import gap_arrays, gap_bound, gap_error, read_gaps, stored_gaps
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import STD_EPSILON, ArraySpec, LabelSpec, SparseLabels

FLOAT32 = torch.finfo(torch.float32)
SPAN = 64  # neighbouring classes whose largest logit stands for them all


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
    sums = ("logsumexp", "standard_logsumexp") if spec.standardised else ("logsumexp",)
    return (
        ids_array("ids", spec.classes, _k(spec)),
        *gap_arrays(spec.dtype, _k(spec)),
        *(ArraySpec(name, "float32", (len(spec.temperatures),), math.nan) for name in sums),
        *(ArraySpec(name, "float32", (), math.nan) for name in ("max", "mean", "std", "target")),
    )


def encode(
    spec: LabelSpec,
    logits_NC: Tensor,
    labels_N: Tensor,
    ids_N: NDArray[np.int64],  # noqa: ARG001 - the signature of every encoding
) -> dict[str, Tensor]:
    """Keep the K largest, and what makes their probabilities exact."""
    return in_blocks(partial(_encoded, spec), logits_NC, labels_N)


def refuse(spec: LabelSpec, logits_NC: Tensor, ids_N: NDArray[np.int64]) -> NoReturn:
    """Say which rows of finite float32 logits do not fit: kept ones too far apart, or all of them too widely spread."""
    _refuse_gaps(spec, logits_NC, ids_N)
    _refuse_spread(logits_NC, ids_N)


def decode(spec: LabelSpec, record: Mapping[str, Tensor]) -> SparseLabels:
    """The record in the dtypes that indexing and arithmetic want."""
    return SparseLabels(
        classes=spec.classes,
        temperatures=spec.temperatures,
        ids_NK=unpacked(record["ids"]),
        logits_NK=read_gaps(record, spec.dtype),
        logsumexp_NG=record["logsumexp"],
        max_N=record["max"],
        mean_N=record["mean"],
        std_N=record["std"],
        target_N=record["target"],
        standard_logsumexp_NG=record.get("standard_logsumexp"),
    )


def temperatures(spec: LabelSpec) -> tuple[float, ...]:
    """The grid: at another temperature the mass outside the kept classes is not known."""
    return spec.temperatures


def error(spec: LabelSpec) -> str:
    """Rounding of each gap to the stored dtype, and that of the sums."""
    standardised = " (of standardised logits, with (std + 1e-7) T for T)" if spec.standardised else ""
    return (
        f"of kept classes |log p error| <= {gap_error(spec.dtype)}, where gap = max z - z, besides 1e-6 of float32 "
        f"sums{standardised}; the mass of the others errs by no more than all kept probabilities together, and how it "
        "is spread is not kept"
    )


def bound(spec: LabelSpec, logits_NC: Tensor, temperature: float) -> Tensor:
    """What `error` says of the last kept class, which has the largest gap, for each row, [N]."""
    kept_NK = logits_NC.gather(1, largest(logits_NC, _k(spec)))
    return gap_bound(kept_NK[:, 0] - kept_NK[:, -1], spec.dtype) / temperature + 1e-6


def largest(logits_NC: Tensor, k: int) -> Tensor:
    """The class ids of the k largest float32 logits, [N, K], by falling logit, then by rising id: one answer.

    `torch.topk` promises no order among equals, and over long rows it is slow. The k largest lie within the k spans of
    neighbouring classes whose own largest come first in that order, so all but these are read only once.
    """
    classes = logits_NC.shape[1]
    whole = classes - classes % SPAN
    if whole // SPAN <= k:
        return _first(logits_NC, k)
    heights = logits_NC[:, :whole].reshape(len(logits_NC), -1, SPAN).amax(dim=2)
    spans_NK = _first(heights, k).sort(dim=1).values
    ids = torch.arange(classes, device=logits_NC.device)
    inside = (spans_NK[:, :, None] * SPAN + ids[:SPAN]).flatten(1)
    ids = torch.cat([inside, ids[whole:].expand(len(inside), -1)], dim=1)  # rising, so that places decide as ids do
    return ids.gather(1, _first(logits_NC.gather(1, ids), k))


def _first(values_NM: Tensor, k: int) -> Tensor:
    """The places of the k largest, [N, K], by falling value, then by rising place.

    Value and place make one integer each, and no two are equal. A float32's bits rise with it as an integer, once those
    below the sign are flipped in a negative one. Adding zero makes -0 the 0 that it equals.
    """
    bits = (values_NM + 0.0).view(torch.int32)
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    last = values_NM.shape[1] - 1
    keys = rising.bitwise_left_shift_(32).bitwise_or_(torch.arange(last, -1, -1, device=values_NM.device))
    return last - (keys.topk(k, dim=1).values & 0xFFFFFFFF)


def _encoded(spec: LabelSpec, logits_NC: Tensor, labels_N: Tensor) -> dict[str, Tensor]:
    """The record of one block."""
    classes_NK = largest(logits_NC, _k(spec))
    first_N1 = classes_NK[:, :1]
    max_N1 = logits_NC.gather(1, first_N1)
    counted_NC = logits_NC - max_N1
    values = stored_gaps(counted_NC.gather(1, classes_NK), spec.dtype)
    target_N = counted_NC.gather(1, labels_N.to(torch.int64).clamp(min=0)[:, None])[:, 0]
    mean_N1, std_N, work_NC = _spread(counted_NC)
    others_NC = counted_NC.scatter_(1, first_N1, -math.inf)
    sums = {"logsumexp": _logsumexp(spec, others_NC, work_NC)}
    if spec.standardised:
        sums["standard_logsumexp"] = _logsumexp(spec, others_NC.div_(std_N[:, None] + STD_EPSILON), work_NC)
    return {
        "ids": packed(classes_NK, spec.classes),
        **values,
        **sums,
        "max": max_N1[:, 0],
        "mean": mean_N1[:, 0],
        "std": std_N,
        "target": target_N.masked_fill(labels_N < 0, math.nan),
    }


def _logsumexp(spec: LabelSpec, others_NC: Tensor, work_NC: Tensor) -> Tensor:
    """log(1 + the sum of exp(z / T)) at each temperature, [N, G], of all logits but the largest, which is 0.

    By log1p, not the log of a sum with 1 in it: so 1 - p keeps its digits when the teacher is all but certain.
    """
    return torch.stack([torch.div(others_NC, t, out=work_NC).exp_().sum(dim=1).log1p_() for t in spec.temperatures], 1)


def _spread(counted_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean [N, 1] and the standard deviation [N] of rows, and a block to work in.

    In two passes: as exact as `torch.std_mean`, and on a CPU many times as quick.
    """
    mean_N1 = counted_NC.mean(dim=1, keepdim=True)
    work_NC = counted_NC - mean_N1
    return mean_N1, work_NC.square_().mean(dim=1).sqrt_(), work_NC


def _k(spec: LabelSpec) -> int:
    if spec.k is None:
        raise ConfigError(
            f'The encoding "{spec.encoding}" needs labels.k, the number of classes to keep a row, and found none. Set '
            f"for example labels.k = {min(32, spec.classes)}."
        )
    return spec.k


def _refuse_gaps(spec: LabelSpec, logits_NC: Tensor, ids_N: NDArray[np.int64]) -> None:
    kept_NK = logits_NC.gather(1, largest(logits_NC, _k(spec)))
    exact_NK = kept_NK - kept_NK[:, :1]
    kept_in = "float32" if spec.dtype == "int8" else spec.dtype  # of codes, the step
    dtype = getattr(torch, kept_in)
    beyond_N = exact_NK[:, -1].to(dtype).isinf()
    if beyond_N.any():
        wider = 'labels.dtype = "float32", or ' if kept_in == "float16" else ""
        raise TeacherError(
            f"The teacher's kept logits lie as far as {-exact_NK.min().item():.6g} below the largest of their row, "
            f"beyond {kept_in}'s largest number {torch.finfo(dtype).max:.6g}, for {samples(beyond_N, ids_N)}; "
            f"stored, they would be infinite. Set {wider}a smaller labels.k."
        )


def _refuse_spread(logits_NC: Tensor, ids_N: NDArray[np.int64]) -> NoReturn:
    mean_N1, std_N, _ = _spread(logits_NC - logits_NC.amax(dim=1, keepdim=True))
    beyond_N = ~(mean_N1[:, 0] + std_N).isfinite()
    low, high = torch.aminmax(logits_NC[beyond_N])
    raise TeacherError(
        f"The teacher's logits reach from {low.item():.6g} to {high.item():.6g}, too far for a mean and a "
        f"standard deviation in float32, for {samples(beyond_N, ids_N)}. Rule classes out with -1e4 instead, or "
        'set labels.encoding = "dense" and labels.dtype = "float32".'
    )
