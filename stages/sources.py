"""What the programs need of the datasets that an experiment names."""

from pipeline.config import Experiment
from pipeline.datasets import Dataset
from pipeline.job import content_of
from pipeline.sources import open_source, open_test, readers

__all__ = ["contents", "open_source", "open_test", "readers"]


def contents(experiment: Experiment, dataset: Dataset, test: Dataset | None) -> dict[str, str | None]:
    """What stands for the content of both datasets, in the identity of a run."""
    held_out = content_of(experiment.test, test) if experiment.test and test else None
    return {"dataset": content_of(experiment.dataset, dataset), "test": held_out}
