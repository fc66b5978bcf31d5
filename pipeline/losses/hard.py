"""What needs no teacher: the true label, and how sure the student is.

Shape legend
    N  rows (samples)
    C  classes
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.losses.logspace import at_least_float32, weighted_sum

UNLABELLED = -1


def cross_entropy(student_logits_NC: Tensor, labels_N: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log q[y] in nats a row, [N]; 0 for a row with label -1.

    With label smoothing s the target is (1 - s) at y plus s / C everywhere (Szegedy et al. 2016, arXiv 1512.00567,
    section 7).
    """
    return F.cross_entropy(
        at_least_float32(student_logits_NC),
        labels_N,
        ignore_index=UNLABELLED,
        reduction="none",
        label_smoothing=label_smoothing,
    )


def entropy(student_logits_NC: Tensor) -> Tensor:
    """H(q) = -sum q log q in nats a row, [N], 0 to log C.

    As a regulariser: with a negative weight it keeps the student from certainty (Pereyra et al. 2017, arXiv 1701.06548,
    section 3), with a positive one it drives rows without a label to it (Grandvalet and Bengio 2004).
    """
    log_q_NC = torch.log_softmax(at_least_float32(student_logits_NC), dim=1)
    return -weighted_sum(log_q_NC.exp(), log_q_NC)
