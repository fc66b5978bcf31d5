"""The teacher's best class as if it were the true label, where the teacher is sure enough.

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
    # Of equals the first, as sparse labels have it.
    best_N = labels.logits_NC.argmax(dim=1) if isinstance(labels, DenseLabels) else labels.ids_NK[:, 0]
    unheard_N = ~sure(labels, temperature, threshold)
    return cross_entropy(student_logits_NC, best_N.masked_fill(unheard_N, UNLABELLED))


def sure(labels: SoftLabels, temperature: float = 1.0, threshold: float = 0.0) -> Tensor:
    """Of which rows `weak` hears the teacher, [N]: whether max p_T is at least the threshold.

    Raises:
        ConfigError: the labels do not know this temperature, or are weights alone.

    """
    labels = not_sampled("weak", labels)
    if isinstance(labels, DenseLabels):
        log_p_N = tempered(labels.logits_NC, temperature).amax(dim=1)
    else:
        log_p_N = -labels.logsumexp_NG[:, grid_index(labels.temperatures, temperature)]
    return ~(log_p_N.exp() < threshold)
