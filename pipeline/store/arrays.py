"""Which arrays a cache may hold, checked before a byte of them is decoded; and the three that every cache holds."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from pipeline.errors import MismatchError
from pipeline.labels import ArraySpec

MOST_ROW_ITEMS = 2**28
MOST_DIMENSIONS = 4
MOST_ARRAYS = 64

ROW_ARRAYS = (
    ArraySpec("sample_id", "int64", (), -1),  # a real row's id is >= 0: this is what tells it from filling
    ArraySpec("label", "int32", (), -(2**31)),  # a real row without a label holds -1
    ArraySpec("input_crc32c", "uint32", (), 0),  # any value may be real: ask sample_id
)
"""What the store adds to an encoding's arrays: the sample, its label, and the checksum of the input the teacher saw."""


class _Stored(BaseModel):
    """An array's specification in a document, where NaN is a string, as in Zarr."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(max_length=64)
    dtype: Literal["float16", "float32", "int8", "uint8", "uint16", "uint32", "int32", "int64"]
    row_shape: tuple[Annotated[int, Field(gt=0, le=MOST_ROW_ITEMS)], ...] = Field(strict=False)
    fill: int | float | Literal["NaN"]


def document(spec: ArraySpec) -> dict[str, object]:
    """An array's specification as JSON."""
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "row_shape": list(spec.row_shape),
        "fill": fill_value(spec),
    }


def fill_value(spec: ArraySpec) -> float | int | str:
    """The fill value as JSON, in the words of Zarr v3."""
    if not spec.dtype.startswith("float"):
        return spec.fill
    return "NaN" if math.isnan(spec.fill) else float(spec.fill)


def _checked(value: object) -> ArraySpec:
    """The specification in a document, or one made in Python, if a cache may hold it; else ValueError."""
    stored = _Stored.model_validate(document(value) if isinstance(value, ArraySpec) else value)
    if not re.fullmatch("[a-z][a-z0-9_]*", stored.name):
        raise ValueError(f"an array may not be named {stored.name!r}: letters a-z, then digits and _ too")
    if len(stored.row_shape) > MOST_DIMENSIONS or math.prod(stored.row_shape) > MOST_ROW_ITEMS:
        raise ValueError(f"a row of {stored.name} may not be of shape {stored.row_shape}: it is too large")
    fill = math.nan if stored.fill == "NaN" else stored.fill
    if not _holds(np.dtype(stored.dtype), fill):
        raise ValueError(f"{stored.name} is of {stored.dtype} and cannot be filled with {fill}")
    return ArraySpec(stored.name, stored.dtype, stored.row_shape, fill)


def _holds(dtype: np.dtype[Any], fill: float) -> bool:
    if dtype.kind != "f":
        return isinstance(fill, int) and np.iinfo(dtype).min <= fill <= np.iinfo(dtype).max
    if not isinstance(fill, float):
        return False
    with np.errstate(over="ignore"):
        return math.isnan(fill) or (math.isfinite(fill) and float(dtype.type(fill)) == fill)


def refuse_unfit(specs: tuple[ArraySpec, ...]) -> None:
    """Raise ValueError if these are not the arrays of one cache."""
    if len(specs) > MOST_ARRAYS:
        raise ValueError(f"{len(specs)} arrays, of which {MOST_ARRAYS} are allowed")
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError("two arrays share a name")
    if not set(ROW_ARRAYS) <= set(specs):
        raise ValueError(f"the arrays {', '.join(spec.name for spec in ROW_ARRAYS)} belong to every cache, unchanged")


def refuse_other_arrays(specs: tuple[ArraySpec, ...], arrays: Mapping[str, NDArray[np.generic]], rows: int) -> None:
    """Raise MismatchError unless there is each array, with that many rows of its shape, in its very dtype."""
    expected = {spec.name: (spec.dtype, (rows, *spec.row_shape)) for spec in specs}
    found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise MismatchError(
            f"The array {name} to be stored is {_words(found.get(name))}, and the job has "
            f"{_words(expected.get(name))}. Mend the encoding that made it; nothing was written."
        )


def _words(array: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{array[0]} of shape {list(array[1])}" if array else "none"


StoredSpec = Annotated[ArraySpec, PlainValidator(_checked), PlainSerializer(document)]
