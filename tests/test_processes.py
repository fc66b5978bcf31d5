"""Readers and samplers in other processes: however these are started, and whatever becomes of them."""

import multiprocessing
import os
import pickle
import signal
import struct
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from river_cases import job_for, write_cache
from torch.utils.data import DataLoader

from pipeline.datasets import Dataset, open_dataset
from pipeline.labels import LabelSpec
from pipeline.order import EpochSampler
from pipeline.reader import Batch, Reader, collate
from pipeline.seeds import generator
from pipeline.store.mapped import LabelCache

ROWS, CLASSES = 40, 10
SPEC = LabelSpec("dense", CLASSES, "float32")
IMAGES = generator("images").integers(0, 256, (ROWS, 6, 5)).astype(np.uint8)
LABELS = np.arange(ROWS) % CLASSES

# From Python 3.12 on a fork beside other libraries' threads warns; a reader holds no lock of theirs, which is what is
# tested here.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Pairs:
    """A user's map-style dataset."""

    classes = CLASSES
    targets = LABELS.tolist()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(IMAGES[row]), self.targets[row]


class Fatal(Pairs):
    """A user's dataset whose code takes its process along, but not the one that opened it."""

    def __init__(self) -> None:
        self.opened_by = os.getpid()

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if os.getpid() != self.opened_by and row == ROWS - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(row)


def _digits(_: Path) -> Dataset:
    return open_dataset("digits", {"part": "test"})


def _idx(folder: Path) -> Dataset:
    for name, values in (("images", IMAGES), ("labels", LABELS.astype(np.uint8))):
        head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
        (folder / name).write_bytes(head + values.tobytes())
    return open_dataset("idx", {"inputs": folder / "images", "labels": folder / "labels"}, classes=CLASSES)


def _hdf5(folder: Path) -> Dataset:
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("x", data=IMAGES, chunks=(4, 6, 5), compression="gzip")
        file["y"] = LABELS
    return open_dataset("hdf5", {"path": folder / "data.h5", "inputs": "x", "labels": "y"}, classes=CLASSES)


def _npy(folder: Path) -> Dataset:
    names = {"inputs": IMAGES, "labels": LABELS}
    for name, values in names.items():
        np.save(folder / f"{name}.npy", values)
    return open_dataset("npy", {name: folder / f"{name}.npy" for name in names}, classes=CLASSES)


def _zarr(folder: Path) -> Dataset:
    names = {"inputs": IMAGES, "labels": LABELS}
    for name, values in names.items():
        zarr.create_array(str(folder / name), data=values, chunks=(4, *values.shape[1:]))
    return open_dataset("zarr", {name: folder / name for name in names}, classes=CLASSES)


def _own(_: Path) -> Dataset:
    return open_dataset(f"{__name__}:Pairs", {})


KINDS: dict[str, Callable[[Path], Dataset]] = {
    "digits": _digits,
    "idx": _idx,
    "hdf5": _hdf5,
    "npy": _npy,
    "zarr": _zarr,
    "own": _own,
}


