"""What is made of the rows of one shard: arrays of fixed size that add up to the figures of all.

Shape legend
    N  rows of a shard
    C  classes
    F  figures: rows, and those of `SUMMED`
    M  bins
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.counts import BINS

Column = NDArray[np.float64]
SUMMED = ("entropy_low", "entropy_high", "confidence", "p_true", "agreement", "tail")
ENTROPY_BINS = 50
TAIL_EDGES = np.concatenate([[0.0], np.logspace(-9, 0, 9 * 32 + 1)])
"""A bin is what is above one edge, up to and with the next, 7.5 % further on; the first bin is 0 alone."""


@dataclass(frozen=True)
class Part:
    """What to make of a shard's rows, of what shape that is, and how those of two shards become one."""

    of: Callable[[NDArray[np.void]], Column]
    shape: tuple[int, ...]
    merge: Literal["sum", "max"] = "sum"


def parts(classes: int) -> dict[str, Part]:
    """All that statistics are made of, besides the confusion."""
    return {
        "by_class": Part(partial(by_class, classes), (1 + len(SUMMED), classes + 1)),
        "calibration": Part(calibration, (3, BINS)),
        "likeliest": Part(partial(likeliest, classes), (classes,)),
        "entropy": Part(partial(entropy, math.log(classes)), (ENTROPY_BINS,)),
        "tail": Part(tail, (TAIL_EDGES.size,)),
        "largest_tail": Part(largest_tail, (), "max"),
    }


def by_class(classes: int, rows: NDArray[np.void]) -> Column:
    """The number of rows of each true class and the sums of their figures, `[F, C + 1]`; the last has none."""
    class_N = np.where(rows["label"] < 0, classes, rows["label"])
    figures = [np.ones(len(rows)), *(_right(rows) if name == "agreement" else rows[name] for name in SUMMED)]
    return np.stack([np.bincount(class_N, figure_N, classes + 1) for figure_N in figures])


def calibration(rows: NDArray[np.void]) -> Column:
    """Of the labelled rows in each bin of confidence: how many, the sum of confidences, how many are right, `[3, M]`.

    A bin is above one edge, up to and with the next, as in Guo et al. (2017), arXiv 1706.04599, section 2.
    """
    known = rows[(rows["label"] >= 0) & ~np.isnan(rows["confidence"])]
    bin_N = np.ceil(known["confidence"] * BINS).clip(1, BINS).astype(np.int64) - 1
    figures = (np.ones(len(known)), known["confidence"], _right(known))
    return np.stack([np.bincount(bin_N, figure_N, BINS) for figure_N in figures])


def likeliest(classes: int, rows: NDArray[np.void]) -> Column:
    """Of how many rows each class is the likeliest, `[C]`; a row that does not tell is nowhere."""
    return np.bincount(rows["top"][rows["top"] >= 0], minlength=classes).astype(np.float64)


def entropy(most: float, rows: NDArray[np.void]) -> Column:
    """How many rows there are in each of 50 bins from 0 to the most it can be, `[M]`; those in doubt at the middle."""
    middle_N = (rows["entropy_low"] + rows["entropy_high"]) / 2
    known_N = middle_N[~np.isnan(middle_N)].clip(0, most)
    return np.histogram(known_N, ENTROPY_BINS, (0, most))[0].astype(np.float64)


def tail(rows: NDArray[np.void]) -> Column:
    """How many rows there are in each bin of `TAIL_EDGES`, `[M]`."""
    known_N = rows["tail"][~np.isnan(rows["tail"])]
    bin_N = np.searchsorted(TAIL_EDGES, known_N).clip(max=TAIL_EDGES.size - 1)
    return np.bincount(bin_N, minlength=TAIL_EDGES.size).astype(np.float64)


def largest_tail(rows: NDArray[np.void]) -> Column:
    """The largest, `[]`."""
    return np.asarray(rows["tail"].max())


def _right(rows: NDArray[np.void]) -> Column:
    """1 where the likeliest class is the true one, NaN where it is not known."""
    return np.where(rows["top"] < 0, math.nan, rows["top"] == rows["label"])
