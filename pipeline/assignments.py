"""Clusters of a teacher's cached features as labels of their own: which rows are clustered, and what is asked of them.

The cache of them is a label cache as any other, of the same samples and views: dense labels over clusters instead of
classes, the same receipts and seal, and in its job, in place of a teacher, the cache that they were made from. Its
features have to be vectors. Learning from clusters: Caron et al. 2018, "Deep Clustering for Unsupervised Learning of
Visual Features", arXiv 1807.05520; here the teacher's features stay what they are, so clusters are made once.

Not for what true labels or the teacher's answers can say better: clusters follow whatever the features vary by most.

Shape legend
    N  rows (samples)
    D  numbers of a feature
    K  clusters
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from pipeline import encodings, reductions
from pipeline.centres import Centres, Samples, blocks
from pipeline.contingency import Contingency
from pipeline.errors import ConfigError, MismatchError
from pipeline.features import arrays
from pipeline.job import labels_section
from pipeline.labels import CLUSTERED, FeatureSpec, LabelSpec
from pipeline.reader import label_spec, refuse_unknown
from pipeline.store.arrays import ROW_ARRAYS
from pipeline.store.documents import Job
from pipeline.store.layout import Shard, choose, row_bytes
from pipeline.store.mapped import LabelCache
from pipeline.store.state import refuse_other_job

Rows = NDArray[np.int64]
Block = dict[str, NDArray[np.generic]]
FEWEST = 2
NO_DIGEST = ""


@dataclass(frozen=True)
class Clustering:
    """What is asked for: how many clusters, how they are found, and how soft rows are assigned to them."""

    clusters: int
    seed: int = 0
    passes: int = 10
    temperature: float = 1.0


def feature_of(cache: LabelCache, name: str | None) -> FeatureSpec:
    """The feature of a cache that is to be clustered: that of the name, or the only one.

    Raises:
        ConfigError: the cache has none, or none of this name, or several and no name was given; or a row of it is no
            vector.

    """
    spec = label_spec(cache)
    known = [each.name for each in spec.features]
    if not known:
        raise ConfigError(
            f"{cache.place} has no features to cluster. Add [[teacher.features]] with `module` and `name` to the "
            "experiment, and generate a cache with them (docs/features.md)."
        )
    if name is None and len(known) > 1:
        raise ConfigError(f"{cache.place} has several features: {', '.join(known)}. Say which: --feature {known[0]}.")
    refuse_unknown(cache, spec, [] if name is None else [name])
    found = next(each for each in spec.features if name in {None, each.name})
    if len(found.row_shape) != 1:
        raise ConfigError(
            f"{found.what} has {list(found.row_shape)} numbers of a sample, as positions or maps have, and clusters "
            'are of vectors. Keep it with reduction = "mean", and make a cache with that.'
        )
    return found


def refuse_odd(asked: Clustering, cache: LabelCache) -> None:
    """Raise ConfigError about a number of clusters that rows cannot be put into."""
    rows = cache.layout.rows * cache.layout.views
    if asked.clusters < FEWEST:
        raise ConfigError(
            f"--clusters {asked.clusters}: found {asked.clusters}, expected at least {FEWEST}: fewer tell nothing "
            "apart. Ask for more."
        )
    if asked.clusters > rows:
        raise ConfigError(
            f"--clusters {asked.clusters:,}: {cache.place} has {rows:,} rows, and each cluster needs one of its own at "
            "least. Ask for fewer; some hundred rows a cluster are a good measure."
        )


def samples_of(cache: LabelCache, feature: FeatureSpec) -> Samples:
    """The rows of a feature, of all views, by the order of sample ids: the same however the cache is cut and ordered.

    Takes memory for two numbers a sample, and for the rows that are asked for.
    """
    rows = cache.layout.rows
    ids = np.concatenate([_ids(cache, start, min(start + 2**16, rows)) for start in range(0, rows, 2**16)])
    order = np.argsort(ids, kind="stable")

    def read(places: Rows) -> NDArray[np.float32]:
        views, within = np.divmod(places, rows)
        return _features(cache, feature, views, order[within])

    return Samples(read, rows * cache.layout.views, feature.row_shape[0])


def _ids(cache: LabelCache, start: int, stop: int) -> Rows:
    return cache.gather(0, np.arange(start, stop), ["sample_id"])["sample_id"].astype(np.int64)


def _features(cache: LabelCache, feature: FeatureSpec, views: int | Rows, rows: Rows) -> NDArray[np.float32]:
    record = cache.gather(views, rows, [array.name for array in arrays([feature])])
    decoded = reductions.decode(feature, {name: torch.from_numpy(array) for name, array in record.items()})
    found: NDArray[np.float32] = decoded.numpy()
    return found


def job_of_clusters(cache: LabelCache, feature: FeatureSpec, asked: Clustering, digest: str) -> Job:
    """The job of their cache, where `digest` is that of the centres."""
    spec = LabelSpec("dense", asked.clusters, "float16")
    stored = (*ROW_ARRAYS, *encodings.arrays(spec))
    shard_rows, chunk_rows = choose(max(map(row_bytes, stored)), cache.layout.rows, None, None)
    found: dict[str, JsonValue] = {
        CLUSTERED: asked.clusters,
        "cache_id": cache.cache_id,
        "feature": feature.name,
        "seed": asked.seed,
        "passes": asked.passes,
        "temperature": asked.temperature,
        "centres_sha256": digest,
    }
    names: list[JsonValue] = [f"cluster {number}" for number in range(asked.clusters)]
    return Job(
        format="softlabels/2",
        dataset={**cache.job.dataset, "class_names": names},
        views=cache.job.views,
        teacher=found,
        labels=labels_section(spec),
        rows=cache.layout.rows,
        view_count=cache.layout.views,
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        arrays=stored,
    )


def digest_of(job: Job) -> str:
    """The digest of the centres that a job was begun with; none, if it is not of clusters."""
    return str(job.teacher.get("centres_sha256", NO_DIGEST))


def refuse_other(where: object, there: Job, asked: Job) -> None:
    """Raise MismatchError about a place with another cache than one of these clusters; by what they were made from.

    The names of clusters, which differ too where their number does, would hide that.
    """
    if CLUSTERED not in there.teacher:
        raise MismatchError(
            f"{where} holds a label cache of another kind, and no clusters. Nothing was written. Name a place of their "
            "own: --out."
        )
    refuse_other_job(where, there, there.model_copy(update={"teacher": asked.teacher}))


@dataclass(frozen=True)
class Assigner:
    """What puts the rows of a feature into clusters."""

    cache: LabelCache
    feature: FeatureSpec
    centres: Centres
    temperature: float

    def assigned(self, shard: Shard) -> tuple[Block, Rows, NDArray[np.float64]]:
        """What is stored of a shard; the nearest centre of each row, [N]; and the probability of that one, [N]."""
        rows = np.arange(shard.start, shard.stop)
        block = self.cache.gather(shard.view, rows, [array.name for array in ROW_ARRAYS])
        clusters, width = self.centres.centres_KD.shape
        logits_NK = np.empty((rows.size, clusters), np.float16)
        nearest_N, sure_N = np.empty(rows.size, np.int64), np.empty(rows.size)
        for places in blocks(rows.size, clusters + width):
            features_ND = _features(self.cache, self.feature, shard.view, rows[places])
            found_NK = self.centres.logits(features_ND, self.temperature)
            logits_NK[places], nearest_N[places] = found_NK, found_NK.argmax(axis=1)
            sure_N[places] = 1 / np.exp(found_NK).sum(axis=1)
        return {**block, "logits": logits_NK}, nearest_N, sure_N


@dataclass
class Tally:
    """What is told of all rows: how large clusters are, how sure rows are of theirs, how the truth goes with them."""

    clusters: int
    sure: float = 0.0
    sizes_K: Rows = field(init=False)
    pairs: Contingency = field(default_factory=Contingency)

    def __post_init__(self) -> None:
        self.sizes_K = np.zeros(self.clusters, np.int64)

    def update(self, labels_N: NDArray[np.generic], nearest_N: Rows, sure_N: NDArray[np.float64]) -> None:
        """Count rows, whose true label is -1 where it is not known."""
        self.sizes_K += np.bincount(nearest_N, minlength=self.clusters)
        self.sure += float(sure_N.sum())
        self.pairs.update(labels_N.astype(np.int64), nearest_N)

    def figures(self) -> dict[str, JsonValue]:
        """Those of the seal."""
        return {
            "clusters": self.clusters,
            "smallest": int(self.sizes_K.min()),
            "largest": int(self.sizes_K.max()),
            "empty": int((self.sizes_K == 0).sum()),
            "mean_confidence": self.sure / int(self.sizes_K.sum()),
            "labelled": self.pairs.rows,
            "normalised_mutual_information": self.pairs.nmi,
        }
