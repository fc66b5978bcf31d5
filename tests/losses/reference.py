"""The losses once more, in NumPy float64, row by row and straight from the papers' formulas: slow, short, independent.

Every function takes one row's logits, teacher's first, but `dist`, which takes a batch.
"""

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]


def log_softmax(logits: Row, temperature: float = 1.0) -> Row:
    """Z / T - log sum exp(z / T)."""
    counted = (logits - logits.max()) / temperature
    return counted - np.log(np.exp(counted).sum())


def softmax(logits: Row, temperature: float = 1.0) -> Row:
    """Exp of the above."""
    return np.exp(log_softmax(logits, temperature))


def relative_entropy(log_p: Row, log_q: Row) -> float:
    """Sum over classes with p > 0 of p log(p / q)."""
    p = np.exp(log_p)
    return float(sum(p[c] * (log_p[c] - log_q[c]) for c in range(len(p)) if p[c] > 0))


def kl(teacher: Row, student: Row, temperature: float) -> float:
    """KL(p || q)."""
    return relative_entropy(log_softmax(teacher, temperature), log_softmax(student, temperature))


def reverse_kl(teacher: Row, student: Row, temperature: float) -> float:
    """KL(q || p)."""
    return kl(student, teacher, temperature)


def jsd(teacher: Row, student: Row, temperature: float, beta: float = 0.5) -> float:
    """GKD (2306.13649): beta KL(p || m) + (1 - beta) KL(q || m)."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    m = beta * p + (1 - beta) * q
    parts = [(weight, x) for weight, x in ((beta, p), (1 - beta, q))]
    return float(sum(weight * x[c] * np.log(x[c] / m[c]) for weight, x in parts for c in range(len(m)) if x[c] > 0))


def skew_kl(teacher: Row, student: Row, temperature: float, skew: float = 0.1) -> float:
    """DistiLLM (2402.03898): KL(p || skew p + (1 - skew) q)."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return float(sum(p[c] * np.log(p[c] / (skew * p[c] + (1 - skew) * q[c])) for c in range(len(p)) if p[c] > 0))


def total_variation(teacher: Row, student: Row, temperature: float) -> float:
    """1/2 sum |p - q|."""
    return float(np.abs(softmax(teacher, temperature) - softmax(student, temperature)).sum() / 2)


def soft_cross_entropy(teacher: Row, student: Row, temperature: float) -> float:
    """- sum p log q."""
    return float(-(softmax(teacher, temperature) * log_softmax(student, temperature)).sum())


def weak(teacher: Row, student: Row, temperature: float = 1.0, threshold: float = 0.0) -> float:
    """- log q at the teacher's best class, if it is sure enough."""
    sure = softmax(teacher, temperature).max() >= threshold
    return float(-log_softmax(student)[np.argmax(teacher)]) if sure else 0.0


def mse_logits(teacher: Row, student: Row) -> float:
    """Mean of squared differences of centred logits."""
    return float((((student - student.mean()) - (teacher - teacher.mean())) ** 2).mean())


def kd(teacher: Row, student: Row, label: int, temperature: float, alpha: float) -> float:
    """Hinton et al. (1503.02531): (1 - alpha) CE + alpha T^2 KL."""
    hard = 0.0 if label < 0 else float(-log_softmax(student)[label])
    return (1 - alpha) * hard + alpha * temperature**2 * kl(teacher, student, temperature)


def dkd(teacher: Row, student: Row, label: int, temperature: float, *, alpha: float = 1.0, beta: float = 8.0) -> float:
    """DKD (2203.08679): alpha KL(b || b') + beta KL(p^ || p^')."""
    if label < 0:
        return 0.0
    binary, others = [], []
    for logits in (teacher, student):
        log_p = log_softmax(logits, temperature)
        rest = np.delete(log_p, label)
        log_rest = rest.max() + np.log(np.exp(rest - rest.max()).sum())
        binary.append(np.array([log_p[label], log_rest]))
        others.append(log_softmax(np.delete(logits, label), temperature))
    return alpha * relative_entropy(*binary) + beta * relative_entropy(*others)


def pearson(x: Row, y: Row) -> float:
    """Correlation, with 1e-8 beside the product of norms as in the authors' code."""
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (np.sqrt(x @ x) * np.sqrt(y @ y) + 1e-8))


def dist(
    teachers: NDArray[np.float64],
    students: NDArray[np.float64],
    temperature: float,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
) -> Row:
    """DIST (2205.10536): inter-class relations of each row, and the intra-class relation of the batch."""
    p = np.array([softmax(row, temperature) for row in teachers])
    q = np.array([softmax(row, temperature) for row in students])
    inter = np.array([1 - pearson(p[n], q[n]) for n in range(len(p))])
    intra = 0.0 if len(p) == 1 else np.mean([1 - pearson(p[:, c], q[:, c]) for c in range(p.shape[1])])
    return beta * inter + gamma * intra


def standardised(logits: Row) -> Row:
    """LSKD (2403.01427): the Z-score, with the deviation of the population."""
    return (logits - logits.mean()) / (np.sqrt(((logits - logits.mean()) ** 2).mean()) + 1e-7)


def lskd(teacher: Row, student: Row, temperature: float) -> float:
    """KL of standardised logits."""
    return kl(standardised(teacher), standardised(student), temperature)


def wkd(
    teacher: Row,
    student: Row,
    label: int,
    temperature: float,
    cost: NDArray[np.float64],
    *,
    regularisation: float = 0.05,
    iterations: int = 10,
) -> float:
    """WKD-L (2412.08139), section 3.1: Sinkhorn between the non-target softmaxes, and - p_t log q_t."""
    if label < 0:
        return 0.0
    p, q = (softmax(np.delete(logits, label), temperature) for logits in (teacher, student))
    cost = np.delete(np.delete(cost, label, axis=0), label, axis=1)
    kernel = np.exp(-cost / regularisation)
    u = np.ones(len(p))
    for _ in range(iterations):
        v = p / (kernel.T @ u)
        u = q / (kernel @ v)
    flow = u[:, None] * kernel * v[None, :]
    return float((flow * cost).sum() - softmax(teacher)[label] * log_softmax(student)[label])
