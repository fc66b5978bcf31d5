"""What the cache stores of a batch: what the teacher says of these inputs, and what ties it to them."""

import numpy as np
import pytest
import torch
from river_cases import CLASSES, DENSE, samples
from torch import nn

from pipeline.config import TeacherSettings, ViewSettings
from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import TeacherError
from pipeline.labeller import Labeller
from pipeline.labels import LabelSpec
from pipeline.store.documents import ROW_ARRAYS
from pipeline.teachers import Teacher
from pipeline.views import fingerprints

VIEWS = ViewSettings(mean=100.0, std=50.0)


class Linear(nn.Module):
    """Logits that are plain arithmetic of the input: its first pixels."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        return inputs.flatten(1)[:, :CLASSES]


def labeller(dataset: ArrayDataset, spec: LabelSpec = DENSE, network: nn.Module | None = None) -> Labeller:
    """With a teacher that was never trained."""
    settings = TeacherSettings(model="mlp", checkpoint="none.safetensors", batch_size=7)
    return Labeller(dataset, Teacher(network or Linear(), torch.device("cpu"), settings, VIEWS), spec)


def test_a_batch_is_stored_with_its_logits_ids_labels_and_fingerprints() -> None:
    """Every array a row of the cache has, in its very dtype; the teacher is asked about the normalised input."""
    dataset = samples()
    block = labeller(dataset).label(labeller(dataset).load(5, 9))
    specs = {spec.name: spec for spec in ROW_ARRAYS} | {"logits": None}
    assert block.keys() == specs.keys()
    assert all(block[spec.name].dtype == spec.dtype for spec in ROW_ARRAYS)
    inputs = dataset.array[5:9]
    np.testing.assert_array_equal(block["logits"], (inputs.reshape(4, -1)[:, :CLASSES] - 100) / 50)
    np.testing.assert_array_equal(block["sample_id"], dataset.ids[5:9])
    np.testing.assert_array_equal(block["label"], dataset.labels[5:9])
    np.testing.assert_array_equal(block["input_crc32c"], fingerprints(inputs))


def test_a_dataset_without_labels_is_stored_as_unlabelled() -> None:
    """-1, and no target logit."""
    dataset = samples()
    untold = ArrayDataset(dataset.array, dataset.ids, None, CLASSES)
    topk = LabelSpec("topk", CLASSES, "float32", k=2, temperatures=(1.0,))
    of = labeller(untold, topk)
    block = of.label(of.load(0, 3))
    assert block["label"].tolist() == [-1] * 3
    assert np.isnan(block["target"]).all()


def test_the_teacher_is_asked_in_batches_of_its_own_size() -> None:
    """`teacher.batch_size` of the experiment."""
    assert labeller(samples()).batch_size == 7


def test_logits_that_are_not_finite_are_refused_naming_their_samples() -> None:
    """By id, as the dataset knows them, not by their place in a batch."""
    dataset = samples()
    broken = ArrayDataset(dataset.array.copy(), dataset.ids, dataset.labels, CLASSES)
    broken.array[6, 0, 0, 1] = np.nan
    of = labeller(broken)
    with pytest.raises(TeacherError, match=rf"not finite .* for .*\b{dataset.ids[6]}\b"):
        of.label(of.load(5, 9))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Identity(), r"answered \[4, 1, 4, 4\] to 4 inputs; expected a tensor \[4, classes\]"),
        (nn.Flatten(), r"gives logits of shape \[4, 16\], but the dataset has 3 classes"),
    ],
)
def test_a_teacher_of_another_shape_is_refused(network: nn.Module, message: str) -> None:
    """Before anything is stored."""
    of = labeller(samples(), network=network)
    with pytest.raises(TeacherError, match=message):
        of.label(of.load(5, 9))
