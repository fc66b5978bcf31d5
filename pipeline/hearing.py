"""Students that hear several teachers, or clusters: label caches of the same samples, joined row by row.

Each teacher was asked by itself, so other weights and mixtures cost nothing. Where one mixture is to take the room of
one teacher, let stage one store it: see `pipeline.teachers.ensemble`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.agreement import best
from pipeline.config import Experiment, Mixture, Student
from pipeline.datasets import Dataset
from pipeline.errors import ConfigError, MismatchError
from pipeline.job import check_same_samples
from pipeline.labels import DenseLabels, Heard, MixedLabels, SampledLabels, SoftLabels
from pipeline.reader import Reader, Rows, label_spec
from pipeline.sources import as_in
from pipeline.store.mapped import LabelCache
from pipeline.store.mirror import MirrorSettings
from pipeline.terms import LINEAR, refuse_unserved
from pipeline.views import Viewed

UNTOLD = ("sampled", "multinomial")
"""Encodings that do not tell every row's likeliest class."""


class Hearing(Reader):
    """A reader whose soft labels are those of several caches.

    Args:
        dataset: as of `Reader`.
        cache: the experiment's own, which counts 1.
        others: further caches of the same samples in the same views, each with what it counts.
        mixture: which mean of the teachers a student hears.
        features: of the experiment's own, as of `Reader`.
        gradients: the same.

    Raises:
        MismatchError: a cache is of other samples or views.

    """

    def __init__(
        self,
        dataset: Dataset,
        cache: LabelCache,
        others: Sequence[tuple[LabelCache, float]],
        mixture: Mixture,
        features: Mapping[str, int] = MappingProxyType({}),
        *,
        gradients: bool = False,
    ) -> None:
        super().__init__(dataset, cache, features, gradients=gradients)
        for other, _ in others:
            _refuse_other_samples(cache, other)
        self.mixture = mixture
        self.voices = [Reader(dataset, other) for other, _ in others]
        total = 1.0 + sum(weight for _, weight in others)
        self.weights = tuple(weight / total for weight in (1.0, *(weight for _, weight in others)))

    @property
    def divides(self) -> bool:
        """As that of a reader; of all of them."""
        return super().divides and all(voice.divides for voice in self.voices)

    def heard(self, wanted: Rows, rows: Rows, inputs: NDArray[np.generic]) -> Heard | None:
        """The soft labels of all of them, as one."""
        parts = [super().heard(wanted, rows, inputs), *(voice.heard(wanted, rows, inputs) for voice in self.voices)]
        alone = [part for part in parts if part is not None and not isinstance(part, MixedLabels)]
        return mixed(alone, self.weights, self.mixture)


def mixed(parts: Sequence[SoftLabels], weights: Sequence[float], mixture: Mixture) -> Heard:
    """The labels of several teachers as one.

    "probabilities": each loss is the weighted mean of those by each teacher. Of losses that are linear in p, that has
    the gradient of the loss by the mean of their probabilities, whatever the encodings are. "logits": the mean of
    logits, of dense labels. "vote": each teacher says its likeliest class.
    """
    if mixture == "logits":
        dense = [part.logits_NC for part in parts if isinstance(part, DenseLabels)]
        return DenseLabels(torch.stack([w * z for w, z in zip(weights, dense, strict=True)]).sum(dim=0))
    if mixture == "vote":
        parts = [_vote(part) for part in parts]
    return MixedLabels(tuple(parts), tuple(weights))


def hears(student: Student) -> object:
    """What tells apart who hears which teachers; None for those who hear the experiment's own, or none."""
    if student.cache is not None:
        return ("clusters", str(student.cache))
    return (student.also, student.mixture) if student.also and student.soft else None


def listening(student: Student, reader: Reader, settings: MirrorSettings) -> Reader:
    """A reader of what a student hears, beside the one over the experiment's own cache."""
    if reader.cache is None or hears(student) is None:
        return reader
    others = [(LabelCache.open(each.cache, settings=settings), each.weight) for each in student.also]
    told = reader.features
    return Hearing(reader.dataset, reader.cache, others, student.mixture, told, gradients=reader.gradients)


