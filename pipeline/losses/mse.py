"""Squared differences of logits.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
"""

from torch import Tensor

from pipeline.labels import DenseLabels, SoftLabels
from pipeline.losses.groups import check_classes, not_sampled
from pipeline.losses.logspace import at_least_float32


def mse_logits(student_logits_NC: Tensor, labels: SoftLabels) -> Tensor:
    """Mean over classes of (z - z')^2 a row, [N], for z' the teacher's logits, both counted from the mean of their row.

    As Ba and Caruana (2014), arXiv 1312.6184, but for the means and a factor: softmax does not see a shift, so a
    student need not learn it. T^2 KL(p_T || q_T) goes to half of this as T grows (Hinton et al. 2015, arXiv 1503.02531,
    equation 4).

    Of sparse labels the kept classes are exact. The differences of all classes sum to zero, so those of the others sum
    to minus that of the kept ones, and by Jensen's inequality their squares to no less than if all were equal: a
    lower bound of the dense value, equal to it when K = C.

    Raises:
        ConfigError: the labels have another number of classes than the student, or are weights alone.

    """
    labels = not_sampled("mse", labels)
    check_classes(student_logits_NC, labels)
    student_NC = at_least_float32(student_logits_NC)
    if isinstance(labels, DenseLabels):
        difference_NC = student_NC - labels.logits_NC
        return (difference_NC - difference_NC.mean(dim=1, keepdim=True)).square().mean(dim=1)
    student_NK = student_NC.gather(1, labels.ids_NK) - student_NC.mean(dim=1, keepdim=True)
    difference_NK = student_NK - (labels.logits_NK - labels.mean_N[:, None])
    squares_N = difference_NK.square().sum(dim=1)
    others = labels.classes - labels.ids_NK.shape[1]
    if others:
        squares_N = squares_N + difference_NK.sum(dim=1).square() / others
    return squares_N / labels.classes