class Shelf:
    """A reader of each kind of dataset: workers take seconds to start, and all kinds can share them."""

    def __init__(self, readers: dict[str, Reader]) -> None:
        self.readers = readers

    def __len__(self) -> int:
        return ROWS

    def __getitems__(self, rows: NDArray[np.int64]) -> dict[str, Batch]:
        """The batch of each reader at the same rows."""
        return {kind: reader.__getitems__(rows) for kind, reader in self.readers.items()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Dataset, Path]]:
    """A dataset of each kind, and a cache of it in several shards."""
    found = {}
    for kind, make in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        dataset = make(folder)
        write_cache(folder / "cache", dataset, SPEC, job_for(dataset, SPEC, shard_rows=len(dataset) // 3, chunk_rows=1))
        found[kind] = dataset, folder / "cache"
    return found


@pytest.fixture
def shelf(opened: dict[str, tuple[Dataset, Path]]) -> Shelf:
    """Readers of them, whose maps are still to be made."""
    return Shelf({kind: Reader(dataset, LabelCache.open(cache)) for kind, (dataset, cache) in opened.items()})


def walk(shelf: Shelf | Reader, start: str | None) -> list[dict[str, Batch]]:
    """The batches of an epoch: read here, or by two workers that are started so."""
    loader: DataLoader[dict[str, Batch]] = DataLoader(
        shelf,
        batch_sampler=EpochSampler(ROWS, ROWS // 4, seed=1),
        num_workers=2 if start else 0,
        multiprocessing_context=start,
        collate_fn=collate,
    )
    return list(loader)


def assert_same(found: dict[str, Batch], expected: dict[str, Batch]) -> None:
    """Two shelves' batches hold the same samples, the same labels, and what the same teacher said."""
    assert set(found) == set(expected) == set(KINDS)
    for kind, batch in found.items():
        assert batch.rows.tolist() == expected[kind].rows.tolist()
        assert torch.equal(batch.inputs_NX, expected[kind].inputs_NX)
        assert torch.equal(batch.labels_N, expected[kind].labels_N)
        assert torch.equal(batch.soft.logits_NC, expected[kind].soft.logits_NC)


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_read_what_their_parent_reads(shelf: Shelf, start: str) -> None:
    """Law: for every kind of dataset and way to start, also beside a parent that holds files and maps open."""
    expected = walk(shelf, None)
    assert len(expected) == 4
    for batch, same in zip(walk(shelf, start), expected, strict=True):
        assert_same(batch, same)


def test_workers_read_before_their_parent_does(shelf: Shelf) -> None:
    """Law: what a forked worker opens is its own; the parent then opens its own."""
    found = walk(shelf, "fork")
    for batch, same in zip(walk(shelf, None), found, strict=True):
        assert_same(batch, same)


def test_a_reader_survives_a_pickle(shelf: Shelf) -> None:
    """With files and maps open, and again from the copy."""
    rows = np.array([3, 1, 7])
    expected = shelf.__getitems__(rows)
    again: Shelf = pickle.loads(pickle.dumps(shelf))  # noqa: S301 - pickled on this very line
    assert_same(again.__getitems__(rows), expected)
    once_more: Shelf = pickle.loads(pickle.dumps(again))  # noqa: S301 - pickled on this very line
    assert_same(once_more.__getitems__(rows), expected)


def digest(batches: dict[str, Batch]) -> bytes:
    """What stands for all that was read."""
    told = sha256()
    for batch in batches.values():
        for tensor in (batch.inputs_NX, batch.labels_N, batch.soft.logits_NC):
            told.update(tensor.numpy().tobytes())
    return told.digest()


def answer_of_a_fork(shelf: Shelf, rows: NDArray[np.int64], seconds: int = 10) -> bytes:
    """The digest of what a forked child reads at some rows, or what became of it; one that hangs is ended."""
    hear, say = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(hear)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            os.write(say, digest(shelf.__getitems__(rows)))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told, and no test goes on in here
            os.write(say, repr(error).encode())
        finally:
            os._exit(0)
    os.close(say)
    with os.fdopen(hear, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said if status == 0 else f"ended with status {status}".encode()


class Many(Pairs):
    """A user's dataset of rows and classes enough for torch to read and convert a batch by several threads."""

    classes = 1000
    targets = (np.arange(256) % 1000).tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(IMAGES[row % ROWS]), self.targets[row]


def fork_often(shelf: Shelf, many: Reader) -> None:
    """Read batches by two threads, each in a fork too; what fails there fails here."""
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 tells of forks beside threads
    torch.set_num_threads(2)
    chance, wide = generator("forks"), Shelf({"many": many})
    for number in range(200):
        asked, count = (wide, len(many)) if number % 10 == 0 else (shelf, ROWS)
        rows = chance.integers(0, count, 256 if asked is wide else 8)
        expected = digest(asked.__getitems__(rows))
        assert answer_of_a_fork(asked, rows) == expected


def test_a_process_forks_two_hundred_times_without_a_hang(shelf: Shelf, tmp_path: Path) -> None:
    """Law: children of a process whose maps, files and threads are in use each read a batch of every kind and go.

    In a process of its own: the others have one thread.
    """
    dataset, spec = open_dataset(f"{__name__}:Many", {}), LabelSpec("dense", Many.classes, "float16")
    many = Reader(dataset, write_cache(tmp_path / "cache", dataset, spec, job_for(dataset, spec, shard_rows=64)))
    parent = multiprocessing.get_context("spawn").Process(target=fork_often, args=(shelf, many))
    parent.start()
    parent.join(50)
    parent.kill()
    parent.join()
    assert parent.exitcode == 0


def test_a_worker_that_is_killed_ends_the_loop_with_an_error(tmp_path: Path) -> None:
    """Law: the loop is told which worker is gone, and neither waits for it nor goes on without its batches."""
    dataset = open_dataset(f"{__name__}:Fatal", {})
    reader = Reader(dataset, write_cache(tmp_path / "cache", dataset, SPEC, job_for(dataset, SPEC)))
    gone = r"DataLoader worker \(pid\(?s?\)? .*\d+\) (exited unexpectedly|is killed by signal: Killed)"
    with pytest.raises(RuntimeError, match=gone):
        walk(reader, "fork")
