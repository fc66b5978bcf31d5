"""Dense labels: exact in float32, within half a unit in the last place in float16."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import encodings
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import DenseLabels, DType, LabelSpec

ROWS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-6e4, 6e4, width=32)
)


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


def test_any_temperature_can_be_served() -> None:
    """All logits are there."""
    assert encodings.temperatures(LabelSpec("dense", classes=3, dtype="float16")) is None


def test_a_logit_beyond_float16_is_refused_and_float32_named() -> None:
    """65504 is the last that fits; the next would be read back as infinity."""
    logits = np.array([[0, 65504], [0, -70000]], np.float32)
    with pytest.raises(TeacherError, match=r"reach 70000 .* 65504, for 1 of 2 samples \(ids 1\).*dtype = \"float32\""):
        stored(logits, "float16")
    np.testing.assert_array_equal(stored(logits[:1], "float16"), logits[:1])


def test_a_k_is_refused() -> None:
    """A setting that would be ignored is a mistake."""
    with pytest.raises(ConfigError, match=r"keeps every class, but labels\.k = 2 was set\. .*encoding = \"topk\""):
        encodings.check(LabelSpec("dense", classes=3, dtype="float16", k=2))
