"""Say what stage one would do, before it does it."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from pipeline import encodings
from pipeline.config import Experiment
from pipeline.executors import EXECUTORS
from pipeline.labeller import Labeller
from pipeline.sources import readers
from pipeline.store.layout import Shard
from pipeline.store.writer import free_bytes, human, missing_shards
from pipeline.terms import served
from stages.report import Report, counted, duration
from stages.soft_labels import asked, disk_bytes, teacher_of

MEASURED_BATCHES = 4


def plan(experiment: Experiment) -> Report:
    """Rows, shards, exact bytes, time measured on a few real batches, free disk, losses served. Nothing is written.

    Raises:
        MismatchError: a cache of another job lies there.

    """
    dataset, spec, job = asked(experiment)
    missing = missing_shards(experiment.cache.path, job)
    rows = sum(shard.rows for shard in missing)
    speed = _rows_a_second(Labeller(dataset, teacher_of(experiment, dataset), spec), readers(experiment))
    facts = {
        "cache": str(experiment.cache.path),
        "rows": job.rows,
        "shards": job.layout.shards,
        "shards_missing": len(missing),
        "bytes": job.bytes_of(job.layout.all_shards()),
        "disk_bytes_missing": disk_bytes(job, missing),
        "bytes_per_row": job.bytes_of(job.layout.all_shards()) / job.rows,
        "rows_per_second": speed,
        "seconds": rows / speed,
        "free_bytes": free_bytes(experiment.cache.path),
        "stored_error": encodings.error(spec),
        "losses": served(spec.encoding, spec.temperatures, standardised=spec.standardised),
    }
    return Report(facts, _plan_text(facts))


def _plan_text(facts: Mapping[str, Any]) -> str:
    losses = "\n".join(f"  {name:<10} {words}" for name, words in facts["losses"].items())
    shards = f"{counted(facts['shards'], 'shard')}, {facts['shards_missing']:,} still to make"
    return (
        f"cache       {facts['cache']}\n"
        f"rows        {facts['rows']:,} in {shards}\n"
        f"labels      {human(facts['bytes'])} ({facts['bytes']:,} bytes, {facts['bytes_per_row']:.1f} a row)\n"
        f"precision   {facts['stored_error']}\n"
        f"time        about {duration(facts['seconds'])} at {facts['rows_per_second']:,.0f} rows/s\n"
        f"free disk   {_room(facts['free_bytes'], facts['disk_bytes_missing'])}\n"
        f"serves\n{losses}"
    )


def _room(free: int | None, needed: int) -> str:
    if free is None:
        return "an object store, which does not say"
    return f"{human(free)}: {'enough' if free > needed else 'NOT ENOUGH'}"


def _rows_a_second(labeller: Labeller, workers: int) -> float:
    """Measured on a few real batches, run as stage one runs them but for the writing, after one to warm up."""
    first = Shard(0, 0, 0, min(len(labeller.dataset), MEASURED_BATCHES * labeller.batch_size))
    labeller.label(labeller.load(0, min(first.rows, labeller.batch_size)))
    begun = perf_counter()
    EXECUTORS["inline"](
        [first], labeller, lambda *_: None, stopped=lambda: False, progress=lambda _: None, workers=workers
    )
    return first.rows / (perf_counter() - begun)
