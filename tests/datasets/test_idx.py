"""IDX files, plain and gzip, and every way one can be broken."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.datasets import open_dataset
from pipeline.datasets.idx import read_idx
from pipeline.errors import DatasetError

FASHION = Path("/usr/share/datasets/fashion-mnist")
IMAGES = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)


# The file is written anew by every example: one folder for all of them is what is wanted.
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    name=st.sampled_from(["uint8", "int8", "int16", "int32", "float32", "float64"]),
    packed=st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path: Path, write_idx: Callable[..., Path], data: st.DataObject, name: str, *, packed: bool
) -> None:
    """read(write(x)) == x for every dtype and rank of the format, plain or gzip; -0.0 and NaN included."""
    values = data.draw(hnp.arrays(name, hnp.array_shapes(max_dims=5, max_side=6)))
    found = read_idx(write_idx(tmp_path / "values", values, packed=packed))
    assert found.shape == values.shape
    assert found.astype(values.dtype).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("shape", "input_shape"),
    [((5, 12), (12,)), ((5, 3, 4), (1, 3, 4)), ((5, 3, 4, 1), (3, 4, 1)), ((5, 1, 3, 2, 2), (1, 3, 2, 2))],
)
def test_only_images_without_channels_are_given_a_channel_axis(
    tmp_path: Path, write_idx: Callable[..., Path], shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> None:
    """`[N, H, W]` becomes `[N, 1, H, W]`; vectors and higher ranks stay as they are."""
    dataset = open_dataset("idx", {"inputs": write_idx(tmp_path / "x", IMAGES.reshape(shape))})
    assert dataset.input_shape == input_shape
    assert dataset.inputs(np.arange(5)).tobytes() == IMAGES.tobytes()


def test_gzip_is_known_by_its_magic_and_not_by_the_name(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    """A gzip file named .idx and a plain file named .gz both read."""
    for path, packed in ((tmp_path / "packed.idx", True), (tmp_path / "plain.gz", False)):
        np.testing.assert_array_equal(read_idx(write_idx(path, IMAGES, packed=packed)), IMAGES, strict=True)


def test_a_plain_file_is_mapped(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    """A plain file costs address space and not memory, and cannot be written through."""
    values = read_idx(write_idx(tmp_path / "x", IMAGES))
    assert isinstance(values, np.memmap)
    assert not values.flags.writeable


def test_a_pickle_carries_the_paths_and_not_the_inputs(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    """A worker maps the file itself: a megabyte of images is not a megabyte of pickle."""
    path = write_idx(tmp_path / "x", np.zeros((2, 1 << 19), np.uint8))
    assert len(pickle.dumps(open_dataset("idx", {"inputs": path}))) < 5_000


def _plain(values: NDArray[np.generic], write: Callable[..., Path], folder: Path) -> bytes:
    return write(folder / "whole", values).read_bytes()


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "this is no IDX file: it starts with nothing, expected 00 00, a dtype"),
    "a stub": (lambda whole: whole[:3], "this is no IDX file: it starts with 00 00 08, expected"),
    "a PNG": (
        lambda _: b"\x89PNG\r\n\x1a\n",
        r"it starts with 89 50 4e 47, expected 00 00, .*one of 08 09 0b 0c 0d 0e\)",
    ),
    "no such dtype": (lambda whole: b"\0\0\x0a" + whole[3:], "it starts with 00 00 0a 03"),
    "rank 0": (lambda whole: b"\0\0\x08\0" + whole[4:], r"it starts with 00 00 08 00, expected .* a rank \(01 to 40\)"),
    "rank 65": (lambda _: b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"\0", "it starts with 00 00 08 41"),
    "half a header": (lambda whole: whole[:10], "this IDX file ends inside its header of 16 bytes"),
    "cut short": (
        lambda whole: whole[:-1],
        r"shorter than its header says: 59 bytes of values, expected 60 for .*\[5, 3, 4\]",
    ),
    "too long": (lambda whole: whole + b"\0", "longer than its header says: 61 bytes of values, expected 60"),
    "a wild header": (lambda whole: whole[:4] + b"\xff" * 12 + whole[16:], "shorter than its header says: 60 bytes"),
    "gzip cut short": (
        lambda whole: gzip.compress(whole)[:-9],
        "this gzip file is cut short or damaged: .*Fetch it again",
    ),
    "gzip damaged": (lambda whole: _flipped(gzip.compress(whole), -6), "this gzip file is cut short or damaged: CRC"),
    "gzip scrambled": (
        lambda whole: gzip.compress(whole)[:10] + b"\xff" * 40,
        "this gzip file is cut short or damaged",
    ),
    "gzip too long": (lambda whole: gzip.compress(whole + b"\0"), "longer than its header says: 61 bytes of values"),
    "gzip of a PNG": (lambda _: gzip.compress(b"\x89PNG\r\n\x1a\n"), "it starts with 89 50 4e 47"),
}


def _flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, write_idx: Callable[..., Path], kind: str) -> None:
    """No part of a broken file is handed out: the error names the file and what is wrong with it."""
    breaking, message = BROKEN[kind]
    path = tmp_path / "broken"
    path.write_bytes(breaking(_plain(IMAGES, write_idx, tmp_path)))
    with pytest.raises(DatasetError, match=rf"{path}: .*{message}"):
        read_idx(path)


def test_a_missing_file_is_named() -> None:
    """The path, and what was expected there."""
    with pytest.raises(
        DatasetError, match=r"/no/such/file: there is no such file; expected an IDX file, plain or gzip"
    ):
        open_dataset("idx", {"inputs": Path("/no/such/file")})


def test_a_missing_fashion_mnist_names_the_package_that_provides_it() -> None:
    """Who lacks Fashion-MNIST is told how to get it."""
    with pytest.raises(DatasetError, match=r"Debian's package dataset-fashion-mnist installs Fashion-MNIST"):
        open_dataset("idx", {"inputs": "/no/such/fashion-mnist/train-images-idx3-ubyte.gz"})


def test_a_missing_mnist_names_the_target_that_fetches_it() -> None:
    """Who lacks MNIST is told how to get it."""
    with pytest.raises(
        DatasetError, match=r"^data/mnist/none: there is no such file; .* `make mnist` fetches MNIST\.$"
    ):
        open_dataset("idx", {"inputs": Path("data/mnist/none")})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """What the system refuses to open is an error in one line."""
    with pytest.raises(DatasetError, match=r"this file cannot be read: .*directory"):
        open_dataset("idx", {"inputs": tmp_path})


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros(4, np.uint8), np.zeros(4, np.uint8), "found IDX values of rank 1, expected inputs of rank 2 or more"),
        (IMAGES, IMAGES, r"labels .*/y: found an array of shape \[5, 3, 4\], expected one integer a sample"),
        (IMAGES, np.zeros(5, np.float32), "labels .*/y: found dtype >f4, expected integers"),
        (IMAGES, np.arange(6, dtype=np.uint8), r"idx\(inputs=.*/x, labels=.*/y\): found 6 labels for 5 inputs"),
        (IMAGES[:0], np.zeros(0, np.uint8), "this dataset is empty"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path,
    write_idx: Callable[..., Path],
    inputs: NDArray[np.generic],
    labels: NDArray[np.generic],
    message: str,
) -> None:
    """Inputs have a rank of 2 or more, labels a rank of 1 and integers, and both the same count."""
    arguments = {"inputs": write_idx(tmp_path / "x", inputs), "labels": write_idx(tmp_path / "y", labels)}
    with pytest.raises(DatasetError, match=message):
        open_dataset("idx", arguments)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
@pytest.mark.parametrize(("part", "count"), [("train", 60_000), ("t10k", 10_000)])
def test_fashion_mnist_is_what_it_is_known_to_be(part: str, count: int) -> None:
    """The real files: so many images of 28x28, the same number of each of ten classes."""
    arguments = {"inputs": FASHION / f"{part}-images-idx3-ubyte.gz", "labels": FASHION / f"{part}-labels-idx1-ubyte.gz"}
    dataset = open_dataset("idx", arguments)
    assert (len(dataset), dataset.input_shape, dataset.input_dtype) == (count, (1, 28, 28), np.uint8)
    assert dataset.labels is not None
    assert np.bincount(dataset.labels).tolist() == [count // 10] * 10
