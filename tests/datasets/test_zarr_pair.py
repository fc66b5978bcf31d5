"""Zarr arrays side by side, and what does not go together."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.datasets import open_dataset
from pipeline.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Arrays that fit and arrays that do not."""
    arrays = {
        "x": np.arange(12.0).reshape(4, 3),
        "short": np.arange(3),
        "twice": np.array([5, 5, 6, 7]),
        "one": np.array(1.0),
    }
    for name, values in arrays.items():
        zarr.create_array(str(tmp_path / name), data=values)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"inputs": "gone"}, "gone"),
        ({"inputs": "x", "labels": "gone"}, "gone"),
        ({"inputs": "one"}, "one: found a single value, expected an array of samples"),
        ({"inputs": "x", "labels": "one"}, "one: found a single value"),
        ({"inputs": "x", "labels": "x"}, r"x: found an array of shape \[4, 3\], expected one integer a sample"),
        ({"inputs": "x", "labels": "short"}, "found 3 labels for 4 inputs, expected one label a sample"),
        ({"inputs": "x", "ids": "short"}, "found 3 ids for 4 inputs, expected one id a sample"),
        ({"inputs": "x", "ids": "twice"}, r"1 ids name more than one sample \(5\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder: Path, names: dict[str, str], message: str) -> None:
    """The error names the array and what was found in it."""
    with pytest.raises(DatasetError, match=message):
        open_dataset("zarr", {key: folder / name for key, name in names.items()})
