"""Principal components: the least error that so many numbers leave, whatever the batches."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.bases import (
    Basis,
    Fitted,
    Moments,
    load_basis,
    notes_in,
    principal,
    refuse_few,
    refuse_misfit,
    write_basis,
)
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import FeatureSpec
from pipeline.reductions import decode, encode, reduced, rows_of
from pipeline.weights import save_state

ROWS, WIDTH = 60, 8


def sample(seed: int = 0, rows: int = ROWS, width: int = WIDTH) -> Tensor:
    """Rows far from 0, of directions whose variances fall by two."""
    generator = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
    spread = 2.0 ** -torch.arange(width, dtype=torch.float64)
    return 100 + torch.randn(rows, width, dtype=torch.float64, generator=generator) * spread @ turned


def fitted(rows_NF: Tensor, dimensions: int, batch: int = ROWS) -> Fitted:
    """Of rows that come in batches."""
    moments = Moments(rows_NF.shape[1])
    for part in rows_NF.split(batch):
        moments.add(part)
    return principal(moments, dimensions)


def error(rows_NF: Tensor, mean_F: Tensor, directions_FD: Tensor) -> float:
    """The mean squared distance of rows from their image in these orthonormal directions."""
    around = rows_NF - mean_F
    return (around - around @ directions_FD @ directions_FD.T).square().sum(dim=1).mean().item()


def spec(
    module: tuple[int, ...] = (WIDTH,), kept: tuple[int, ...] = (3,), dtype: str = "float32", name: str = "m"
) -> FeatureSpec:
    """Of a module "m"."""
    return FeatureSpec("f", name, "pca", dtype, module, kept)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(1, WIDTH))
def test_the_error_of_the_sample_is_the_variance_that_is_left_out(seed: int, dimensions: int) -> None:
    """Law: mean |x - x'|^2 = the sum of the left-out eigenvalues; and `share` is what is not left out."""
    rows, found = sample(seed), fitted(sample(seed), dimensions)
    left = found.variances_F[dimensions:].sum().item()
    assert error(rows, found.mean_F, found.components_FD) == pytest.approx(left, abs=1e-12)
    total = (rows - rows.mean(dim=0)).square().sum(dim=1).mean().item()
    assert found.share == pytest.approx(1 - left / total, rel=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(1, WIDTH))
def test_directions_are_orthonormal_by_falling_variance_and_their_signs_are_fixed(seed: int, dimensions: int) -> None:
    """Law: W'W = 1; the variance along each is its eigenvalue; the largest element of each is positive."""
    rows, found = sample(seed), fitted(sample(seed), dimensions)
    eye = torch.eye(dimensions, dtype=torch.float64)
    torch.testing.assert_close(found.components_FD.T @ found.components_FD, eye, rtol=0, atol=1e-12)
    along = ((rows - found.mean_F) @ found.components_FD).square().mean(dim=0)
    torch.testing.assert_close(along, found.variances_F[:dimensions], rtol=1e-9, atol=1e-12)
    assert (found.variances_F.diff() <= 0).all()
    assert (found.components_FD.max(dim=0).values > -found.components_FD.min(dim=0).values).all()


