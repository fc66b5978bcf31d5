"""Joins a sample's view and its stored labels by id, and refuses strangers.

Stage two reads through here alone. It needs no teacher: what comes out of a `Reader` is all that a student is told.
A reader is a map-style dataset that answers a whole batch at once; with `collate` it drops into any `DataLoader`:

    DataLoader(Reader(dataset, cache), batch_size=256, shuffle=True, num_workers=4, collate_fn=collate)

Samples in views are a dataset that is `Viewed`. View v of row r of N is asked for as v N + r; an `EpochSampler` that is
given a `ViewOrder` does so.

Shape legend: N rows of a batch, L positions of a sample, R targets of a batch, X the shape of one input, or of what
is made of a position, C classes.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from pipeline import encodings, reductions
from pipeline.config import Student
from pipeline.datasets import Dataset, ids_digest
from pipeline.encodings.ids import four_bytes
from pipeline.errors import ConfigError, CorruptError, DatasetError, MismatchError
from pipeline.features import CLASS, arrays
from pipeline.labels import ArraySpec, BlendedLabels, Heard, Inside, LabelSpec, Tensors
from pipeline.order import ViewOrder, Windows
from pipeline.seeds import generator
from pipeline.sequences import targets, there
from pipeline.store.documents import ROW_ARRAYS
from pipeline.store.mapped import LabelCache
from pipeline.views import CHANGED, check_fingerprints, viewed

Rows = NDArray[np.int64]
UNLABELLED = -1


@dataclass(frozen=True)
class Batch(Tensors):
    """What a student is told about N samples."""

    inputs_NX: torch.Tensor
    labels_N: torch.Tensor  # int64; -1 where the true label is not known or not to be seen
    soft: Heard | None  # None without a cache
    rows: Rows  # [N], the samples' places in the dataset
    inside: Inside | None = None  # what was asked for of the teacher's features
    places_R: torch.Tensor | None = None  # of samples with positions: the places, among all N L, of what is told
    classes: int | None = None  # of these samples: logits beyond are padding
    tokens: bool = False  # whether the inputs are sequences of them
    blended: BlendedLabels | None = None  # both labels in one, where they were made ready for a student's loss

    def select(self, rows: slice | Rows) -> "Batch":
        """Some of the samples, in any order, of a batch that is not cut down to targets."""
        return replace(super().select(rows), rows=self.rows[rows])

    @property
    def taught(self) -> int:
        """How many rows of logits it says something about: samples, or positions that have a target."""
        return len(self.labels_N)

    @property
    def owners(self) -> Rows:
        """Which sample of the batch each of these rows is of."""
        if self.places_R is None:
            return np.arange(len(self.rows))
        positions = self.inputs_NX.shape[-1]
        return self.places_R.numpy(force=True) // positions

    def answers(self, logits_NC: torch.Tensor) -> torch.Tensor:
        """The rows of a network's logits that labels and soft labels are about: of `[N, L, C]` those of targets."""
        return self.of_targets(logits_NC[..., : self.classes])

    def of_targets(self, made_NX: torch.Tensor) -> torch.Tensor:
        """Of what is made of each position, `[N, L, X]`, that of targets, `[R, X]`; without positions, all of it."""
        return made_NX if self.places_R is None else made_NX.flatten(0, 1)[self.places_R]

    def at_targets(self, values_N: torch.Tensor) -> torch.Tensor:
        """A sample's value at each of its targets, `[R]`; without positions, as it is."""
        return values_N if self.places_R is None else values_N[self.places_R // self.inputs_NX.shape[-1]]

    @property
    def there_NL(self) -> torch.Tensor | None:  # noqa: N802 - a tensor's shape
        """Which positions are no padding; None of what is no sequence of tokens."""
        return there(self.inputs_NX) if self.tokens else None


def collate(batch: Batch) -> Batch:
    """What a `DataLoader` over a `Reader` needs as `collate_fn`: its batches are made whole already."""
    return batch


class Reader(torch.utils.data.Dataset[Batch]):
    """The samples of a dataset with their true labels and, from a cache, the teacher's.

    May be pickled and forked, so it serves the workers of any loader; each maps the cache for itself.

    Args:
        dataset: where inputs and true labels come from; `Viewed`, if the cache is of views.
        cache: where soft labels come from; None trains on true labels alone.
        features: which features of the teacher are read besides, each with how many other samples' for every batch.
        gradients: whether the teacher's gradients are.

    Raises:
        ConfigError: the cache has no such feature, or no gradients.
        MismatchError: the dataset has samples that the cache does not know.

    """

    def __init__(
        self,
        dataset: Dataset,
        cache: LabelCache | None = None,
        features: Mapping[str, int] = MappingProxyType({}),
        *,
        gradients: bool = False,
    ) -> None:
        self.dataset = viewed(dataset)
        self.cache = cache
        self.features, self.gradients = dict(features), gradients
        self._places: Rows | None = None
        if cache is not None:
            self.spec = label_spec(cache)
            refuse_unknown(cache, self.spec, self.features)
            if gradients:
                refuse_without_gradients(cache, self.spec)
            # In the cache's own order a row is found where it is, and no index has to be held in memory.
            self._places = None if _in_order(cache, dataset) else cache.rows_of(dataset.ids)

    def __len__(self) -> int:
        """How many samples the dataset has."""
        return len(self.dataset)

    def windows(self, shards: int) -> Windows:
        """What an `EpochSampler` needs to shuffle within windows of so many shards of the cache.

        Raises:
            ConfigError: there is no cache.

        """
        if self.cache is None:
            raise ConfigError(
                f"window = {shards}: windows are of shards of a label cache, and this reader has none. Give it the "
                "cache, or shuffle over all rows."
            )
        places, layout = self._places, self.cache.layout
        if len(layout.parts) > 1:
            places = layout.array_rows_of(np.arange(len(self)) if places is None else places)
        return Windows.cut(shards, layout.shard_rows, len(self), places)

    def views(self, student: Student) -> ViewOrder:
        """Which views a student sees: as many as it says, or all that are cached; without a teacher, ever new ones.

        Raises:
            ConfigError: there are fewer.

        """
        cached = self.cache.layout.views if student.soft and self.cache else None
        most, asked = cached if self.dataset.changes else 1, max(student.views or 1, student.views_at_once)
        if most is not None and asked > most:
            where = f"{self.cache.place} has" if cached and self.cache else "without a transform a sample has"
            raise ConfigError(f"{asked} views of a sample for a student: {where} {most}. Ask for no more.")
        return ViewOrder(student.views or most, student.view_order == "shuffle", student.views_at_once)

    @property
    def cached(self) -> int:
        """How many views of samples can be asked for: v N + r below this is in the cache."""
        return len(self) * (self.cache.layout.views if self.cache else 1)

    @property
    def divides(self) -> bool:
        """Whether several batches may be read as one and cut apart.

        Not where rows are targets, or features are drawn by all that is asked for; nor while a cache at an address is
        fetched, where the first would wait for what the last one needs.
        """
        whole = self.features or self.gradients or self.dataset.positions is not None
        return not whole and not (self.cache is not None and self.cache.may_fetch)

    def in_cache(self, wanted: Rows) -> tuple[Rows | int, Rows]:
        """The views in the cache, and the positions, of rows or views of rows of the dataset."""
        views, rows = np.divmod(wanted, len(self))
        return views if views.any() else 0, rows if self._places is None else self._places[rows]

    def __getitem__(self, row: int) -> Batch:
        """The batch of one row."""
        return self.__getitems__([row])

    def __getitems__(self, rows: Sequence[int] | Rows) -> Batch:
        """The batch of any rows, or views of rows, in any order.

        Raises:
            MismatchError: an input is not the one the teacher saw.
            CorruptError: a stored row fails its checksum.

        """
        wanted = np.asarray(rows, np.int64)
        views, rows = np.divmod(wanted, len(self))
        inputs, labels = self.dataset.inputs(rows, views), self.dataset.labels
        known = np.full(rows.size, UNLABELLED) if labels is None else np.asarray(labels[rows])
        heard = self.heard(wanted, rows, inputs)
        each, tokens = self.dataset.positions is not None, self.dataset.settings.input == "tokens"
        taught = torch.from_numpy(inputs), torch.from_numpy(known), heard
        batch = Batch(*taught, rows, self.inside(wanted), tokens=each or tokens)
        return by_target(batch, self.dataset.classes) if each else batch

    def heard(self, wanted: Rows, rows: Rows, inputs: NDArray[np.generic]) -> Heard | None:
        """The soft labels of rows, or views of rows, whose inputs are given; None without a cache.

        Raises:
            MismatchError: an input is not the one the teacher saw.
            CorruptError: a stored row fails its checksum.

        """
        if self.cache is None:
            return None
        names = [array.name for array in (*ROW_ARRAYS, *encodings.arrays(self.spec))]
        record = self.cache.gather(*self.in_cache(wanted), names)
        self._check_ids(record["sample_id"], rows)
        check_fingerprints(inputs, record["input_crc32c"], self.dataset.ids[rows], self._cause)
        self._check_labels(record["label"], rows)
        stored = {spec.name: torch.from_numpy(record[spec.name]) for spec in encodings.arrays(self.spec)}
        return encodings.decode(self.spec, stored)

    def inside(self, wanted: Rows) -> Inside | None:
        """The features and gradients of rows, or views of rows, and the features of others; None if none are asked for.

        The others are drawn by the names of the rows, in their first view: the same for the same batch, whoever asks,
        and also once the cache has grown by views.
        """
        if self.cache is None or not (self.features or self.gradients):
            return None
        count = max(self.features.values(), default=0)
        drawn = generator("others", crc32(wanted.tobytes())).integers(0, len(self), 2 * count + 4 * wanted.size)
        others = drawn[~np.isin(drawn, wanted % len(self))][:count]
        found = self._features(wanted, self.features)
        told = Inside(found, self._features(others, {name for name, most in self.features.items() if most}), len(self))
        if not self.gradients:
            return told
        gradient, classes_N = self._gradients(wanted)
        return replace(told, gradient=gradient, classes_N=classes_N)

    def _features(self, wanted: Rows, features: Iterable[str]) -> dict[str, torch.Tensor]:
        assert self.cache is not None
        specs = [spec for spec in self.spec.features if spec.name in features]
        record = self.cache.gather(*self.in_cache(wanted), [array.name for array in arrays(specs)])
        stored = {name: torch.from_numpy(array) for name, array in record.items()}
        return {spec.name: reductions.decode(spec, stored) for spec in specs}

    def _gradients(self, wanted: Rows) -> tuple[torch.Tensor, torch.Tensor | None]:
        spec = self.spec.gradient
        assert self.cache is not None and spec is not None, "a reader without is refused"  # noqa: PT018
        whose = {"top": CLASS, "true": "label"}.get(spec.of)
        names = {*(array.name for array in arrays([spec])), *([whose] if whose else [])}
        record = self.cache.gather(*self.in_cache(wanted), sorted(names))
        stored = {name: torch.from_numpy(array) for name, array in record.items()}
        classes_N = stored[whose].to(torch.int64) if whose else None
        return reductions.decode(spec, stored), classes_N

    @property
    def _cause(self) -> str:
        """What may have come between the inputs of stage one and those of stage two."""
        if self.cache is None or self.cache.seal is None or not self.dataset.changes:
            return CHANGED
        made, now = self.cache.seal.made.versions, self.dataset.tools
        if other := [f"{name} {made.get(name, 'of no version')}, and here is {now[name]}" for name in now]:
            return (
                f"The views were made by views.transform {self.dataset.settings.transform} with {'; '.join(other)}. If "
                "the versions differ, install the one that made them; else the dataset or the transform has changed, "
                "or it runs on another kind of device. Put it back, or make a new cache."
            )
        return (
            f"The views were made by views.transform {self.dataset.settings.transform}: it or the dataset has changed "
            "since, so the labels do not belong to them. Put it back, or make a new cache."
        )

    def _check_ids(self, stored_N: NDArray[np.generic], rows: Rows) -> None:
        """Refuse labels of other samples, as of a cache whose order is not the one that its job tells of."""
        if np.array_equal(stored_N, self.dataset.ids[rows]):
            return
        raise CorruptError(
            f"{self.cache.place if self.cache else ''} holds the samples in another order than its job says. Run "
            "`softlabels verify` to see what is damaged, or make the cache again."
        )

    def _check_labels(self, stored_N: NDArray[np.generic], rows: Rows) -> None:
        """Refuse true labels that are not those which the dataset had when the cache was made."""
        if self.dataset.labels is None:
            return
        found_N, ids_N = self.dataset.labels[rows], self.dataset.ids[rows]
        changed = ids_N[(stored_N != UNLABELLED) & (found_N != UNLABELLED) & (found_N != stored_N)]
        if changed.size:
            raise MismatchError(
                f"{changed.size} of the {ids_N.size} samples of this batch have another true label than when the cache "
                f"was made (the first is sample {changed[0]}). Restore the dataset's labels, or make a new cache."
            )


def by_target(batch: Batch, classes: int | None) -> Batch:
    """A batch of samples with positions, cut down to the positions that have a target, which is their true label."""
    places, wanted = targets(batch.inputs_NX.numpy())
    places_R = torch.from_numpy(places)
    soft = batch.soft.select(places_R) if batch.soft else None
    return replace(batch, labels_N=torch.from_numpy(wanted), soft=soft, places_R=places_R, classes=classes)


def _in_order(cache: LabelCache, dataset: Dataset) -> bool:
    """Whether a cache has its rows in the order of the dataset, so that none has to be looked up.

    The job of one at an address is believed, for all of its ids would have to be fetched; every batch is held against
    its ids as it comes.
    """
    told = cache.room > 0 and cache.job.dataset.get("ids_sha256") == ids_digest(dataset.ids)
    return told or cache.holds_in_order(dataset.ids)


def label_spec(cache: LabelCache) -> LabelSpec:
    """Which labels a cache holds.

    Raises:
        CorruptError: its job describes labels that this version cannot read, or other arrays than these labels have.

    """
    try:
        spec = TypeAdapter(LabelSpec).validate_python(cache.job.labels)
        encodings.check(spec)
    except (ValidationError, ConfigError) as error:
        raise CorruptError(f"{cache.place}: its job describes labels that cannot be read: {error}") from None
    expected = (*ROW_ARRAYS, *encodings.arrays(spec), *arrays(spec.kept))
    found = [_form(array) for array in cache.job.arrays]
    if found not in (list(map(_form, expected)), [_form(four_bytes(array)) for array in expected]):
        raise CorruptError(
            f"{cache.place}: its job lists other arrays than its {spec.encoding} labels have. Make it again."
        )
    return spec


def refuse_unknown(cache: LabelCache, spec: LabelSpec, features: Iterable[str]) -> None:
    """Raise ConfigError about a feature that a cache does not have."""
    known = [each.name for each in spec.features]
    for name in features:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{cache.place} has no feature {name!r} of its teacher. {hint}It has "
                f"{', '.join(known) or 'none'}. Name one of these, or make a cache with it: [[teacher.features]]."
            )


