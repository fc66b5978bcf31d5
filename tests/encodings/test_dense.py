"""Dense labels: exact in float32, within half a unit in the last place in float16, half a step in int8."""

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import encodings
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import DenseLabels, DType, LabelSpec

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
ROWS = hnp.arrays(np.float32, SHAPES, elements=st.floats(-6e4, 6e4, width=32))
ELEMENTS = {
    "ordinary": st.floats(-60, 60, width=32),
    "tied": st.sampled_from([-5.0, -0.0, 0.0, 5.0]),
    "constant": st.just(17.3),
    "far apart": st.floats(-6e4, 6e4, width=32),
    "close together": st.integers(-3, 3).map(lambda n: np.float32(1e6) + n / 16),
    "all but zero": st.floats(-(2.0**-140), 2.0**-140, width=32),
    "any": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "the last": st.sampled_from([-3.4028235e38, -1.7014118e38, 0.0, 1.7014118e38, 3.4028235e38]),
}
ANY = st.one_of(*(hnp.arrays(np.float32, SHAPES, elements=elements) for elements in ELEMENTS.values()))


def stored(logits: np.ndarray, dtype: DType) -> np.ndarray:
    """Through the cache and back."""
    spec = LabelSpec("dense", classes=logits.shape[1], dtype=dtype)
    unlabelled = torch.full((len(logits),), -1)
    record = encodings.encode(spec, torch.from_numpy(logits), unlabelled, np.arange(len(logits)))
    labels = encodings.decode(spec, record)
    assert isinstance(labels, DenseLabels)
    assert labels.logits_NC.dtype == torch.float32
    return labels.logits_NC.numpy()


@settings(deadline=None)
@given(ROWS)
def test_float32_gives_back_the_very_logits(logits: np.ndarray) -> None:
    """decode(encode(z)) = z."""
    np.testing.assert_array_equal(stored(logits, "float32"), logits)


@settings(deadline=None)
@given(ROWS)
def test_float16_errs_by_no_more_than_the_stated_bound(logits: np.ndarray) -> None:
    """|z' - z| <= 2^-11 |z|, or 2^-25 among the subnormal."""
    assert (np.abs(stored(logits, "float16") - logits) <= np.maximum(2.0**-11 * np.abs(logits), 2.0**-25)).all()


def eight_bit_error(logits: np.ndarray) -> np.ndarray:
    """What is stated of each row, [N, 1]."""
    wide = logits.astype(np.float64)
    steps = np.maximum(np.ptp(wide, axis=1, keepdims=True) / 254, 2.0**-126)
    return steps / 2 + 2.0**-22 * np.abs(wide).max(axis=1, keepdims=True)


def stored_or_refused(logits: np.ndarray) -> np.ndarray:
    """Through the cache and back in int8, but for rows that are refused."""
    try:
        return stored(logits, "int8")
    except TeacherError as refusal:
        assert re.search(r'for \d of \d samples .*dtype = "float32"', str(refusal))  # noqa: PT017 - some are refused
        assume(condition=False)
        raise


@settings(deadline=None)
@given(ANY)
def test_int8_errs_by_no_more_than_the_stated_bound(logits: np.ndarray) -> None:
    """|z' - z| <= (max z - min z) / 508 + 2^-22 max|z|, and what is not refused is finite."""
    assert (np.abs(stored_or_refused(logits).astype(np.float64) - logits) <= eight_bit_error(logits)).all()


@settings(deadline=None)
@given(ANY)
def test_int8_keeps_the_order(logits: np.ndarray) -> None:
    """No logit falls below another that it is above or equal to; the largest stays the largest."""
    decoded, order = stored_or_refused(logits), logits.argsort(axis=1)
    assert (np.diff(np.take_along_axis(decoded, order, axis=1), axis=1) >= 0).all()


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 9))
def test_int8_gives_back_the_very_logits_of_a_constant_row(logit: float, classes: int) -> None:
    """A range of 0 is no division by 0."""
    logits = np.full((1, classes), logit, np.float32)
    np.testing.assert_array_equal(stored(logits, "int8"), logits)


@settings(deadline=None)
@given(ROWS, st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from(["float16", "float32", "int8"]))
def test_log_probabilities_err_by_no_more_than_the_bound(logits: np.ndarray, temperature: float, dtype: DType) -> None:
    """Law: of every class, at any temperature."""
    spec = LabelSpec("dense", classes=logits.shape[1], dtype=dtype)
    here, there = (
        torch.from_numpy(z).double().div(temperature).log_softmax(dim=1) for z in (logits, stored(logits, dtype))
    )
    most = encodings.bound(spec, torch.from_numpy(logits), temperature).double()
    assert ((here - there).abs().amax(dim=1) <= most * (1 + 2**-20) + 1e-9).all()


def test_int8_codes_are_as_the_docstring_says() -> None:
    """Case, by hand: 254 steps of 0.5 from -27 to 100, around 36.5; half a step goes to the even code."""
    logits = torch.tensor([[-27.0, 36.5, 36.74, 36.75, 37.25, 100.0]])
    spec = LabelSpec("dense", classes=6, dtype="int8")
    record = encodings.encode(spec, logits, torch.tensor([-1]), np.arange(1))
    assert {name: array.tolist() for name, array in record.items()} == {
        "logits": [[-127, 0, 0, 0, 2, 127]],
        "scale": [0.5],
        "offset": [36.5],
    }


def test_any_temperature_can_be_served() -> None:
    """All logits are there."""
    assert encodings.temperatures(LabelSpec("dense", classes=3, dtype="float16")) is None


def test_a_logit_beyond_float16_is_refused_and_float32_named() -> None:
    """65504 is the last that fits; the next would be read back as infinity."""
    logits = np.array([[0, 65504], [0, -70000]], np.float32)
    with pytest.raises(TeacherError, match=r"reach 70000 .* 65504, for 1 of 2 samples \(ids 1\).*dtype = \"float32\""):
        stored(logits, "float16")
    np.testing.assert_array_equal(stored(logits[:1], "float16"), logits[:1])


@pytest.mark.parametrize("row", [[-3e38, 3e38], [1.7014118e38, 3.4028235e38]])
def test_a_range_beyond_float32_is_refused_in_int8(row: list[float]) -> None:
    """Also one whose ends alone would be read back as infinity."""
    logits = np.array([[1, 2], row], np.float32)
    with pytest.raises(TeacherError, match=r"reach .* 3\.40282e\+38 .* \(ids 1\)\. Set labels\.dtype = \"float32\""):
        stored(logits, "int8")
    np.testing.assert_array_equal(stored(logits[:1], "int8"), logits[:1])


def test_a_k_is_refused() -> None:
    """A setting that would be ignored is a mistake."""
    with pytest.raises(ConfigError, match=r"keeps every class, but labels\.k = 2 was set\. .*encoding = \"topk\""):
        encodings.check(LabelSpec("dense", classes=3, dtype="float16", k=2))
