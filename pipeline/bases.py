"""Principal components of what a module answers: found from a sample, kept in a file, and read again.

The file is to a feature what a checkpoint is to its teacher: made once, named by the SHA-256 of its content in the job
of a cache, and read by whoever labels. Not for wide features, whose covariance is F x F: a projection has no basis to
keep, and no limit. `pipeline.fitting` asks the teacher; nothing here does.

Shape legend
    N  rows
    F  numbers of a row
    D  numbers kept of it
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError, TeacherError
from pipeline.features import PCA, FeatureSettings
from pipeline.labels import FeatureSpec
from pipeline.store.files import make_directory
from pipeline.weights import file_digest, load_state, note_in, save_state

WIDEST = 8192
"""Elements of a row: their covariance takes 512 MiB in float64."""
NOTE = "softlabels_basis"
MEAN, COMPONENTS = "mean", "components"


@dataclass(frozen=True)
class Basis:
    """A mean and orthonormal directions, in float32."""

    mean_F: Tensor
    components_FD: Tensor

    def kept(self, rows_NF: Tensor) -> Tensor:
        """(x - mean) components, [N, D]; of any shape [..., F]."""
        return (rows_NF - self.mean_F) @ self.components_FD

    def to(self, device: torch.device) -> "Basis":
        """The same on a device."""
        return Basis(self.mean_F.to(device), self.components_FD.to(device))


class Moments:
    """The mean of rows and their scatter about it, in float64 on the CPU; no row is kept.

    Batches join by the pairwise update of Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance",
    The American Statistician 37(3): nothing cancels where the mean is large beside the deviation.

    Args:
        width: F.

    """

    def __init__(self, width: int) -> None:
        self.rows = 0
        self.mean_F = torch.zeros(width, dtype=torch.float64)
        self.scatter_FF = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows_NF: Tensor) -> None:
        """Count a batch."""
        if not len(rows_NF):
            return
        rows_NF = rows_NF.to("cpu", torch.float64)
        mean_F, before, self.rows = rows_NF.mean(dim=0), self.rows, self.rows + len(rows_NF)
        apart_F, around_NF = mean_F - self.mean_F, rows_NF - mean_F
        self.scatter_FF.addmm_(around_NF.T, around_NF)
        self.scatter_FF.addr_(apart_F, apart_F, alpha=before * len(rows_NF) / self.rows)
        self.mean_F += apart_F * (len(rows_NF) / self.rows)


@dataclass(frozen=True)
class Fitted:
    """A basis in float64, and the variance along each of its F directions, of which the first D are kept."""

    mean_F: Tensor
    components_FD: Tensor
    variances_F: Tensor
    rows: int

    @property
    def share(self) -> float:
        """How much of the variance is along the directions that are kept."""
        kept, total = self.variances_F[: self.components_FD.shape[1]].sum(), self.variances_F.sum()
        return float(kept / total)


def principal(moments: Moments, dimensions: int) -> Fitted:
    """The D orthonormal directions w of the largest variance, by falling variance: S w = v w, with S = scatter / N.

    Of all D-dimensional affine maps this one leaves the least squared error of the rows, and the mean of that is the
    sum of the variances that are left out (Pearson 1901, "On lines and planes of closest fit to systems of points in
    space", Philosophical Magazine 2(11); Jolliffe 2002, "Principal Component Analysis", 2nd ed., Springer, sections 1.1
    and 2.1). A direction and its opposite serve as well, so of each the element of largest magnitude is positive.
    """
    variances_F, axes_FF = torch.linalg.eigh(moments.scatter_FF / moments.rows)
    components_FD = axes_FF.flip(1)[:, :dimensions]
    largest_1D = components_FD.abs().argmax(dim=0, keepdim=True)
    components_FD = components_FD * components_FD.gather(0, largest_1D).sign()
    return Fitted(moments.mean_F, components_FD, variances_F.flip(0).clamp(min=0), moments.rows)


def width(spec: FeatureSpec) -> int:
    """F: the numbers of a row, or of each position's vector where these are reduced one by one."""
    return math.prod(spec.module_shape) if len(spec.row_shape) == 1 else spec.module_shape[-1]


