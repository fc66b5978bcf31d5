"""One contract for every kind of dataset: what a reader of samples by id may rely on."""

import hashlib
import io
import multiprocessing
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.datasets import Dataset, content_digest, ids_digest, open_dataset
from pipeline.datasets.contract import check_inputs, integer_vector
from pipeline.errors import DatasetError

N = 23
IMAGES = np.random.default_rng(1).integers(0, 256, (N, 5, 4), dtype=np.uint8)
FLOATS = np.random.default_rng(2).normal(size=(N, 3, 2)).astype(np.float32)
LABELS = np.arange(N) % 4
IDS = np.random.default_rng(3).permutation(1000)[:N].astype(np.int64)

ROWS = st.lists(st.integers(0, N - 1), max_size=3 * N).map(lambda rows: np.array(rows, dtype=np.int64))


class TensorPairs:
    """A user's map-style dataset, as torchvision would have it."""

    ids = IDS
    classes = ("a", "b", "c", "d")

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(FLOATS[row]), int(LABELS[row])


class OwnDataset:
    """A user's complete dataset, which hands out what its slicing gives: not contiguous."""

    ids = IDS
    labels = None
    classes = None
    class_names = None
    input_shape = (4, 5)
    input_dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return N

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Each image on its side."""
        return IMAGES[rows].transpose(0, 2, 1)


@dataclass(frozen=True)
class Case:
    """A kind, how to open it, and what it must then hold."""

    open: Callable[[], Dataset]
    inputs: NDArray[np.generic]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    classes: int | None


def _digits(_: Path, __: Callable[..., Path]) -> Case:
    ids = open_dataset("digits", {"part": "test"}).ids
    pixels, labels = load_digits(return_X_y=True)
    images = pixels[ids].astype(np.uint8).reshape(-1, 1, 8, 8)
    return Case(lambda: open_dataset("digits", {"part": "test"}), images, ids, labels[ids], 10)


def _idx(folder: Path, write: Callable[..., Path], *, packed: bool = False) -> Case:
    paths = {
        "inputs": write(folder / "images", IMAGES, packed=packed),
        "labels": write(folder / "labels", np.uint8(LABELS)),
    }
    return Case(lambda: open_dataset("idx", paths), IMAGES[:, None], np.arange(N), LABELS, 4)


def _idx_gzip(folder: Path, write: Callable[..., Path]) -> Case:
    return _idx(folder, write, packed=True)


def _idx_unlabelled(folder: Path, write: Callable[..., Path]) -> Case:
    vectors = write(folder / "vectors", FLOATS.reshape(N, 6))
    return Case(lambda: open_dataset("idx", {"inputs": vectors}), FLOATS.reshape(N, 6), np.arange(N), None, None)


def _hdf5(folder: Path, _: Callable[..., Path]) -> Case:
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("deep/x", data=FLOATS.astype(">f4"), chunks=(4, 3, 2), compression="gzip")
        file["y"], file["name"] = LABELS.astype(np.int16), IDS.astype(np.uint32)
    arguments = {"path": folder / "data.h5", "inputs": "deep/x", "labels": "y", "ids": "name"}
    return Case(lambda: open_dataset("hdf5", arguments), FLOATS, IDS, LABELS, 4)


def _hdf5_unlabelled(folder: Path, _: Callable[..., Path]) -> Case:
    with h5py.File(folder / "data.h5", "w") as file:
        file["x"] = IMAGES
    arguments = {"path": str(folder / "data.h5"), "inputs": "x"}
    return Case(lambda: open_dataset("hdf5", arguments), IMAGES, np.arange(N), None, None)


def _npy(folder: Path, _: Callable[..., Path]) -> Case:
    values = {"inputs": FLOATS.astype(">f4"), "labels": LABELS.astype(np.int8), "ids": IDS}
    for name, array in values.items():
        np.save(folder / f"{name}.npy", array)
    return Case(lambda: open_dataset("npy", {name: folder / f"{name}.npy" for name in values}), FLOATS, IDS, LABELS, 4)


def _npy_unlabelled(folder: Path, _: Callable[..., Path]) -> Case:
    np.save(folder / "x.npy", np.asfortranarray(IMAGES))
    return Case(lambda: open_dataset("npy", {"inputs": str(folder / "x.npy")}), IMAGES, np.arange(N), None, None)


def _zarr(folder: Path, _: Callable[..., Path]) -> Case:
    values = {"inputs": FLOATS.astype(">f4"), "labels": LABELS.astype(np.int32), "ids": IDS}
    for name, array in values.items():
        zarr.create_array(str(folder / name), data=array, chunks=(4, *array.shape[1:]))
    return Case(lambda: open_dataset("zarr", {name: folder / name for name in values}), FLOATS, IDS, LABELS, 4)


def _zarr_unlabelled(folder: Path, _: Callable[..., Path]) -> Case:
    zarr.create_array(str(folder / "x"), data=IMAGES, chunks=(4, 5, 4), shards=(8, 5, 4))
    return Case(lambda: open_dataset("zarr", {"inputs": str(folder / "x")}), IMAGES, np.arange(N), None, None)


SQUARES = np.random.default_rng(4).integers(0, 256, (N, 5, 5, 3), dtype=np.uint8)
NAMES = sorted(f"{'abcd'[label]}/{place}" for place, label in enumerate(LABELS))


def _png(square: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(square).save(stream, "png")
    return stream.getvalue()


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def _images(folder: Path, _: Callable[..., Path]) -> Case:
    for name, square in zip(NAMES, SQUARES, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(_png(square))
    ids = np.array([_hashed(f"{name}.png") for name in NAMES])
    labels = np.array(["abcd".index(name[0]) for name in NAMES])
    return Case(
        lambda: open_dataset("images", {"path": folder, "size": 5}), SQUARES.transpose(0, 3, 1, 2), ids, labels, 4
    )


def _images_unlabelled(folder: Path, _: Callable[..., Path]) -> Case:
    for place, square in enumerate(SQUARES):
        (folder / f"{place:02}.png").write_bytes(_png(square))
    ids = np.array([_hashed(f"{place:02}.png") for place in range(N)])
    arguments = {"path": str(folder), "size": 5, "labelled": False, "damaged": "skip"}
    return Case(lambda: open_dataset("images", arguments), SQUARES.transpose(0, 3, 1, 2), ids, None, None)


def _webdataset(folder: Path, _: Callable[..., Path]) -> Case:
    for place, (square, label) in enumerate(zip(SQUARES, LABELS, strict=True)):
        with tarfile.open(folder / f"{place // 9}.tar", "a") as tar:
            for extension, content in {"cls": str(label).encode(), "png": _png(square)}.items():
                member = tarfile.TarInfo(f"{place}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    ids = np.array([_hashed(f"{place // 9}.tar/{place}") for place in range(N)])
    arguments = {"shards": folder / "{0..2}.tar", "size": 5}
    return Case(lambda: open_dataset("webdataset", arguments), SQUARES.transpose(0, 3, 1, 2), ids, LABELS, 4)


def _map_style(_: Path, __: Callable[..., Path]) -> Case:
    return Case(lambda: open_dataset(f"{__name__}:TensorPairs", {}), FLOATS, IDS, LABELS, 4)


def _own(_: Path, __: Callable[..., Path]) -> Case:
    return Case(lambda: open_dataset(f"{__name__}:OwnDataset", {}), IMAGES.transpose(0, 2, 1), IDS, None, None)


def _without_a_class(folder: Path, _: Callable[..., Path]) -> Case:
    """Every other sample is of a fifth class, which is left out."""
    pairs = {
        "x": np.stack([FLOATS + 1, FLOATS], axis=1),
        "y": np.stack([np.full(N, 4), LABELS], axis=1),
        "name": np.stack([IDS + 1000, IDS], axis=1),
    }
    with h5py.File(folder / "data.h5", "w") as file:
        for key, values in pairs.items():
            file[key] = values.reshape(2 * N, *values.shape[2:])
    arguments = {"path": folder / "data.h5", "inputs": "x", "labels": "y", "ids": "name"}
    return Case(lambda: open_dataset("hdf5", arguments, without=(4,)), FLOATS, IDS, LABELS, 5)


CASES = [
    _digits,
    _idx,
    _idx_gzip,
    _idx_unlabelled,
    _hdf5,
    _hdf5_unlabelled,
    _npy,
    _npy_unlabelled,
    _zarr,
    _zarr_unlabelled,
    _images,
    _images_unlabelled,
    _webdataset,
    _map_style,
    _own,
    _without_a_class,
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.__name__.strip("_"))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_idx: Callable[..., Path]
) -> Case:
    """Each kind in turn."""
    made: Case = request.param(tmp_path_factory.mktemp("data"), write_idx)
    return made


@given(rows=ROWS)
@settings(deadline=None, max_examples=25)
def test_a_batch_is_the_source_indexed_by_the_rows(case: Case, rows: NDArray[np.int64]) -> None:
    """inputs(rows) == source[rows] for rows in any order, repeated, or none; contiguous and in native byte order."""
    dataset = case.open()
    batch = dataset.inputs(rows)
    np.testing.assert_array_equal(batch, case.inputs[rows], strict=True)
    assert batch.flags.c_contiguous
    assert batch.dtype == dataset.input_dtype
    assert batch.dtype.isnative
    assert batch.shape == (len(rows), *dataset.input_shape)


def test_ids_labels_and_classes_are_those_of_the_source(case: Case) -> None:
    """Ids and labels are int64 vectors of N; the classes are declared ones or max label + 1."""
    dataset = case.open()
    assert len(dataset) == len(case.inputs)
    np.testing.assert_array_equal(dataset.ids, case.ids.astype(np.int64), strict=True)
    assert (dataset.labels is None) == (case.labels is None)
    if dataset.labels is not None and case.labels is not None:
        np.testing.assert_array_equal(dataset.labels, case.labels.astype(np.int64), strict=True)
    assert dataset.classes == case.classes


def test_opening_again_gives_the_same_dataset(case: Case) -> None:
    """Two openings have the same ids and the same content digest: nothing depends on who asks, or when."""
    one, other = case.open(), case.open()
    assert ids_digest(one.ids) == ids_digest(other.ids)
    assert content_digest(one) == content_digest(other)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "in use"])
def test_a_dataset_survives_a_pickle(case: Case, *, used: bool) -> None:
    """loads(dumps(dataset)) holds what the dataset holds, whether or not a file was open."""
    dataset = case.open()
    if used:
        dataset.inputs(np.arange(2))
    again: Dataset = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # pickled on this very line
    np.testing.assert_array_equal(again.inputs(np.arange(N)), case.inputs[:N], strict=True)
    assert ids_digest(again.ids) == ids_digest(dataset.ids)


# From Python 3.12 on a fork beside other libraries' threads warns; the forked code here touches none of them.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_readers_read_what_the_parent_reads(case: Case) -> None:
    """Children forked after the parent's first read, and the parent meanwhile, all read the right rows."""
    dataset = case.open()
    dataset.inputs(np.arange(N))
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    children = [fork.Process(target=_report, args=(dataset, case.inputs, seed, answers)) for seed in range(3)]
    for child in children:
        child.start()
    assert _right(dataset, case.inputs, 99)
    assert [answers.get() for _ in children] == [True] * 3
    for child in children:
        child.join(60)


