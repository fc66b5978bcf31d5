"""Opens the datasets that an experiment names."""

from contextlib import suppress
from typing import Any

from pipeline.ahead import loaders
from pipeline.config import TOKENS, Experiment
from pipeline.datasets import Dataset, ids_digest, open_dataset
from pipeline.datasets.subset import beginning_with
from pipeline.errors import ConfigError, DatasetError, SoftLabelsError
from pipeline.job import check_made_for, content_of
from pipeline.kinds import AnySource
from pipeline.store.addresses import Where
from pipeline.store.documents import Job
from pipeline.store.mapped import LabelCache
from pipeline.store.state import read_job, read_sealed
from pipeline.views import Viewed, viewed


def open_source(source: AnySource) -> Dataset:
    """The dataset of a `[dataset]` or `[test]` table."""
    return open_dataset(
        source.kind,
        source.arguments(),
        classes=source.classes,
        class_names=source.class_names,
        without=source.without,
        rows=source.rows,
    )


def open_own(experiment: Experiment, where: Where | None = None) -> Dataset:
    """The dataset of an experiment, as its cache is made of it: first the samples that it holds, in their order there.

    So samples that are new may have any place in the dataset, as pictures in a folder have by their names.

    Args:
        experiment: whose.
        where: another cache than the experiment's own.

    Raises:
        DatasetError: as `open_source`.

    """
    dataset, where = open_source(experiment.dataset), experiment.cache.path if where is None else where
    with suppress(SoftLabelsError):  # whoever works at the cache says better what is wrong with it
        job = read_job(where)
        if not _begins_as(dataset, job) and read_sealed(where, job)[1]:
            return as_in(LabelCache.open(where, settings=experiment.cache.copies), dataset)
    return dataset


def as_in(cache: LabelCache, dataset: Dataset) -> Dataset:
    """A dataset in the order in which a cache holds its samples, those that it does not hold at the end."""
    if _begins_as(dataset, cache.job):
        return dataset
    return beginning_with(viewed(dataset).dataset, cache.sample_ids())


def _begins_as(dataset: Dataset, job: Job) -> bool:
    return job.dataset.get("ids_sha256") == ids_digest(dataset.ids[: job.rows])


def open_views(experiment: Experiment, dataset: Dataset | None = None) -> Viewed:
    """The dataset of an experiment, or another one, in its views, of which a few were made twice.

    Raises:
        ConfigError: no such transform, or one that these samples do not fit.
        DatasetError: the dataset cannot be read, or a view not be made again.

    """
    dataset = open_source(experiment.dataset) if dataset is None else dataset
    views = Viewed(dataset, experiment.views, readers(experiment))
    _refuse_numbers(views, experiment)
    views.prove()
    return views


def _refuse_numbers(views: Viewed, experiment: Experiment) -> None:
    """Refuse tokens that would be made numbers, and numbers that would be taken for tokens."""
    tokens, asked = experiment.dataset.kind == TOKENS or views.positions is not None, experiment.views.input
    if tokens and asked != TOKENS:
        raise ConfigError(
            f'views.input = "{asked}": the samples of this dataset are sequences of tokens, and a network would be '
            'given their targets too. Set views.input = "tokens".'
        )
    if asked == TOKENS and views.input_dtype.kind not in "iu":
        raise ConfigError(
            f'views.input = "tokens": the inputs of this dataset are {views.input_dtype}, expected ids, as integers. '
            "Leave views.input out, or have the dataset give ids."
        )


def open_test(experiment: Experiment, dataset: Dataset) -> Dataset | None:
    """The held-out samples, in the classes of the training set; None if the experiment has none.

    Raises:
        DatasetError: its inputs have another shape than those of the training set, or none of its labels is known and
            those of the teacher are not asked for either.

    """
    if experiment.test is None:
        return None
    source, known = experiment.test, viewed(dataset)
    if known.positions is None:  # else it has the classes of its own tokens
        source = source.model_copy(update={"classes": source.classes or dataset.classes})
    test = open_source(source)
    _refuse_unlike("[test]", test, dataset)
    if experiment.cache.test is None and known.positions is None and (test.labels is None or (test.labels < 0).all()):
        raise DatasetError(
            "[test] has no true labels, so nothing can be measured on it. Give it labels, or have the teacher's: "
            "cache.test is where they go, and students are held against them. Or leave [test] out."
        )
    return test


