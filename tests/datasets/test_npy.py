"""NumPy's own files side by side, and what is none or does not go together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets import open_dataset
from pipeline.errors import DatasetError

WHOLE = np.arange(12.0).reshape(4, 3)


def _cut(path: Path) -> None:
    np.save(path, WHOLE)
    path.write_bytes(path.read_bytes()[:-1])


def _archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=WHOLE)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda _: None, "there is no such file; expected a .npy file. Correct the path"),
        (lambda path: path.mkdir(), "cannot be read as a .npy file"),
        (lambda path: path.write_bytes(b""), "cannot be read as a .npy file: .*write one array to it with numpy.save"),
        (lambda path: path.write_bytes(b"not an array"), "cannot be read as a .npy file"),
        (lambda path: np.save(path, np.array([{}, 1], dtype=object)), "cannot be read as a .npy file"),
        (_cut, "cannot be read as a .npy file"),
        (_archive, r"cannot be read as a .npy file: .*an .npz archive holds several"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "cannot be read as a .npy file"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8"), "cannot be read as a .npy file"),
        (lambda path: np.save(path, np.array(1.0)), "found a single value, expected an array of samples"),
        (lambda path: np.save(path, np.array(["a", "b"])), "found inputs of dtype <U1, expected booleans"),
    ],
)
def test_what_is_no_array_of_samples_is_refused(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    """The error names the file, what was found and what to do."""
    write(tmp_path / "x.npy")
    with pytest.raises(DatasetError, match=rf"^{tmp_path}/x\.npy: .*{message}"):
        open_dataset("npy", {"inputs": tmp_path / "x.npy"})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(3), "found 3 labels for 4 inputs, expected one label a sample"),
        (np.zeros((4, 1), int), r"found an array of shape \[4, 1\], expected one integer a sample"),
        (np.zeros(4), "found dtype float64, expected integers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    """One integer label a sample, in a file of its own."""
    np.save(tmp_path / "x.npy", WHOLE)
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(DatasetError, match=message):
        open_dataset("npy", {"inputs": tmp_path / "x.npy", "labels": tmp_path / "y.npy"})


def test_nothing_of_a_large_file_is_copied_to_open_it(tmp_path: Path) -> None:
    """Law: labels and ids in int64 are the mapped file itself, through every check."""
    for name, values in {"x": WHOLE, "y": np.array([0, 2, 1, -1]), "ids": np.array([3, 5, 8, 9])}.items():
        np.save(tmp_path / f"{name}.npy", values)
    paths = {"inputs": tmp_path / "x.npy", "labels": tmp_path / "y.npy", "ids": tmp_path / "ids.npy"}
    dataset = open_dataset("npy", paths)
    assert isinstance(dataset.ids.base, np.memmap)
    assert isinstance(dataset.labels.base, np.memmap)
    assert (dataset.ids.tolist(), dataset.labels.tolist()) == ([3, 5, 8, 9], [0, 2, 1, -1])
