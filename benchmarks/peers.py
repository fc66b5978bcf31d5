"""Our cache beside other ways to keep one row a sample: random rows a second, bytes on disk, time to write.

Every format holds the same rows of 1000 float16 and is asked for the same batches of 256 uniformly random rows, from a
warm page cache, in one thread of torch. Each peer is written and read in the fastest way found that its documentation
offers. Ours and a peer are timed in turn, in one process; ratios are pair by pair. Before that, what a peer returns is
held against what was written. Ours checks each chunk against its checksum at first touch; the figure of a first epoch
includes that, the figures of random rows come after it.

Write time is what the format's own call takes: ours hashes and syncs every shard within it, the peers leave their
bytes to the kernel. The second time adds `sync`, after which every format is as durable as ours.

    make bench-setup
    .venv-bench/bin/python -m benchmarks.peers [--quick] [--rows 262144] [--rounds 7]
"""

import math
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import h5py
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from benchmarks.results import Row, compared, write
from pipeline.labels import ArraySpec
from pipeline.seeds import generator
from pipeline.store.committer import Block
from pipeline.store.documents import ROW_ARRAYS, Job
from pipeline.store.layout import choose
from pipeline.store.mapped import LabelCache
from pipeline.store.state import GROUP
from pipeline.store.writer import CacheWriter

Logits = NDArray[np.float16]  # [n, CLASSES]
Rows = NDArray[np.int64]  # [n]
Gather = Callable[[Rows], Logits]

CLASSES = 1000
ROW_BYTES = 2 * CLASSES
BATCH = 256
BATCHES = 1024  # so many different ones; then again from the first
ROUND_SECONDS, ROUND_BATCHES = 0.3, 2
WRITES, WRITE_SECONDS = 3, 10.0
QUICK_ROWS, QUICK_ROUNDS = 8192, 3
LIBRARIES = ("datasets", "pyarrow", "mosaicml-streaming", "h5py")
MEMMAP = "raw memmap"


@dataclass(frozen=True)
class Peer:
    """A format: how to write all rows into an empty folder, and how to open them.

    One that writes nothing reads the cache that ours wrote.
    """

    write: Callable[[Path, Logits], None] | None
    open: Callable[[Path], Gather]


@dataclass(frozen=True)
class Cost:
    """What writing a format took: seconds of its own call, seconds until all is on disk, bytes there and in files."""

    seconds: float
    synced: float
    allocated: int
    apparent: int

    def cells(self, rows: int) -> str:
        """Its part of a line of the table."""
        disk = f"{self.allocated / rows:,.0f} ({self.apparent / rows:,.0f})"
        return f"{disk} | {self.seconds:.2f} ({self.synced:.2f}) |"


@dataclass(frozen=True)
class Line:
    """A peer's line of the table: random rows a second of ours against it, and its cost unless it wrote nothing."""

    name: str
    race: Row
    cost: Cost | None


def write_ours(folder: Path, logits: Logits) -> None:
    """A sealed cache, cut into shards and chunks as stage one would."""
    shard_rows, chunk_rows = choose(ROW_BYTES, len(logits), None, None)
    job = Job(
        format="softlabels/2",
        dataset={},
        views={},
        teacher={},
        labels={},
        rows=len(logits),
        view_count=1,
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        arrays=(*ROW_ARRAYS, ArraySpec("logits", "float16", (CLASSES,), math.nan)),
    )
    with CacheWriter.open(folder, job, {}) as writer:
        for shard in writer.missing():
            ids = np.arange(shard.start, shard.stop, dtype=np.int64)
            about: Block = {"sample_id": ids, "label": ids.astype(np.int32), "input_crc32c": ids.astype(np.uint32)}
            writer.commit(shard, {**about, "logits": logits[shard.start : shard.stop]}, 0.0)
        writer.seal({})


def open_ours(folder: Path) -> Gather:
    """The mapped reader."""
    cache = LabelCache.open(folder)
    return lambda rows: cache.gather(0, rows, ["logits"])["logits"].view(np.float16)


