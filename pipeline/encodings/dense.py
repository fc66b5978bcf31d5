"""Every logit of every class: 1, 2 or 4 bytes a class, any temperature, any loss.

In int8 a row has a scale and an offset besides: z = offset + scale * code, with codes from -127 for the smallest logit
to 127 for the largest.

Not for many classes: ImageNet-21k takes 43 kB a row in float16, a vocabulary of 150,000 takes 300 kB; use `topk`. Not
in int8 where a few logits lie far from the others, as of classes ruled out by -1e4: all err by 1/508 of the range.

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
from pipeline.encodings.rounding import FILL, LAST, codes, step
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import ArraySpec, DenseLabels, LabelSpec


def check(spec: LabelSpec) -> None:
    """Refuse a k. Temperatures and `standardised` are left unread: all can be served, whole rows be standardised."""
    if spec.k is not None:
        raise ConfigError(
            f'The encoding "dense" keeps every class, but labels.k = {spec.k} was set. Leave labels.k out, or set '
            'labels.encoding = "topk".'
        )


def arrays(spec: LabelSpec) -> tuple[ArraySpec, ...]:
    """One array, `logits` [C]; in int8 `scale` and `offset` too, a number a row each."""
    if spec.dtype == "int8":
        line = (ArraySpec(name, "float32", (), math.nan) for name in ("scale", "offset"))
        return (ArraySpec("logits", "int8", (spec.classes,), FILL), *line)
    return (ArraySpec("logits", spec.dtype, (spec.classes,), math.nan),)


def encode(
    spec: LabelSpec,
    logits_NC: Tensor,
    labels_N: Tensor,  # noqa: ARG001 - the signature of every encoding
    ids_N: NDArray[np.int64],  # noqa: ARG001 - the signature of every encoding
) -> dict[str, Tensor]:
    """Round to the stored dtype."""
    if spec.dtype == "int8":
        return _coded(logits_NC.to(torch.float32))
    return {"logits": logits_NC.to(getattr(torch, spec.dtype))}


def refuse(spec: LabelSpec, logits_NC: Tensor, ids_N: NDArray[np.int64]) -> NoReturn:
    """Say which rows of finite float32 logits are beyond the stored dtype's range."""
    if spec.dtype == "int8":
        _refuse_ranges(logits_NC, ids_N)
    dtype = getattr(torch, spec.dtype)
    beyond_N = logits_NC.to(dtype).isinf().any(dim=1)
    raise TeacherError(
        f"The teacher's logits reach {logits_NC.abs().max().item():.6g} in magnitude, beyond {spec.dtype}'s largest "
        f"number {torch.finfo(dtype).max:.0f}, for {samples(beyond_N, ids_N)}; stored, they would be infinite. Set "
        'labels.dtype = "float32".'
    )


def decode(spec: LabelSpec, record: Mapping[str, Tensor]) -> DenseLabels:
    """The logits in float32."""
    logits_NC = record["logits"].to(torch.float32)
    if spec.dtype == "int8":
        logits_NC.mul_(record["scale"][:, None]).add_(record["offset"][:, None])
    return DenseLabels(logits_NC)


def temperatures(spec: LabelSpec) -> None:
    """Any temperature can be served."""


def error(spec: LabelSpec) -> str:
    """Rounding of each logit to the stored dtype (IEEE 754: half a unit in the last place; of codes, half a step)."""
    if spec.dtype == "float32":
        return "none: the logits as the teacher gave them, in float32"
    if spec.dtype == "int8":
        return (
            "each logit z errs by at most (max z - min z) / 508 + 2^-22 max|z|, so "
            "|log p error| <= ((max z - min z) / 254 + 2^-21 max|z|) / T"
        )
    return "each logit z errs by at most 2^-11 |z| (2^-25 where |z| < 2^-14), so |log p error| <= 2^-10 max|z| / T"


def bound(spec: LabelSpec, logits_NC: Tensor, temperature: float) -> Tensor:
    """What `error` says, for each row, [N]: once for the class's own logit, once for the sum of all."""
    if spec.dtype == "float32":
        return torch.zeros(len(logits_NC))
    if spec.dtype == "int8":
        low_N, high_N = torch.aminmax(logits_NC, dim=1)
        return (step(high_N - low_N) + 2**-21 * torch.maximum(-low_N, high_N)) / temperature
    return (2**-10 * logits_NC.abs().amax(dim=1)).clamp(min=2**-24) / temperature


def _coded(logits_NC: Tensor) -> dict[str, Tensor]:
    """The record of float32 logits in int8.

    Of a row whose ends would be read as infinite the scale is infinite: the range is, or all but is, beyond float32.
    """
    low_N, high_N = torch.aminmax(logits_NC, dim=1)
    range_N = high_N - low_N
    scale_N, offset_N = step(range_N), low_N + range_N / 2
    ends_N = offset_N.abs() + LAST * scale_N
    return {
        "logits": codes((logits_NC - offset_N[:, None]).div_(scale_N[:, None])),
        "scale": torch.where(ends_N.isfinite(), scale_N, math.inf),
        "offset": offset_N,
    }


def _refuse_ranges(logits_NC: Tensor, ids_N: NDArray[np.int64]) -> NoReturn:
    beyond_N = _coded(logits_NC)["scale"].isinf()
    low, high = torch.aminmax(logits_NC[beyond_N])
    raise TeacherError(
        f"The teacher's logits reach from {low.item():.6g} to {high.item():.6g}, a range too near to float32's largest "
        f"number {torch.finfo(torch.float32).max:.6g} to be cut into steps, for {samples(beyond_N, ids_N)}. Set "
        'labels.dtype = "float32".'
    )
