"""HDF5 files: keys, refusals, and a handle for each process."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.datasets import open_dataset
from pipeline.errors import DatasetError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with inputs, labels, ids and things that are neither."""
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["train/x"] = np.arange(12, dtype=np.float32).reshape(4, 3)
        file["train/y"], file["train/ids"] = np.arange(4), np.array([5, 5, 6, 7])
        file["short"], file["scalar"], file["words"] = np.arange(3), np.float32(1), ["a", "b", "c", "d"]
        file["empty"] = h5py.Empty("f4")
        file["dangling"] = h5py.SoftLink("/gone")
    return tmp_path / "data.h5"


KEYS = "the datasets of this file are: empty, scalar, short, train/ids, train/x, train/y, words"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"inputs": "x"}, f"data.h5: the key 'x' does not exist; {KEYS}. Name one of those"),
        ({"inputs": "train"}, f"data.h5: the key 'train' is a group; {KEYS}"),
        ({"inputs": ""}, "data.h5: the key '' does not exist"),
        ({"inputs": "dangling"}, "data.h5: the key 'dangling' does not exist"),
        ({"inputs": "train/x", "labels": "y"}, "data.h5: the key 'y' does not exist"),
        ({"inputs": "train/x", "ids": "names"}, "data.h5: the key 'names' does not exist"),
        ({"inputs": "scalar"}, "data.h5: scalar: found a single value, expected an array of samples"),
        ({"inputs": "empty"}, "data.h5: empty: found a single value"),
        ({"inputs": "words"}, "data.h5: words: found inputs of dtype object"),
        ({"inputs": "train/x", "labels": "words"}, "data.h5: words: found dtype object, expected integers"),
        ({"inputs": "train/x", "labels": "empty"}, r"data.h5: empty: found an array of shape \[\]"),
        ({"inputs": "train/x", "labels": "short"}, "found 3 labels for 4 inputs, expected one label a sample"),
        ({"inputs": "train/x", "ids": "short"}, "found 3 ids for 4 inputs, expected one id a sample"),
        ({"inputs": "train/x", "ids": "train/ids"}, r"1 ids name more than one sample \(5\)"),
    ],
)
def test_keys_that_do_not_fit_are_refused(path: Path, keys: dict[str, str], message: str) -> None:
    """The error names the file and the key, and lists the keys there are."""
    with pytest.raises(DatasetError, match=message):
        open_dataset("hdf5", {"path": path, **keys})


def test_only_the_first_keys_of_many_are_listed(tmp_path: Path) -> None:
    """An error stays a paragraph in a file of many keys."""
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for number in range(25):
            file[f"k{number:02}"] = number
    with pytest.raises(DatasetError, match=r"k18, k19 and 5 more"):
        open_dataset("hdf5", {"path": tmp_path / "many.h5", "inputs": "x"})


def test_a_missing_file_is_no_hdf5_file() -> None:
    """The path, and what was expected there."""
    with pytest.raises(DatasetError, match=r"/no/such.h5: there is no such file; expected an HDF5 file"):
        open_dataset("hdf5", {"path": "/no/such.h5", "inputs": "x"})


def test_another_format_is_no_hdf5_file(tmp_path: Path) -> None:
    """What HDF5 itself says is quoted."""
    (tmp_path / "not.h5").write_bytes(b"PK\3\4" * 100)
    with pytest.raises(DatasetError, match=r"cannot be opened as an HDF5 file: .*signature not found"):
        open_dataset("hdf5", {"path": tmp_path / "not.h5", "inputs": "x"})


def test_a_file_cut_short_is_refused(path: Path) -> None:
    """A truncated file does not open."""
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"cannot be opened as an HDF5 file: .*truncated"):
        open_dataset("hdf5", {"path": path, "inputs": "train/x"})


def test_a_damaged_chunk_is_refused(tmp_path: Path) -> None:
    """A chunk that fails its checksum is an error, never a batch."""
    path = tmp_path / "sums.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.full((8, 64), 7, np.uint8), chunks=(8, 64), fletcher32=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\7" * 64, b"\7" * 63 + b"\6", 1))
    dataset = open_dataset("hdf5", {"path": path, "inputs": "x"})
    with pytest.raises(DatasetError, match=r"sums.h5: /x cannot be read: .*The file is damaged"):
        dataset.inputs(np.arange(2))


def test_nothing_is_held_open_before_the_first_batch(path: Path) -> None:
    """Opening reads labels and ids and lets go of the file: what forks next inherits no handle."""
    dataset = open_dataset("hdf5", {"path": path, "inputs": "train/x", "labels": "train/y"})
    assert not _open_here(path)
    dataset.inputs(np.arange(2))
    assert _open_here(path)


def _open_here(path: Path) -> bool:
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are enough
    return any(link.is_symlink() and link.exists() and link.samefile(path) for link in links)
