"""What the true label says.

Shape legend
    N  rows (samples)
    C  classes
"""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.losses.logspace import at_least_float32

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
