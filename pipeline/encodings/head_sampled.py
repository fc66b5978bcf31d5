"""The K largest logits as `topk` keeps them, and an unbiased sample of the classes below.

Every kept class is exact and the mass of the others known, at every temperature of the grid, as with `topk`. Of the
others `tail` are stored besides, by their logits, drawn with a known probability of inclusion: 1 of the likely ones, in
proportion to the mean of p(T) over the grid of the rest. So p(T) / inclusion is an unbiased estimate at each
temperature, and `kl` estimates the divergence from the whole row without bias, its value too. No weight is more than G
times what it would be if all had been drawn for that temperature alone.

For a temperature that is not settled and many classes. Not for one temperature alone: `sampled` needs fewer bytes.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
    M  room for sampled classes
    G  temperatures of the grid
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encodings import topk
from pipeline.encodings.blocks import in_blocks
from pipeline.encodings.draws import MOST_BUDGET, random_bits, seeds_of, threshold_sample, units
from pipeline.encodings.ids import absent, ids_array, packed, unpacked
from pipeline.encodings.refusals import samples
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import ArraySpec, HeadSampledLabels, LabelSpec

temperatures, bound = topk.temperatures, topk.bound


def check(spec: LabelSpec) -> None:
    """Refuse what `topk` refuses, and a tail that is missing or has no room."""
    topk.check(spec)
    if spec.dtype == "int8":
        raise ConfigError(
            'The encoding "head+sampled" keeps logits far from the largest, too far for labels.dtype = "int8". Set '
            'labels.dtype = "float16".'
        )
    if spec.tail is None or spec.tail > MOST_BUDGET:
        raise ConfigError(
            f'The encoding "head+sampled" needs labels.tail, the number of classes to sample besides the labels.k = '
            f"{spec.k} largest, at most {MOST_BUDGET}, and found {spec.tail or 'none'}. Set for example labels.tail = "
            "16."
        )


def arrays(spec: LabelSpec) -> tuple[ArraySpec, ...]:
    """Those of `topk`, ids and logits of the sampled classes, and the tau of their drawing."""
    tail = _tail(spec)
    return (
        *topk.arrays(spec),
        ids_array("tail_ids", spec.classes, tail),
        ArraySpec("tail_values", spec.dtype, (tail,), math.nan),
        ArraySpec("tail_tau", "float32", (), math.nan),
    )


def encode(spec: LabelSpec, logits_NC: Tensor, labels_N: Tensor, ids_N: NDArray[np.int64]) -> dict[str, Tensor]:
    """Keep the K largest, and draw from the others by the sample's id and the spec's seed."""
    record = topk.encode(spec, logits_NC, labels_N, ids_N)
    seeds_N = seeds_of("head+sampled", spec.seed, ids_N, logits_NC.device)
    kept_NK = unpacked(record["ids"])
    return record | in_blocks(partial(_tail_of, spec), logits_NC, kept_NK, seeds_N)


def decode(spec: LabelSpec, record: Mapping[str, Tensor]) -> HeadSampledLabels:
    """The labels of `topk`, and with what probability each of the sampled classes was to be drawn."""
    head = topk.decode(spec, record)
    ids_NM, logits_NM = unpacked(record["tail_ids"]), record["tail_values"].to(torch.float32)
    there_NM = ids_NM != absent(spec.classes)
    temperatures_G = torch.tensor(spec.temperatures, device=logits_NM.device)
    p_NM = (logits_NM[:, :, None] / temperatures_G - head.logsumexp_NG[:, None]).exp().mean(dim=2)
    inclusion_NM = (p_NM / record["tail_tau"][:, None]).clamp(max=1)  # by a tau of 0 all were: inf, hence 1
    return HeadSampledLabels(
        **vars(head),
        tail_ids_NM=ids_NM * there_NM,
        tail_logits_NM=logits_NM,
        tail_inclusion_NM=torch.where(there_NM, inclusion_NM, math.inf),  # what is not there weighs nothing
    )


def error(spec: LabelSpec) -> str:
    """That of `topk`, and the variance of what stands for the others."""
    return (
        f"{topk.error(spec).partition(';')[0]}; the mass of the others errs by no more than all kept probabilities "
        f"together, and is spread over a sample of {spec.tail}, where E[w] = p for every class and temperature"
    )


def refuse(spec: LabelSpec, logits_NC: Tensor, ids_N: NDArray[np.int64]) -> NoReturn:
    """Say which rows do not fit: as `topk`, or because a sampled class lies too far below."""
    record = encode(spec, logits_NC, torch.full_like(logits_NC[:, 0], -1), ids_N)
    beyond_N = ~record["tail_values"].isfinite().all(dim=1)
    if beyond_N.any() and record["values"].isfinite().all():
        raise TeacherError(
            f"The teacher's sampled logits lie farther below the largest of their row than {spec.dtype}'s largest "
            f"number, for {samples(beyond_N, ids_N)}; stored, they would be infinite. Set labels.dtype = "
            '"float32", or lower the highest of labels.temperatures.'
        )
    topk.refuse(spec, logits_NC, ids_N)


def _tail_of(spec: LabelSpec, logits_NC: Tensor, kept_NK: Tensor, seeds_N: Tensor) -> dict[str, Tensor]:
    """What is stored besides the head, of one block."""
    room = _tail(spec)
    units_NC = units(logits_NC, *spec.temperatures).scatter_(1, kept_NK, 0)
    sample = threshold_sample([lambda: units_NC], room, room - 1, random_bits(seeds_N, 1)[:, 0])
    there = torch.cat([sample.units_NH > 0, sample.drawn_NB], dim=1)
    first = there.logical_not().int().argsort(dim=1, stable=True)[:, :room]
    classes_NM, there_NM = torch.cat([sample.head_NH, sample.tail_NB], dim=1).gather(1, first), there.gather(1, first)
    counted_NM = logits_NC.gather(1, classes_NM) - logits_NC.amax(dim=1, keepdim=True)
    return {
        "tail_ids": packed(torch.where(there_NM, classes_NM, absent(spec.classes)), spec.classes),
        "tail_values": torch.where(there_NM, counted_NM, 0.0).to(getattr(torch, spec.dtype)),
        "tail_tau": sample.threshold,
    }


def _tail(spec: LabelSpec) -> int:
    assert spec.tail is not None, "`check` has passed"
    return spec.tail
