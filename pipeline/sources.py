"""Opens the datasets that an experiment names."""

from typing import Any

from pipeline.ahead import loaders
from pipeline.config import Experiment
from pipeline.datasets import Dataset, open_dataset
from pipeline.errors import DatasetError
from pipeline.job import check_made_for, content_of
from pipeline.kinds import AnySource
from pipeline.store.mapped import LabelCache
from pipeline.views import Viewed, viewed


def open_source(source: AnySource) -> Dataset:
    """The dataset of a `[dataset]` or `[test]` table."""
    return open_dataset(
        source.kind,
        source.arguments(),
        classes=source.classes,
        class_names=source.class_names,
        without=source.without,
    )


def open_views(experiment: Experiment) -> Viewed:
    """The dataset of an experiment, in its views, of which a few were made twice.

    Raises:
        ConfigError: no such transform, or one that these samples do not fit.
        DatasetError: the dataset cannot be read, or a view not be made again.

    """
    views = Viewed(open_source(experiment.dataset), experiment.views, readers(experiment))
    views.prove()
    return views


def open_test(experiment: Experiment, dataset: Dataset) -> Dataset | None:
    """The held-out samples, in the classes of the training set; None if the experiment has none.

    Raises:
        DatasetError: its inputs have another shape than those of the training set, or none of its labels is known.

    """
    if experiment.test is None:
        return None
    source = experiment.test.model_copy(update={"classes": experiment.test.classes or dataset.classes})
    test = open_source(source)
    if test.classes != dataset.classes:
        raise DatasetError(
            f"[test] has {test.classes} classes, and [dataset] {dataset.classes}. Point both at parts of one."
        )
    if test.input_shape != dataset.input_shape:
        raise DatasetError(
            f"[test] has inputs of shape {list(test.input_shape)}, and [dataset] of {list(dataset.input_shape)}: a "
            "network takes one shape. Point both at parts of one dataset, and have transforms keep its shape."
        )
    if viewed(test).positions is None and (test.labels is None or not (test.labels >= 0).any()):
        raise DatasetError(
            "[test] has no true labels, so nothing can be measured on it. Give it labels, or leave [test] out."
        )
    return test


def held_out(experiment: Experiment) -> Experiment | None:
    """The experiment that makes the labels of `[test]`, if they are asked for: of its samples as they are."""
    if experiment.cache.test is None or experiment.test is None:
        return None
    views: dict[str, Any] = {"count": 1, "transform": None, "options": {}, "mix": None}
    return experiment.model_copy(
        update={
            "dataset": experiment.test,
            "test": None,
            "views": experiment.views.model_copy(update=views),
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
    asked = held_out(experiment)
    if asked is None or test is None:
        return None
    cache = LabelCache.open(asked.cache.path, settings=asked.cache.copies)
    check_made_for(cache.job, asked, test)
    return cache


def readers(experiment: Experiment) -> int:
    """How many threads read its dataset; the user's own code is called by one, unless they say that it bears more."""
    own = ":" in experiment.dataset.kind
    return loaders(experiment.loading.workers or (1 if own else None))


def contents(experiment: Experiment, dataset: Dataset, test: Dataset | None) -> dict[str, str | None]:
    """What stands for the content of both datasets, in the identity of a run."""
    held_out = content_of(experiment.test, test) if experiment.test and test else None
    return {"dataset": content_of(experiment.dataset, dataset), "test": held_out}
