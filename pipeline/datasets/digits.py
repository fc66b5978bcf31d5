"""The handwritten digits that scikit-learn carries: a real dataset with nothing to download."""

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import DatasetError
from pipeline.seeds import generator

CLASSES = 10
TEST_SHARE = 0.2

Part: TypeAlias = Literal["train", "test"]


def from_digits(part: Part = "train") -> ArrayDataset:
    """1797 images of 8x8 pixels with values 0..16, as uint8 `[1, 8, 8]`; an id is the image's index in the bundled set.

    About a fifth of each class is the test part; the split never changes. Not for a figure to publish: 360 test images
    put two standard errors of an accuracy near 96 % at two points. Use Fashion-MNIST (`kind = "idx"`) for that.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415  # takes over a second: only who asks for digits pays it

    if part not in ("train", "test"):
        raise DatasetError(f"digits: found part {part!r}, expected 'train' or 'test'.")
    pixels, labels = load_digits(return_X_y=True)
    is_test = _test_mask(labels)
    ids = np.flatnonzero(is_test if part == "test" else ~is_test).astype(np.int64)
    images = pixels.astype(np.uint8).reshape(-1, 1, 8, 8)
    return ArrayDataset(images[ids], ids, labels[ids].astype(np.int64), classes=CLASSES)


def _test_mask(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`[N]`: True for the test part, the same share of every class."""
    chance = generator("digits split")
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label in range(CLASSES):
        members = chance.permutation(np.flatnonzero(labels == label))
        mask[members[: round(TEST_SHARE * len(members))]] = True
    return mask
