"""K-means over rows that are read in batches, and what its centres say of a row; the door of scikit-learn's k-means.

Which rows come together is drawn by the seed, so a batch is of all kinds of samples, also where they are stored class
by class. Memory is that of a batch and the centres, not of the rows. The same rows in the same places give the same
centres, bit for bit, on one machine; on another, or with another version, the last bits may differ.

Not where clusters are of other shapes than balls, or numbers of a row of very different size: k-means measures all by
one ruler, so whiten them first.

Shape legend
    N  rows (samples)
    D  numbers of a row
    K  clusters
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from pipeline.seeds import seed_of
from pipeline.shuffles import Shuffle

Rows = NDArray[np.int64]
Floats = NDArray[np.float32] | NDArray[np.float64]
BATCH = 1024  # rows of a step (Sculley 2010 takes 1,000); more, where there are more clusters
RUN = 16  # rows that are read side by side: pages hold several
SAMPLE = 3  # the start is chosen among so many times the rows of a step
REASSIGNED = 0.01  # a centre with less than this share of the fullest one's rows is moved to a row by chance
FARTHEST = -60_000.0  # of a logit: float16 holds it, and exp of it is nothing
SEEDS = 2**32  # that scikit-learn knows
ROOM = 2**23  # numbers in memory at a time


@dataclass(frozen=True)
class Samples:
    """Rows to be read by place: `read` is given places `[n]` and answers `[n, D]` in float32."""

    read: Callable[[Rows], NDArray[np.float32]]
    count: int
    width: int

    def batches(self, clusters: int, seed: int) -> Iterator[Rows]:
        """All places once, shuffled in short runs; each batch but the last has at least as many rows as clusters."""
        runs, at_once = -(-self.count // RUN), max(BATCH // RUN, clusters // RUN + 2)  # the last run may be a short one
        shuffle = Shuffle(runs, seed)
        for start in range(0, runs, at_once):
            first = shuffle(np.arange(start, min(start + at_once, runs))) * RUN
            places = (first[:, None] + np.arange(RUN)).ravel()
            yield places[places < self.count]


def blocks(count: int, numbers: int) -> Iterator[Rows]:
    """Places 0 to count - 1 in order, as many at a time as there is room for, each with so many numbers."""
    rows = max(1, ROOM // numbers)
    return (np.arange(start, min(start + rows, count)) for start in range(0, count, rows))


@dataclass(frozen=True)
class Centres:
    """K centres, and the variance of rows about the nearest of them: one for all clusters and directions."""

    origin_D: NDArray[np.float32]  # what all rows are counted from, so that their squares lose no digits
    centres_KD: NDArray[np.float32]  # counted from it
    variance: float

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides assignments."""
        kept = (self.origin_D, self.centres_KD, np.float64(self.variance))
        return sha256(b"".join(each.astype(each.dtype.newbyteorder("<")).tobytes() for each in kept)).hexdigest()

    def squares(self, rows_ND: Floats) -> NDArray[np.float64]:
        """Squared distances to all centres, [N, K]."""
        moved_ND, centres_KD = rows_ND.astype(np.float64) - self.origin_D, self.centres_KD.astype(np.float64)
        products_NK = moved_ND @ centres_KD.T
        squares_NK: NDArray[np.float64] = (
            (moved_ND**2).sum(axis=1)[:, None] - 2 * products_NK + (centres_KD**2).sum(axis=1)
        )
        return np.maximum(squares_NK, 0.0, out=squares_NK)

    def logits(self, rows_ND: Floats, temperature: float) -> NDArray[np.float64]:
        """Log posterior of each cluster but for a constant of the row, [N, K]: 0 for the nearest, less for others.

        -(|x - c|^2 - |x - c*|^2) / (2 s^2 temperature), c* the nearest centre: the responsibilities of soft k-means,
        that is of a mixture of equally likely spherical Gaussians (MacKay 2003, "Information Theory, Inference, and
        Learning Algorithms", section 20.4, with stiffness 1 / (s^2 temperature), and 22.2). s^2 is the mean squared
        distance to the nearest centre, divided by D: what hard assignments estimate the variance of one direction by.
        Nothing is less than -60,000, where a softmax gives 0 and float16 still holds the number.
        """
        squares_NK = self.squares(rows_ND)
        squares_NK -= squares_NK.min(axis=1, keepdims=True)
        ruler = max(2 * self.variance * temperature, float(np.finfo(np.float64).tiny))
        with np.errstate(over="ignore"):  # as of rows that are their centres: all others are infinitely far then
            logits_NK: NDArray[np.float64] = np.maximum(squares_NK / -ruler, FARTHEST)
        return logits_NK


def fit(samples: Samples, clusters: int, *, seed: int, passes: int, each: Callable[[int], object]) -> Centres:
    """Centres of the rows, by mini-batch k-means (Sculley 2010, "Web-scale k-means clustering", WWW, algorithm 1).

    They begin as greedy k-means++ chooses them (Arthur and Vassilvitskii 2007) among the rows of a few batches. In all
    passes but the last, a centre with hardly any rows is moved to a row by chance.

    Args:
        samples: at least as many as clusters.
        clusters: how many, K.
        seed: of the start, and of which rows come together.
        passes: over all rows; one more measures the variance.
        each: is told how many rows have been read, and may raise to end it.

    """
    from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus  # noqa: PLC0415  # takes over a second

    chance, first_ND = seed_of("k-means", seed) % SEEDS, _first(samples, clusters, seed)
    origin_D = first_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    start_KD, _ = kmeans_plusplus(first_ND - origin_D, clusters, random_state=chance)
    means = MiniBatchKMeans(clusters, init=start_KD, n_init=1, random_state=chance, compute_labels=False)
    for turn in range(passes):
        means.set_params(reassignment_ratio=REASSIGNED if turn < passes - 1 else 0.0)
        for places in samples.batches(clusters, seed_of("rows of k-means", seed, turn)):
            means.partial_fit(samples.read(places) - origin_D)
            each(places.size)
    found = Centres(origin_D, np.ascontiguousarray(means.cluster_centers_, np.float32), 0.0)
    total = 0.0
    for places in blocks(samples.count, samples.width + clusters):
        total += float(found.squares(samples.read(places)).min(axis=1).sum())
        each(places.size)
    return Centres(origin_D, found.centres_KD, total / samples.count / samples.width)


def _first(samples: Samples, clusters: int, seed: int) -> NDArray[np.float32]:
    """The rows that a start is chosen among, of the first batches of an order of their own."""
    batches = samples.batches(clusters, seed_of("start of k-means", seed))
    return np.concatenate([samples.read(places) for _, places in zip(range(SAMPLE), batches, strict=False)])
