"""Small jobs, their rows, and ways to fill a cache with them."""

import math
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings

from pipeline.labels import ArraySpec
from pipeline.seeds import generator
from pipeline.store.documents import FORMAT, ROW_ARRAYS, Job
from pipeline.store.layout import Shard
from pipeline.store.writer import CacheWriter

VERSIONS = {"softlabels": "0.1.0", "numpy": "2"}
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
LOGITS = ArraySpec("logits", "float16", (3,), math.nan)


def job_of(
    *,
    rows: int = 21,
    views: int = 2,
    shard_rows: int = 8,
    chunk_rows: int = 4,
    arrays: tuple[ArraySpec, ...] = (LOGITS,),
    teacher: str = "teacher-1",
) -> Job:
    """A job that stores `arrays` beside the store's own."""
    return Job(
        format=FORMAT,
        dataset={"name": "numbers", "classes": 3},
        views={"seed": 0},
        teacher={"sha256": teacher},
        labels={"encoding": "dense", "temperatures": [1.0, 2.0]},
        rows=rows,
        view_count=views,
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        arrays=(*ROW_ARRAYS, *arrays),
    )


def content(job: Job, seed: int = 0) -> dict[str, np.ndarray]:
    """What a cache of the job shall hold: each array `[V, N, *row_shape]`, with a third of the rows all zero."""
    random = generator("cache content", seed)
    whole = {}
    for spec in job.arrays:
        shape = (job.view_count, job.rows, *spec.row_shape)
        low, high = (-1000, 1000) if np.dtype(spec.dtype).kind in "fi" else (0, 200)
        numbers = random.integers(low, high, shape) / (8 if spec.dtype.startswith("float") else 1)
        numbers[random.random(shape[:2]) < 1 / 3] = 0
        whole[spec.name] = numbers.astype(spec.dtype)
    ids = generator("sample ids", seed).permutation(job.rows).astype(np.int64) * 7 + 3
    whole["sample_id"] = np.broadcast_to(ids, (job.view_count, job.rows))
    return whole


def block(job: Job, shard: Shard, seed: int = 0) -> dict[str, np.ndarray]:
    """The rows of one shard."""
    return {name: array[shard.view, shard.start : shard.stop] for name, array in content(job, seed).items()}


def fill(path: Path, job: Job, commits: int | None = None, *, seal: bool = True, seed: int = 0) -> None:
    """Commit some of what is missing (all of it if not said), and seal the cache if nothing is."""
    with CacheWriter.open(path, job, VERSIONS) as writer:
        for shard in writer.missing()[:commits]:
            writer.commit(shard, block(job, shard, seed), 0.5)
        if seal and not writer.missing():
            writer.seal({"accuracy": 0.5})


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a path and its bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
