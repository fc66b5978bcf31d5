"""An unbiased sample of a row's classes: the likely ones exactly, the others drawn, none twice.

Classes with p >= tau are kept with their probability, the rest is drawn with probability p / tau and counts tau. So the
weight of every class has the expectation p, and so have the gradients of losses that are linear in p (`kd`, `soft`):
what top-k labels cut off, every student step sees some of. Stored are ids, the weights of the exact ones (at most a
third of the ids) and tau. The weights of a row sum to one. In float16 an exact weight below 2^-25 is stored as 0, and
the class counts tau instead.

A record may have several positions, as a sequence has tokens. They share one budget of k ids a position and one tau, so
flat positions get more ids than sharp ones: the last id of each then takes away the same variance. Weights then sum to
the number of positions over a record, and to one in expectation at each.

Drawn at one temperature, for which alone these labels serve. Not for few classes (`dense` is smaller), and not for
losses that are not linear in p, as reverse KL (`topk` gives them a bound, `head+sampled` serves all).

Shape legend
    N  rows (samples), records of one or more positions
    L  positions of a record
    C  classes
    B  the budget: ids of a record, L k
    H  how many of these may be exact
    K  the most ids of any position of a batch
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from pipeline.encodings.blocks import Logits, in_blocks, joined, made, part, steps
from pipeline.encodings.draws import (
    MOST_BUDGET,
    MOST_POSITIONS,
    UNIT_BITS,
    random_bits,
    seeds_of,
    threshold_sample,
    units,
)
from pipeline.encodings.ids import absent, ids_array, packed, unpacked
from pipeline.errors import ConfigError
from pipeline.labels import ArraySpec, LabelSpec, SampledLabels

FLOAT32 = torch.finfo(torch.float32)
HALF = 0.5
NAMES = {"sampled": "ids", "multinomial": "draws"}


def check(spec: LabelSpec) -> None:
    """Refuse a budget that is missing or too large, and more than one temperature."""
    if spec.k is None:
        raise ConfigError(
            f'The encoding "{spec.encoding}" needs labels.k, the number of {NAMES[spec.encoding]} a row, and found '
            "none. Set for example labels.k = 16."
        )
    if len(spec.temperatures) != 1 or not FLOAT32.tiny <= spec.temperatures[0] <= FLOAT32.max:
        raise ConfigError(
            f'The encoding "{spec.encoding}" draws at one temperature that float32 can hold, but labels.temperatures = '
            f"{list(spec.temperatures)}. Write for example labels.temperatures = [1.0], or set labels.encoding = "
            '"head+sampled" to serve several.'
        )
    if spec.dtype == "int8":
        raise ConfigError(
            f'The encoding "{spec.encoding}" keeps probabilities, which labels.dtype = "int8" would spoil. Set '
            'labels.dtype = "float16".'
        )
    if spec.k * (spec.positions or 1) > MOST_BUDGET or (spec.positions or 1) > MOST_POSITIONS:
        raise ConfigError(
            f"labels.k = {spec.k} ids at {spec.positions or 1} positions are too many: expected at most {MOST_BUDGET} "
            f"ids and {MOST_POSITIONS} positions a record. Set a smaller labels.k, or cut sequences shorter."
        )


def arrays(spec: LabelSpec) -> tuple[ArraySpec, ...]:
    """Ids, by position; the weights of the exact ones, in that order, then zeros; tau; with positions their lengths."""
    lengths = ("lengths", "exact") if spec.positions else ()
    dtype = _lengths_dtype(spec)
    return (
        ids_array("ids", spec.classes, _budget(spec)),
        ArraySpec("weights", spec.dtype, (_exact(spec),), math.nan),
        ArraySpec("tau", "float32", (), math.nan),
        *(ArraySpec(name, dtype, (spec.positions or 1,), int(np.iinfo(dtype).max)) for name in lengths),
    )


def encode(
    spec: LabelSpec,
    logits_NC: Logits,
    labels_N: Tensor,  # noqa: ARG001 - the signature of every encoding
    ids_N: NDArray[np.int64],
) -> dict[str, Tensor]:
    """Draw, by the sample's id and the spec's seed. With positions the logits are [N, L, C], and may be yet to be made.

    A record of more than a block is cut along its positions; deferred logits are then made twice.
    """
    seeds_N = seeds_of("sampled", spec.seed, ids_N, logits_NC.device)
    if not spec.positions:
        return in_blocks(lambda block_NC, seeds_N: _encoded(spec, [block_NC], seeds_N), made(logits_NC), seeds_N)
    return joined(
        [
            _encoded(spec, [part(logits_NC, rows, at) for at in positions], seeds_N[rows])
            for rows, positions in steps(logits_NC)
        ]
    )


def decode(spec: LabelSpec, record: Mapping[str, Tensor]) -> SampledLabels:
    """A row for each position: of N records of L, [N L, K]."""
    ids_NB = unpacked(record["ids"])
    weights_NH, tau_N1 = record["weights"].to(torch.float32), record["tau"][:, None]
    if spec.positions:
        return _positions(spec, ids_NB, weights_NH, tau_N1, record)
    there_NB, exact_NH = ids_NB != absent(spec.classes), weights_NH > 0
    drawn_N = there_NB.sum(dim=1) - exact_NH.sum(dim=1)
    # Rounding is taken out of the sum where it is the lesser part: of the exact ones, or of tau.
    sum_N = weights_NH.sum(dim=1)
    scale_N = torch.where(sum_N >= HALF, (1 - drawn_N * tau_N1[:, 0]) / sum_N, 1.0)
    tau_N = torch.where((sum_N < HALF) & (drawn_N > 0), (1 - sum_N) / drawn_N, tau_N1[:, 0])
    weights_NB = torch.where(there_NB, tau_N[:, None], 0.0)
    room = exact_NH.shape[1]
    weights_NB[:, :room] = torch.where(exact_NH, weights_NH * scale_N[:, None], weights_NB[:, :room])
    return SampledLabels(spec.classes, spec.temperatures[0], ids_NB * there_NB, weights_NB, exact_NH.sum(dim=1))


def _positions(
    spec: LabelSpec, ids_NB: Tensor, weights_NH: Tensor, tau_N1: Tensor, record: Mapping[str, Tensor]
) -> SampledLabels:
    """Records of several positions, cut into rows as long as the longest."""
    lengths_NL, exact_NL = (record[name].to(torch.int64) for name in ("lengths", "exact"))
    longest = max(1, int(lengths_NL.max())) if len(ids_NB) else 1
    place_K = torch.arange(longest, device=ids_NB.device)

    def cut(flat_NX: Tensor, counts_NL: Tensor) -> Tensor:
        starts_NL1 = (counts_NL.cumsum(dim=1) - counts_NL)[:, :, None]
        places_NX = (starts_NL1 + place_K).clamp(max=flat_NX.shape[1] - 1).flatten(1)
        return flat_NX.gather(1, places_NX).view(-1, longest)

    there_RK = place_K < lengths_NL.view(-1, 1)
    tau_RK = tau_N1.expand(-1, lengths_NL.shape[1]).reshape(-1, 1)
    weights_RK = torch.where(place_K < exact_NL.view(-1, 1), cut(weights_NH, exact_NL), tau_RK)
    ids_RK = cut(ids_NB, lengths_NL)
    return SampledLabels(
        spec.classes, spec.temperatures[0], ids_RK * there_RK, weights_RK * there_RK, exact_NL.flatten()
    )


def temperatures(spec: LabelSpec) -> tuple[float, ...]:
    """The one at which it was drawn: how likely another class was at another one is not known."""
    return spec.temperatures


def error(spec: LabelSpec) -> str:
    """Of the exact ones their rounding (IEEE 754: half a unit in the last place); of the others their variance."""
    rounding = "2^-23" if spec.dtype == "float32" else "2^-10 (2^-24 / p where p < 2^-14)"
    return (
        f"of exact classes |log p error| <= {rounding} besides 1e-6 of a float32 softmax and 2^-45 / p; of every class "
        "E[w] = p, with a standard deviation of at most sqrt(p tau)"
    )


def bound(spec: LabelSpec, logits_NC: Tensor, temperature: float) -> Tensor:
    """What `error` says of the least of the exact ones that can be stored, for each row, [N]."""
    p_NC = torch.softmax(logits_NC / temperature, dim=1)
    return rounding(spec, p_NC.topk(min(_exact(spec), spec.classes), dim=1).values).amax(dim=1)


def rounding(spec: LabelSpec, weights_NK: Tensor) -> Tensor:
    """What `error` says of each exact weight, [N, K]: in float16, none below 2^-24 is stored."""
    half_NK = (2**-24 / weights_NK.clamp(min=2**-24)).clamp(min=2**-10)
    relative_NK = torch.full_like(weights_NK, 2**-23) if spec.dtype == "float32" else half_NK
    return relative_NK + 1e-6 + 2**-45 / weights_NK.clamp(min=2**-44)


def refuse(
    spec: LabelSpec,
    logits_NC: Tensor,  # noqa: ARG001 - the signature of every encoding
    ids_N: NDArray[np.int64],
) -> NoReturn:
    """Never needed: every finite row can be stored."""
    raise AssertionError(f"{len(ids_N)} rows of finite logits were not stored as {spec.encoding}")


def _budget(spec: LabelSpec) -> int:
    assert spec.k is not None, "`check` has passed"
    return min(spec.k, spec.classes) * (spec.positions or 1)


def _exact(spec: LabelSpec) -> int:
    """How many weights a record has room for: more would hardly ever be used, see `benchmarks/fidelity.py`."""
    return max(1, _budget(spec) // 3)


def _lengths_dtype(spec: LabelSpec) -> str:
    return "uint16" if _budget(spec) <= np.iinfo(np.uint16).max - 1 else "uint32"


def _encoded(spec: LabelSpec, cuts: Sequence[Logits], seeds_N: Tensor) -> dict[str, Tensor]:
    """The records of one block of rows, [N, C] or [N, L, C], cut along the positions."""
    budget, exact = _budget(spec), _exact(spec)
    blocks = [partial(_units, spec, cut) for cut in cuts]
    sample = threshold_sample(blocks, budget, min(exact, budget - 1), random_bits(seeds_N, 1)[:, 0])
    places = torch.cat([sample.head_NH, sample.tail_NB], dim=1)
    there = torch.cat([sample.units_NH > 0, sample.drawn_NB], dim=1)
    position = places // spec.classes
    # By position, the exact ones first, by falling probability; then those drawn; what is not there last.
    late = torch.arange(places.shape[1], device=places.device) >= sample.head_NH.shape[1]
    order = torch.where(there, 2 * position + late, 2 * MOST_POSITIONS).argsort(dim=1, stable=True)[:, :budget]
    first = torch.where(sample.units_NH > 0, sample.head_NH // spec.classes, MOST_POSITIONS).argsort(dim=1, stable=True)
    weights_NH = sample.units_NH.gather(1, first)[:, :exact].to(torch.float32) / 2.0**UNIT_BITS
    # A position that is not finite has no units at all, and those of the others are rounded by far less.
    sound_N = sample.total > ((spec.positions or 1) - HALF) * 2**UNIT_BITS
    there_NB = there.gather(1, order)
    ids_NB = torch.where(there_NB, (places % spec.classes).gather(1, order), absent(spec.classes))
    record = {
        "ids": packed(ids_NB, spec.classes),
        "weights": pad(weights_NH, (0, exact - weights_NH.shape[1])).to(getattr(torch, spec.dtype)),
        "tau": sample.threshold.masked_fill(~sound_N, math.nan),
    }
    if spec.positions:
        dtype, none_NL = getattr(torch, _lengths_dtype(spec)), places.new_zeros(len(places), spec.positions)
        exact_NH = (sample.units_NH > 0).to(torch.int64)
        record["lengths"] = none_NL.scatter_add(1, position, there.to(torch.int64)).to(dtype)
        record["exact"] = none_NL.scatter_add(1, position[:, : exact_NH.shape[1]], exact_NH).to(dtype)
    return record


def _units(spec: LabelSpec, logits_NX: Logits) -> Tensor:
    """All classes of all positions in one row, [N, M]."""
    return units(made(logits_NX).to(torch.float32), spec.temperatures[0]).flatten(1)
