"""Counts of k draws from a row's softmax: random sampling KD, as it was published, to compare with.

count / k has the expectation p for every class. The counts are exact, in room for k different classes: keeping the most
frequent ones alone, as the public re-implementation does, is biased again. Not for a cache of one's own: `sampled` has
a fraction of the variance at as many ids, for a likely class is then not drawn at all, but known.

Anshumann et al. (2025), "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", arXiv 2503.16870.

Shape legend
    N  rows (samples)
    C  classes
    K  draws of a row
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encodings import sampled
from pipeline.encodings.blocks import in_blocks
from pipeline.encodings.draws import below, random_bits, seeds_of, units
from pipeline.encodings.ids import absent, ids_array, packed, unpacked
from pipeline.labels import ArraySpec, LabelSpec, SampledLabels

check, refuse, temperatures = sampled.check, sampled.refuse, sampled.temperatures


def arrays(spec: LabelSpec) -> tuple[ArraySpec, ...]:
    """The ids that were drawn, rising, and how often each was; then places without an id, and zeros."""
    dtype = _counts_dtype(spec)
    room = min(_draws(spec), spec.classes)
    return ids_array("ids", spec.classes, room), ArraySpec("counts", dtype, (room,), int(np.iinfo(dtype).max))


def encode(
    spec: LabelSpec,
    logits_NC: Tensor,
    labels_N: Tensor,  # noqa: ARG001 - the signature of every encoding
    ids_N: NDArray[np.int64],
) -> dict[str, Tensor]:
    """Draw, by the sample's id and the spec's seed. A row that is not finite has no counts."""
    seeds_N = seeds_of("multinomial", spec.seed, ids_N, logits_NC.device)
    return in_blocks(partial(_encoded, spec), logits_NC, seeds_N)


def decode(spec: LabelSpec, record: Mapping[str, Tensor]) -> SampledLabels:
    """Each count as its share of the draws."""
    weights_NK = record["counts"].to(torch.float32) / _draws(spec)
    ids_NK = unpacked(record["ids"]) * (weights_NK > 0)
    return SampledLabels(spec.classes, spec.temperatures[0], ids_NK, weights_NK)


def error(spec: LabelSpec) -> str:
    """No class is exact."""
    return f"none of a stored count; of every class E[w] = p, with a standard deviation of sqrt(p (1 - p) / {spec.k})"


def bound(spec: LabelSpec, logits_NC: Tensor, temperature: float) -> Tensor:  # noqa: ARG001 - the signature of every encoding
    """No class is exact, so none can be off."""
    return torch.zeros(len(logits_NC))


def _encoded(spec: LabelSpec, logits_NC: Tensor, seeds_N: Tensor) -> dict[str, Tensor]:
    """The record of one block."""
    sums_NC = units(logits_NC, spec.temperatures[0]).cumsum(dim=1)
    points_NK = below(random_bits(seeds_N, _draws(spec)), sums_NC[:, -1:]).sort(dim=1).values
    drawn_NK = torch.searchsorted(sums_NC, points_NK, right=True).clamp_(max=spec.classes - 1)
    new_NK = torch.nn.functional.pad(drawn_NK.diff(dim=1) != 0, (1, 0), value=True)
    place_NK = new_NK.cumsum(dim=1) - 1
    room = min(_draws(spec), spec.classes)
    ids_NK = drawn_NK.new_full((len(drawn_NK), room), absent(spec.classes)).scatter_(1, place_NK, drawn_NK)
    counts_NK = torch.zeros_like(ids_NK).scatter_add_(1, place_NK, torch.ones_like(place_NK))
    dtype = getattr(torch, _counts_dtype(spec))
    return {"ids": packed(ids_NK, spec.classes), "counts": (counts_NK * (sums_NC[:, -1:] > 0)).to(dtype)}


def _draws(spec: LabelSpec) -> int:
    assert spec.k is not None, "`check` has passed"
    return spec.k


def _counts_dtype(spec: LabelSpec) -> str:
    return next(name for name in ("uint8", "uint16", "uint32") if _draws(spec) < np.iinfo(name).max)
