"""Drawing classes by their probabilities: in whole numbers, so that sums are exact and the same in any order.

A probability is a number of units of 2^-44. Integers add up to the same whatever the device or the order, and a class
of 1e-9 is not lost beside one of 0.5, as it would be in a running sum of float32.

Shape legend
    N  rows: records of one or more positions
    M  all classes of all positions of a record
    C  classes
    B  the budget: how many ids a record has room for
    H  how many of these may be exact
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encodings.topk import largest
from pipeline.seeds import seed_of

UNIT_BITS = 44
MOST_BUDGET, MOST_POSITIONS = 2**17, 2**16  # of a record: what is multiplied below, and used, stays within 63 bits
RANDOM_BITS = 62
HALF = RANDOM_BITS // 2
_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def units(logits_NC: Tensor, *temperatures: float) -> Tensor:
    """softmax(z / T) in units, int64, and its mean over several T; 0 for all classes of a row that is not finite.

    A float32 softmax errs by 1e-6 of each probability, the rounding to units by at most 2^-45. A number of units is
    itself a float32, for that has 24 bits: above 2^-20 nothing is rounded, below it the number is below 2^24.
    """
    low_N1, high_N1 = logits_NC.amin(dim=-1, keepdim=True), logits_NC.amax(dim=-1, keepdim=True)
    counted_NC = logits_NC - high_N1.where(low_N1.isfinite() & high_N1.isfinite(), math.nan)
    p_NC = (counted_NC / temperatures[0]).softmax(dim=-1)
    for temperature in temperatures[1:]:
        p_NC += (counted_NC / temperature).softmax(dim=-1)
    return (p_NC.nan_to_num_(nan=0.0) * (2.0**UNIT_BITS / len(temperatures))).round_().to(torch.int64)


def seeds_of(purpose: str, seed: int, ids_N: NDArray[np.int64], device: torch.device) -> Tensor:
    """One seed for each sample, by its name alone, [N]."""
    seeds_N = torch.tensor([seed_of(purpose, seed, int(sample)) for sample in ids_N], dtype=torch.int64)
    # From page-locked memory the copy is only launched; from any other it would wait for the teacher.
    return seeds_N.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else seeds_N.to(device)


def random_bits(seeds_N: Tensor, count: int) -> Tensor:
    """So many numbers of 62 random bits for each seed, [N, count], the same on every device.

    SplitMix64: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators", with their
    mix64variant13.
    """
    steps = torch.arange(1, count + 1, device=seeds_N.device)
    mixed = seeds_N[:, None] + steps * _GOLDEN
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return _shifted(mixed ^ _shifted(mixed, 31), 64 - RANDOM_BITS)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def below(bits: Tensor, bound: Tensor) -> Tensor:
    """floor(bound * bits / 2^62): each whole number below the bound, of at most 2^61, as likely but for 2^-62."""
    low = (1 << HALF) - 1
    a, b, c, d = bound >> HALF, bound & low, bits >> HALF, bits & low
    return a * c + ((a * d + b * c + ((b * d) >> HALF)) >> HALF)


@dataclass(frozen=True)
class Sample:
    """A threshold sample: the exact ones first, [N, H], then those drawn, [N, B]; a place is a class of a position."""

    head_NH: Tensor  # places, by falling probability
    units_NH: Tensor  # their probabilities; 0 where there is none
    tail_NB: Tensor  # places, rising
    drawn_NB: Tensor  # whether there is one
    rest_N: Tensor  # the probability of all that are not exact, in units
    count_N: Tensor  # how many were drawn: each stands for rest / count

    @property
    def threshold(self) -> Tensor:
        """[N]: what each that was drawn stands for, as a probability in float32; 0 if none was."""
        return self.rest_N.to(torch.float32) / self.count_N.clamp(min=1) / 2.0**UNIT_BITS

    @property
    def total(self) -> Tensor:
        """[N]: the probability of all, in units."""
        return self.rest_N + self.units_NH.sum(dim=1)


def threshold_sample(blocks: Sequence[Callable[[], Tensor]], budget: int, exact: int, bits_N: Tensor) -> Sample:
    """Classes with p >= tau exactly, the others by systematic sampling with probability p / tau and weight tau.

    No class comes twice, and the weights sum to the sum of all p exactly: tau = (p of the others) / (number drawn), an
    integer number. Each weight has the expectation p. Of all unbiased weights of so many ids in expectation, those of a
    threshold have the least sum of variances (see Duffield, Lund and Thorup 2007, "Priority sampling for estimation of
    arbitrary subset sums", J. ACM 54(6); systematic sampling: Madow 1949, Ann. Math. Stat. 20, 333).

    A record may come in several blocks, each made twice: once to see which are exact, once to draw from the others.
    What is drawn does not depend on how it is cut.

    Args:
        blocks: what makes probabilities in units, [N, M] of each block, the same each time; consumed.
        budget: B, the most ids of a record, at most 2^17; all p together are at most 2^61 units.
        exact: H < B, the most of them that may be exact.
        bits_N: 62 random bits a record.

    """
    if len(blocks) == 1:
        blocks = [partial(_same, blocks[0]())]
    place_NH, units_NH, sum_N = _largest(blocks, exact + 1)
    head_units_NH, next_N = _head(units_NH, sum_N, budget)
    rest_N = sum_N - head_units_NH.sum(dim=1)
    room_N = budget - (head_units_NH > 0).sum(dim=1)
    count_N = torch.minimum(room_N, rest_N // next_N.clamp(min=1))
    points_NB = _points(rest_N, count_N, below(bits_N, rest_N), budget)
    tail_NB = _hit(blocks, place_NH, head_units_NH, points_NB)
    drawn_NB = torch.arange(budget, device=tail_NB.device) < count_N[:, None]
    return Sample(place_NH, head_units_NH, tail_NB, drawn_NB, rest_N, count_N)


def _same(units_NM: Tensor) -> Tensor:
    return units_NM


def _largest(blocks: Sequence[Callable[[], Tensor]], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The places of the largest of all blocks and their units, [N, H], and the sum of all, [N].

    By falling units, then by rising place: so those of one block and those of the blocks before it are put in one row.
    """
    places, sizes, sums, start = [], [], [], 0
    for block in blocks:
        units_NM = block()
        place_NH = largest(units_NM.to(torch.float32), min(count, units_NM.shape[1]))
        places.append(place_NH + start)
        sizes.append(units_NM.gather(1, place_NH))
        sums.append(units_NM.sum(dim=1))
        start += units_NM.shape[1]
        if len(places) > 1:
            both, all_sizes = torch.cat(places, dim=1), torch.cat(sizes, dim=1)
            first = largest(all_sizes.to(torch.float32), min(count, both.shape[1]))
            places, sizes = [both.gather(1, first)], [all_sizes.gather(1, first)]
    return places[0], sizes[0], torch.stack(sums).sum(dim=0)


def _head(sorted_NH: Tensor, sum_N: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """The units of the largest, 0 for those that need not be exact, [N, H]; the largest of the others, [N].

    With h exact ones and all of the remaining budget drawn, tau is (sum of the others) / (B - h). The first h for which
    no other class is above that is taken; if it is not below H, H are, and fewer are drawn.
    """
    before_NH = sorted_NH.cumsum(dim=1) - sorted_NH
    left_NH = sum_N[:, None] - before_NH  # the sum of the others, were h exact: for h = 0 to H
    room_H = budget - torch.arange(sorted_NH.shape[1], device=sorted_NH.device)
    enough_NH = sorted_NH * room_H <= left_NH
    count_N1 = torch.where(enough_NH.any(dim=1), enough_NH.int().argmax(dim=1), sorted_NH.shape[1] - 1)[:, None]
    taken_NH = torch.arange(sorted_NH.shape[1], device=sorted_NH.device) < count_N1
    return torch.where(taken_NH, sorted_NH, 0), sorted_NH.gather(1, count_N1)[:, 0]


def _hit(blocks: Sequence[Callable[[], Tensor]], head_NH: Tensor, head_units_NH: Tensor, points_NB: Tensor) -> Tensor:
    """The place that each point falls on, [N, B], where all but the head lie one after the other, as wide as units."""
    hit_NB, start, before_N1 = torch.zeros_like(points_NB), 0, torch.zeros_like(points_NB[:, :1])
    for block in blocks:
        units_NM = block()
        width = units_NM.shape[1]
        here_NH = (head_NH >= start) & (head_NH < start + width)
        taken_NH = torch.where(here_NH, -head_units_NH, 0)
        sums_NM = units_NM.scatter_add_(1, (head_NH - start).clamp(0, width - 1), taken_NH).cumsum_(dim=1)
        found_NB = torch.searchsorted(sums_NM, points_NB - before_N1, right=True).clamp_(max=width - 1)
        hit_NB = torch.where(points_NB >= before_N1, found_NB + start, hit_NB)
        start, before_N1 = start + width, before_N1 + sums_NM[:, -1:]
    return hit_NB


def _points(rest_N: Tensor, count_N: Tensor, start_N: Tensor, budget: int) -> Tensor:
    """floor((start + j rest) / count) for j from 0 to B: evenly spaced whole numbers in [0, rest), [N, B].

    Two are at least floor(tau) apart, and no class is wider than that: it holds one at most. Over all starts each whole
    number is hit equally often: a class of w units, w count times in rest.
    """
    j_B = torch.arange(budget, device=rest_N.device)
    count_N1 = count_N.clamp(min=1)[:, None]
    whole_N1, part_N1 = rest_N[:, None] // count_N1, rest_N[:, None] % count_N1
    return j_B * whole_N1 + (start_N[:, None] + j_B * part_N1) // count_N1
