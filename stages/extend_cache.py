"""Add views to a cache that is whole: its shards stay, and the new ones join them under a new seal."""

from pipeline.config import Experiment
from pipeline.store.state import read_job, refuse_other_job
from pipeline.store.writer import extend, require_space
from stages.report import Report
from stages.soft_labels import asked, disk_bytes, generate


def extend_cache(experiment: Experiment, views: int, workers: int | None, scheduler: str | None) -> Report:
    """Have the cache of an experiment grow to so many views. The same command again goes on, or finds nothing to do.

    Raises:
        IncompleteError: the cache is not there, or has no seal.
        ConfigError: it has as many views, or more.
        MismatchError: it was made by another job.

    All else as `generate`.
    """
    path = experiment.cache.path
    grown = experiment.model_copy(update={"views": experiment.views.model_copy(update={"count": views})})
    there = read_job(path)
    _, _, job = asked(grown)
    refuse_other_job(path, there, job.model_copy(update={"view_count": there.view_count}))
    new = [shard for shard in job.layout.all_shards() if shard.view >= there.view_count]
    require_space(path, disk_bytes(job, new))
    extend(path, views)
    report = generate(grown, workers, scheduler)
    hint = f" Set views.count = {views} in the experiment, to go on with it." if views != experiment.views.count else ""
    return Report(report.facts, report.text + hint, report.exit_code)
