"""Add views to a cache that is whole: its shards stay, and the new ones join them under a new seal."""

import numpy as np
from pydantic import ValidationError

from pipeline.config import Experiment, ViewSettings
from pipeline.datasets import Dataset
from pipeline.errors import ConfigError
from pipeline.reader import Reader
from pipeline.store.growth import extend
from pipeline.store.mapped import LabelCache
from pipeline.store.state import read_job, refuse_other_job
from pipeline.store.writer import require_space
from stages.report import Report
from stages.soft_labels import asked, disk_bytes, generate

TRIED = 64  # rows of old views, from the first to the last


def extend_cache(experiment: Experiment, views: int, workers: int | None, scheduler: str | None) -> Report:
    """Have the cache of an experiment grow to so many views. The same command again goes on, or finds nothing to do.

    A growth of which no shard is done may be given another number, or be taken back by the number that there was.

    Raises:
        IncompleteError: the cache is not there, or has no seal.
        ConfigError: it has as many views, or more.
        MismatchError: it was made by another job.

    All else as `generate`.
    """
    path = experiment.cache.path
    grown = _grown(experiment, views)
    there = read_job(path)
    dataset, _, job = asked(grown)
    refuse_other_job(path, there, job.model_copy(update={"view_count": there.view_count}))
    cache = LabelCache.open(path, settings=experiment.cache.copies)
    new = [shard for shard in job.layout.all_shards() if shard.view >= cache.layout.views]
    require_space(path, disk_bytes(job, new))
    _refuse_other_views(cache, dataset)
    extend(path, views)
    report = generate(grown, workers, scheduler)
    hint = f" Set views.count = {views} in the experiment, to go on with it." if views != experiment.views.count else ""
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
