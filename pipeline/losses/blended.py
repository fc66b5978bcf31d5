"""Hinton's loss of labels that were made ready: what does not depend on the student is known before it answers.

A small batch costs what its calls cost, for the network's work in between leaves none of their code in the processor's
caches. The true label's cross-entropy and the teacher's KL are both a sum over classes of w (log p - log q_T), so who
reads ahead makes w and log p of many batches at once, and a step computes both parts in one pass.

Shape legend
    N  rows (samples)
    S  summands: the true label at temperature 1, and the teacher at T
    C  classes
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.labels import BlendedLabels, DenseLabels
from pipeline.losses.groups import check_classes
from pipeline.losses.hard import UNLABELLED
from pipeline.losses.logspace import at_least_float32


class Shares(NamedTuple):
    """How much either part counts, and the temperature of the teacher's."""

    temperature: float
    hard: float
    soft: float


@np.errstate(all="ignore")  # what comes out as no number ends the run by its loss, which says so
def blend(labels: DenseLabels, labels_N: Tensor, shares: Shares) -> BlendedLabels | None:
    """What `blended` asks for, from labels in this machine's memory; None if a true label is neither a class nor -1.

    By NumPy, which does it in fewer and shorter calls than torch.
    """
    tempered_NC, true_N = labels.logits_NC.numpy() / np.float32(shares.temperature), labels_N.numpy()
    rows, classes = tempered_NC.shape
    if true_N.min(initial=UNLABELLED) < UNLABELLED or true_N.max(initial=UNLABELLED) >= classes:
        return None
    known_R = np.flatnonzero(true_N != UNLABELLED)
    weights_NSC, log_p_NSC = np.zeros((2, rows, 2, classes), tempered_NC.dtype)
    tempered_NC -= tempered_NC.max(axis=1, keepdims=True)
    log_p_NSC[:, 1] = tempered_NC - np.log(np.exp(tempered_NC).sum(axis=1, keepdims=True))
    weights_NSC[known_R, 0, true_N[known_R]] = shares.hard
    weights_NSC[:, 1] = shares.soft * np.exp(log_p_NSC[:, 1])
    temperatures_NS1 = np.tile(np.array([[1.0], [shares.temperature]], np.float32), (rows, 1, 1))
    made = temperatures_NS1, weights_NSC, log_p_NSC, weights_NSC == 0
    return BlendedLabels(*map(torch.from_numpy, made))


def blended(student_logits_NC: Tensor, labels: BlendedLabels) -> Tensor:
    """The sum of w (log p - log q_T) a row, [N]: hard CE(y, q) + soft KL(p_T || q_T).

    A class of no weight adds nothing, as in `weighted_sum`.

    Raises:
        ConfigError: the labels have another number of classes than the student.

    """
    check_classes(student_logits_NC, labels)
    student_NSC = at_least_float32(student_logits_NC)[:, None] / labels.temperatures_NS1
    told_NSC = (labels.log_p_NSC - torch.log_softmax(student_NSC, dim=2)).masked_fill(labels.nothing_NSC, 0.0)
    return (labels.weights_NSC * told_NSC).sum(dim=(1, 2))