def open_zarr(folder: Path) -> Gather:
    """The very shards of our cache, indexed by zarr-python, which checks a whole chunk for every row of it."""
    array: Any = zarr.open_array(folder / GROUP / "logits", mode="r")
    return lambda rows: np.asarray(array.oindex[0, rows])


def write_npy(folder: Path, logits: Logits) -> None:
    """One `.npy` file."""
    np.save(folder / "logits.npy", logits)


def open_npy(folder: Path) -> Gather:
    """The file, mapped; `take` is a little faster than `array[rows]`."""
    array: Logits = np.load(folder / "logits.npy", mmap_mode="r")
    return lambda rows: np.take(array, rows, axis=0)


def write_records(folder: Path, logits: Logits) -> None:
    """One file of rows end to end, no header."""
    logits.tofile(folder / "records.bin")


def open_records(folder: Path) -> Gather:
    """A read a row at its offset, as TinyViT's saved logits are read."""
    file = (folder / "records.bin").open("rb", buffering=0)  # closed with the last reference to what is returned

    def gather(rows: Rows) -> Logits:
        records = [os.pread(file.fileno(), ROW_BYTES, row * ROW_BYTES) for row in rows.tolist()]
        return np.frombuffer(b"".join(records), np.float16).reshape(-1, CLASSES)

    return gather


def write_hdf5(folder: Path, logits: Logits) -> None:
    """One contiguous dataset, h5py's default: no checksum is possible."""
    with h5py.File(folder / "logits.h5", "w") as file:
        file.create_dataset("logits", data=logits)


def open_hdf5(folder: Path) -> Gather:
    """Fancy indexing, which takes sorted and distinct rows only."""
    array = h5py.File(folder / "logits.h5", "r")["logits"]
    return in_order(lambda rows: array[rows])


def write_hdf5_chunks(folder: Path, logits: Logits) -> None:
    """Chunks of 128 rows (256 kB), each with the checksum that HDF5 has."""
    with h5py.File(folder / "logits.h5", "w") as file:
        file.create_dataset("logits", data=logits, chunks=(min(128, len(logits)), CLASSES), fletcher32=True)


def open_hdf5_chunks(folder: Path) -> Gather:
    """A read a row, sorted so that a chunk is read once: over chunks this is faster than fancy indexing."""
    array = h5py.File(folder / "logits.h5", "r")["logits"]
    return in_order(lambda rows: np.stack([array[row] for row in rows.tolist()]))


def in_order(read: Gather) -> Gather:
    """Sort, read each row once, put all back where they were asked for."""

    def gather(rows: Rows) -> Logits:
        distinct, places = np.unique(rows, return_inverse=True)
        return read(distinct)[places]

    return gather


def write_arrow(folder: Path, logits: Logits) -> None:
    """A column of lists of fixed length. From an Arrow array: from NumPy rows it takes fifty times as long."""
    arrow, datasets = import_module("pyarrow"), import_module("datasets")
    datasets.disable_progress_bars()
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(logits.reshape(-1)), CLASSES)
    datasets.Dataset.from_dict({"logits": column}).save_to_disk(folder)


def open_arrow(folder: Path) -> Gather:
    """A query a batch in its Arrow format: its NumPy and torch formats take more than twice as long."""
    dataset = import_module("datasets").load_from_disk(folder).with_format("arrow")

    def gather(rows: Rows) -> Logits:
        column = dataset[rows]["logits"].combine_chunks()
        found: Logits = column.flatten().to_numpy().reshape(-1, CLASSES)
        return found

    return gather


def mosaic(module: str) -> Any:  # noqa: ANN401 - a module of a library that is not in the environment of mypy
    """A module of MosaicML Streaming, without running the `__init__` of the packages it is in.

    These import every vision and text dataset, hence transformers, and torchvision, which replaces torch by a CUDA
    build. MDS needs neither.
    """
    for package in ("streaming", "streaming.base"):
        if package not in sys.modules and (spec := find_spec(package)):
            sys.modules[package] = module_from_spec(spec)
    return import_module(f"streaming.base.{module}")


