"""Logits in units of their row's standard deviation, before any loss: the student need not match the teacher's scale.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
    M  sampled classes of its tail
    G  temperatures of the grid
"""

from dataclasses import replace

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.labels import STD_EPSILON, DenseLabels, HeadSampledLabels, SampledLabels, SoftLabels
from pipeline.losses.logspace import at_least_float32


def standardised(logits_NC: Tensor) -> Tensor:
    """(z - mean) / (std + 1e-7) a row, [N, C], with std over all C classes.

    The Z-score of Sun et al. (2024), "Logit Standardization in Knowledge Distillation", arXiv 2403.01427. The deviation
    is the population's, as in stored labels; the authors' code divides by C - 1 instead of C, which is the same as a
    temperature sqrt(C / (C - 1)) times higher.
    """
    logits_NC = at_least_float32(logits_NC)
    counted_NC = logits_NC - logits_NC.mean(dim=1, keepdim=True)
    return counted_NC / (logits_NC.std(dim=1, correction=0, keepdim=True) + STD_EPSILON)


def standardised_labels(labels: SoftLabels) -> SoftLabels:
    """Labels of the teacher's standardised logits, for any loss that the given ones serve, at the same temperatures.

    Raises:
        ConfigError: sparse labels without sums of standardised logits, or labels that are weights alone.

    """
    if isinstance(labels, DenseLabels):
        return DenseLabels(standardised(labels.logits_NC))
    if isinstance(labels, SampledLabels):
        raise ConfigError(
            "Sampled labels are weights without logits, and cannot be standardised. Generate labels with "
            'labels.encoding = "topk" and labels.standardised = true, or with labels.encoding = "dense".'
        )
    logsumexp_NG = labels.standard_logsumexp_NG
    if logsumexp_NG is None:
        raise ConfigError(
            "These labels cannot be standardised: they keep the largest logits only, and do not know the mass of the "
            'others. Generate labels with labels.standardised = true, or with labels.encoding = "dense".'
        )
    deviation_N = labels.std_N + STD_EPSILON
    if isinstance(labels, HeadSampledLabels):
        labels = replace(labels, tail_logits_NM=labels.tail_logits_NM / deviation_N[:, None])
    return replace(
        labels,
        logits_NK=labels.logits_NK / deviation_N[:, None],
        logsumexp_NG=logsumexp_NG,
        max_N=-labels.mean_N / deviation_N,
        mean_N=labels.mean_N / deviation_N,
        std_N=labels.std_N / deviation_N,
        target_N=labels.target_N / deviation_N,
    )
