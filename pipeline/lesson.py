"""A lesson: who learns, from which labels, and what it is told of a batch.

Shape legend: N samples of the dataset, or rows of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.datasets import Dataset
from pipeline.errors import DatasetError
from pipeline.features import Hint
from pipeline.gradients import StudentGradients
from pipeline.labels import BlendedLabels, DenseLabels, Tensors
from pipeline.objective import Objective
from pipeline.order import ONE_VIEW, ViewOrder, Windows
from pipeline.reader import UNLABELLED, Batch, Rows
from pipeline.store.mapped import LabelCache
from pipeline.training import Loss
from pipeline.views import viewed

FEW = 2**14  # logits of a batch: with more, one pass takes longer than the loss's two parts, which have no one-hot rows


@dataclass(frozen=True)
class Told(Tensors):
    """What one student is told of a batch that others may see too."""

    labels_N: torch.Tensor | None  # int64; -1 where it may not see the true label; None: it may see all
    blended: BlendedLabels | None = None  # both labels in one, made ready for its loss

    def of(self, batch: Batch) -> Batch:
        """The batch as that student hears of it."""
        labels_N = batch.labels_N if self.labels_N is None else self.labels_N
        return replace(batch, labels_N=labels_N, blended=self.blended)


@dataclass(frozen=True)
class Lesson:
    """Who learns, told how, from which labels, and what it is tested on."""

    build: Callable[[], torch.nn.Module]
    loss: Loss
    soft: bool  # whether it hears the teacher
    test: Dataset | None = None
    test_cache: LabelCache | None = None  # the teacher's labels of what it is tested on
    visible_N: Rows | None = None  # the true labels that it may see, -1 where it may not; None for all there are
    windows: Windows | None = None  # within which its rows are shuffled; None for over all of them
    views: ViewOrder = ONE_VIEW
    hints: tuple[Hint, ...] = ()  # what it is told of its teacher's inside
    gradients: StudentGradients | None = None  # what it is told of how its teacher's answers change with the input
    hears: object = None  # which teachers, if not the cache's own alone: who hears others is taught apart
    clustered: bool = False  # whether its logits are of clusters, which no true class is one of

    def labels(self, dataset: Dataset) -> Rows | None:
        """The true labels it learns from, [N]."""
        return dataset.labels if self.visible_N is None else self.visible_N

    def told(self, batch: Batch) -> Told:
        """What it is told of a batch in this machine's memory."""
        return Told(None if self.visible_N is None else torch.from_numpy(self.visible_N[batch.rows]))

    def made_ready(self, batch: Batch, most: int) -> Told:
        """The same, and of few classes made ready for its loss; of several batches in one, each with `most` rows."""
        told = self.told(batch)
        labels_N = batch.labels_N if told.labels_N is None else told.labels_N
        few = isinstance(batch.soft, DenseLabels) and most * batch.soft.logits_NC.shape[1] <= FEW
        blended = self.loss.blend(labels_N, batch.soft) if few and isinstance(self.loss, Objective) else None
        return replace(told, blended=blended)

    def usable(self, dataset: Dataset) -> Rows | None:
        """The rows that teach it something: None for all, as for those that hear the teacher.

        Raises:
            DatasetError: it hears no teacher and sees no true label.

        """
        labels = self.labels(dataset)
        if viewed(dataset).positions is not None and not viewed(dataset).targets:
            raise DatasetError("There is nothing to learn from: no position of any sample has a target.")
        if self.soft or viewed(dataset).positions is not None:
            return None
        if labels is not None and labels.min() > UNLABELLED:
            return None
        rows = np.empty(0, np.int64) if labels is None else np.flatnonzero(labels != UNLABELLED)
        if not rows.size:
            raise DatasetError(
                "There is nothing to learn from: the dataset has no true labels, and no cache was given."
            )
        return rows