def write_mds(folder: Path, logits: Logits) -> None:
    """A sample a row, of fixed dtype and shape; shards of 64 MiB, its default, no compression, no hashes."""
    columns = {"logits": f"ndarray:float16:{CLASSES}"}
    with mosaic("format.mds").MDSWriter(out=str(folder), columns=columns) as writer:
        for row in logits:
            writer.write({"logits": row})


def open_mds(folder: Path) -> Gather:
    """`LocalDataset`, which indexes the same shards a little faster than `StreamingDataset`."""
    dataset = mosaic("local").LocalDataset(str(folder))
    return lambda rows: np.stack([sample["logits"] for sample in dataset[rows]])


def write_files(folder: Path, logits: Logits) -> None:
    """A `torch.save` a sample. A clone: saving a row of a larger tensor would save the whole tensor."""
    for number, row in enumerate(torch.from_numpy(logits)):
        torch.save(row.clone(), folder / f"{number}.pt")


def open_files(folder: Path) -> Gather:
    """A `torch.load` a row."""
    return lambda rows: np.stack([torch.load(folder / f"{row}.pt", weights_only=True).numpy() for row in rows.tolist()])


OURS = Peer(write_ours, open_ours)
PEERS = {
    MEMMAP: Peer(write_npy, open_npy),
    "fixed-size binary records": Peer(write_records, open_records),
    "Hugging Face datasets (Arrow)": Peer(write_arrow, open_arrow),
    "h5py, contiguous": Peer(write_hdf5, open_hdf5),
    "MosaicML Streaming (MDS)": Peer(write_mds, open_mds),
    "h5py, chunks with checksums": Peer(write_hdf5_chunks, open_hdf5_chunks),
    "one torch.save file a sample": Peer(write_files, open_files),
    "zarr-python indexing, same store": Peer(None, open_zarr),
}


def rehearse(folder: Path) -> None:
    """Write and read a row in each, so that no timing holds an import or first call; stop if a package is missing."""
    for number, peer in enumerate((OURS, *PEERS.values())):
        place = folder / str(number if peer.write else 0)
        try:
            if peer.write:
                place.mkdir()
                peer.write(place, np.zeros((1, CLASSES), np.float16))
            peer.open(place)(np.zeros(1, np.int64))
        except ModuleNotFoundError as error:
            raise SystemExit(
                f"The table of peers needs the package {error.name}, which is not in this environment: run `make "
                "bench-setup` and then `.venv-bench/bin/python -m benchmarks.peers`."
            ) from None


def drawn(rows: int) -> Logits:
    """Normal logits: nothing that a compressor could use."""
    return generator("peers: logits").standard_normal((rows, CLASSES), np.float32).astype(np.float16)


def written(write: Callable[[Path, Logits], None], folder: Path, logits: Logits) -> Cost:
    """Write a format, a few times over unless it takes long (the first may pay for fresh memory too): medians."""
    times: list[tuple[float, float]] = []
    while len(times) < WRITES and sum(synced for _, synced in times) < WRITE_SECONDS:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.sync()  # so that no one pays for the bytes of another
        begun = perf_counter()
        write(folder, logits)
        seconds = perf_counter() - begun
        os.sync()
        times.append((seconds, perf_counter() - begun))
    states = [path.lstat() for path in (folder, *folder.rglob("*"))]
    allocated = sum(state.st_blocks * 512 for state in states)
    apparent = sum(state.st_size for state in states if stat.S_ISREG(state.st_mode))
    return Cost(median(time[0] for time in times), median(time[1] for time in times), allocated, apparent)


def check(name: str, gather: Gather, logits: Logits, batches: Rows) -> None:
    """Stop unless a format returns what was written; so the page cache is warm too, as far as a second or two go."""
    begun = perf_counter()
    for number, rows in enumerate(batches):
        found = gather(rows)
        if found.dtype != np.float16 or not np.array_equal(found.view(np.uint16), logits[rows].view(np.uint16)):
            raise SystemExit(f"{name} does not return the rows that were written; its speed would mean nothing.")
        if number >= ROUND_BATCHES and perf_counter() - begun > 5 * ROUND_SECONDS:
            return


