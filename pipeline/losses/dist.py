"""Correlation instead of equality: what matters is how probabilities relate, within a row and within a batch.

Shape legend
    N  rows (samples)
    C  classes
"""

from torch import Tensor
from torch.linalg import vector_norm

from pipeline.labels import SoftLabels
from pipeline.losses.groups import check_classes, tempered, whole_rows

EPSILON = 1e-8  # as the authors', besides the product of norms


def dist(
    student_logits_NC: Tensor, labels: SoftLabels, temperature: float, beta: float = 2.0, gamma: float = 2.0
) -> Tensor:
    """Beta (1 - rho(p_n, q_n)) + gamma mean_c (1 - rho(p_c, q_c)) a row, [N].

    rho is Pearson's correlation: of a row's probabilities p_n over classes (inter-class), and of a class's p_c over the
    batch (intra-class), so the second term is one number, the same for each row. Huang et al. (2022), "Knowledge
    Distillation from A Stronger Teacher", arXiv 2205.10536. The factor T^2 of their code is the caller's.

    As in the authors' code, 1e-8 is added to the product of norms: constant probabilities, which have no correlation,
    count as uncorrelated (rho = 0), and so nearly do those that vary by less than 1e-4. Not for thousands of classes at
    low temperature, where that is most columns. A batch of one row has no second term.

    Raises:
        ConfigError: the labels are not dense, or have another number of classes than the student.

    """
    labels = whole_rows("dist", labels)
    check_classes(student_logits_NC, labels)
    p_NC, q_NC = (tempered(logits_NC, temperature).exp() for logits_NC in (labels.logits_NC, student_logits_NC))
    loss_N = beta * (1 - _correlation(p_NC, q_NC, dim=1))
    if len(p_NC) > 1:
        loss_N = loss_N + gamma * (1 - _correlation(p_NC, q_NC, dim=0)).mean()
    return loss_N


def _correlation(x: Tensor, y: Tensor, dim: int) -> Tensor:
    x, y = x - x.mean(dim=dim, keepdim=True), y - y.mean(dim=dim, keepdim=True)
    norms: Tensor = vector_norm(x, dim=dim) * vector_norm(y, dim=dim)
    return (x * y).sum(dim=dim) / (norms + EPSILON)
