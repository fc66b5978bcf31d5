"""Opens the datasets that an experiment names."""

from pipeline.config import AnySource, Experiment
from pipeline.datasets import Dataset, open_dataset


def open_source(source: AnySource) -> Dataset:
    """The dataset of a `[dataset]` or `[test]` table."""
    return open_dataset(source.kind, source.arguments(), classes=source.classes, class_names=source.class_names)


def open_test(experiment: Experiment, dataset: Dataset) -> Dataset | None:
    """The held-out samples, in the classes of the training set; None if the experiment has none."""
    if experiment.test is None:
        return None
    source = experiment.test.model_copy(update={"classes": experiment.test.classes or dataset.classes})
    return open_source(source)
