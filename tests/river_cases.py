"""Small datasets, caches of them whose labels are known, and runs over them."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, settings

from pipeline import encodings
from pipeline.datasets.arrays import ArrayDataset
from pipeline.labels import LabelSpec
from pipeline.seeds import generator
from pipeline.store.documents import FORMAT, ROW_ARRAYS, Job
from pipeline.store.layout import Shard
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter
from pipeline.views import fingerprints

STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
CLASSES = 3
DENSE = LabelSpec("dense", CLASSES, "float32")


def samples(rows: int = 24, *, shape: tuple[int, ...] = (1, 4, 4), seed: int = 0) -> ArrayDataset:
    """Labelled samples with ids in no order; every input differs from every other."""
    random = generator("samples", seed)
    inputs = random.permutation(rows * 256).reshape(rows, 256)[:, : int(np.prod(shape))]
    ids = random.permutation(10 * rows)[:rows].astype(np.int64)
    labels = random.permutation(np.arange(rows) % CLASSES)
    return ArrayDataset(inputs.reshape(rows, *shape).astype(np.float32), ids, labels, classes=CLASSES)


def part_of(dataset: ArrayDataset, rows: np.ndarray) -> ArrayDataset:
    """The samples at some rows, in that order."""
    labels = None if dataset.labels is None else dataset.labels[rows]
    return ArrayDataset(dataset.array[rows], dataset.ids[rows], labels, dataset.classes)


def told(ids: np.ndarray, classes: int = CLASSES) -> torch.Tensor:
    """Logits `[N, C]` that are a function of the sample's id alone."""
    return torch.from_numpy(np.stack([generator("told", int(i)).normal(size=classes) for i in ids])).float()


def job_for(dataset: ArrayDataset, spec: LabelSpec, *, shard_rows: int = 8, chunk_rows: int = 4) -> Job:
    """The job of a cache of these labels."""
    return Job(
        format=FORMAT,
        dataset={},
        views={},
        teacher={},
        labels={**asdict(spec), "temperatures": list(spec.temperatures), "features": []},
        rows=len(dataset),
        view_count=1,
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        arrays=(*ROW_ARRAYS, *encodings.arrays(spec)),
    )


def write_cache(path: Path, dataset: ArrayDataset, spec: LabelSpec = DENSE, job: Job | None = None) -> LabelCache:
    """A sealed cache of what `told` says."""
    job = job or job_for(dataset, spec)

    def block(shard: Shard) -> dict[str, np.ndarray]:
        rows = np.arange(shard.start, shard.stop)
        ids = dataset.ids[rows]
        labels = np.full(rows.size, -1) if dataset.labels is None else dataset.labels[rows]
        record = encodings.encode(spec, told(ids, spec.classes), torch.from_numpy(labels), ids)
        return {name: tensor.numpy() for name, tensor in record.items()} | {
            "sample_id": ids,
            "label": labels.astype(np.int32),
            "input_crc32c": fingerprints(dataset.inputs(rows)),
        }

    with CacheWriter.open(path, job, {}) as writer:
        for shard in writer.missing():
            writer.commit(shard, block(shard), 0.0)
        writer.seal({})
    return LabelCache.open(path)
