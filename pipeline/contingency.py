"""How two partitions of the same samples go together: counts of pairs, and the information they share.

For clusters, whose numbers mean nothing: no accuracy, F1 or calibration can be told of them. Not for a classifier,
whose classes are those of the truth (`pipeline.tallies`); and not to compare many clusters of few samples, of which
chance alone makes it large (Vinh, Epps and Bailey 2010, JMLR 11, section 3).

Shape legend
    N  rows (samples)
    P  pairs of a true class and a cluster that occur
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass
class Contingency:
    """How many rows each pair of a true class and a cluster has, in memory for the pairs that occur."""

    pairs_P2: Numbers = field(default_factory=lambda: np.empty((0, 2), np.int64))
    counts_P: Numbers = field(default_factory=lambda: np.empty(0, np.int64))

    def update(self, true_N: Numbers, clusters_N: Numbers) -> None:
        """Count a batch; rows whose true class is not known, -1, are left out."""
        known_N = true_N >= 0
        more = np.stack([true_N[known_N], clusters_N[known_N]], axis=1).astype(np.int64)
        weights = np.concatenate([self.counts_P, np.ones(len(more), np.int64)])
        self.pairs_P2, places = np.unique(np.concatenate([self.pairs_P2, more]), axis=0, return_inverse=True)
        self.counts_P = np.zeros(len(self.pairs_P2), np.int64)
        np.add.at(self.counts_P, places.ravel(), weights)

    @property
    def rows(self) -> int:
        """How many have been counted."""
        return int(self.counts_P.sum())

    @property
    def nmi(self) -> float | None:
        """Normalised mutual information, from 0 (independent) to 1 (the same partition); None of no rows.

        I(U; V) / ((H(U) + H(V)) / 2), for U the true class and V the cluster: by the arithmetic mean of both entropies,
        as scikit-learn and torchmetrics have it by default (Vinh, Epps and Bailey 2010, JMLR 11, table 2, "NMI sum").
        Two partitions of one part each are the same: 1.
        """
        if not self.rows:
            return None
        true, cluster = (np.unique(each, return_inverse=True)[1] for each in self.pairs_P2.T)
        marginals = [np.bincount(each, self.counts_P)[each] for each in (true, cluster)]
        entropies = [float(-(self.counts_P * np.log(each / self.rows)).sum() / self.rows) for each in marginals]
        mean = sum(entropies) / 2
        if mean == 0:
            return 1.0
        surprise_P = np.log(self.counts_P * self.rows / (marginals[0] * marginals[1]))
        return min(1.0, max(0.0, float((self.counts_P * surprise_P).sum() / self.rows / mean)))
