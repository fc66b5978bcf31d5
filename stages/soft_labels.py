"""Stage one: ask the teacher once, write a label cache."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from time import perf_counter

from pipeline.config import Experiment
from pipeline.datasets import Dataset
from pipeline.errors import SoftLabelsError
from pipeline.job import as_cut, job_of, spec_of
from pipeline.labeller import Labeller
from pipeline.labels import LabelSpec
from pipeline.provenance import listed, skipped_of
from pipeline.sequences import refuse_other_tokenizer
from pipeline.sources import held_out, open_own, open_test, open_views, readers
from pipeline.store.addresses import place_of
from pipeline.store.documents import Job
from pipeline.store.layout import Shard, shard_file_bytes
from pipeline.store.state import JOB, read_job, read_seal, refuse_lost_files
from pipeline.store.writer import CacheWriter, human, missing_shards, require_space, standing
from pipeline.teachers import Teacher, kept_of, load_teacher
from pipeline.views import Viewed, viewed
from stages.bars import bar, note
from stages.hands import Hands, Here, crew_of
from stages.report import Report, counted, duration
from stages.signals import stop_on_signals

Asked = tuple[Viewed, LabelSpec, Job]
BLOCK_BYTES = 4096  # what a file takes on disk is a multiple of this, nearly everywhere


def generate(experiment: Experiment, workers: int | None = None, scheduler: str | None = None) -> Report:
    """Make the label cache of an experiment, or what is missing of it; then that of its `[test]`, if it has one.

    Args:
        experiment: whose.
        workers: so many processes of a Dask cluster on this machine do it; None: this process does.
        scheduler: the workers of this Dask scheduler do it: its address, or the file that it wrote it to.

    Raises:
        MismatchError: a cache of another job lies there; it is left as it is.
        LockedError: another writer is at work on it.
        StorageError: no space, no permission, an I/O error.
        TeacherError: a checkpoint that does not fit, or logits that cannot be stored.
        ClusterError: no scheduler, no worker, or none that can work.
        IncompleteError: shards that could not be made were set aside, or the cluster is gone; the rest is kept.
        StoppedError: asked to stop; committed shards are kept.

    """
    mine = asked(experiment)
    test = open_test(experiment, mine[0]) if experiment.cache.test else None
    tested = held_out(experiment, test.classes) if test else None
    if tested is None:
        return _made(experiment, mine, workers, scheduler)
    its = asked(tested)
    missing_shards(tested.cache.path, standing(tested.cache.path, its[2]))  # refuses another's before the first shard
    made = [_made(each, its_own, workers, scheduler) for each, its_own in ((experiment, mine), (tested, its))]
    facts = made[0].facts | {"test": made[1].facts}
    return Report(facts, "\n".join(each.text for each in made), made[0].exit_code)


def _made(experiment: Experiment, what: Asked, workers: int | None, scheduler: str | None) -> Report:
    dataset, spec, job = what
    path = experiment.cache.path
    job = standing(path, job)
    missing = missing_shards(path, job)
    if read_seal(path, job):
        refuse_lost_files(path, job)
        return Report({"cache": str(path), "made": 0}, f"{path} is already complete: {job.rows:,} rows. Nothing to do.")
    # What can be refused is refused before the first byte is written.
    require_space(path, disk_bytes(job, missing))
    test = open_test(experiment, dataset)
    begun_before = place_of(path).read(JOB) is not None
    who: AbstractContextManager[Hands] = (
        crew_of(experiment, job, workers, scheduler) if workers or scheduler else _here(experiment, dataset, spec, test)
    )
    with who as hands:
        tools = hands.greet(None if begun_before else missing[0])
        with CacheWriter.open(path, job, tools) as writer:
            plan = writer.missing()
            begun = perf_counter()
            _run(writer, plan, hands)
            seconds = perf_counter() - begun
            seal = writer.seal(hands.about())
    made = sum(shard.rows for shard in plan)
    facts = {
        "cache": str(path),
        "cache_id": seal.cache_id,
        "rows": job.rows,
        "made": made,
        "seconds": seconds,
        "bytes": seal.bytes,
        "workers": hands.workers,
    }
    by = f" by {counted(hands.workers, 'worker')}" if hands.workers else ""
    return Report(
        facts,
        f"{path}: {job.rows:,} rows in {counted(job.layout.shards, 'shard')}, {human(seal.bytes)} "
        f"({seal.bytes / job.rows:.1f} bytes a row); {made:,} rows made now in {duration(seconds)}{by}. "
        f"Cache id {seal.cache_id[:16]}.",
    )


def asked(experiment: Experiment) -> Asked:
    """The dataset of an experiment in its views, the labels it wants of it, and the job of its cache."""
    dataset = open_views(experiment, open_own(experiment))
    if skipped := skipped_of(dataset):
        note(f"left out, as they cannot be decoded: {listed(skipped)}")
    spec = spec_of(experiment.labels, dataset, *kept_of(experiment.teacher, dataset))
    job, there = job_of(experiment, dataset, spec), None
    with suppress(SoftLabelsError):  # whoever writes there says better what is wrong
        there = read_job(experiment.cache.path)
    return dataset, spec, as_cut(job, there, experiment) if there and there.stages else job


def _here(
    experiment: Experiment, dataset: Dataset, spec: LabelSpec, test: Dataset | None
) -> AbstractContextManager[Hands]:
    labeller = Labeller(dataset, teacher_of(experiment, dataset), spec)
    return nullcontext(Here(labeller, readers(experiment), test))


def _run(writer: CacheWriter, plan: list[Shard], hands: Hands) -> None:
    rows = writer.job.rows * writer.job.view_count
    with stop_on_signals() as stop, bar("labels", rows, rows - sum(shard.rows for shard in plan)) as progress:
        whole = hands.run(writer, plan, stop, progress)
    if not whole:
        done = writer.job.layout.shards - len(writer.missing())
        raise stop.error(f"{done:,} of {writer.job.layout.shards:,} shards are done and kept.")


def teacher_of(experiment: Experiment, dataset: Dataset) -> Teacher:
    """The teacher of an experiment, loaded."""
    teacher = load_teacher(experiment.teacher, experiment.views, dataset.input_shape, dataset.classes or 0)
    refuse_other_tokenizer(teacher.network, viewed(dataset).tokenizer_sha256)
    return teacher


def disk_bytes(job: Job, shards: Sequence[Shard]) -> int:
    """What shards and their receipts take of a disk, each file in whole blocks."""
    files = (shard_file_bytes(spec, job.layout, shard) for shard in shards for spec in job.arrays)
    return BLOCK_BYTES * (len(shards) + sum(-(-file // BLOCK_BYTES) for file in files))