def open_more(table: str, source: AnySource, experiment: Experiment, dataset: Dataset) -> Viewed:
    """Samples of another source in the views of an experiment, for what has learned on its own dataset.

    Args:
        table: where the experiment names the source.
        source: of the samples.
        experiment: whose views they are seen in.
        dataset: what came before.

    Raises:
        ConfigError: a transform that these samples do not fit.
        DatasetError: they cannot be read, or have another shape, other classes or another tokenizer.

    """
    if viewed(dataset).positions is None:
        source = source.model_copy(update={"classes": source.classes or dataset.classes})
    more = open_views(experiment.model_copy(update={"dataset": source}))
    _refuse_unlike(f"[{table}]", more, dataset)
    return more


def _refuse_unlike(name: str, more: Dataset, dataset: Dataset) -> None:
    """Refuse samples that a network of the dataset could not be given, or would mean something else by."""
    other, known = viewed(more), viewed(dataset)
    if other.positions != known.positions or other.tokenizer_sha256 != known.tokenizer_sha256:
        raise DatasetError(
            f"{name} has {_tokens(other)}, and [dataset] {_tokens(known)}. Tokenise both with one tokenizer, and give "
            "them one length and layout."
        )
    if more.classes != dataset.classes:
        raise DatasetError(
            f"{name} has {more.classes} classes, and [dataset] {dataset.classes}. Point both at parts of one."
        )
    if more.input_shape != dataset.input_shape:
        raise DatasetError(
            f"{name} has inputs of shape {list(more.input_shape)}, and [dataset] of {list(dataset.input_shape)}: a "
            "network takes one shape. Point both at parts of one dataset, and have transforms keep its shape."
        )


def _tokens(dataset: Viewed) -> str:
    positions = "no positions" if dataset.positions is None else f"{dataset.positions} positions"
    digest = dataset.tokenizer_sha256
    return f"{positions} and {'no tokenizer' if digest is None else f'the tokenizer {digest[:12]}'}"


def held_out(experiment: Experiment, classes: int | None) -> Experiment | None:
    """The experiment that makes the labels of `[test]`, if they are asked for: of its samples, in these classes."""
    if experiment.cache.test is None or experiment.test is None:
        return None
    views: dict[str, Any] = {"count": 1, "transform": None, "options": {}, "mix": None}
    return experiment.model_copy(
        update={
            "dataset": experiment.test.model_copy(update={"classes": experiment.test.classes or classes}),
            "test": None,
            "views": experiment.views.model_copy(update=views),
            "teacher": experiment.teacher.model_copy(update={"gradients": None}),  # no one is tested on them
            "cache": experiment.cache.model_copy(update={"path": experiment.cache.test, "test": None}),
            "students": {},
        }
    )


def open_test_cache(experiment: Experiment, test: Dataset | None) -> LabelCache | None:
    """The teacher's labels of the held-out samples; None if the experiment asks for none.

    Raises:
        IncompleteError: they are not there yet.
        MismatchError: they were made for another experiment.

    """
    asked = held_out(experiment, None if test is None else test.classes)
    if asked is None or test is None:
        return None
    cache = LabelCache.open(asked.cache.path, settings=asked.cache.copies)
    check_made_for(cache.job, asked, as_in(cache, test))
    return cache


def readers(experiment: Experiment) -> int:
    """How many threads read its dataset; the user's own code is called by one, unless they say that it bears more."""
    own = ":" in experiment.dataset.kind
    return loaders(experiment.loading.workers or (1 if own else None))


def contents(experiment: Experiment, dataset: Dataset, test: Dataset | None) -> dict[str, str | None]:
    """What stands for the content of both datasets, in the identity of a run."""
    held_out = content_of(experiment.test, test) if experiment.test and test else None
    return {"dataset": content_of(experiment.dataset, dataset), "test": held_out}
