"""Stage one: ask the teacher once, write a label cache."""

import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import JsonValue

from pipeline import encodings
from pipeline.config import Experiment
from pipeline.datasets import Dataset
from pipeline.executors import EXECUTORS
from pipeline.job import job_of, spec_of
from pipeline.labeller import Labeller
from pipeline.labels import LabelSpec
from pipeline.losses import LOSSES
from pipeline.runs import fit_seconds
from pipeline.store.documents import Job
from pipeline.store.layout import Shard
from pipeline.store.writer import CacheWriter, missing_shards, require_space
from pipeline.teachers import Teacher, load_teacher
from pipeline.training import accuracy
from stages.bars import bar
from stages.report import Report, duration, size
from stages.signals import stop_on_signals
from stages.sources import open_source, open_test

MEASURED_BATCHES = 3
RECEIPT_BYTES = 2048  # a generous guess of what one receipt and the documents' share of a shard take on disk


def plan(experiment: Experiment) -> Report:
    """What `generate` would do: rows, shards, bytes, time measured on a few real batches, free disk, losses served.

    Raises:
        MismatchError: a cache of another job lies there.

    """
    dataset, spec, job = _asked(experiment)
    missing = missing_shards(experiment.cache.path, job)
    rows = sum(shard.rows for shard in missing)
    speed = _rows_a_second(Labeller(dataset, _teacher(experiment, dataset), spec))
    facts = {
        "cache": str(experiment.cache.path),
        "rows": job.rows,
        "shards": job.layout.shards,
        "shards_missing": len(missing),
        "bytes": job.bytes_of(job.layout.all_shards()),
        "bytes_missing": job.bytes_of(missing),
        "bytes_per_row": job.bytes_of(job.layout.all_shards()) / job.rows,
        "rows_per_second": speed,
        "seconds": rows / speed,
        "free_bytes": free_bytes(experiment.cache.path),
        "stored_error": encodings.error(spec),
        "losses": _losses_served(spec),
    }
    return Report(facts, _plan_text(facts))


def _plan_text(facts: Mapping[str, Any]) -> str:
    losses = "\n".join(f"  {name:<14} {served}" for name, served in facts["losses"].items())
    enough = "enough" if facts["free_bytes"] > facts["bytes_missing"] else "NOT ENOUGH"
    return (
        f"cache       {facts['cache']}\n"
        f"rows        {facts['rows']:,} in {facts['shards']:,} shards, {facts['shards_missing']:,} still to make\n"
        f"labels      {size(facts['bytes'])} ({facts['bytes']:,} bytes, {facts['bytes_per_row']:.1f} a row)\n"
        f"precision   {facts['stored_error']}\n"
        f"time        about {duration(facts['seconds'])} at {facts['rows_per_second']:,.0f} rows/s\n"
        f"free disk   {size(facts['free_bytes'])}: {enough}\n"
        f"serves\n{losses}"
    )


def generate(experiment: Experiment) -> Report:
    """Make the label cache of an experiment, or what is missing of it.

    Raises:
        MismatchError: a cache of another job lies there; it is left as it is.
        LockedError: another writer is at work on it.
        StorageError: no space, no permission, an I/O error.
        TeacherError: a checkpoint that does not fit, or logits that cannot be stored.
        StoppedError: asked to stop; committed shards are kept.

    """
    dataset, spec, job = _asked(experiment)
    path = experiment.cache.path
    with CacheWriter.open(path, job, _versions()) as writer:
        if writer.sealed:
            return Report(
                {"cache": str(path), "made": 0}, f"{path} is already complete: {job.rows:,} rows. Nothing to do."
            )
        plan = writer.missing()
        require_space(path, job.bytes_of(plan) + RECEIPT_BYTES * len(plan))
        teacher = _teacher(experiment, dataset)
        begun = perf_counter()
        _run(writer, plan, Labeller(dataset, teacher, spec))
        seconds = perf_counter() - begun
        seal = writer.seal(_about(experiment, dataset, teacher))
    made = sum(shard.rows for shard in plan)
    facts = {
        "cache": str(path),
        "cache_id": seal.cache_id,
        "rows": job.rows,
        "made": made,
        "seconds": seconds,
        "bytes": seal.bytes,
    }
    return Report(
        facts,
        f"{path}: {job.rows:,} rows in {job.layout.shards:,} shards, {size(seal.bytes)} "
        f"({seal.bytes / job.rows:.1f} bytes a row); {made:,} rows made now in {duration(seconds)}. "
        f"Cache id {seal.cache_id[:16]}.",
    )


def _asked(experiment: Experiment) -> tuple[Dataset, LabelSpec, Job]:
    dataset = open_source(experiment.dataset)
    spec = spec_of(experiment.labels, dataset)
    return dataset, spec, job_of(experiment, dataset, spec)


def _run(writer: CacheWriter, plan: list[Shard], labeller: Labeller) -> None:
    rows, done = writer.job.rows * writer.job.view_count, writer.job.layout.shards - len(plan)
    with stop_on_signals() as stop, bar("labels", rows, rows - sum(shard.rows for shard in plan)) as progress:
        whole = EXECUTORS["inline"](plan, labeller, writer.commit, stopped=stop, progress=progress.update)
    if not whole:
        done = writer.job.layout.shards - len(writer.missing())
        raise stop.error(f"{done:,} of {writer.job.layout.shards:,} shards are done and kept.")


def _teacher(experiment: Experiment, dataset: Dataset) -> Teacher:
    return load_teacher(experiment.teacher, experiment.views, dataset.input_shape, dataset.classes or 0)


def _about(experiment: Experiment, dataset: Dataset, teacher: Teacher) -> dict[str, JsonValue]:
    """Figures that the table of `train` shows beside the students, since stage two cannot ask the teacher."""
    test = open_test(experiment, dataset)
    return {
        "teacher_parameters": teacher.parameters,
        "teacher_test_accuracy": accuracy(teacher.logits, test, teacher.settings.batch_size) if test else None,
        "teacher_fit_seconds": fit_seconds(experiment.teacher.checkpoint),
    }


def _rows_a_second(labeller: Labeller) -> float:
    """Measured on a few real batches, after one to warm up."""
    rows = len(labeller.dataset)
    starts = [start % rows for start in range(0, (MEASURED_BATCHES + 1) * labeller.batch_size, labeller.batch_size)]
    labeller.label(labeller.load(0, min(rows, labeller.batch_size)))
    begun, done = perf_counter(), 0
    for start in starts[1:]:
        batch = labeller.load(start, min(rows, start + labeller.batch_size))
        labeller.label(batch)
        done += len(batch.ids)
    return done / (perf_counter() - begun)


def _losses_served(spec: LabelSpec) -> dict[str, str]:
    served = encodings.temperatures(spec)
    grid = "any temperature" if served is None else f"temperature {', '.join(f'{t:g}' for t in served)}"
    return {name: grid if loss.uses_temperature else "always" for name, loss in LOSSES.items()}


def free_bytes(path: Path) -> int:
    """Free space on the disk that a path lies on, or will."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("softlabels", "torch", "numpy", "zarr")},
    }