def _right(dataset: Dataset, inputs: NDArray[np.generic], seed: int) -> bool:
    chance = np.random.default_rng(seed)
    batches = [chance.integers(0, N, 7) for _ in range(20)]
    return all(np.array_equal(dataset.inputs(rows), inputs[rows]) for rows in batches)


def _report(
    dataset: Dataset, inputs: NDArray[np.generic], seed: int, answers: "multiprocessing.SimpleQueue[object]"
) -> None:
    try:
        answers.put(_right(dataset, inputs, seed))
    except Exception as error:  # noqa: BLE001  # the parent waits for an answer and shows this one
        answers.put(repr(error))


@pytest.mark.parametrize("row", [-1, 10_000])
def test_a_row_outside_the_dataset_is_an_error(case: Case, row: int) -> None:
    """A negative row is not counted from the end: that would be another sample under this one's id."""
    with pytest.raises(IndexError, match=r"rows .* asked for, there are 0\.\."):
        case.open().inputs(np.array([0, row]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [2]], r"what: found an array of shape \[2, 1\], expected one integer a sample, \[N\]"),
        (3, r"what: found an array of shape \[\], expected one integer a sample"),
        ([0.0, 1.0], "what: found dtype float64, expected integers"),
        (["cat", "dog"], "what: found dtype <U3, expected integers"),
        ([[1], [2, 3]], "what: expected one integer a sample.*inhomogeneous"),
        (np.array([1, 2**63], np.uint64), r"what: found 9223372036854775808, expected integers below 2\*\*63"),
    ],
)
def test_labels_and_ids_are_vectors_of_integers(values: object, message: str) -> None:
    """Nothing is rounded, flattened or wrapped around to become a label or an id."""
    with pytest.raises(DatasetError, match=message):
        integer_vector(values, "what")


@pytest.mark.parametrize("values", [[True, False], np.array([1, 0], ">u2"), torch.tensor([1, 0])])
def test_any_vector_of_integers_becomes_int64(values: object) -> None:
    """Booleans, other widths, byte orders and tensors keep their values."""
    np.testing.assert_array_equal(integer_vector(values, "what"), np.array([1, 0]), strict=True)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((), "f4", r"what: found a single value, expected an array of samples, \[N, ...\]"),
        (None, "f4", "what: found a single value"),
        ((3,), "O", "what: found inputs of dtype object, expected booleans, integers or floating-point"),
        ((3,), "c8", "what: found inputs of dtype complex64"),
        ((3,), "S5", r"what: found inputs of dtype \|S5"),
    ],
)
def test_inputs_are_stacks_of_numbers(shape: tuple[int, ...] | None, dtype: str, message: str) -> None:
    """What no network can be fed is refused where it is opened."""
    with pytest.raises(DatasetError, match=message):
        check_inputs(shape, np.dtype(dtype), "what")