def clustered(key: str, student: Student, experiment: Experiment, dataset: Viewed) -> Reader:
    """A reader of the clusters that a student hears: its samples have these for classes, and no true labels.

    Raises:
        ConfigError: samples have an answer at each position.
        IncompleteError: the cache has no seal.
        MismatchError: it is of other samples or views, or is not one of clusters.

    """
    assert student.cache is not None, "it hears clusters"
    if dataset.positions is not None:
        raise ConfigError(
            f"{key}.cache: each of {dataset.positions} positions of a sample has an answer of its own here, and "
            "clusters are of samples. Leave it out."
        )
    cache = LabelCache.open(student.cache, settings=experiment.cache.copies)
    check_same_samples(cache.place, cache.job, experiment, as_in(cache, dataset))
    return Reader(dataset.in_classes(label_spec(cache).classes), cache)


def identity(reader: Reader) -> dict[str, object]:
    """What decides the labels of several teachers, for the identity of a run; nothing of one alone."""
    if not isinstance(reader, Hearing):
        return {}
    ids = [voice.cache.cache_id if voice.cache else None for voice in reader.voices]
    return {"also": [list(each) for each in zip(ids, reader.weights[1:], strict=True)], "mixture": reader.mixture}


def refuse_unheard(key: str, student: Student, reader: Reader) -> None:
    """Raise ConfigError, with the key that asks for it, if what a reader has cannot serve a student's loss."""
    if reader.cache is None or not student.soft:
        return
    voices = reader.voices if isinstance(reader, Hearing) else []
    specs, terms = [reader.spec, *(voice.spec for voice in voices)], student.terms
    for spec in specs:
        refuse_unserved(f"{key}.loss", terms, spec)
    if not voices:
        return
    found, mixture = ", ".join(spec.encoding for spec in specs), student.mixture
    if mixture == "logits" and any(spec.encoding != "dense" for spec in specs):
        raise ConfigError(
            f'{key}.mixture = "logits" needs every logit, and these caches hold {found} labels. Use mixture = '
            '"probabilities", or caches of dense labels.'
        )
    if mixture == "vote" and any(spec.encoding in UNTOLD for spec in specs):
        raise ConfigError(
            f'{key}.mixture = "vote" needs the likeliest class of every row, and of these caches ({found}) one does '
            'not tell it. Use mixture = "probabilities".'
        )
    # What any labels serve is linear in the teacher's probabilities, up to what does not depend on the student.
    asking = [term for term in terms if term.serves]
    odd = [term.name for term in asking if term.serves != LINEAR or getattr(term, "standardise", False)]
    if mixture != "logits" and odd:
        raise ConfigError(
            f'{key}: the loss "{odd[0]}" by a mixture of {mixture} is no mean of those by each teacher. Use kd or '
            'soft, or mixture = "logits" of dense labels; or have stage one store the mixture (teacher.members).'
        )


def _vote(labels: SoftLabels) -> SampledLabels:
    """The likeliest class alone; it is the same at every temperature."""
    classes = labels.logits_NC.shape[1] if isinstance(labels, DenseLabels) else labels.classes
    best_N1 = best(labels)[:, None]
    return SampledLabels(classes, None, best_N1, torch.ones(best_N1.shape))


def _refuse_other_samples(cache: LabelCache, other: LabelCache) -> None:
    asked = {name: getattr(other.job, name) for name in ("dataset", "views", "rows", "view_count")}
    differing = [name for name, value in asked.items() if value != getattr(cache.job, name)]
    if differing:
        raise MismatchError(
            f"{other.place} was not made of the samples and views of {cache.place}: they differ in "
            f"{', '.join(differing)}. A student hears teachers that were asked about the same inputs. Make its cache "
            "from the same dataset and views."
        )
