"""The losses of features once more, in NumPy float64, loop by loop and straight from the papers' formulas.

Every function takes a batch, the student's first, and gives one value a row.
"""

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def direction(vector: Array) -> Array:
    """Over its length; zeros stay."""
    length = np.sqrt((vector**2).sum())
    return vector / length if length else vector


def feature_mse(student: Array, teacher: Array) -> Array:
    """FitNets (1412.6550): its loss on hints, as a mean instead of half of a sum."""
    return np.array([((s - t) ** 2).mean() for s, t in zip(student, teacher, strict=True)])


def cosine_distance(student: Array, teacher: Array) -> Array:
    """1 - cos."""
    return np.array([1 - direction(s) @ direction(t) for s, t in zip(student, teacher, strict=True)])


def hypersphere_distance(student: Array, teacher: Array) -> Array:
    """|| s / ||s|| - t / ||t|| ||^2."""
    pairs = zip(student, teacher, strict=True)
    return np.array([((direction(s) - direction(t)) ** 2).sum() for s, t in pairs])


def huber(x: float, y: float) -> float:
    """RKD's l_delta with delta = 1."""
    return (x - y) ** 2 / 2 if abs(x - y) <= 1 else abs(x - y) - 0.5


def relative_distances(rows: Array) -> dict[tuple[int, int], float]:
    """RKD's psi_D of ordered pairs."""
    pairs = list(permutations(range(len(rows)), 2))
    lengths = {(i, j): float(np.sqrt(((rows[i] - rows[j]) ** 2).sum())) for i, j in pairs}
    mean = sum(lengths.values()) / max(len(pairs), 1)
    return {pair: length / mean if mean else 0.0 for pair, length in lengths.items()}


def rkd_distance(student: Array, teacher: Array) -> Array:
    """RKD-D (1904.05068): a pair counts for its first row, as a mean over the others."""
    s, t = relative_distances(student), relative_distances(teacher)
    rows = range(len(student))
    return np.array([sum(huber(s[i, j], t[i, j]) for j in rows if j != i) / max(len(rows) - 1, 1) for i in rows])


def rkd_angle(student: Array, teacher: Array) -> Array:
    """RKD-A: a triple counts for the row at its vertex, the one in the middle."""
    rows = len(student)
    losses = np.zeros(rows)
    for i, j, k in permutations(range(rows), 3):
        s, t = (float(direction(x[i] - x[j]) @ direction(x[k] - x[j])) for x in (student, teacher))
        losses[j] += huber(s, t)
    return losses / max((rows - 1) * (rows - 2), 1)


def similarity_preserving(student: Array, teacher: Array) -> Array:
    """SP (1907.09682): rows of the Gram matrix at length 1, and 1 / b^2 as 1 / b here and 1 / b in the mean."""
    s, t = (np.array([direction(row) for row in x @ x.T]) for x in (student, teacher))
    return ((s - t) ** 2).sum(axis=1) / len(student)


def hsic(x: Array, y: Array) -> float:
    """Tr(K H L H), without the factor that cancels in CKA."""
    centre = np.eye(len(x)) - 1 / len(x)
    return float(np.trace(x @ x.T @ centre @ y @ y.T @ centre))


def cka(x: Array, y: Array) -> float:
    """Kornblith et al. (1905.00414), equation 4."""
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def attention_transfer(student: Array, teacher: Array) -> Array:
    """AT (1612.03928), of [N, C, H, W] of equal sizes: squared distance of the maps' directions."""
    s, t = ((x**2).sum(axis=1).reshape(len(x), -1) for x in (student, teacher))
    return hypersphere_distance(s, t)


def adaptive_average(maps: Array, height: int, width: int) -> Array:
    """Cell (a, b) is the mean over [floor(a H / h), ceil((a + 1) H / h)) and the same of columns."""
    high, wide = maps.shape[2:]
    pooled = np.zeros((*maps.shape[:2], height, width))
    for a in range(height):
        for b in range(width):
            down = slice(a * high // height, -(-(a + 1) * high // height))
            across = slice(b * wide // width, -(-(b + 1) * wide // width))
            pooled[:, :, a, b] = maps[:, :, down, across].mean(axis=(2, 3))
    return pooled


def cosines(student: Array, positives: Array, negatives: Array, n: int) -> tuple[float, Array]:
    """Of row n with its positive, and with each of its negatives."""
    own = negatives if negatives.ndim == 2 else negatives[n]
    anchor = direction(student[n])
    return float(anchor @ direction(positives[n])), np.array([anchor @ direction(each) for each in own])


def infonce(student: Array, positives: Array, negatives: Array, temperature: float = 0.07) -> Array:
    """CPC (1807.03748), equation 4."""
    losses = []
    for n in range(len(student)):
        positive, others = cosines(student, positives, negatives, n)
        of_positive, of_others = np.exp(positive / temperature), np.exp(others / temperature)
        losses.append(-np.log(of_positive / (of_positive + of_others.sum())))
    return np.array(losses)


def crd(student: Array, positives: Array, negatives: Array, size: int, temperature: float = 0.07) -> Array:
    """CRD (1910.10699), equations 18 and 19, as what is to be minimised."""
    losses = []
    for n in range(len(student)):
        positive, others = cosines(student, positives, negatives, n)
        share = len(others) / size
        h = np.exp(positive / temperature) / (np.exp(positive / temperature) + share)
        # 1 - h, without the rounding of the difference
        complement = share / (np.exp(others / temperature) + share)
        losses.append(-np.log(h) - np.log(complement).sum())
    return np.array(losses)


def gradient_matching(student: Array, teacher: Array) -> Array:
    """Sum of squared differences."""
    return np.array([((s - t) ** 2).sum() for s, t in zip(student, teacher, strict=True)])


def gradient_penalty(student: Array, alpha: float) -> Array:
    """(||g|| - alpha)^2."""
    return np.array([(np.sqrt((g**2).sum()) - alpha) ** 2 for g in student])
