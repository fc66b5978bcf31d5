"""Add views, or samples, to a cache that is whole: its shards stay, and the new ones join them under a new seal."""

from dataclasses import replace

import numpy as np
from pydantic import ValidationError

from pipeline.config import Experiment, ViewSettings
from pipeline.datasets import Dataset
from pipeline.datasets.subset import head
from pipeline.errors import ConfigError
from pipeline.job import as_cut, check_begins_with
from pipeline.reader import Reader
from pipeline.sources import readers
from pipeline.store.growth import extend, sealed_job
from pipeline.store.mapped import LabelCache
from pipeline.store.state import read_job, refuse_other_job
from pipeline.store.writer import require_space
from pipeline.views import Viewed
from stages.report import Report
from stages.soft_labels import asked, disk_bytes, generate

TRIED = 64  # rows of old views, from the first to the last


def extend_cache(experiment: Experiment, views: int | None, workers: int | None, scheduler: str | None) -> Report:
    """Have the cache of an experiment grow to so many views, and to all samples of a dataset that has more by now.

    Without a number of views it has as many as before, or those that it is growing to. The same command again goes on,
    or finds nothing to do. A growth of which no shard is done may be given another
    extent, or be taken back by the one that there was.

    Raises:
        IncompleteError: the cache is not there, or has no seal.
        ConfigError: it has as many views and samples, or more.
        MismatchError: it was made by another job, or of other samples than the first of the dataset.

    All else as `generate`.
    """
    path = experiment.cache.path
    was, _ = sealed_job(path)
    grown = _grown(experiment, views or read_job(path).view_count)
    dataset, _, job = asked(grown)
    job = as_cut(job, was, experiment)
    same: dict[str, object] = {"view_count": was.view_count}
    if more := job.rows > was.rows:
        same |= {"rows": was.rows, "dataset": was.dataset}
    refuse_other_job(path, was, job.model_copy(update=same))
    if more:
        check_begins_with(was, experiment, dataset)
    layout = replace(job.layout, before=(*was.layout.before, (was.view_count, was.rows)))
    require_space(path, disk_bytes(job, [layout.shard(number) for number in range(was.layout.shards, layout.shards)]))
    first = Viewed(head(dataset.dataset, was.rows), dataset.settings, readers(experiment)) if more else dataset
    _refuse_other_views(LabelCache.open(path, settings=experiment.cache.copies), first)
    extend(path, job)
    report = generate(grown, workers, scheduler)
    count = grown.views.count
    hint = f" Set views.count = {count} in the experiment, to go on with it." if count != experiment.views.count else ""
    return Report(report.facts, report.text + hint, report.exit_code)


def _grown(experiment: Experiment, views: int) -> Experiment:
    try:
        settings = ViewSettings.model_validate({**dict(experiment.views), "count": views})
    except ValidationError as error:
        raise ConfigError(f"--views {views}: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from None
    return experiment.model_copy(update={"views": settings})


def _refuse_other_views(cache: LabelCache, dataset: Dataset) -> None:
    """Make some of the views there are again: with another version of what makes them, the cache would be of two kinds.

    Raises:
        MismatchError: they are not those that the teacher saw.

    """
    reader = Reader(dataset, cache)
    wanted = np.unique(np.linspace(0, reader.cached - 1, TRIED).astype(np.int64))
    reader.__getitems__(wanted)
