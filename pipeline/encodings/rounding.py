"""What a stored dtype leaves of float32 logits: in eight bits, a row's range cut into 254 equal steps.

Codes are -127 to 127, so that -128 can be the fill value. All arithmetic is IEEE float32, one operation at a time, so
that devices agree on a code.

Not for rows of which a few logits lie far from the others, as of classes ruled out by -1e4: the step is a share of the
whole range.

Shape legend
    N  rows (samples)
    K  kept classes of a row
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.labels import ArraySpec, DType

LAST, FILL = 127, -128
TINY = torch.finfo(torch.float32).tiny


def step(range_N: Tensor) -> Tensor:
    """The 254th part of each range.

    At least the smallest normal float32: a range of 0 then has a code too, and what is smaller errs by less than that.
    A product, not a quotient, for not all devices divide by a constant alike.
    """
    return (range_N * (1 / (2 * LAST))).clamp(min=TINY)


def codes(steps: Tensor) -> Tensor:
    """Float32 numbers of steps, which are consumed, to the nearest code; to an even one where two are as near.

    >>> codes(torch.tensor([-127.2, -0.5, 0.4, 126.5, 127.5])).tolist()
    [-127, 0, 0, 126, 127]
    """
    return steps.round_().clamp_(-LAST, LAST).to(torch.int8)


def gap_arrays(dtype: DType, k: int) -> tuple[ArraySpec, ...]:
    """The arrays of logits counted from the largest of their row: `values` [K], in eight bits `scale` too."""
    if dtype == "int8":
        return ArraySpec("values", "int8", (k,), FILL), ArraySpec("scale", "float32", (), math.nan)
    return (ArraySpec("values", dtype, (k,), math.nan),)


def stored_gaps(counted_NK: Tensor, dtype: DType) -> dict[str, Tensor]:
    """Float32 logits that fall from 0, rounded; in eight bits -scale (127 - code), where the last has code -127.

    >>> stored_gaps(torch.tensor([[0.0, -2.0, -127.0]]), "int8")
    {'values': tensor([[ 127,  123, -127]], dtype=torch.int8), 'scale': tensor([0.5000])}
    """
    if dtype != "int8":
        return {"values": counted_NK.to(getattr(torch, dtype))}
    scale_N = step(-counted_NK[:, -1])
    return {"values": codes((counted_NK / scale_N[:, None]).add_(LAST)), "scale": scale_N}


def read_gaps(record: Mapping[str, Tensor], dtype: DType) -> Tensor:
    """The same, read again in float32: the first is 0, none is above the one before it."""
    values_NK = record["values"].to(torch.float32)
    return values_NK.sub_(LAST).mul_(record["scale"][:, None]) if dtype == "int8" else values_NK


def gap_error(dtype: DType) -> str:
    """By how much a gap read again differs over a temperature, in words (IEEE 754: half a unit in the last place)."""
    return {
        "float32": "2^-23 gap / T",
        "float16": "2^-11 gap / T (2^-25 / T where gap < 2^-14)",
        "int8": "(1 / 508 + 2^-22) (largest kept gap) / T",
    }[dtype]


def gap_bound(gap_N: Tensor, dtype: DType) -> Tensor:
    """The same in numbers and for T = 1: the most of a row whose largest kept gap is given, [N].

    In eight bits half a step, and for counting, dividing, adding 127 and multiplying less than 2^-22 of the gap.
    """
    match dtype:
        case "float32":
            return 2**-23 * gap_N
        case "float16":
            return (2**-11 * gap_N).clamp(min=2**-25)
        case "int8":
            return step(gap_N) / 2 + 2**-22 * gap_N
