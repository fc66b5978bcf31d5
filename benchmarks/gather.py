"""Random rows of a mapped cache against NumPy on one raw memmap of the same bytes, and against zarr's own indexing.

Batches of uniformly random rows, page cache warm, checksums verified in the warm-up, new memory for every batch on both
sides. The two sides read the same batches in turn in one process; a ratio above 1 says that the cache is faster. The
raw side has one array for each of the cache's, read in four ways: `memmap[rows]`, as people write it; `np.take` of a
plain view of the same memory, which spares what `np.memmap` adds to each call; `torch.index_select` of it; and the same
number of bytes copied in order, the whole file over and over. Top-k rows are narrow, and four times as many are read,
so that no cache of the processor holds them all; there the raw side is also one memmap of whole records, as if a store
kept rows packed (which rules out reading one array alone): as NumPy items of numbers, and as opaque bytes.

    python -m benchmarks.gather [--quick] [--rounds 7]
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from benchmarks.results import Row, compared, publish
from pipeline import encodings
from pipeline.labels import ArraySpec, LabelSpec
from pipeline.seeds import generator
from pipeline.store.documents import ROW_ARRAYS, Job
from pipeline.store.layout import Shard, choose, row_bytes
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter

Batch = NDArray[np.int64]
Read = Callable[[Batch], object]
ROWS, QUICK_ROWS, BATCH = 262_144, 32_768, 256
NARROWER = 4  # times as many rows of top-k
SLICE = 0.3  # seconds of reading in a round
MANY = 10_000
DENSE = LabelSpec("dense", 1000, "float16")
TOPK = LabelSpec("topk", 1000, "float16", 16, (1.0, 2.0, 4.0, 8.0))


def job_of(spec: LabelSpec, rows: int, shards: int | None = None) -> Job:
    """A job of one view, with shards of the default size or that many."""
    arrays = encodings.arrays(spec)
    shard_rows = None if shards is None else -(-rows // shards)
    shard_rows, chunk_rows = choose(max(map(row_bytes, arrays)), rows, shard_rows, None)
    return Job(
        format="softlabels/2",
        dataset={},
        views={},
        teacher={},
        labels={"encoding": spec.encoding, "classes": spec.classes},
        rows=rows,
        view_count=1,
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        arrays=(*ROW_ARRAYS, *arrays),
    )


def block(job: Job, shard: Shard) -> dict[str, NDArray[np.generic]]:
    """Random bytes as the rows of a shard; ids in order."""
    random = generator("benchmark of reading", shard.number)
    made: dict[str, NDArray[np.generic]] = {}
    for spec in job.arrays:
        content = random.integers(0, 256, shard.rows * row_bytes(spec), np.uint8)
        made[spec.name] = content.view(spec.dtype).reshape(shard.rows, *spec.row_shape)
    return made | {"sample_id": np.arange(shard.start, shard.stop)}


def written(path: Path, job: Job) -> LabelCache:
    """A sealed cache of the job, opened."""
    with CacheWriter.open(path, job, {}) as writer:
        for shard in writer.missing():
            writer.commit(shard, block(job, shard), 0.0)
        writer.seal({})
    return LabelCache.open(path)


def raw(path: Path, cache: LabelCache, specs: tuple[ArraySpec, ...]) -> list[np.memmap[Any, Any]]:
    """The same rows in one file, array after array, each seen as one memmap; every page of it read once.

    Mapped as what may be written, though nobody does: torch warns of memory that may not.
    """
    sizes = [row_bytes(spec) * cache.layout.rows for spec in specs]
    with path.open("wb") as file:
        for spec in specs:
            for shard in cache.layout.all_shards():
                rows = np.arange(shard.start, shard.stop)
                cache.gather(0, rows, [spec.name])[spec.name].tofile(file)
    path.read_bytes()
    begins = [0, *accumulate(sizes)]
    return [
        np.memmap(path, spec.dtype, "c", begin, (cache.layout.rows, *spec.row_shape))
        for spec, begin in zip(specs, begins[:-1], strict=True)
    ]


def speed(read: Read, batches: Iterator[Batch], seconds: float) -> float:
    """Rows a second, reading batch after batch for some time."""
    begun, rows = perf_counter(), 0
    while (taken := perf_counter() - begun) < seconds or not rows:
        batch = next(batches)
        read(batch)
        rows += batch.size
    return rows / taken if taken else rows / (perf_counter() - begun)


def batches_of(rows: int, name: str) -> Iterator[Batch]:
    """Uniformly random batches for ever, from a list made before the clock runs."""
    made = list(generator(f"batches {name}", 0).integers(0, rows, (1000, BATCH)))
    while True:
        yield from made


def against(
    name: str, cache: LabelCache, baselines: dict[str, Read], read: Read, *, rounds: int, seconds: float = SLICE
) -> list[Row]:
    """A row for each baseline, all measured in turn."""
    batches = batches_of(cache.layout.rows, name)
    for each in (read, *baselines.values()):
        speed(each, batches, seconds / 3)
    values: dict[str, list[tuple[float, float]]] = {baseline: [] for baseline in baselines}
    for _ in range(rounds):
        for baseline, other in baselines.items():
            values[baseline].append((speed(read, batches, seconds), speed(other, batches, seconds)))
    return [
        compared(f"{name}, against {baseline}", [pair[0] for pair in pairs], [pair[1] for pair in pairs], "rows/s")
        for baseline, pairs in values.items()
    ]


def by_zarr(cache: LabelCache, names: list[str]) -> Read:
    """Rows through zarr-python's orthogonal indexing of the same store."""
    group = zarr.open_group(cache.root / "labels.zarr", mode="r")
    arrays: list[Any] = [group[name] for name in names]
    return lambda batch: [array.oindex[0, batch] for array in arrays]