def refuse_misfit(key: str, spec: FeatureSpec) -> None:
    """Raise ConfigError, with the key that asks for it, about a basis that a module cannot have."""
    found, kept = width(spec), spec.row_shape[-1]
    if kept > found:
        raise ConfigError(
            f"{key}.dimensions = {kept}: the module {spec.module!r} answers {list(spec.module_shape)}, and {found} "
            f"numbers are reduced at once; expected at most {found}. Lower dimensions, or keep all of it with "
            'reduction = "none".'
        )
    if found > WIDEST:
        raise ConfigError(
            f'{key}.reduction = "{PCA}": the module {spec.module!r} answers {list(spec.module_shape)}, {found:,} '
            f"numbers, and their covariance would be {found:,} x {found:,}; expected at most {WIDEST:,}. Use reduction "
            '= "projection", which needs no basis, or "mean", or name another module.'
        )


def refuse_few(spec: FeatureSpec, rows: int) -> None:
    """Raise ConfigError if so many rows have fewer directions than are to be kept: about their mean, one less."""
    kept = spec.row_shape[-1]
    if kept >= rows:
        raise ConfigError(
            f"The feature {spec.name!r} has dimensions = {kept}, and its basis is fitted on {rows:,} rows: about their "
            f"mean they have at most {max(0, rows - 1):,} directions. Lower dimensions, or raise sample, if there are "
            "more samples."
        )


def write_basis(spec: FeatureSpec, path: Path, fitted: Fitted, said: Mapping[str, Any]) -> None:
    """Write a basis as safetensors, whole or not at all, with what was fitted on what.

    Raises:
        TeacherError: the rows are all equal, and have no directions.

    """
    if not fitted.variances_F.any():
        raise TeacherError(
            f"{spec.what} is the same for all {fitted.rows:,} rows that its basis is fitted on: they have no "
            "directions. Name another module, or look at its inputs."
        )
    state = {MEAN: fitted.mean_F.float(), COMPONENTS: fitted.components_FD.float().contiguous()}
    notes = {**said, "rows": fitted.rows, "variance_kept": fitted.share}
    make_directory(path.parent)
    # One note: safetensors keeps several in an order of chance, and the file is known by its digest.
    save_state(path, state, {NOTE: json.dumps(notes)})


def notes_in(path: Path) -> Mapping[str, Any] | None:
    """What a basis was fitted on, as its file says; None if there is no file, or no fitting of ours wrote it."""
    return note_in(path, NOTE)


def basis_digest(path: Path) -> str:
    """The sha256 of a basis's file, as hex.

    Raises:
        TeacherError: there is no such file.

    """
    if not path.is_file():
        raise TeacherError(
            f"{path}: there is no such basis. Correct the feature's basis, or have it fitted with "
            "`softlabels fit-teacher`."
        )
    return file_digest(path)


def load_basis(spec: FeatureSpec, path: Path) -> Basis:
    """Read the basis of a feature.

    Raises:
        TeacherError: there is no such file, it is damaged, or it is the basis of something else.

    """
    basis_digest(path)
    again = "Delete it and run `softlabels fit-teacher` to have it fitted again, or name another file."
    try:
        state = load_state(path)
    except TeacherError as error:
        raise TeacherError(f"{path}: this is no basis that can be read: {error} {again}") from None
    expected = {MEAN: (width(spec),), COMPONENTS: (width(spec), spec.row_shape[-1])}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        raise TeacherError(
            f"{path} does not fit the feature {spec.name!r} (of the module {spec.module!r}): found tensors "
            f"{_shapes(found)}, expected {_shapes(expected)}. {again}"
        )
    module = (notes_in(path) or {}).get("module", spec.module)
    if module != spec.module:
        raise TeacherError(
            f"{path} is the basis of the module {module!r}, and the feature {spec.name!r} is of {spec.module!r}. "
            f"{again}"
        )
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise TeacherError(f"{path}: this basis is damaged: not all of its numbers are finite. {again}")
    return Basis(state[MEAN].float(), state[COMPONENTS].float())


def bases_of(
    features: Sequence[FeatureSpec], settings: Sequence[FeatureSettings], device: torch.device
) -> dict[str, Basis]:
    """The basis of each feature that has one, by its name, on a device. Raises as `load_basis`."""
    files = {each.name: each.basis for each in settings if each.basis is not None}
    return {each.name: load_basis(each, files[each.name]).to(device) for each in features if each.name in files}


def _shapes(tensors: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(tensors.items()))