def refuse_without_gradients(cache: LabelCache, spec: LabelSpec) -> None:
    """Raise ConfigError about a cache that does not have the teacher's gradients."""
    if spec.gradient is not None:
        return
    if spec.positions is not None:
        raise ConfigError(
            f"{cache.place} is of samples of which each of {spec.positions} positions has an answer of its own, and "
            "gradients are of samples that have one. Leave [students.NAME.gradients] out."
        )
    raise ConfigError(
        f"{cache.place} has no gradients of its teacher, and a student asks for them. Make a cache with them: "
        "[teacher.gradients]. Or leave [students.NAME.gradients] out."
    )


def _form(array: ArraySpec) -> tuple[str, str, tuple[int, ...]]:
    return array.name, array.dtype, array.row_shape


def few_labels(labels_N: Rows, count: int, seed: int) -> Rows:
    """Hide all true labels but `count`, the same number of each class as far as they go round.

    Raises:
        DatasetError: fewer labels than asked for.

    """
    known = np.flatnonzero(labels_N != UNLABELLED)
    if known.size < count:
        raise DatasetError(f"true_labels = {count}: the dataset has only {known.size} labelled samples. Ask for fewer.")
    shuffled = generator("few labels", seed).permutation(known)
    turn = np.empty(shuffled.size, np.int64)  # a sample's place among the samples of its class
    for label in np.unique(labels_N[known]):
        of_class = np.flatnonzero(labels_N[shuffled] == label)
        turn[of_class] = np.arange(of_class.size)
    kept = shuffled[np.argsort(turn, kind="stable")[:count]]
    visible = np.full(labels_N.size, UNLABELLED)
    visible[kept] = labels_N[kept]
    return visible
