"""The output of a module, or a gradient, to what a cache keeps of it, and back: pure, batched, on any device.

Shape legend
    N  rows (samples)
    L  positions of a sequence
    D  numbers kept
    F  numbers of a row before a projection
    X  the shape of a row
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.bases import Basis
from pipeline.encodings.refusals import samples
from pipeline.encodings.rounding import LAST, TINY, codes
from pipeline.errors import TeacherError
from pipeline.features import SCALE
from pipeline.hints.attention import attention_channel
from pipeline.labels import FeatureSpec, Kept
from pipeline.seeds import generator

SEQUENCE, MAP = 3, 4
"""Axes of [N, L, D] and [N, A, height, width]."""


def none(_: FeatureSpec, feature_NX: Tensor, __: Tensor | None, ___: Basis | None) -> Tensor:
    """All of it, [N, X]."""
    return feature_NX


def mean(_: FeatureSpec, feature_NX: Tensor, there_NL: Tensor | None, __: Basis | None) -> Tensor:
    """As `averaged`, [N, D]."""
    return averaged(feature_NX, there_NL)


def averaged(feature_NX: Tensor, there_NL: Tensor | None = None) -> Tensor:
    """Of maps [N, D, height, width] the mean over space, of [N, L, D] that over positions which are no padding, [N, D].

    A vector [N, D] stays as it is. Of a sequence that is all padding the mean is 0.
    """
    if feature_NX.ndim != SEQUENCE:
        return feature_NX.flatten(2).mean(dim=2) if feature_NX.ndim > SEQUENCE else feature_NX
    if there_NL is None:
        return feature_NX.mean(dim=1)
    there_NL1 = there_NL[:, :, None].float()  # so a student's bfloat16 is added up in float32
    return (feature_NX * there_NL1).sum(dim=1) / there_NL1.sum(dim=1).clamp(min=1)


def projection(spec: FeatureSpec, feature_NX: Tensor, there_NL: Tensor | None, _: Basis | None) -> Tensor:
    """The row, or of a dataset of sequences each position's vector, times random signs over sqrt(D): [N, D], [N, L, D].

    Squared distances and products keep their expectation (Achlioptas 2003, "Database-friendly random projections",
    J. Comput. Syst. Sci. 66): with D numbers, a squared distance has a standard deviation of sqrt(2 / D) of itself at
    most, and a distance about half of that.
    """
    rows_F = _vectors(feature_NX, there_NL)
    return rows_F @ _signs(spec.seed, spec.name, rows_F.shape[-1], spec.row_shape[-1]).to(rows_F.device)


def pca(spec: FeatureSpec, feature_NX: Tensor, there_NL: Tensor | None, basis: Basis | None) -> Tensor:
    """The row, or of a dataset of sequences each position's vector, in its principal components: [N, D], [N, L, D].

    (x - mean) components, of a basis that was fitted before (Pearson 1901; Jolliffe 2002, section 2.1): see
    `pipeline.bases`.
    """
    assert basis is not None, f"whoever keeps {spec.name} has its basis"
    return basis.kept(_vectors(feature_NX, there_NL))


def attention(spec: FeatureSpec, feature_NX: Tensor, _: Tensor | None, __: Basis | None) -> Tensor:
    """Of maps [N, A, height, width] the root of the squares' sum over channels, [N, 1, height, width].

    Raises:
        TeacherError: it is no map.

    """
    if feature_NX.ndim != MAP:
        raise TeacherError(
            f"The module {spec.module!r} answers {list(feature_NX.shape[1:])} to a sample, and reduction = "
            '"attention" is of maps [channels, height, width]. Name a convolutional layer, or another reduction.'
        )
    return attention_channel(feature_NX)


REDUCTIONS: Mapping[str, Callable[[FeatureSpec, Tensor, Tensor | None, Basis | None], Tensor]] = MappingProxyType(
    {"none": none, "mean": mean, "projection": projection, "pca": pca, "attention": attention}
)


def _vectors(feature_NX: Tensor, there_NL: Tensor | None) -> Tensor:
    """What is multiplied at once: rows [N, F], or of a dataset of sequences vectors [N, L, F]."""
    return feature_NX if there_NL is not None and feature_NX.ndim == SEQUENCE else feature_NX.flatten(1)


@lru_cache(maxsize=16)
def _signs(seed: int, name: str, inputs: int, outputs: int) -> Tensor:
    """The same on every machine, [F, D]."""
    drawn = generator(f"projection of {name}", seed).integers(0, 2, (inputs, outputs), dtype=np.int8)
    signs: Tensor = (torch.from_numpy(drawn).float() * 2 - 1) / outputs**0.5
    return signs


def reduced(
    spec: FeatureSpec, feature_NX: Tensor, there_NL: Tensor | None = None, basis: Basis | None = None
) -> Tensor:
    """What is kept of a module's output, in float32: [N, *row_shape].

    Args:
        spec: what is asked for.
        feature_NX: the output.
        there_NL: of sequences, which positions are no padding.
        basis: of `pca`.

    Raises:
        TeacherError: the output has another shape than it had for the first input.

    """
    return REDUCTIONS[spec.reduction](spec, _checked(spec, feature_NX, there_NL), there_NL, basis)


def row_shape_of(spec: FeatureSpec, feature_1X: Tensor, there_1L: Tensor | None) -> tuple[int, ...]:
    """The shape of what is kept of a sample, given the spec's dimensions; a basis need not be there yet."""
    wide = _vectors(feature_1X, there_1L).shape[-1]
    any_basis = Basis(torch.zeros(wide), torch.zeros(1, 1).expand(wide, spec.row_shape[-1]))
    return tuple(reduced(spec, feature_1X, there_1L, any_basis.to(feature_1X.device)).shape[1:])


