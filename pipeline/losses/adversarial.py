"""What a discriminator of logits is told, and what a student is told by it.

A discriminator answers logits with a verdict: how much they look like the teacher's, and of which class they are (Xu et
al. 2018, arXiv 1709.00513: a conditional adversarial network). Not for sparse labels: a row of which only a part was
kept looks like no student's.

Shape legend
    N  rows (samples)
    C  classes
    V  of a verdict: 1 + C, the teacher's likeness in logits and then the classes
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.losses.hard import cross_entropy

Judge = Callable[[Tensor], Tensor]
"""From logits [N, C] to verdicts [N, V]."""


def adversarial(student_logits_NC: Tensor, labels_N: Tensor, judge: Judge) -> Tensor:
    """-log P(teacher | z) - log P(y | z) in nats a row, [N], by a judge; the second for rows that have a true label.

    The student's part: to be taken for the teacher, and for the right class. The first is in the form whose gradient
    does not vanish where the judge is sure (Goodfellow et al. 2014, arXiv 1406.2661, section 3).
    """
    return told_apart(judge(student_logits_NC), labels_N, teacher=True)


def told_apart(verdict_NV: Tensor, labels_N: Tensor, *, teacher: bool) -> Tensor:
    """-log P(who) - log P(y) in nats a row, [N]: what a judge pays for a verdict on the teacher, or on the student.

    Args:
        verdict_NV: on each row.
        labels_N: the true classes, -1 for none, which costs nothing.
        teacher: whether the rows are the teacher's.

    """
    likeness_N = verdict_NV[:, 0]
    return F.softplus(-likeness_N if teacher else likeness_N) + cross_entropy(verdict_NV[:, 1:], labels_N)
