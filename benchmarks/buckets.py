"""A cache in a bucket: requests and bytes to write it and to read it, epochs over it, and a network that fails.

The server is SeaweedFS on this machine's disk, so what takes time is its work and ours on the same cores, not a
network; requests and bytes are the same on any. Epochs read labels alone, by windows of four shards, with the next ones
fetched meanwhile: the first one from the server, the second from the copies, and one of a cache that was never anywhere
else, in turn. Every round has copies of its own.

    python -m benchmarks.buckets [--quick] [--rounds 5]
"""

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import click
import numpy as np

from benchmarks.gather import block, job_of
from benchmarks.results import Row, compared, publish
from benchmarks.servers import BUCKET, FAULTS, Traffic, environment, proxy, seaweedfs
from pipeline.labels import LabelSpec
from pipeline.order import EpochSampler, Windows
from pipeline.prefetch import prefetching
from pipeline.store.copies import copy
from pipeline.store.documents import Job
from pipeline.store.mapped import LabelCache
from pipeline.store.mirror import MirrorSettings
from pipeline.store.state import read_state
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter

CLASSES, SHARD_ROWS = 1000, 8384  # float16: 16 MiB a shard
SHARDS, QUICK_SHARDS, WINDOW, BATCH = 16, 4, 4, 256
OFTEN, MIB = 0.1, 2**20
SPEC = LabelSpec("dense", CLASSES, "float16")


def fill(where: Path | str, job: Job) -> None:
    """Make and seal a cache."""
    with CacheWriter.open(where, job, {}) as writer:
        for shard in writer.missing():
            writer.commit(shard, block(job, shard), 0.0)
        writer.seal({})


def walk(cache: LabelCache, epoch: int) -> float:
    """Rows a second of labels alone, over an epoch."""
    rows = cache.layout.rows
    sampler = EpochSampler(rows, BATCH, windows=Windows.cut(WINDOW, cache.layout.shard_rows, rows))
    sampler.set_epoch(epoch)
    begun = perf_counter()
    with prefetching(cache, ((0, batch) for batch in sampler.upcoming(epoch))) as walked:
        for batch in sampler:
            cache.gather(0, batch)
            walked()
    return rows / (perf_counter() - begun)


def counted(server: str, job: Job, folder: Path) -> Iterator[Row]:
    """Requests and bytes a shard, to write a cache and to read all of it once and again."""
    shards, url = job.layout.shards, f"s3://{BUCKET}/{uuid4().hex}"
    size = job.bytes_of(job.layout.all_shards())
    with proxy(server) as (address, traffic):
        reach(address)
        fill(url, job)
        yield Row("write to a bucket: requests a shard", _requests(traffic) / shards, "requests")
        yield Row("write to a bucket: bytes sent, against those of the shards", traffic.sent / size, "times")
        for state in ("first", "later"):
            before, received = _requests(traffic), traffic.received
            cache = LabelCache.open(url, settings=MirrorSettings(folder / "counted", 2**40))
            opened = _requests(traffic) - before
            walk(cache, 0)
            asked, came = _requests(traffic) - before - opened, traffic.received - received
            yield Row(f"read from a bucket, {state} epoch: requests a shard", asked / shards, "requests")
            yield Row(
                f"read from a bucket, {state} epoch: bytes received, against those of the shards", came / size, "times"
            )
        yield Row("open a cache in a bucket: requests", opened, "requests")


def _requests(traffic: Traffic) -> int:
    return sum(traffic.methods.values())


def epochs(server: str, job: Job, folder: Path, rounds: int) -> Iterator[Row]:
    """Epochs from the server and from copies, each against one of a cache on this disk."""
    reach(server)
    url = f"s3://{BUCKET}/{uuid4().hex}"
    fill(folder / "local", job)
    copy(folder / "local", url)
    speeds: dict[str, list[float]] = {"local": [], "first": [], "second": []}
    for number in range(rounds + 1):
        cache = LabelCache.open(url, settings=MirrorSettings(folder / f"copies-{number}", 2**40))
        local = LabelCache.open(folder / "local")
        walk(local, 0)  # maps its files, as the first epoch does those of the copies
        found = {"first": walk(cache, 0), "second": walk(cache, 1), "local": walk(local, 1)}
        for name, speed in found.items() if number else ():
            speeds[name].append(speed)
    for name in ("first", "second"):
        yield compared(
            f"{name} epoch over a bucket, against a cache on this disk", speeds[name], speeds["local"], "rows/s"
        )
    mebibytes = job.bytes_of(job.layout.all_shards()) / MIB / job.rows
    yield Row("the same, first epoch", sorted(speeds["first"])[rounds // 2] * mebibytes, "MiB/s")


def failing(server: str, job: Job, folder: Path) -> Iterator[Row]:
    """A cache made and read over a network that does harm to a tenth of all requests."""
    dice = random.Random(0)  # noqa: S311 - chance, not a secret
    url = f"s3://{BUCKET}/{uuid4().hex}"
    harmed = proxy(server, lambda *_: dice.choice(FAULTS) if dice.random() < OFTEN else None)
    with harmed as (address, traffic):
        reach(address)
        fill(url, job)
        cache = LabelCache.open(url, settings=MirrorSettings(folder / "harmed", 2**40))
        expected = np.concatenate([block(job, shard)["logits"] for shard in job.layout.all_shards()])
        wrong = int((cache.gather(0, np.arange(job.rows))["logits"].view(np.uint16) != expected.view(np.uint16)).sum())
    reach(server)
    made, local = read_state(url).seal, read_state(folder / "local").seal
    assert made is not None
    assert local is not None
    assert made.cache_id == local.cache_id, "the cache made over a failing network is another one"
    assert not verify(url).problems
    yield Row(
        "requests that harm was done to (500, 503, cut, halved, silent, slow)", traffic.faults.total(), "requests"
    )
    yield Row("labels that were not as written, of a cache made and read that way", wrong, "values")


def reach(address: str) -> None:
    """Let what follows find a server."""
    import fsspec  # noqa: PLC0415 - of this process's clients those of the server before are forgotten

    os.environ.update(environment(address))
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help=f"{QUICK_SHARDS} shards, two rounds.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    shards, rounds = (QUICK_SHARDS, 2) if quick else (SHARDS, rounds)
    job = job_of(SPEC, shards * SHARD_ROWS)
    with seaweedfs() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*counted(server, job, folder), *epochs(server, job, folder, rounds), *failing(server, job, folder)]
    publish("buckets", rows, keep=not quick)


if __name__ == "__main__":
    main()
