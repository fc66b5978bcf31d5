"""From row numbers to the rows of a cache: dataset, view, teacher and encoding, joined for one batch.

Loading needs no device and may run in any thread; labelling runs on the teacher's device.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import encodings
from pipeline.datasets import Dataset
from pipeline.labels import LabelSpec
from pipeline.teachers import Teacher
from pipeline.views import fingerprints

Block = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Loaded:
    """A batch in memory, before the teacher sees it."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    inputs: NDArray[np.generic]
    fingerprints: NDArray[np.uint32]


@dataclass(frozen=True)
class Labeller:
    """Labels batches of one dataset with one teacher in one encoding."""

    dataset: Dataset
    teacher: Teacher
    spec: LabelSpec

    @property
    def batch_size(self) -> int:
        """Rows asked of the teacher at once."""
        return self.teacher.settings.batch_size

    def load(self, start: int, stop: int) -> Loaded:
        """Rows `start` to `stop` of the dataset, read and fingerprinted."""
        rows = np.arange(start, stop)
        inputs = self.dataset.inputs(rows)
        labels = self.dataset.labels
        known = np.full(rows.size, -1) if labels is None else labels[rows]
        return Loaded(self.dataset.ids[rows], known, inputs, fingerprints(inputs))

    def label(self, batch: Loaded) -> Block:
        """What the cache stores of a batch, every array `[N, ...]`.

        Raises:
            TeacherError: logits that are not finite or do not fit the encoding, naming their sample ids.

        """
        logits = self.teacher.logits(batch.inputs)
        labels = torch.from_numpy(batch.labels).to(logits.device)
        record = encodings.encode(self.spec, logits, labels, batch.ids)
        return {name: tensor.cpu().numpy() for name, tensor in record.items()} | {
            "sample_id": batch.ids,
            "label": batch.labels.astype(np.int32),
            "input_crc32c": batch.fingerprints,
        }