def rows_a_second(gather: Gather, batches: Rows) -> float:
    """One round: batches until its time is over."""
    ahead, done, begun, passed = cycle(batches), 0, perf_counter(), 0.0
    while done < ROUND_BATCHES or passed < ROUND_SECONDS:
        gather(next(ahead))
        done, passed = done + 1, perf_counter() - begun
    return done * BATCH / passed


def first_epoch(peer: Peer, folder: Path, order: Rows) -> float:
    """Seconds to open a format and read every row once, in an order and in batches."""
    begun = perf_counter()
    gather = peer.open(folder)
    for start in range(0, len(order), BATCH):
        gather(order[start : start + BATCH])
    return perf_counter() - begun


def race(name: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int, unit: str) -> Row:
    """A measure of ours and one of a peer, in turn."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return compared(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs], unit)


def cost_rows(own: Cost, line: Line, rows: int) -> list[Row]:
    """Ours against a peer that wrote files of its own: bytes and seconds."""
    if line.cost is None:
        return []
    figures = [
        ("bytes on disk", own.allocated / rows, line.cost.allocated / rows, "bytes/row"),
        ("write", own.seconds, line.cost.seconds, "s"),
        ("write and sync", own.synced, line.cost.synced, "s"),
    ]
    return [Row(f"{what}, beside {line.name}", us, unit, them, us / them) for what, us, them, unit in figures]


def print_table(own: Cost, lines: list[Line], rows: int) -> None:
    """A line a format, for the README."""
    print("| format | rows/s | ours ÷ it (min to max) | bytes a row on disk (in files) | write, s (until on disk) |")
    print("|---|--:|--:|--:|--:|")
    print(f"| softlabels | {median(line.race.value for line in lines):,.0f} | | {own.cells(rows)}")
    for line in lines:
        low, high = line.race.spread or (0, 0)
        speed = f"{line.race.baseline:,.0f} | {line.race.ratio:,.2f} ({low:,.2f} to {high:,.2f})"
        print(f"| {line.name} | {speed} | {line.cost.cells(rows) if line.cost else 'the same | |'}")
    print()


@click.command(help=__doc__)
@click.option("--rows", default=262_144, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--quick", is_flag=True, help=f"{QUICK_ROWS:,} rows, {QUICK_ROUNDS} rounds; nothing is kept.")
def main(rows: int, rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    rows, rounds = (QUICK_ROWS, QUICK_ROUNDS) if quick else (rows, rounds)
    torch.set_num_threads(1)  # as in a worker of a data loader
    with tempfile.TemporaryDirectory() as name:
        rehearse(Path(name))
    logits, batches = drawn(rows), generator("peers: batches").integers(0, rows, (BATCHES, BATCH))
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name) / "ours", Path(name) / "theirs"
        own = written(write_ours, ours, logits)
        gather, lines = open_ours(ours), []
        check("softlabels", gather, logits, batches)
        for title, peer in PEERS.items():
            cost = written(peer.write, theirs, logits) if peer.write else None
            other = peer.open(theirs if peer.write else ours)
            check(title, other, logits, batches)
            own_rate, rate = (partial(rows_a_second, each, batches) for each in (gather, other))
            lines.append(Line(title, race(f"random rows, beside {title}", own_rate, rate, rounds, "rows/s"), cost))
            print(f"{title}: {lines[-1].race.baseline:,.0f} rows/s", file=sys.stderr)
            shutil.rmtree(theirs, ignore_errors=True)
        written(write_npy, theirs, logits)
        order = generator("peers: order").permutation(rows)
        whole, raw = partial(first_epoch, OURS, ours, order), partial(first_epoch, PEERS[MEMMAP], theirs, order)
        epoch = race(f"a first epoch of {rows:,} rows, from opening on, beside {MEMMAP}", whole, raw, rounds, "s")
    print_table(own, lines, rows)
    costs = [row for line in lines for row in cost_rows(own, line, rows)]
    print(f"{epoch.name}: {epoch.value:.3f} s, {epoch.ratio:.2f} times its time")
    if not quick:
        write("peers", [*(line.race for line in lines), epoch, *costs], LIBRARIES)


if __name__ == "__main__":
    main()
