"""The teacher's best class as if it were the true label.

Shape legend
    N  rows (samples)
    C  classes
    G  temperatures of the grid
"""

from torch import Tensor

from pipeline.labels import DenseLabels, SoftLabels
from pipeline.losses.groups import check_classes, grid_index, not_sampled, tempered
from pipeline.losses.hard import UNLABELLED, cross_entropy


def weak(student_logits_NC: Tensor, labels: SoftLabels, temperature: float = 1.0, threshold: float = 0.0) -> Tensor:
    """-log q[argmax p] in nats a row, [N]; 0 where max p_T is less than the threshold.

    The pseudo-label of Lee (2013), "Pseudo-Label", with the confidence of Sohn et al. (2020), "FixMatch", arXiv
    2001.07685, equation 4. The student's temperature is 1: a label has none.

    Raises:
        ConfigError: the labels do not know this temperature, have another number of classes, or are weights alone.

    """
    labels = not_sampled("weak", labels)
    check_classes(student_logits_NC, labels)
    if isinstance(labels, DenseLabels):
        best_N = labels.logits_NC.argmax(dim=1)  # of equals the first, as sparse labels have it
        log_p_N = tempered(labels.logits_NC, temperature).amax(dim=1)
    else:
        best_N = labels.ids_NK[:, 0]
        log_p_N = -labels.logsumexp_NG[:, grid_index(labels.temperatures, temperature)]
    return cross_entropy(student_logits_NC, best_N.masked_fill(log_p_N.exp() < threshold, UNLABELLED))
