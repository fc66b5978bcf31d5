"""Which arrays a cache may hold."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from store_cases import LOGITS, STEADY, job_of

from pipeline.errors import MismatchError
from pipeline.labels import ArraySpec
from pipeline.store.arrays import ROW_ARRAYS, refuse_other_arrays
from pipeline.store.documents import Job, parse_job


@STEADY
@given(st.sampled_from(["float16", "float32"]), st.floats(width=16, allow_infinity=False), st.integers(0, 2**8 - 1))
def test_a_fill_value_is_read_back_as_it_was_written(dtype: str, number: float, count: int) -> None:
    """Law: NaN too, which JSON has no number for."""
    job = job_of(arrays=(ArraySpec("a", dtype, (), number), ArraySpec("b", "uint8", (2, 3), count)))
    first, second = parse_job(job.to_bytes(), "job.json").arrays[3:]
    assert (second.fill, second.row_shape) == (count, (2, 3))
    assert first.fill == number or (math.isnan(first.fill) and math.isnan(number))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "../evil"}, "an array may not be named '../evil'"),
        ({"name": "Logits"}, "an array may not be named 'Logits'"),
        ({"name": "a\n"}, "an array may not be named"),
        ({"name": ""}, "an array may not be named ''"),
        ({"name": "a" * 65}, "at most 64 characters"),
        ({"name": "label"}, "two arrays share a name"),
        ({"dtype": "object"}, "Input should be 'float16'"),
        ({"dtype": "float64"}, "Input should be 'float16'"),
        ({"row_shape": (0,)}, "greater than 0"),
        ({"row_shape": (-1, -1)}, "greater than 0"),
        ({"row_shape": (2**20, 2**20)}, "it is too large"),
        ({"row_shape": (1,) * 5}, "it is too large"),
        ({"fill": math.inf}, "cannot be filled with inf"),
        ({"fill": 1e6}, "cannot be filled with 1000000.0"),
        ({"dtype": "uint8", "fill": 256}, "cannot be filled with 256"),
        ({"dtype": "int8", "fill": -129}, "cannot be filled with -129"),
        ({"dtype": "uint8", "fill": 1.0}, "cannot be filled with 1.0"),
        ({"dtype": "int32", "fill": True}, "Input should be"),
    ],
)
def test_an_array_that_a_cache_may_not_hold_is_refused(changes: dict[str, Any], text: str) -> None:
    """Names are paths, dtypes are sizes, shapes are memory: all are checked before a file is opened."""
    with pytest.raises(ValidationError) as refusal:
        job_of(arrays=(replace(LOGITS, **changes),))
    assert text in str(refusal.value)


def test_a_job_without_the_store_s_own_arrays_is_refused() -> None:
    """Rows are found by sample id, so there is no cache without."""
    with pytest.raises(ValidationError, match="sample_id, label, input_crc32c belong to every cache"):
        Job.model_validate({**job_of().model_dump(), "arrays": (LOGITS, *ROW_ARRAYS[1:])})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"logits": None}, "logits to be stored is none, and the job has float16 of shape [4, 3]"),
        ({"more": np.zeros(4)}, "more to be stored is float64 of shape [4], and the job has none"),
        ({"logits": np.zeros((4, 3), "float32")}, "is float32 of shape [4, 3], and the job has float16"),
        (
            {"logits": np.zeros((4, 2), "float16")},
            "is float16 of shape [4, 2], and the job has float16 of shape [4, 3]",
        ),
        ({"logits": np.zeros((3, 3), "float16")}, "is float16 of shape [3, 3]"),
    ],
)
def test_arrays_other_than_the_job_s_are_refused(change: dict[str, np.ndarray | None], text: str) -> None:
    """A cast would round, a broadcast would repeat: both silently."""
    arrays = {"logits": np.zeros((4, 3), "float16")} | change
    with pytest.raises(MismatchError) as refusal:
        refuse_other_arrays((LOGITS,), {name: array for name, array in arrays.items() if array is not None}, 4)
    assert text in str(refusal.value)
