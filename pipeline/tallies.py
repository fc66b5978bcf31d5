"""What is counted of answers beside the truth, batch by batch, in memory that does not grow with rows.

Shape legend
    R  rows of logits of a batch
    C  classes
    B  bins of log odds
    M  bins of confidence
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from pipeline.counts import BINS, Counts
from pipeline.losses import cross_entropy

TOP = 5
MOST_CLASSES = 1000  # of which what takes memory for pairs of classes is counted: 8 MB, and as much twice for ranks
ODDS_BINS, BIN_WIDTH = 1024, 1 / 8
LEAST_LOG_ODDS = -92.0  # to 36: above, one minus p is no float64 any more


@dataclass
class Truth:
    """Answers beside the truth; looked at closely, also what only a classifier of few classes is asked for."""

    closely: bool = False
    rows: int = 0
    surprise: float = 0.0
    bins_3M: Tensor = field(default_factory=lambda: torch.zeros(3, BINS, dtype=torch.float64))
    right: MulticlassAccuracy | None = None
    close: "_Close | None" = None

    def update(self, logits_RC: Tensor, labels_R: Tensor) -> None:
        """Count a batch, all of whose rows have a true label."""
        classes = logits_RC.shape[1]
        if self.right is None:
            # One rank tests, alone: it must not wait for the others to add what they have counted.
            self.right = MulticlassAccuracy(classes, average="micro", sync_on_compute=False)
            self.close = _Close(classes) if self.closely else None
        self.rows += len(labels_R)
        self.surprise += cross_entropy(logits_RC, labels_R).sum(dtype=torch.float64).item()
        self.right.update(logits_RC, labels_R)
        self.bins_3M += _calibration(logits_RC, labels_R)
        if self.close is not None:
            self.close.update(logits_RC, labels_R)

    def figures(self) -> dict[str, float | None]:
        """Of all rows so far: accuracy, calibration error, cross entropy; and those of a close look."""
        if self.right is None:
            return {}
        ece = float((self.bins_3M[2] - self.bins_3M[1]).abs().sum()) / self.rows
        cheap = {"accuracy": float(self.right.compute()), "ece": ece, "cross_entropy": self.surprise / self.rows}
        return {**cheap, **(self.close.figures() if self.close else {})}

    def counts(self, class_names: tuple[str, ...] | None) -> Counts | None:
        """What is drawn of a close look."""
        if self.close is None:
            return None
        rows, confidence, right = self.bins_3M.tolist()
        bins = tuple((int(many), sure, int(true)) for many, sure, true in zip(rows, confidence, right, strict=True))
        classes, confusion = self.close.classes, self.close.confusion_of()
        names = class_names if class_names and len(class_names) == classes else None
        return Counts(classes=classes, class_names=names, bins=bins, confusion=confusion)


def _calibration(logits_RC: Tensor, labels_R: Tensor) -> Tensor:
    """Of each bin of confidence how many rows, the sum of confidences, how many are right, [3, M]: see `Counts`."""
    most_R, likeliest_R = logits_RC.max(dim=1)
    # An answer that is no number is confident of nothing.
    sure_R = (logits_RC - most_R[:, None]).exp_().sum(dim=1).reciprocal().double().nan_to_num(0.0)
    bin_R = (sure_R * BINS).ceil().clamp(1, BINS).long() - 1
    figures = torch.ones_like(sure_R), sure_R, (likeliest_R == labels_R).double()
    return torch.stack([torch.bincount(bin_R, figure_R, BINS) for figure_R in figures])


class _Close:
    """What is asked of a classifier once: the counts behind its top-5, its F1, its ROC curves and its mistakes."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        few = classes <= MOST_CLASSES
        self.f1 = MulticlassF1Score(classes, average="macro", sync_on_compute=False)
        self.top = MulticlassAccuracy(classes, TOP, "micro", sync_on_compute=False) if classes > TOP else None
        self.confusion = MulticlassConfusionMatrix(classes, sync_on_compute=False) if few else None
        self.ranking = Ranking(classes) if few else None

    def update(self, logits_RC: Tensor, labels_R: Tensor) -> None:
        """Count a batch."""
        for metric in (self.f1, self.top, self.confusion, self.ranking):
            if metric is not None:
                metric.update(logits_RC, labels_R)

    def figures(self) -> Mapping[str, float | None]:
        """Those that can be told."""
        return {
            "top5": float(self.top.compute()) if self.top else None,
            "macro_f1": float(self.f1.compute()),
            "auroc": self.ranking.auroc() if self.ranking else None,
        }

    def confusion_of(self) -> tuple[tuple[int, int, int], ...] | None:
        """True class, class it was taken for, rows: where there are any."""
        if self.confusion is None:
            return None
        rows_CC = self.confusion.compute().numpy()
        true, taken = np.nonzero(rows_CC)
        return tuple(zip(true.tolist(), taken.tolist(), rows_CC[true, taken].tolist(), strict=True))


class Ranking:
    """The area under the ROC curve of each class against the rest, from histograms of log odds.

    The probability that a row of a class is given more of it than a row of another class, a tie counting half (Hanley
    and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic (ROC) curve", Radiology
    143(1)). Ties are rows of one bin: 1,024 bins of log p/(1-p), each an eighth wide, from -92 to 36. So the error is
    at most half the share of pairs that meet in a bin.

    Why not torchmetrics' MulticlassAUROC: to take no memory for rows, it compares every probability with every
    threshold, which took 18 s for 1,024 rows of 1,000 classes and 200 thresholds on two cores; evenly spaced ones do
    not tell apart what is below the first; and a class that no row has counts as an area of 0.
    """

    def __init__(self, classes: int) -> None:
        self.all_CB = torch.zeros(classes, ODDS_BINS, dtype=torch.int64)
        self.own_CB = torch.zeros(classes, ODDS_BINS, dtype=torch.int64)

    def update(self, logits_RC: Tensor, labels_R: Tensor) -> None:
        """Count a batch."""
        log_p_RC = logits_RC.double().log_softmax(dim=1)
        odds_RC = log_p_RC - (-torch.expm1(log_p_RC)).log()
        place_RC = (odds_RC - LEAST_LOG_ODDS) / BIN_WIDTH
        bin_RC = place_RC.nan_to_num(0.0).clamp(0, ODDS_BINS - 1).long()
        bin_RC += torch.arange(len(self.all_CB)) * ODDS_BINS
        own_R = bin_RC.gather(1, labels_R[:, None]).squeeze(1)
        for counts_CB, where in ((self.all_CB, bin_RC.flatten()), (self.own_CB, own_R)):
            counts_CB.add_(torch.bincount(where, minlength=counts_CB.numel()).view_as(counts_CB))

    def auroc(self) -> float | None:
        """The mean area of those classes that some rows have and some have not; None if there is no such class."""
        own_CB, rest_CB = self.own_CB.double(), (self.all_CB - self.own_CB).double()
        below_CB = rest_CB.cumsum(dim=1) - rest_CB / 2
        pairs_C = own_CB.sum(dim=1) * rest_CB.sum(dim=1)
        area_C = ((own_CB * below_CB).sum(dim=1) / pairs_C)[pairs_C > 0]
        return float(area_C.mean()) if len(area_C) else None