def rows_of(spec: FeatureSpec, feature_NX: Tensor, there_NL: Tensor | None = None) -> Tensor:
    """What `pca` is fitted on, in float32: rows [N, F], or of a dataset of sequences vectors [N, L, F].

    Raises:
        TeacherError: as `reduced`.

    """
    return _vectors(_checked(spec, feature_NX, there_NL), there_NL)


def _checked(spec: FeatureSpec, feature_NX: Tensor, there_NL: Tensor | None) -> Tensor:
    """The output in float32, if it has the shape it had."""
    if feature_NX.shape[1:] != spec.module_shape:
        raise TeacherError(
            f"The module {spec.module!r} answers {list(feature_NX.shape[1:])} to a sample of this batch, and "
            f"{list(spec.module_shape)} to the first: what is kept of it has one shape. Name another module, or have "
            "inputs of one size."
        )
    length = None if there_NL is None or feature_NX.ndim != SEQUENCE else there_NL.shape[1]
    if length not in {None, feature_NX.shape[1]} and spec.reduction != "none":
        raise TeacherError(
            f"The module {spec.module!r} answers {list(feature_NX.shape[1:])} to a sequence of {length} positions, and "
            f'reduction = "{spec.reduction}" is of [positions, D]. Name another module, or keep all of it with '
            'reduction = "none".'
        )
    return feature_NX.detach().float()


def encode(
    spec: FeatureSpec, feature_NX: Tensor, there_NL: Tensor | None = None, basis: Basis | None = None
) -> dict[str, Tensor]:
    """The arrays that are stored of a module's output: see `stored` and `reduced`."""
    return stored(spec, reduced(spec, feature_NX, there_NL, basis))


def stored(spec: Kept, kept_NX: Tensor) -> dict[str, Tensor]:
    """The arrays of what is kept, given in float32. What float16 does not hold is infinite there.

    In eight bits x = scale code, with codes from -127 to 127 and the scale a row: each x errs by at most half of
    max|x| / 127.
    """
    if spec.dtype != "int8":
        return {spec.array: kept_NX.to(getattr(torch, spec.dtype))}
    scale_N = (kept_NX.flatten(1).abs().amax(dim=1) * (1 / LAST)).clamp(min=TINY)
    steps_NX = kept_NX / scale_N.view(-1, *(1,) * (kept_NX.ndim - 1))
    return {spec.array: codes(steps_NX), spec.array + SCALE: scale_N}


def storable(record: Mapping[str, Tensor]) -> Tensor:
    """Whether all that is kept of a batch can be stored: one boolean on its device."""
    floats = [array for array in record.values() if array.is_floating_point()]
    return torch.stack([array.isfinite().all() for array in floats]).all()


def refuse(kept: Sequence[Kept], record: Mapping[str, Tensor], ids_N: NDArray[np.int64]) -> None:
    """Raise TeacherError about what is not finite, or not held by float16; nothing if all is."""
    for spec in kept:
        array = record[spec.array + (SCALE if spec.dtype == "int8" else "")]
        broken_N = ~array.reshape(len(ids_N), -1).isfinite().all(dim=1)
        if broken_N.any():
            wider = ' or beyond float16: set its dtype = "float32",' if spec.dtype == "float16" else ":"
            raise TeacherError(
                f"{spec.what} is NaN or infinite{wider} look at these "
                f'inputs, or run the teacher with precision = "float32". It is so for {samples(broken_N, ids_N)}.'
            )


def decode(spec: Kept, record: Mapping[str, Tensor]) -> Tensor:
    """What was stored of a feature or a gradient, in float32: [N, *row_shape]."""
    stored_NX = record[spec.array].to(torch.float32)
    if spec.dtype != "int8":
        return stored_NX
    return stored_NX * record[spec.array + SCALE].view(-1, *(1,) * (stored_NX.ndim - 1))
