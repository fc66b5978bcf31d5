"""Stage one: ask the teacher once, write a label cache."""

import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import islice
from time import perf_counter

import torch
from pydantic import JsonValue

from pipeline.config import Experiment
from pipeline.datasets import Dataset
from pipeline.errors import SoftLabelsError
from pipeline.executors import EXECUTORS
from pipeline.executors.inline import cuts
from pipeline.job import job_of, spec_of
from pipeline.labeller import Labeller
from pipeline.labels import LabelSpec
from pipeline.runs import fit_seconds
from pipeline.store.documents import Job
from pipeline.store.layout import Shard, shard_file_bytes
from pipeline.store.state import JOB, read_seal, refuse_lost_files
from pipeline.store.writer import CacheWriter, human, missing_shards, require_space
from pipeline.teachers import Teacher, load_teacher
from pipeline.training import evaluate
from stages.bars import bar
from stages.report import Report, counted, duration
from stages.signals import stop_on_signals
from stages.sources import open_source, open_test, readers

BLOCK_BYTES = 4096  # what a file takes on disk is a multiple of this, nearly everywhere


def generate(experiment: Experiment) -> Report:
    """Make the label cache of an experiment, or what is missing of it.

    Raises:
        MismatchError: a cache of another job lies there; it is left as it is.
        LockedError: another writer is at work on it.
        StorageError: no space, no permission, an I/O error.
        TeacherError: a checkpoint that does not fit, or logits that cannot be stored.
        StoppedError: asked to stop; committed shards are kept.

    """
    dataset, spec, job = asked(experiment)
    path = experiment.cache.path
    missing = missing_shards(path, job)
    if read_seal(path, job):
        refuse_lost_files(path, job)
        return Report({"cache": str(path), "made": 0}, f"{path} is already complete: {job.rows:,} rows. Nothing to do.")
    # What can be refused is refused before the first byte is written.
    require_space(path, disk_bytes(job, missing))
    teacher, test = teacher_of(experiment, dataset), open_test(experiment, dataset)
    labeller = Labeller(dataset, teacher, spec)
    if not (path / JOB).exists():
        for cut in islice(cuts(missing, labeller.batch_size), 1):
            labeller.label(labeller.load(cut.start, cut.stop))
    with CacheWriter.open(path, job, _tools(teacher)) as writer:
        plan = writer.missing()
        begun = perf_counter()
        _run(writer, plan, labeller, readers(experiment))
        seconds = perf_counter() - begun
        seal = writer.seal(_about(teacher, test))
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
        f"{path}: {job.rows:,} rows in {counted(job.layout.shards, 'shard')}, {human(seal.bytes)} "
        f"({seal.bytes / job.rows:.1f} bytes a row); {made:,} rows made now in {duration(seconds)}. "
        f"Cache id {seal.cache_id[:16]}.",
    )


def asked(experiment: Experiment) -> tuple[Dataset, LabelSpec, Job]:
    """The dataset of an experiment, the labels it wants of it, and the job of its cache."""
    dataset = open_source(experiment.dataset)
    spec = spec_of(experiment.labels, dataset)
    return dataset, spec, job_of(experiment, dataset, spec)


def _run(writer: CacheWriter, plan: list[Shard], labeller: Labeller, workers: int) -> None:
    rows = writer.job.rows * writer.job.view_count
    with stop_on_signals() as stop, bar("labels", rows, rows - sum(shard.rows for shard in plan)) as progress:
        whole = EXECUTORS["inline"](
            plan, labeller, writer.commit, stopped=stop, progress=progress.update, workers=workers
        )
    if not whole:
        done = writer.job.layout.shards - len(writer.missing())
        raise stop.error(f"{done:,} of {writer.job.layout.shards:,} shards are done and kept.")


def teacher_of(experiment: Experiment, dataset: Dataset) -> Teacher:
    """The teacher of an experiment, loaded."""
    return load_teacher(experiment.teacher, experiment.views, dataset.input_shape, dataset.classes or 0)


def disk_bytes(job: Job, shards: Sequence[Shard]) -> int:
    """What shards and their receipts take of a disk, each file in whole blocks."""
    files = (shard_file_bytes(spec, job.layout, shard) for shard in shards for spec in job.arrays)
    return BLOCK_BYTES * (len(shards) + sum(-(-file // BLOCK_BYTES) for file in files))


def _about(teacher: Teacher, test: Dataset | None) -> dict[str, JsonValue]:
    """Figures that the table of `train` shows beside the students, since stage two cannot ask the teacher."""
    reached = None
    with suppress(SoftLabelsError):  # a test set that cannot be read must not keep labels from being sealed
        reached = evaluate(teacher.logits, test, teacher.settings.batch_size) if test else None
    return {
        "teacher_parameters": teacher.parameters,
        "teacher_test_accuracy": reached.accuracy if reached else None,
        "teacher_test_ece": reached.ece if reached else None,
        "teacher_fit_seconds": fit_seconds(teacher.settings.checkpoint),
    }


def _tools(teacher: Teacher) -> dict[str, str]:
    """What a receipt names: not what was asked, but what the last bits of a float may depend on."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("softlabels", "torch", "numpy", "zarr")},
        "device": teacher.device.type,
        "batch_size": str(teacher.settings.batch_size),
        "threads": str(torch.get_num_threads()),
    }
