"""Random rows of a mapped cache against NumPy on one raw memmap of the same bytes, and against zarr's own indexing.

Batches of uniformly random rows, page cache warm, checksums verified in the warm-up, new memory for every batch on both
sides. The two sides read the same batches in turn in one process; a ratio above 1 says that the cache is faster. The
raw side is one `np.memmap` an array, indexed with the rows; for top-k also one of whole records, as if a store kept
rows packed (which rules out reading one array alone): as NumPy items of numbers, and as opaque bytes.

    python -m benchmarks.gather [--quick] [--rounds 7]
"""

import tempfile
from collections.abc import Callable, Iterator
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
        format="softlabels/1",
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
    """The same rows in one file, array after array, each seen as one memmap; every page of it read once."""
    sizes = [row_bytes(spec) * cache.layout.rows for spec in specs]
    with path.open("wb") as file:
        for spec in specs:
            for shard in cache.layout.all_shards():
                rows = np.arange(shard.start, shard.stop)
                cache.gather(0, rows, [spec.name])[spec.name].tofile(file)
    path.read_bytes()
    begins = [0, *accumulate(sizes)]
    return [
        np.memmap(path, spec.dtype, "r", begin, (cache.layout.rows, *spec.row_shape))
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


def copied_in_order(memory: np.memmap[Any, Any], width: int) -> Read:
    """As many bytes as a batch of rows has, copied from one place after another: what memory itself allows."""
    content = np.asarray(memory).reshape(-1).view(np.uint8)
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
        "one memmap of packed records [n, 48] float16": lambda batch: numbers[batch],
        "one memmap of packed opaque records": lambda batch: opaque[batch],
    }


def measured(name: str, job: Job, spec: LabelSpec, rounds: int) -> list[Row]:
    """Every figure of one store."""
    specs = encodings.arrays(spec)
    names, width = [each.name for each in specs], sum(map(row_bytes, specs))
    with tempfile.TemporaryDirectory() as folder:
        cache = written(Path(folder) / "cache", job)
        memory = raw(Path(folder) / "raw", cache, specs)
        name = f"{name}, {job.layout.shards} shards"
        cache.gather(0, np.arange(job.rows), names)  # maps every shard and verifies every chunk
        baselines: dict[str, Read] = {"a raw memmap of each array": lambda batch: [array[batch] for array in memory]}
        if len(specs) > 1:
            baselines |= packed(Path(folder) / "raw", width, job.rows)
        baselines["copying the bytes in order"] = copied_in_order(memory[0], width)
        found = against(name, cache, baselines, lambda batch: cache.gather(0, batch, names), rounds=rounds)
        out = {each.name: np.empty((BATCH, *each.row_shape), each.dtype) for each in specs}
        reused = {"a raw memmap of each array": baselines["a raw memmap of each array"]}
        into = f"{name}, into reused memory"
        found += against(into, cache, reused, lambda batch: cache.gather(0, batch, names, out), rounds=rounds)
        zarrs = {"zarr's own indexing": by_zarr(cache, names)}
        return found + against(
            name, cache, zarrs, lambda batch: cache.gather(0, batch, names), rounds=min(3, rounds), seconds=0.05
        )


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
@click.option("--quick", is_flag=True, help=f"{QUICK_ROWS} rows, {MANY // 10} shards, two rounds.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    rows, rounds = (QUICK_ROWS, 2) if quick else (ROWS, rounds)
    print(f"{rows:,} rows, batches of {BATCH}, {torch.get_num_threads()} threads\n")
    found = []
    for name, spec in {"dense, 1000 float16": DENSE, "top-k, K = 16": TOPK}.items():
        for shards in (None, 64):
            found += measured(name, job_of(spec, rows, shards), spec, rounds)
    publish("gather", [*found, opening(MANY // 10 if quick else MANY, rounds)], keep=not quick)


if __name__ == "__main__":
    main()
