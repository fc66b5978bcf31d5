"""How a network does on held-out samples: beside the truth, where it is known, and beside a teacher.

Of sequences, whose classes are the tokens of a vocabulary, F1, AUROC and a confusion are not asked for: they would take
memory and time for every token, and say little.

Shape legend: N rows of a batch, R rows of logits of a batch (N, or all targets of its sequences), X the shape of one
input, C classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.agreement import accepted, accepts, best
from pipeline.ahead import ahead
from pipeline.contingency import Contingency
from pipeline.counts import Counts
from pipeline.datasets import Dataset
from pipeline.errors import DatasetError
from pipeline.labels import MixedLabels, SampledLabels, SoftLabels
from pipeline.reader import UNLABELLED, Reader
from pipeline.store.mapped import LabelCache
from pipeline.tallies import Truth
from pipeline.views import viewed

MOST_NATS = 700  # beyond which exp(x) is no float


@dataclass(frozen=True)
class Evaluation:
    """How a network does on the samples of a dataset, or on the targets of its sequences: what can be told of them."""

    accuracy: float | None = None  # the share whose largest logit is the true class's
    ece: float | None = None  # expected calibration error, of 15 bins: Guo et al. (2017), arXiv 1706.04599, equation 3
    cross_entropy: float | None = None  # mean negative log-likelihood, in nats; of a language model, log perplexity
    agreement: float | None = None  # the share whose likeliest class is the teacher's, where its labels tell that
    accepted: float | None = None  # of a draft's tokens by the teacher: see `pipeline.agreement.accepted`
    top5: float | None = None  # the share whose true class is among the five largest logits; of more than five classes
    macro_f1: float | None = None  # the mean F1 of the classes that occur, in the truth or in the answers
    auroc: float | None = None  # of each class against the rest, in the mean: see `pipeline.tallies.Ranking`
    nmi: float | None = None  # of clusters instead of all of these: see `pipeline.contingency`
    counts: Counts | None = None  # what is drawn: confusion and reliability

    @property
    def perplexity(self) -> float | None:
        """The number of equally likely classes that would surprise as much; infinite beyond what a float holds."""
        if self.cross_entropy is None:
            return None
        return math.exp(self.cross_entropy) if self.cross_entropy < MOST_NATS else math.inf

    @property
    def figures(self) -> dict[str, float]:
        """All that are known, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


@torch.no_grad()
def evaluate(
    predict: Callable[[NDArray[np.generic]], torch.Tensor],
    dataset: Dataset,
    batch_size: int,
    cache: LabelCache | None = None,
    *,
    closely: bool = False,
) -> Evaluation:
    """How the answers to the samples, or to all targets, stand to the truth, where it is known, and to a teacher.

    Args:
        predict: from inputs to logits.
        dataset: of the samples.
        batch_size: how many are asked about at once.
        cache: the teacher's labels of them; left out, nothing is said of it.
        closely: also top-5, macro F1, AUROC and what is drawn, which take longer; never of sequences.

    Raises:
        DatasetError: there is nothing to hold the answers against.
        MismatchError: the cache is of other samples.

    """
    seen = viewed(dataset)
    reader, truth, beside = Reader(dataset, cache), Truth(closely and seen.positions is None), _Beside()
    asked = labelled_rows(dataset) if cache is None else np.arange(len(dataset))
    cut = (asked[start : start + batch_size] for start in range(0, asked.size, batch_size))
    for batch in ahead(cut, reader.__getitems__, 1):
        if not batch.taught:
            continue
        logits_RC = batch.answers(predict(batch.inputs_NX.numpy()).cpu()).float()
        known_R = batch.labels_N != UNLABELLED
        if known_R.any():
            truth.update(logits_RC[known_R], batch.labels_N[known_R])
        if batch.soft and not isinstance(batch.soft, MixedLabels):
            beside.update(logits_RC, batch.soft)
    if not truth.rows and not beside.rows:
        raise DatasetError("[test] has no targets, so nothing can be measured on it. Give it some, or leave it out.")
    told = {"agreement": beside.agreement, "accepted": beside.accepted}
    return Evaluation(**truth.figures(), **told, counts=truth.counts(seen.class_names))


@torch.no_grad()
def evaluate_clusters(
    predict: Callable[[NDArray[np.generic]], torch.Tensor], dataset: Dataset, batch_size: int
) -> Evaluation:
    """How the likeliest clusters of samples go with their true classes, of those that have one: `nmi` alone.

    Args:
        predict: from inputs to logits of clusters.
        dataset: of the samples.
        batch_size: how many are asked about at once.

    """
    reader, asked, pairs = Reader(dataset), labelled_rows(dataset), Contingency()
    cut = (asked[start : start + batch_size] for start in range(0, asked.size, batch_size))
    for batch in ahead(cut, reader.__getitems__, 1):
        likeliest_N = predict(batch.inputs_NX.numpy()).argmax(dim=1).cpu()
        pairs.update(batch.labels_N.numpy(), likeliest_N.numpy())
    return Evaluation(nmi=pairs.nmi)


@dataclass
class _Beside:
    """What is counted of a student beside its teacher."""

    same: int = 0
    known: int = 0
    overlap: float = 0.0
    overlaps: bool = True  # whether it can be told
    rows: int = 0

    def update(self, logits_RC: torch.Tensor, soft: SoftLabels) -> None:
        """Count a batch."""
        best_R = best(soft)
        self.known += int((best_R >= 0).sum())
        self.same += int((best_R == logits_RC.argmax(dim=1)).sum())
        self.rows += len(logits_RC)
        if not isinstance(soft, SampledLabels) and accepts(soft):
            self.overlap += accepted(logits_RC, soft).sum(dtype=torch.float64).item()
        else:
            self.overlaps = False

    @property
    def agreement(self) -> float | None:
        """Where every row tells its likeliest class: those that do are the sharp ones, where agreeing is easy."""
        return self.same / self.rows if self.rows and self.known == self.rows else None

    @property
    def accepted(self) -> float | None:
        return self.overlap / self.rows if self.rows and self.overlaps else None


def labelled_rows(dataset: Dataset) -> NDArray[np.int64]:
    """The samples that have a true label, or targets."""
    if viewed(dataset).positions is not None:
        return np.arange(len(dataset))
    return np.flatnonzero(dataset.labels != UNLABELLED) if dataset.labels is not None else np.empty(0, np.int64)


def measurable(dataset: Dataset | None) -> Dataset | None:
    """The held-out samples, if the truth of any is known."""
    return dataset if dataset is not None and labelled_rows(dataset).size else None
