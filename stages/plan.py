"""Say what stage one would do, before it does it."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from pipeline import encodings
from pipeline.config import Experiment
from pipeline.labeller import Labeller
from pipeline.labels import LabelSpec
from pipeline.losses import LOSSES
from pipeline.store.writer import free_bytes, human, missing_shards
from stages.report import Report, counted, duration
from stages.soft_labels import asked, disk_bytes, teacher_of

MEASURED_BATCHES = 3


def plan(experiment: Experiment) -> Report:
    """Rows, shards, exact bytes, time measured on a few real batches, free disk, losses served. Nothing is written.

    Raises:
        MismatchError: a cache of another job lies there.

    """
    dataset, spec, job = asked(experiment)
    missing = missing_shards(experiment.cache.path, job)
    rows = sum(shard.rows for shard in missing)
    speed = _rows_a_second(Labeller(dataset, teacher_of(experiment, dataset), spec))
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
        "losses": _losses_served(spec),
    }
    return Report(facts, _plan_text(facts))


def _plan_text(facts: Mapping[str, Any]) -> str:
    losses = "\n".join(f"  {name:<14} {served}" for name, served in facts["losses"].items())
    enough = "enough" if facts["free_bytes"] > facts["disk_bytes_missing"] else "NOT ENOUGH"
    shards = f"{counted(facts['shards'], 'shard')}, {facts['shards_missing']:,} still to make"
    return (
        f"cache       {facts['cache']}\n"
        f"rows        {facts['rows']:,} in {shards}\n"
        f"labels      {human(facts['bytes'])} ({facts['bytes']:,} bytes, {facts['bytes_per_row']:.1f} a row)\n"
        f"precision   {facts['stored_error']}\n"
        f"time        about {duration(facts['seconds'])} at {facts['rows_per_second']:,.0f} rows/s\n"
        f"free disk   {human(facts['free_bytes'])}: {enough}\n"
        f"serves\n{losses}"
    )


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