@pytest.mark.parametrize("batch", [1, 7, 59, 60])
def test_batches_do_not_matter(batch: int) -> None:
    """Law: mean, directions and variances are those of all rows at once, as NumPy has them, to 1e-10."""
    rows = sample()
    found = fitted(rows, 4, batch)
    variances, axes = np.linalg.eigh(np.cov(rows.numpy().T, bias=True))
    np.testing.assert_allclose(found.mean_F, rows.mean(dim=0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.variances_F, variances[::-1], rtol=0, atol=1e-10)
    alike = abs(found.components_FD.T.numpy() @ axes[:, ::-1][:, :4])
    np.testing.assert_allclose(alike, np.eye(4), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.components_FD, fitted(rows, 4).components_FD, rtol=0, atol=1e-10)
    assert found.rows == ROWS


def test_a_mean_that_is_large_beside_the_deviation_costs_no_digits() -> None:
    """Law: rows at a million with deviations near 1 have the variances of the same rows at 100, to 1e-9."""
    rows = sample()
    far = fitted(rows + 1e6, 4, 7)
    np.testing.assert_allclose(far.variances_F, fitted(rows, 4).variances_F, rtol=0, atol=1e-9)


def test_batches_without_rows_count_nothing() -> None:
    """Law: as where all positions of a batch are padding."""
    moments = Moments(2)
    moments.add(torch.zeros(0, 2))
    moments.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    assert (moments.rows, moments.mean_F.tolist()) == (2, [2.0, 2.0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(1, WIDTH - 1))
def test_no_other_projection_of_as_many_dimensions_leaves_less(seed: int, dimensions: int) -> None:
    """Law: among all orthonormal projections tried, about any mean, this one has the least error."""
    rows, found = sample(), fitted(sample(), dimensions)
    generator = torch.Generator().manual_seed(seed)
    other, _ = torch.linalg.qr(torch.randn(WIDTH, dimensions, dtype=torch.float64, generator=generator))
    least = error(rows, found.mean_F, found.components_FD)
    near, _ = torch.linalg.qr(found.components_FD + 0.01 * other)
    for directions in (other, near):
        assert least <= error(rows, found.mean_F, directions) + 1e-12
    shifted = found.mean_F + torch.randn(WIDTH, dtype=torch.float64, generator=generator)
    assert least <= error(rows, shifted, found.components_FD) + 1e-12


def test_all_dimensions_keep_all_distances(tmp_path: Path) -> None:
    """Law: with D = F the rows are turned, and no distance changes."""
    rows, whole = sample(), spec(kept=(WIDTH,))
    write_basis(whole, tmp_path / "b.safetensors", fitted(rows, WIDTH), {})
    kept = reduced(whole, rows.float(), None, load_basis(whole, tmp_path / "b.safetensors"))
    torch.testing.assert_close(torch.pdist(kept.double()), torch.pdist(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float16", 2**-9), ("int8", 0.03)])
def test_what_is_kept_is_the_row_in_its_components(dtype: str, bound: float, tmp_path: Path) -> None:
    """Law: (x - mean) components, rounded as any feature; of a map, all its numbers as one row."""
    maps, asked = sample().view(ROWS, 2, 2, 2), spec((2, 2, 2), (3,), dtype)
    found = fitted(rows_of(asked, maps), 3)
    write_basis(asked, tmp_path / "b.safetensors", found, {})
    basis = load_basis(asked, tmp_path / "b.safetensors")
    kept = decode(asked, encode(asked, maps, None, basis)).double()
    expected = (sample() - found.mean_F) @ found.components_FD
    torch.testing.assert_close(kept, expected, rtol=bound, atol=bound)


def test_each_position_of_a_sequence_is_kept_by_itself() -> None:
    """Law: [N, L, F] to [N, L, D], each vector by the same basis."""
    words, there = sample().float().view(20, 3, WIDTH), torch.ones(20, 3, dtype=torch.bool)
    basis = Basis(torch.randn(WIDTH), torch.randn(WIDTH, 2))
    kept = reduced(spec((3, WIDTH), (3, 2)), words, there, basis)
    torch.testing.assert_close(kept[:, 1], reduced(spec(kept=(2,)), words[:, 1], None, basis))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            spec(kept=(9,)),
            r"F.dimensions = 9: the module 'm' answers \[8\], and 8 numbers are reduced at once; expected at most 8",
        ),
        (spec((3, 8), (3, 9)), r"F.dimensions = 9: the module 'm' answers \[3, 8\], and 8 numbers"),
        (spec((8193,)), r"8,193 numbers, and their covariance .* at most 8,192. Use .*\"projection\".* or \"mean\""),
        (spec((2, 64, 65)), r"answers \[2, 64, 65\], 8,320 numbers"),
    ],
)
def test_a_basis_that_a_module_cannot_have_is_refused(kind: FeatureSpec, said: str) -> None:
    """Law: no more dimensions than numbers, no more numbers than a covariance has room for."""
    with pytest.raises(ConfigError, match=said):
        refuse_misfit("F", kind)
    refuse_misfit("F", spec((8192,)))


def test_fewer_rows_than_directions_are_refused() -> None:
    """Law: N rows have N - 1 directions about their mean."""
    with pytest.raises(ConfigError, match=r"'f' has dimensions = 3, .* on 3 rows: .* at most 2 directions"):
        refuse_few(spec(), 3)
    refuse_few(spec(), 4)


def test_rows_that_are_all_equal_have_no_basis(tmp_path: Path) -> None:
    """Law: they have no directions, and no file is written."""
    with pytest.raises(TeacherError, match=r"'f' .* is the same for all 60 rows"):
        write_basis(spec(), tmp_path / "b.safetensors", fitted(torch.ones(ROWS, WIDTH), 3), {})
    assert not list(tmp_path.iterdir())


def test_a_file_says_what_it_was_fitted_on_and_is_the_same_each_time(tmp_path: Path) -> None:
    """Law: one fitting, one file, to the byte: its digest is what a cache knows it by."""
    files = [tmp_path / "a" / name for name in ("a.safetensors", "b.safetensors")]
    for file in files:
        write_basis(spec(), file, fitted(sample(), 3), {"module": "m", "samples": 60, "teacher": "t"})
    assert files[0].read_bytes() == files[1].read_bytes()
    found = notes_in(files[0])
    assert found is not None
    assert found["variance_kept"] == pytest.approx(fitted(sample(), 3).share)
    assert {key: found[key] for key in ("module", "samples", "rows")} == {"module": "m", "samples": 60, "rows": 60}
    assert notes_in(tmp_path / "none.safetensors") is None


def written(path: Path, **tensors: Tensor) -> None:
    """A file of tensors that no fitting wrote."""
    save_state(path, tensors)


MEAN, THREE = torch.zeros(WIDTH), torch.zeros(WIDTH, 3)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"mean": MEAN, "components": torch.zeros(WIDTH, 4)}, "found tensors components [8, 4], mean [8], expected"),
        ({"mean": MEAN[:5], "components": THREE[:5]}, "found tensors components [5, 3], mean [5], expected"),
        ({"weight": THREE}, "found tensors weight [8, 3], expected components [8, 3], mean [8]. Delete it"),
        ({"mean": MEAN, "components": THREE / 0}, "this basis is damaged: not all of its numbers are finite"),
    ],
)
def test_a_file_that_is_no_basis_of_the_feature_is_refused(
    tensors: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    """Law: what was found and what was expected."""
    written(tmp_path / "b.safetensors", **tensors)
    with pytest.raises(TeacherError, match=re.escape(said)):
        load_basis(spec(), tmp_path / "b.safetensors")


def test_a_file_that_cannot_be_read_or_is_not_there_or_is_of_another_module_is_refused(tmp_path: Path) -> None:
    """Law: damaged, missing, or somebody else's: each is told apart."""
    path = tmp_path / "b.safetensors"
    with pytest.raises(TeacherError, match=r"there is no such basis. .* `softlabels fit-teacher`"):
        load_basis(spec(), path)
    write_basis(spec(), path, fitted(sample(), 3), {"module": "m"})
    with pytest.raises(TeacherError, match=r"is the basis of the module 'm', and the feature 'f' is of 'other'"):
        load_basis(spec(name="other"), path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TeacherError, match=r"this is no basis that can be read: .*Delete it"):
        load_basis(spec(), path)
