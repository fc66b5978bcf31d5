"""The bundled digits: what they are, and that their split never moves."""

import numpy as np
import pytest

from pipeline.datasets import content_digest, ids_digest, open_dataset
from pipeline.errors import DatasetError


def test_the_two_parts_are_the_whole_and_share_nothing() -> None:
    """Train + test = the 1797 images of the bundle, each once, ids rising within a part."""
    train, test = (open_dataset("digits", {"part": part}) for part in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    np.testing.assert_array_equal(np.sort(np.concatenate([train.ids, test.ids])), np.arange(1797))
    assert (np.diff(train.ids) > 0).all()
    assert (np.diff(test.ids) > 0).all()


def test_every_class_gives_a_fifth_to_the_test_part() -> None:
    """The split is stratified: a class's test share is 20 % to within half an image."""
    train, test = (np.bincount(_labels(part), minlength=10) for part in ("train", "test"))
    assert (np.abs(test - 0.2 * (train + test)) <= 0.5).all()


def _labels(part: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    labels = open_dataset("digits", {"part": part}).labels
    assert labels is not None
    return labels


def test_images_are_uint8_of_17_grey_values() -> None:
    """Pixels are whole numbers 0..16, one channel."""
    images = open_dataset("digits", {}).inputs(np.arange(1438))
    assert images.shape == (1438, 1, 8, 8)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 16)


def test_the_split_is_the_same_for_ever() -> None:
    """Caches on disk name these ids: another NumPy or scikit-learn must not move an image to the other part."""
    test = open_dataset("digits", {"part": "test"})
    assert ids_digest(test.ids) == "671b749276a107a1672fe6a95039e6dbf52fe08cf0279cb529da637d606fc428"
    assert content_digest(test) == "f2498bb45d0cfe6f0c77acc23792ae743d89f5e1abbfb67241e50a58755b3ed9"


def test_there_are_two_parts() -> None:
    """A third is refused, and the two are named."""
    with pytest.raises(DatasetError, match="found part 'validation', expected 'train' or 'test'"):
        open_dataset("digits", {"part": "validation"})
