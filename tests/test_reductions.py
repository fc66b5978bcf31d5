"""What is kept of a module's output: means, projections and their rounding, to the stated error."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TeacherError
from pipeline.features import arrays
from pipeline.hints import attention_transfer
from pipeline.labels import FeatureSpec
from pipeline.reductions import decode, encode, reduced, refuse, storable

FINITE = st.floats(-1e4, 1e4, width=32)
ROWS = st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=1, max_size=5)


def spec(
    reduction: str = "none", dtype: str = "float32", *, given: tuple[int, ...], kept: tuple[int, ...]
) -> FeatureSpec:
    """Of a module "m"."""
    return FeatureSpec("f", "m", reduction, dtype, given, kept)  # type: ignore[arg-type]


@settings(deadline=None)
@given(ROWS, st.sampled_from(["float32", "float16", "int8"]))
def test_a_feature_is_read_as_it_was_within_what_its_dtype_says(rows: list[list[float]], dtype: str) -> None:
    """Law: float32 exactly; float16 by 2^-11 of itself; in eight bits by half of max|x| / 127."""
    given_ND, kept = torch.tensor(rows), spec(dtype=dtype, given=(3,), kept=(3,))
    record = encode(kept, given_ND)
    assert {name: tuple(array.shape[1:]) for name, array in record.items()} == {
        each.name: each.row_shape for each in arrays([kept])
    }
    assert bool(storable(record))
    most_N1 = given_ND.abs().amax(dim=1, keepdim=True)
    bound = {"float32": 0 * given_ND, "float16": given_ND.abs() * 2**-11 + 2**-25, "int8": most_N1 / 253.99 + 1e-30}
    assert ((decode(kept, record) - given_ND).abs() <= bound[dtype].expand_as(given_ND)).all()


def test_a_mean_is_over_space_and_over_positions_that_are_there() -> None:
    """Law: padding does not count; a sequence that is all padding has 0; a vector stays."""
    maps = torch.arange(24.0).view(1, 2, 3, 4)
    assert reduced(spec("mean", given=(2, 3, 4), kept=(2,)), maps).tolist() == [[5.5, 17.5]]
    words = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[7.0, 7.0], [7.0, 7.0], [7.0, 7.0]]])
    there = torch.tensor([[True, True, False], [False, False, False]])
    assert reduced(spec("mean", given=(3, 2), kept=(2,)), words, there).tolist() == [[2.0, 3.0], [0.0, 0.0]]
    assert reduced(spec("mean", given=(2,), kept=(2,)), words[0]).tolist() == words[0].tolist()


def test_a_projection_keeps_squared_distances_in_expectation_and_is_the_same_anywhere() -> None:
    """Law: over many seeds the mean of |Px|^2 is |x|^2; one seed gives one projection, another another."""
    given_NX = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0))
    asked = spec("projection", given=(2, 5), kept=(4,))
    lengths = [reduced(replace(asked, seed=seed), given_NX).square().sum().item() for seed in range(2000)]
    expected = given_NX.square().sum().item()
    assert np.mean(lengths) == pytest.approx(expected, abs=4 * np.std(lengths) / 2000**0.5)
    assert torch.equal(reduced(asked, given_NX), reduced(asked, given_NX))
    assert not torch.equal(reduced(asked, given_NX), reduced(replace(asked, seed=1), given_NX))


def test_a_projection_of_a_sequence_is_one_of_each_position() -> None:
    """Law: [N, L, D] to [N, L, dimensions], each vector by the same signs."""
    words, there = torch.randn(2, 3, 5), torch.ones(2, 3, dtype=torch.bool)
    kept = reduced(spec("projection", given=(3, 5), kept=(3, 4)), words, there)
    assert kept.shape == (2, 3, 4)
    alone = reduced(spec("projection", given=(5,), kept=(4,)), words[:, 1])
    torch.testing.assert_close(kept[:, 1], alone)


@pytest.mark.parametrize("reduction", ["mean", "projection"])
def test_what_is_no_sequence_of_vectors_is_not_taken_for_one(reduction: str) -> None:
    """Law: channels are not averaged for positions."""
    there = torch.ones(2, 24, dtype=torch.bool)
    with pytest.raises(TeacherError, match=rf"'m' answers \[5, 24\] to a sequence of 24 .*\"{reduction}\" is of"):
        reduced(spec(reduction, given=(5, 24), kept=(4,)), torch.zeros(2, 5, 24), there)


def test_another_shape_than_the_first_inputs_is_refused() -> None:
    """Law: what is kept has one shape, so that a row is found by its place."""
    with pytest.raises(TeacherError, match=r"'m' answers \[4\] to a sample of this batch, and \[3\] to the first"):
        encode(spec(given=(3,), kept=(3,)), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("dtype", "said"), [("float16", 'set its dtype = "float32"'), ("int8", "look at these inputs")]
)
def test_what_cannot_be_stored_is_named_by_its_samples(dtype: str, said: str) -> None:
    """Law: a NaN or an infinity is never stored as a number."""
    kept = spec(dtype=dtype, given=(2,), kept=(2,))
    record = encode(kept, torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [1.0, torch.inf]]))
    assert not storable(record)
    with pytest.raises(TeacherError, match=rf"feature 'f' .*{said}.*2 of 3 samples \(ids 8, 9\)"):
        refuse([kept], record, np.array([7, 8, 9]))


def test_one_channel_has_the_attention_of_all_and_only_maps_have_it() -> None:
    """Law: attention transfer from what is kept is that from the maps, where the student's are as large."""
    student_NX, teacher_NX = torch.randn(3, 2, 4, 4), torch.randn(3, 5, 4, 4)
    kept_NX = reduced(spec("attention", given=(5, 4, 4), kept=(1, 4, 4)), teacher_NX)
    assert kept_NX.shape == (3, 1, 4, 4)
    torch.testing.assert_close(attention_transfer(student_NX, kept_NX), attention_transfer(student_NX, teacher_NX))
    with pytest.raises(TeacherError, match=r'\'m\' answers \[5\] to a sample, and reduction = "attention" is of maps'):
        reduced(spec("attention", given=(5,), kept=(5,)), teacher_NX[:, :, 0, 0])