def unwrapped(memory: list[np.memmap[Any, Any]]) -> dict[str, Read]:
    """The faster ways to read the same memory: each array without its `np.memmap`, by NumPy and by torch."""
    plain = [np.asarray(array) for array in memory]
    # Torch has no rows of some dtypes, and bytes are bytes: as integers of the same size.
    tensors = [torch.from_numpy(array.view(f"i{array.itemsize}")) for array in plain]
    return {
        "np.take": lambda batch: [array.take(batch, 0) for array in plain],
        "torch.index_select": lambda batch: [torch.index_select(each, 0, torch.from_numpy(batch)) for each in tensors],
    }


def copied_in_order(path: Path, width: int) -> Read:
    """As many bytes as a batch of rows has, copied from one place after another: what memory itself allows."""
    content = np.asarray(np.memmap(path, np.uint8, "r"))
    target, place = np.empty(BATCH * width, np.uint8), 0

    def read(_: Batch) -> None:
        nonlocal place
        np.copyto(target, content[place : place + target.size])
        place = (place + target.size) % (content.size - target.size)

    return read


def packed(path: Path, width: int, rows: int) -> dict[str, Read]:
    """One memmap of whole records, indexed with the rows: of numbers, and of opaque bytes."""
    numbers: np.memmap[Any, Any] = np.memmap(path, np.float16, "r", 0, (rows, width // 2))
    opaque: np.memmap[Any, Any] = np.memmap(path, np.dtype((np.void, width)), "r", 0, (rows,))
    return {
        "packed records of float16": lambda batch: numbers[batch],
        "packed opaque records": lambda batch: opaque[batch],
    }


@contextmanager
def threads(count: int) -> Iterator[None]:
    """While inside, torch uses that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measured(name: str, job: Job, spec: LabelSpec, rounds: int) -> list[Row]:
    """Every figure of one store."""
    specs = encodings.arrays(spec)
    names, width = [each.name for each in specs], sum(map(row_bytes, specs))
    with tempfile.TemporaryDirectory() as folder:
        cache = written(Path(folder) / "cache", job)
        memory = raw(Path(folder) / "raw", cache, specs)
        name = f"{name}, {job.layout.shards} shards"
        cache.gather(0, np.arange(job.rows), names)  # maps every shard and verifies every chunk
        fancy: dict[str, Read] = {"memmap[rows]": lambda batch: [array[batch] for array in memory]}
        baselines = fancy | unwrapped(memory)
        if len(specs) > 1:
            baselines |= packed(Path(folder) / "raw", width, job.rows)
        baselines["a copy in order"] = copied_in_order(Path(folder) / "raw", width)
        read: Read = lambda batch: cache.gather(0, batch, names)  # noqa: E731 - one of many, and named to be told apart
        found = against(name, cache, baselines, read, rounds=rounds)
        out = {each.name: np.empty((BATCH, *each.row_shape), each.dtype) for each in specs}
        into = f"{name}, into reused memory"
        found += against(into, cache, fancy, lambda batch: cache.gather(0, batch, names, out), rounds=rounds)
        with threads(1):
            found += against(f"{name}, one torch thread", cache, fancy, read, rounds=rounds)
        zarrs = {"zarr's own indexing": by_zarr(cache, names)}
        return found + against(name, cache, zarrs, read, rounds=min(3, rounds), seconds=0.05)


def opening(shards: int, rounds: int) -> Row:
    """Seconds to open a sealed cache of many shards; none of them is read."""
    job = job_of(LabelSpec("dense", 10, "float16"), 2 * shards, shards)
    with tempfile.TemporaryDirectory() as folder:
        root = written(Path(folder) / "cache", job).root
        seconds = []
        for _ in range(rounds):
            begun = perf_counter()
            LabelCache.open(root)
            seconds.append(perf_counter() - begun)
    middle = sorted(seconds)[len(seconds) // 2]
    return Row(f"opening a cache of {shards:,} shards", middle, "s", spread=(min(seconds), max(seconds)))


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--quick", is_flag=True, help=f"{QUICK_ROWS} rows or four times that, {MANY // 10} shards, two rounds.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    rows, rounds = (QUICK_ROWS, 2) if quick else (ROWS, rounds)
    print(f"{rows:,} rows ({NARROWER * rows:,} of top-k), batches of {BATCH}, {torch.get_num_threads()} threads\n")
    found = []
    for name, spec, count in (("dense", DENSE, rows), ("top-k", TOPK, NARROWER * rows)):
        for shards in (None, 64):
            found += measured(name, job_of(spec, count, shards), spec, rounds)
    publish("gather", [*found, opening(MANY // 10 if quick else MANY, rounds)], keep=not quick)


if __name__ == "__main__":
    main()
