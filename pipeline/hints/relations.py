"""How the rows of a batch lie to each other, in the student and in the teacher, whose features may differ in width.

Each returns one value a row, [N], whose mean is the loss of the batch; a row's value depends on the others, so a batch
of some rows is not the rows of a batch. A batch of one row has no relations and loses nothing; in one of two, no angle
is seen and CKA is 1. Not for batches of a few rows, nor for
shares of a batch in several processes, which see no pairs across.

Shape legend
    N  rows (samples), twice or thrice: a table over pairs or triples
    X  all elements of a student's row, whatever its axes
    Y  all elements of a teacher's row
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.hints.rows import equal_rows, full_precision, or_one, rescaled, spread, squared_distance, unit
from pipeline.hints.rows import without_direction as none_of


def rkd_distance(student_NX: Tensor, teacher_NY: Tensor) -> Tensor:
    """Mean over the other rows j of huber(d_ij / mean d - d'_ij / mean d') a row i, [N].

    Here d_ij = ||t_i - t_j||, its mean over all pairs of two rows, d' the student's, and huber(x) = x^2 / 2 up to 1,
    |x| - 1/2 beyond. Park et al. (2019), "Relational Knowledge Distillation", arXiv 1904.05068, section 3.2.1; the
    mean of the rows is their sum over the N (N - 1) ordered pairs as a mean. (The authors' code divides by N^2.)

    It sees neither a shift, a rotation nor a scale of all rows. Where all rows are equal, all relative distances are 0,
    and so is the gradient there: a student that gives one answer needs another term to get away from it.

    Raises:
        ConfigError: another number of rows.

    """
    student_NX, teacher_NY = equal_rows("rkd_distance", student_NX, teacher_NY)
    student_NN, teacher_NN = _relative_distances(student_NX), _relative_distances(teacher_NY)
    return F.smooth_l1_loss(student_NN, teacher_NN, reduction="none").sum(dim=1) / max(len(student_NX) - 1, 1)


def rkd_angle(student_NX: Tensor, teacher_NY: Tensor) -> Tensor:
    """Mean over pairs of other rows i, k of huber(cos t_i t_j t_k - cos s_i s_j s_k) a row j, [N].

    The angle at j between the ways to i and to k, all three different. Park et al. (2019), arXiv 1904.05068, section
    3.2.2; a triple counts for the row at its vertex, and the mean of the rows is the paper's sum over the
    N (N - 1) (N - 2) triples as a mean. (The authors' code divides by N^3.)

    It sees neither a shift, a rotation nor a scale of all rows. Two equal rows have no way between them: its cosine
    with any other is 0. It holds [N, N, X] and [N, N, N] numbers: not for batches of more than a few hundred rows.

    Raises:
        ConfigError: another number of rows.

    """
    student_NX, teacher_NY = equal_rows("rkd_angle", student_NX, teacher_NY)
    student_NNN, teacher_NNN = _cosines(student_NX), _cosines(teacher_NY)
    rows = len(student_NX)
    sums_N = F.smooth_l1_loss(student_NNN, teacher_NNN, reduction="none").sum(dim=(1, 2))
    return sums_N / max((rows - 1) * (rows - 2), 1)


def similarity_preserving(student_NX: Tensor, teacher_NY: Tensor) -> Tensor:
    """Mean over rows j of (G_ij - G'_ij)^2 a row i, [N], G the rows' products t_i . t_j, each row of it at length 1.

    Tung and Mori (2019), "Similarity-Preserving Knowledge Distillation", arXiv 1907.09682, equation 4: the mean of
    the rows is their ||G - G'||_F^2 / N^2. A row has 4 / N at most, so it needs a large weight (the paper has 3000).

    It sees neither a rotation nor a scale of all rows; but a shift, unlike the others here. A row of zeros has zeros in
    G: 1 / N from any other, 0 from another such.

    Raises:
        ConfigError: another number of rows.

    """
    student_NX, teacher_NY = equal_rows("similarity", student_NX, teacher_NY)
    student_NN, teacher_NN = (unit(_products(rescaled(each))) for each in (student_NX, teacher_NY))
    return squared_distance(student_NN, teacher_NN) / max(len(student_NX), 1)


def cka_distance(student_NX: Tensor, teacher_NY: Tensor) -> Tensor:
    """N/2 ||K_i / ||K|| - K'_i / ||K'|| ||^2 a row i, [N], for the products K = HTT'H of rows counted from their mean.

    The mean of the rows is 1 - <K, K'> / (||K|| ||K'||) = 1 - CKA, linear: Kornblith et al. (2019), "Similarity of
    Neural Network Representations Revisited", arXiv 1905.00414, equations 3 and 4 and section 3, where it is a measure
    and not a loss. The split among the rows is ours: each is at least 0.

    It sees neither a shift, a rotation nor a scale of all rows. Where all rows are equal, on either side or both, CKA
    counts as 0 and the rows lose 1 in the mean, without a gradient at a student's. It is 1 for all batches of two rows
    that differ, and biased to it in those with fewer rows than features: not for small batches.

    Raises:
        ConfigError: another number of rows.

    """
    student_NX, teacher_NY = equal_rows("cka", student_NX, teacher_NY)
    rows = len(student_NX)
    student_M, teacher_M = (unit(_products(_centred(each)).reshape(rows * rows)) for each in (student_NX, teacher_NY))
    distance_N = squared_distance(student_M.reshape(rows, rows), teacher_M.reshape(rows, rows))
    if rows < 2:  # noqa: PLR2004 - no pair
        return distance_N
    return (rows * distance_N + none_of(student_M) + none_of(teacher_M)) / 2


def _relative_distances(features_NX: Tensor) -> Tensor:
    """||x_i - x_j|| over its mean, [N, N]; by differences, for products would lose what near rows differ by."""
    features_NX, pairs = spread(features_NX), len(features_NX) * (len(features_NX) - 1)
    distances_NN = torch.cdist(features_NX, features_NX, compute_mode="donot_use_mm_for_euclid_dist")
    return distances_NN / or_one(distances_NN.sum() / max(pairs, 1))


def _cosines(features_NX: Tensor) -> Tensor:
    """Of the angle at j between the ways to i and k, at [j, i, k]; 0 where i = k, which is no angle."""
    ways_NNX = unit(features_NX - features_NX[:, None])
    same_NN = torch.eye(len(features_NX), dtype=torch.bool, device=features_NX.device)
    return _products(ways_NNX).masked_fill(same_NN, 0.0)


def _centred(features_NX: Tensor) -> Tensor:
    features_NX = spread(features_NX)
    return features_NX - features_NX.mean(dim=0)


def _products(features_NX: Tensor) -> Tensor:
    """x_i . x_j, [N, N], of each batch there is."""
    with full_precision(features_NX):
        return features_NX @ features_NX.mT
