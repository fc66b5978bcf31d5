"""Cluster a feature of a label cache: k-means, and a cache of soft assignments beside it."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from pipeline.assignments import (
    NO_DIGEST,
    Assigner,
    Clustering,
    Tally,
    digest_of,
    feature_of,
    job_of_clusters,
    refuse_odd,
    refuse_other,
    samples_of,
)
from pipeline.centres import Centres, fit
from pipeline.errors import IncompleteError, MismatchError
from pipeline.labels import FeatureSpec
from pipeline.store.documents import Job, Seal
from pipeline.store.mapped import LabelCache
from pipeline.store.state import read_job, read_seal, refuse_lost_files
from pipeline.store.writer import CacheWriter, human, missing_shards, require_space
from stages.bars import Bar, bar
from stages.report import Report, counted, duration
from stages.signals import Stop, stop_on_signals
from stages.soft_labels import disk_bytes

TOOLS = ("softlabels", "torch", "numpy", "zarr", "scikit-learn")


def cluster(path: Path | str, feature: str | None, asked: Clustering, out: Path | str | None) -> Report:
    """Make the cache of clusters of a cache, or what is missing of it.

    Args:
        path: of the sealed cache with the feature.
        feature: its name; None: the only one.
        asked: how many clusters, and how they are found.
        out: where they go; None: beside it, under its name and "-clusters".

    Raises:
        ConfigError: no such feature, or one whose rows are no vectors; fewer than two clusters, or more than rows.
        IncompleteError: the cache is not there, or has no seal.
        MismatchError: another cache lies there; or its centres were found on another machine, and differ here.
        StorageError: no space, no permission, an I/O error.
        StoppedError: asked to stop; shards that are written are kept.

    """
    cache, place = LabelCache.open(path), out or beside(path)
    spec = feature_of(cache, feature)
    refuse_odd(asked, cache)
    job, before = _job(cache, spec, asked, place)
    missing = missing_shards(place, job)
    if seal := read_seal(place, job) if before else None:
        refuse_lost_files(place, job)
        done = f"{place} is already complete: {job.rows:,} rows. Nothing to do."
        return Report({"cache": str(place), "made": 0, **seal.about}, f"{done}\n{_figures(seal.about)}")
    require_space(place, disk_bytes(job, missing))
    begun = perf_counter()
    with stop_on_signals() as stop, bar("clusters", (asked.passes + 2) * job.rows * job.view_count) as progress:
        centres = _fitted(cache, spec, asked, stop, progress)
        if before not in {NO_DIGEST, centres.digest}:
            raise MismatchError(
                f"{place} was begun with other centres than are found here: on another machine, or with another "
                "version of scikit-learn or NumPy, the last bits differ. Finish it there, or delete it and run this "
                "again."
            )
        writer = CacheWriter.open(place, job_of_clusters(cache, spec, asked, centres.digest), _versions(cache))
        with writer:
            tally = _written(Assigner(cache, spec, centres, asked.temperature), writer, stop, progress)
            seal = writer.seal({**tally.figures(), "variance": centres.variance})
    return _report(place, seal, sum(shard.rows for shard in missing), perf_counter() - begun)


def beside(path: Path | str) -> Path | str:
    """Where clusters of a cache go, if nothing else is said."""
    return f"{path.rstrip('/')}-clusters" if isinstance(path, str) else path.with_name(f"{path.name}-clusters")


def _job(cache: LabelCache, spec: FeatureSpec, asked: Clustering, place: Path | str) -> tuple[Job, str]:
    """The job, with the centres that one there was begun with, and their digest, if there is one."""
    try:
        there = read_job(place)
    except IncompleteError:
        return job_of_clusters(cache, spec, asked, NO_DIGEST), NO_DIGEST
    job = job_of_clusters(cache, spec, asked, digest_of(there))
    refuse_other(place, there, job)
    return job, digest_of(there)


def _fitted(cache: LabelCache, spec: FeatureSpec, asked: Clustering, stop: Stop, progress: Bar) -> Centres:
    def each(rows: int) -> None:
        progress.update(rows)
        if stop():
            raise stop.error("Nothing was written yet: the centres are found anew.")

    return fit(samples_of(cache, spec), asked.clusters, seed=asked.seed, passes=asked.passes, each=each)


def _versions(cache: LabelCache) -> dict[str, str]:
    """The tools at work, and those that made the views."""
    of_views = cache.seal.made.versions if cache.seal else {}
    return {**of_views, "python": platform.python_version(), **{name: version(name) for name in TOOLS}}


def _written(source: Assigner, writer: CacheWriter, stop: Stop, progress: Bar) -> Tally:
    """Commit what is missing; what is told of all rows, also of those that were there."""
    tally, missing = Tally(len(source.centres.centres_KD)), set(writer.missing())
    for shard in writer.layout.all_shards():
        if stop():
            raise stop.error("Shards that are written are kept.")
        begun = perf_counter()
        block, nearest_N, sure_N = source.assigned(shard)
        if shard in missing:
            writer.commit(shard, block, perf_counter() - begun)
        tally.update(block["label"], nearest_N, sure_N)
        progress.update(shard.rows)
    return tally


def _report(place: Path | str, seal: Seal, made: int, seconds: float) -> Report:
    rows = seal.rows * seal.views
    facts = {"cache": str(place), "cache_id": seal.cache_id, "rows": rows, "made": made, "seconds": seconds}
    text = (
        f"{place}: {rows:,} rows in {counted(seal.shards, 'shard')}, {human(seal.bytes)} "
        f"({seal.bytes / rows:.1f} bytes a row), in {duration(seconds)}. Cache id {seal.cache_id[:16]}."
    )
    return Report({**facts, "bytes": seal.bytes, **seal.about}, f"{text}\n{_figures(seal.about)}")


def _figures(about: Mapping[str, Any]) -> str:
    sizes = f"{about['clusters']:,} clusters of {about['smallest']:,} to {about['largest']:,} rows"
    sizes += f", {about['empty']:,} of them empty" if about["empty"] else ""
    nmi, known = about["normalised_mutual_information"], counted(about["labelled"], "true label")
    beside_truth = (
        f"Normalised mutual information with {known}: {nmi:.4f} (of 1; by the mean of both entropies)."
        if nmi is not None
        else "The cache has no true labels, so nothing is told of how clusters go with them."
    )
    return f"{sizes}; mean confidence {about['mean_confidence']:.1%}. {beside_truth}"
