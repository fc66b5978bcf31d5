"""An input's fingerprint, the refusal of inputs that the teacher never saw, and what a network is given."""

import numpy as np
import pytest
import torch
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from river_cases import STEADY

from pipeline.config import ViewSettings
from pipeline.errors import ConfigError, MismatchError
from pipeline.views import check_fingerprints, fingerprints, network_input

DTYPES = ["uint8", "bool", "int64", "float16", "float32", "float64"]
INPUTS = arrays.arrays(
    st.sampled_from(DTYPES), arrays.array_shapes(min_dims=1, max_dims=4, max_side=4), elements={"allow_nan": False}
)


@STEADY
@given(INPUTS)
def test_a_fingerprint_is_the_crc32c_of_the_bytes_of_its_row(inputs: np.ndarray) -> None:
    """Law: for inputs of every dtype and shape, whatever lies beside them in memory."""
    expected = [crc32c(row.tobytes()) for row in inputs]
    scattered = np.repeat(inputs, 2, axis=-1)[..., ::2]
    for same in (inputs, np.asfortranarray(inputs), scattered):
        assert fingerprints(same).tolist() == expected
    assert fingerprints(inputs).dtype == np.uint32


@pytest.mark.parametrize("shape", [(0, 3), (0,), (2, 0)])
def test_no_rows_have_no_fingerprints_and_no_bytes_have_that_of_nothing(shape: tuple[int, ...]) -> None:
    """One fingerprint a row, also where there is nothing to take it of."""
    assert fingerprints(np.zeros(shape)).tolist() == [0] * shape[0]


@STEADY
@given(INPUTS.filter(lambda inputs: inputs.nbytes > 0), st.data())
def test_one_flipped_bit_is_found_and_its_sample_named(inputs: np.ndarray, data: st.DataObject) -> None:
    """Law: of any row, at any bit; the others are not accused."""
    stored, ids = fingerprints(inputs), 7 * np.arange(len(inputs)) + 3
    check_fingerprints(inputs, stored, ids)
    changed = inputs.copy()
    row = data.draw(st.integers(0, len(inputs) - 1))
    raw = changed[row : row + 1].reshape(-1).view(np.uint8)
    raw[data.draw(st.integers(0, raw.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(
        MismatchError, match=rf"^1 of the {len(inputs)} inputs .* \(sample ids {ids[row]}\): their crc32c is not"
    ):
        check_fingerprints(changed, stored, ids)


def test_of_many_changed_inputs_the_first_five_are_named() -> None:
    """An error is one paragraph, however much is wrong."""
    inputs = np.arange(12, dtype=np.uint8).reshape(6, 2)
    with pytest.raises(MismatchError, match=r"^6 of the 6 inputs .* \(sample ids 0, 1, 2, 3, 4, …\).*make a new cache"):
        check_fingerprints(inputs + 1, fingerprints(inputs), np.arange(6))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 4, 4), (3, 4, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_is_given_normalised_float32(dtype: str, shape: tuple[int, ...], channels_last: bool) -> None:
    """(x - mean) / std of inputs of any dtype; the order in memory changes, and no value does."""
    inputs = np.arange(2 * int(np.prod(shape))).reshape(2, *shape).astype(dtype)
    given_NX = network_input(torch.from_numpy(inputs), ViewSettings(mean=2.5, std=4.0), channels_last=channels_last)
    assert given_NX.dtype == torch.float32
    np.testing.assert_array_equal(given_NX.numpy(), (inputs.astype(np.float32) - 2.5) / 4)
    as_asked = torch.channels_last if channels_last and len(shape) == 3 else torch.contiguous_format
    assert given_NX.is_contiguous(memory_format=as_asked)


def test_channels_may_have_numbers_of_their_own() -> None:
    """Law: of images `[N, C, H, W]` and of rows `[N, C]`, each channel is normalised by its own mean and std."""
    views = ViewSettings(mean=[1.0, 2.0], std=[2.0, 4.0])
    for shape in ((3, 2, 4, 4), (3, 2)):
        inputs = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        found = network_input(torch.from_numpy(inputs), views, channels_last=False).numpy()
        np.testing.assert_array_equal(found[:, 0], (inputs[:, 0] - 1) / 2)
        np.testing.assert_array_equal(found[:, 1], (inputs[:, 1] - 2) / 4)


def test_what_the_teachers_library_says_is_looked_up_first() -> None:
    """Law: nobody trains on inputs that were not normalised because that was forgotten."""
    with pytest.raises(ConfigError, match=r'preprocessing = "teacher" has not been looked up yet.*resolved'):
        network_input(torch.zeros(1, 1, 2, 2), ViewSettings(preprocessing="teacher"), channels_last=False)
