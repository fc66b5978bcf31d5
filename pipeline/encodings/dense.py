"""Every logit of every class: 2 or 4 bytes a class, any temperature, any loss.

Not for many classes: ImageNet-21k takes 43 kB a row in float16, a vocabulary of 150,000 takes 300 kB; use `topk`.

Shape legend
    N  rows (samples)
    C  classes
"""

import math
from collections.abc import Mapping
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encodings.refusals import samples
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import ArraySpec, DenseLabels, LabelSpec


def check(spec: LabelSpec) -> None:
    """Refuse a k. Temperatures are left unread: all can be served."""
    if spec.k is not None:
        raise ConfigError(
            f'The encoding "dense" keeps every class, but labels.k = {spec.k} was set. Leave labels.k out, or set '
            'labels.encoding = "topk".'
        )


def arrays(spec: LabelSpec) -> tuple[ArraySpec, ...]:
    """One array, `logits` [C]."""
    return (ArraySpec("logits", spec.dtype, (spec.classes,), math.nan),)


def encode(spec: LabelSpec, logits_NC: Tensor, labels_N: Tensor) -> dict[str, Tensor]:  # noqa: ARG001 - the signature of every encoding
    """Round to the stored dtype."""
    return {"logits": logits_NC.to(getattr(torch, spec.dtype))}


def refuse(spec: LabelSpec, logits_NC: Tensor, ids_N: NDArray[np.int64]) -> NoReturn:
    """Say which rows of finite float32 logits are beyond the stored dtype's range."""
    dtype = getattr(torch, spec.dtype)
    beyond_N = logits_NC.to(dtype).isinf().any(dim=1)
    raise TeacherError(
        f"The teacher's logits reach {logits_NC.abs().max().item():.6g} in magnitude, beyond {spec.dtype}'s largest "
        f"number {torch.finfo(dtype).max:.0f}, for {samples(beyond_N, ids_N)}; stored, they would be infinite. Set "
        'labels.dtype = "float32".'
    )


def decode(spec: LabelSpec, record: Mapping[str, Tensor]) -> DenseLabels:  # noqa: ARG001 - the signature of every encoding
    """The logits in float32."""
    return DenseLabels(record["logits"].to(torch.float32))


def temperatures(spec: LabelSpec) -> None:
    """Any temperature can be served."""


def error(spec: LabelSpec) -> str:
    """Rounding of each logit to the stored dtype (IEEE 754: half a unit in the last place)."""
    if spec.dtype == "float32":
        return "none: the logits as the teacher gave them, in float32"
    return "each logit z errs by at most 2^-11 |z| (2^-25 where |z| < 2^-14), so |log p error| <= 2^-10 max|z| / T"


def bound(spec: LabelSpec, logits_NC: Tensor, temperature: float) -> Tensor:
    """What `error` says, for each row, [N]: once for the class's own logit, once for the sum of all."""
    if spec.dtype == "float32":
        return torch.zeros(len(logits_NC))
    return (2**-10 * logits_NC.abs().amax(dim=1)).clamp(min=2**-24) / temperature
